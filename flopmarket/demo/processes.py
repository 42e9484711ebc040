"""The cast of the demonstration: a coordinator and workers, each a process of its own.

They are the ordinary commands that anyone would run, with their logs in files; whatever happens,
all of them are ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from flopmarket.errors import Unavailable

STOP_SECONDS = 15.0


class Cast:
    """Child processes by name. A context manager: leaving it ends all of them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Cast:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Workers first: they hand their leases back to a coordinator that still listens.
        for name in reversed(list(self._children)):
            self._children[name].terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            try:
                child.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for file in self._files:
            file.close()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``flop ARGUMENTS`` with its output in ``NAME.log``."""
        return self._start(name, flop(*arguments))

    def start_module(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``python -m MODULE ARGUMENTS`` in the same way."""
        return self._start(name, [sys.executable, "-m", module, *arguments])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = (self._logs / f"{name}.log").open("ab")
        self._files.append(log)
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
        )
        self._children[name] = child
        return child

    def end(self, name: str) -> None:
        """End one child in good order, or by force after a while."""
        child = self._children.pop(name)
        child.terminate()
        try:
            child.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def check(self) -> None:
        """Raise Unavailable, with the end of its log, when a child has ended by itself."""
        for name, child in self._children.items():
            if child.poll() is not None:
                log = (self._logs / f"{name}.log").read_text(errors="replace")
                raise Unavailable(
                    f"{name} ended with status {child.returncode}:\n{log[-2000:]}",
                    code="DEMO_CHILD_ENDED",
                    retryable=False,
                )


def flop(*arguments: str) -> list[str]:
    """The command line of ``flop`` in this very environment."""
    return [sys.executable, "-m", "flopmarket.cli.main", *arguments]


def environment() -> dict[str, str]:
    """Workers and auditor share one processor here; each gets one thread of it."""
    return {"POCL_MAX_PTHREAD_COUNT": "1", **os.environ}


def run_flop(
    *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``flop ARGUMENTS`` to its end; ``variables`` are added to its environment."""
    return subprocess.run(
        flop(*arguments),
        capture_output=True,
        text=True,
        env={**environment(), **(variables or {})},
        check=False,
    )


def wait_for_file(path: Path, cast: Cast, seconds: float) -> str:
    """Contents of ``path`` once it has some; raises Unavailable when it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        cast.check()
        if path.exists() and (text := path.read_text().strip()):
            return text
        time.sleep(0.05)
    raise Unavailable(f"{path.name} did not appear within {seconds:.0f} s", code="DEMO_TIMEOUT")
