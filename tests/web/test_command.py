"""``flop coordinator board``: what it refuses, and that it starts and stops in good order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flopmarket.errors import InvalidInput
from flopmarket_coordinator.web.command import check_exposure

COMMAND = [sys.executable, "-m", "flopmarket.cli.main", "coordinator", "board"]
NOBODY = "127.0.0.1:9"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--listen", "0.0.0.0:0"), "BOARD_NOT_LOOPBACK"),
        (("--listen", "0.0.0.0:0", "--public", "--key", "me"), "BOARD_KEY_PUBLIC"),
        (("--listen", "nonsense"), "ADDRESS_INVALID"),
        (("--key", "no-such-key-of-ours"), "KEY_FILE_MISSING"),
        (("--tariff", "-1"), "MONEY_NEGATIVE"),
    ],
)
def test_what_would_show_too_much_is_refused(options: tuple[str, ...], code: str) -> None:
    done = run(*options)
    assert done.returncode in (1, 2, 4)
    assert f"[{code}]" in done.stderr
    assert done.stdout == ""


def test_exposure_is_decided_by_address_and_key() -> None:
    check_exposure(True, "127.0.0.1:1", is_public=False, has_key=True)
    check_exposure(False, "0.0.0.0:1", is_public=True, has_key=False)
    for is_public in (False, True):
        with pytest.raises(InvalidInput) as refusal:
            check_exposure(False, "0.0.0.0:1", is_public=is_public, has_key=True)
        assert refusal.value.code == "BOARD_KEY_PUBLIC"


def test_it_starts_without_a_coordinator_and_stops_in_good_order(tmp_path: Path) -> None:
    written = tmp_path / "address"
    board = subprocess.Popen(
        [
            *(*COMMAND, "--coordinator", NOBODY, "--listen", "127.0.0.1:0"),
            *("--address-file", str(written)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        while not written.exists():
            assert board.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        address = written.read_text("utf-8").strip()
        assert httpx.get(address, timeout=30).status_code == 503
        assert httpx.get(f"{address}about").status_code == 200
        assert "flopmarket_up 0.0" in httpx.get(f"{address}metrics", timeout=30).text
        busy = run("--coordinator", NOBODY, "--listen", address.removeprefix("http://")[:-1])
        assert "[BOARD_PORT]" in busy.stderr
        board.send_signal(signal.SIGTERM)
        out, errors = board.communicate(timeout=30)
    finally:
        board.kill()
        board.wait()
    assert board.returncode == 0, errors
    assert out == f"board at {address}\n"
    assert errors == ""
