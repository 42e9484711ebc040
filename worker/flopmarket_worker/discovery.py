"""Which devices this machine has, asked in a process of its own.

A driver may crash when it is merely loaded; ``python -m flopmarket_worker.discovery`` takes that
upon itself and prints one JSON array of device cards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from flopmarket.errors import Unavailable

MACHINE_FILE = Path("/etc/machine-id")
_LIMIT_SECONDS = 60.0


async def discover() -> list[dict[str, Any]]:
    """Cards of all devices, as JSON values. Unavailable (DEVICE_DISCOVERY) when drivers fail."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flopmarket_worker.discovery",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            output, _ = await process.communicate()
        cards: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    except TimeoutError:
        process.kill()
        await process.wait()
        raise _failed(f"no answer in {_LIMIT_SECONDS:.0f} s") from None
    except (ValueError, IndexError):
        raise _failed(f"it ended with status {process.returncode}") from None
    return cards


def machine_name() -> str:
    """What the system calls this machine and no other; empty where it does not say."""
    try:
        return MACHINE_FILE.read_text("ascii").strip()[:64]
    except (OSError, UnicodeDecodeError):
        return ""


def _failed(what: str) -> Unavailable:
    return Unavailable(
        f"looking for OpenCL devices failed: {what}",
        code="DEVICE_DISCOVERY",
        hint="name one device with --device, or check the installed OpenCL drivers",
    )


def main() -> None:
    """Print the cards."""
    from flopmarket.engine.runtime import devices

    print(json.dumps([dataclasses.asdict(card) for card in devices.discover()]))


if __name__ == "__main__":
    main()
