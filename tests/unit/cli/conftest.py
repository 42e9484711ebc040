"""Fixtures of the command-line tests: a user with a home of their own, and a fake coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flopmarket.cli.main import main
from tests.integration.client.double_server import RunningFake
from tests.integration.client.doubles import BUYER_KEY, FakeCoordinator

JOB_FILE = """
from tests.integration.client.doubles import TinyJob

job = TinyJob()
"""

Flop = Callable[..., Result]


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with RunningFake() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder and no settings from outside; the working folder is new."""
    for name in (
        "ADDRESS",
        "KEY",
        "CA",
        "COORDINATOR_KEY",
        "ACCOUNT",
        "PROFILE",
        "CONFIG",
        "DEBUG",
    ):
        monkeypatch.delenv(f"FLOPMARKET_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def flop() -> Flop:
    """Run ``flop`` with these arguments."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="flop")

    return run


@pytest.fixture
def buyer(home: Path, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> FakeCoordinator:
    """The fake, with a user whose configuration names it and whose key it knows."""
    BUYER_KEY.save(home / "buyer.pem")
    monkeypatch.setenv("FLOPMARKET_ADDRESS", fake.address)
    monkeypatch.setenv("FLOPMARKET_KEY", str(home / "buyer.pem"))
    return fake


@pytest.fixture
def job_file(home: Path) -> str:
    path = home / "job.py"
    path.write_text(JOB_FILE)
    return str(path)


def json_lines(result: Result) -> list[dict[str, Any]]:
    """Every line of stdout as JSON; the command must have succeeded."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]
