"""Modes on the command line: what is bought, what a quote shows, what a receipt says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flopmarket.cli.mode_options import DEFAULT_MODE, MEANINGS, MODES
from flopmarket.trust.modes import Mode
from tests.integration.client.double_jobs import GOOD_CLASS
from tests.integration.client.doubles import COORDINATOR_KEY, FakeCoordinator
from tests.unit.cli.conftest import Flop, json_lines


def test_the_options_know_every_mode() -> None:
    assert tuple(Mode) == MODES and DEFAULT_MODE == Mode.EXACT
    assert set(MEANINGS) == set(MODES)


def test_a_job_file_chooses_a_mode_and_the_command_line_another(
    flop: Flop, buyer: FakeCoordinator, job_file: str
) -> None:
    def bought(*arguments: str) -> str:
        made = flop("submit", job_file, *arguments)
        assert made.exit_code == 0, made.stderr
        return buyer.jobs[made.stdout.strip()].spec.mode

    assert bought() == "exact"
    with Path(job_file).open("a") as file:
        file.write('\nmode = "tolerance"\n')
    assert bought() == "tolerance"
    assert bought("--mode", "exact") == "exact"
    assert bought("--mode", "class", "--class", "ab" * 32) == "class"
    with Path(job_file).open("a") as file:
        file.write('\nmode = "trust-me"\n')
    wrong = flop("submit", job_file)
    assert wrong.exit_code != 0 and "MODE_UNKNOWN" in wrong.stderr


def test_a_quote_in_class_mode_shows_classes_and_what_their_size_means(
    flop: Flop, buyer: FakeCoordinator, job_file: str
) -> None:
    shown = flop("quote", job_file, "--mode", "class")
    assert f"{GOOD_CLASS.hex()} <" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines() if "driver 1" in line]
    assert [row[-8:-6] for row in rows] == [["1", "0"], ["3", "2"]]
    assert "can outvote an honest device" in shown.stderr
    (found,) = json_lines(flop("quote", job_file, "--mode", "class", "--json"))
    assert found["device_class"] == GOOD_CLASS.hex()
    assert [item["other_accounts"] for item in found["classes"]] == [0, 2]
    assert "driver 1" not in flop("quote", job_file).stdout
    assert MEANINGS["exact"] in flop("quote", job_file).stdout


@pytest.mark.parametrize("mode", MODES)
def test_a_receipt_says_in_words_what_its_mode_proves(
    flop: Flop, buyer: FakeCoordinator, job_file: str, home: Path, mode: str
) -> None:
    made = flop("run", job_file, "--mode", mode, "--out", str(home / "results"))
    assert made.exit_code == 0, made.stderr
    file = str(home / "results" / "receipt.json")
    shown = flop("receipt", "verify", file, "--key", COORDINATOR_KEY.key_id)
    assert MEANINGS[mode] in shown.stdout
    (found,) = json_lines(flop("receipt", "verify", file, "--json"))
    assert found["mode"] == mode
    assert found["device_class"] == (GOOD_CLASS.hex() if mode == "class" else "")
