"""How long audits and disputes wait, as an operator says it."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from flopmarket.trust.dispute import DisputeWaits
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator import cli
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.wait_options import audit_waits, dispute_waits, wait_options

SECOND_US = 1_000_000


def told(*words: str) -> tuple[Waits, DisputeWaits]:
    found: list[tuple[Waits, DisputeWaits]] = []

    @click.command()
    @wait_options
    def command(**waits: float) -> None:
        found.append((audit_waits(waits), dispute_waits(waits)))

    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    return found[0]


def test_what_nobody_says_is_what_the_project_says() -> None:
    assert told() == (Parameters().audit_waits, Parameters().dispute_waits)


def test_each_wait_has_an_option_of_its_own() -> None:
    words = (
        "--audit-jitter", "0", "--audit-idle", "2", "--audit-answer", "3", "--audit-opening", "4",
        "--worker-opening", "5", "--dispute-answer", "6.5",
    )  # fmt: skip
    waits, disputes = told(*words)
    values = [getattr(waits, field.name) // SECOND_US for field in fields(Waits)]
    assert values == [0, 2, 3, 4, 5]
    assert disputes.answer_us == 6_500_000
    options = {option for item in cli.serve.params for option in item.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert {"--house-disputes", "--invitation-only"} <= options


@pytest.mark.parametrize("words", [("--audit-idle", "0"), ("--worker-opening", "9999999")])
def test_no_wait_and_an_endless_one_are_refused(words: tuple[str, str]) -> None:
    assert CliRunner().invoke(cli.serve, words).exit_code == 2
