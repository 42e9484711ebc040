"""The root command: help, start-up time, mounted commands, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import click
import pytest

from flopmarket.cli import main as main_module
from flopmarket.cli.failures import guarded
from flopmarket.engine.errors import EngineError
from flopmarket.errors import (
    Conflict,
    FlopmarketError,
    Forbidden,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from tests.unit.cli.conftest import Flop

HELP_LIMIT_SECONDS = 0.4  # 0.15 is the aim on an idle machine; a busy one is given time


def test_help_lists_every_command(flop: Flop) -> None:
    result = flop("--help")
    assert result.exit_code == 0
    for name in (*main_module.COMMANDS, "worker", "coordinator"):
        assert f"  {name} " in result.stdout


@pytest.mark.parametrize("name", list(main_module.COMMANDS))
def test_every_command_loads_and_has_help(flop: Flop, name: str) -> None:
    result = flop(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: flop" in result.stdout


def test_help_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "flopmarket.cli.main", "--help"]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nflop --help: {min(seconds) * 1000:.0f} ms, best of 5")
    assert min(seconds) <= HELP_LIMIT_SECONDS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from flopmarket.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'rich', 'cryptography', 'pyopencl', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_version(flop: Flop) -> None:
    assert metadata.version("flopmarket") in flop("--version").stdout


def test_other_packages_mount_commands(flop: Flop, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "extra": metadata.EntryPoint("extra", "tests.unit.cli.test_root:extra_command", "any"),
        "broken": metadata.EntryPoint("broken", "no_such_module:thing", "any"),
    }
    monkeypatch.setattr(main_module, "_mounted", lambda: points)
    assert flop("extra").stdout == "extra runs\n"
    broken = flop("broken")
    assert broken.exit_code == 1
    assert "COMMAND_NOT_LOADED" in broken.stderr
    assert flop("--help").exit_code == 0  # a broken package does not take the others along


@click.command()
def extra_command() -> None:
    """A command of another package."""
    click.echo("extra runs")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FlopmarketError("x"), 1),
        (InvalidInput("x"), 2),
        (Unauthenticated("x"), 3),
        (Forbidden("x"), 3),
        (NotFound("x"), 4),
        (Conflict("x"), 5),
        (QuotaExceeded("x"), 6),
        (Unavailable("x"), 7),
        (EngineError("x", code="SHAPE"), 2),
        (EngineError("x", code="DEVICE_LOST", retryable=True), 7),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("x"), 2),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        guarded(fail)
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_an_error_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise NotFound("no job 7", code="JOB_NOT_FOUND", hint="see `flop job list`")

    with pytest.raises(SystemExit):
        guarded(fail)
    assert capsys.readouterr().err.splitlines() == [
        "error: no job 7 [JOB_NOT_FOUND]",
        "hint: see `flop job list`",
    ]


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOPMARKET_DEBUG", "1")

    def fail() -> None:
        raise NotFound("no job 7")

    with pytest.raises(SystemExit):
        guarded(fail)
    assert "Traceback" in capsys.readouterr().err


def test_usage_errors(flop: Flop, home: Path) -> None:
    assert flop("no-such-command").exit_code == 2
    assert flop("quote").exit_code == 2
    assert flop("quote", str(home / "missing.py")).exit_code == 2
    assert flop("prices", "offers", "--order-by", "luck").exit_code == 2


def test_a_reader_that_leaves_is_no_fault_of_ours() -> None:
    command = f"{sys.executable} -m flopmarket.cli.main --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 1)  # 0 when all was written before it left
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_the_demo_is_found_by_name(flop: Flop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Demo:
        @staticmethod
        def main(arguments: list[str]) -> int:
            seen.append(arguments)
            return 1

    monkeypatch.setitem(sys.modules, "flopmarket.demo", Demo)  # type: ignore[arg-type]
    assert flop("demo", "--quick", "2").exit_code == 1
    assert seen == [["--quick", "2"]]
