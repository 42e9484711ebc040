"""``flop coordinator``: init, serve, migrate, check, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from flopmarket.errors import InvalidInput, NotFound
from flopmarket.v1 import identity_pb2, identity_pb2_grpc
from flopmarket_coordinator.cli import coordinator


def serve(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The real command in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flopmarket.cli.main",
            "coordinator",
            "serve",
            "--data-dir",
            str(folder),
            "--port",
            "0",
            "--no-audit",
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )


def test_serve_says_where_it_listens_and_ends_on_sigterm(tmp_path: Path) -> None:
    address_file = tmp_path / "address"
    process = serve(tmp_path / "market", "--address-file", str(address_file))
    try:
        assert process.stdout is not None
        word, on, address, key, key_id = process.stdout.readline().split()
        assert (word, on, key) == ("listening", "on", "key")
        assert address_file.read_text().strip() == address
        assert not address.endswith(":0")
        with grpc.insecure_channel(address) as channel:
            stub = identity_pb2_grpc.IdentityServiceStub(channel)
            answer = stub.GetCoordinator(identity_pb2.GetCoordinatorRequest(), timeout=10)
        assert answer.key_id == key_id
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert output == ""
    assert "Traceback" not in errors


def test_serve_refuses_the_outside_without_tls(tmp_path: Path) -> None:
    process = serve(tmp_path / "market", "--listen", "0.0.0.0:0")
    try:
        output, errors = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2
    assert output == ""
    assert "TLS_REQUIRED" in errors
    assert not (tmp_path / "market").exists()


def test_init_migrate_check(tmp_path: Path) -> None:
    folder, run = tmp_path / "market", CliRunner().invoke
    first = run(coordinator, ["init", "--data-dir", str(folder), "--json"])
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert len(facts["key_id"]) == 64
    assert Path(facts["operator_key"]).is_file()
    assert Path(facts["ca_certificate"]).is_file()
    second = run(coordinator, ["init", "--data-dir", str(folder), "--json"])
    assert json.loads(second.stdout) == facts
    assert run(coordinator, ["migrate", "--data-dir", str(folder)]).exit_code == 0
    checked = run(coordinator, ["check", "--data-dir", str(folder), "--json"])
    assert checked.exit_code == 0, checked.output
    assert checked.stdout == ""


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_a_folder_that_is_no_market_is_named(tmp_path: Path, command: str) -> None:
    result = CliRunner().invoke(coordinator, [command, "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, NotFound)
    assert result.exception.code == "DATA_DIR_MISSING"


def test_bad_amounts_are_refused(tmp_path: Path) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path), "--bond-target", "a lot"]
    result = CliRunner().invoke(coordinator, arguments)
    assert isinstance(result.exception, InvalidInput)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, flopmarket_coordinator.cli as c;"
        "heavy = {'grpc', 'sqlalchemy', 'cryptography', 'numpy', 'alembic', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - started < 5
