"""A moderate number of seeds, what makes them worth anything, and a few planted bugs.

``make sim SEEDS=0-199`` plays more, ``make sim-mutants`` hunts all mutants.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import cheats, flaky
from tests.sim.audit_laws import audit_band
from tests.sim.bots import BOTS
from tests.sim.mutants import MUTANTS
from tests.sim.people import people
from tests.sim.planting import Mutant, hunt
from tests.sim.quick import store_of
from tests.sim.scenario import PARAMETERS, Outcome, play
from tests.sim.seeds import EACH

SEEDS = range(20)
QUICK_MUTANTS = (
    "escrow-off-by-one",
    "hold-resolved-twice",
    "ban-ignored",
    "draw-ignores-the-chain",
    "no-look-back",
    "opening-unchecked",
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Every seed played once."""
    return [play(seed) for seed in SEEDS]


def test_every_law_holds_in_every_seed(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.broken is None, outcome.story()


def test_the_seeds_are_not_all_alike(outcomes: list[Outcome]) -> None:
    """Work was done, cheats were caught, others audited, leases were lost."""
    seen = sum((outcome.seen for outcome in outcomes), start=type(outcomes[0].seen)())
    for what in ("segment settled", "segment rejected", "ban", "audit by another: ended"):
        assert seen[what], what
    assert len({outcome.digest for outcome in outcomes}) == len(outcomes)
    assert len(BOTS) >= 15


def test_audits_are_drawn_as_often_as_chance_explains(outcomes: list[Outcome]) -> None:
    draws = [draw for outcome in outcomes for draw in outcome.draws]
    least, most, drawn = audit_band(draws)
    assert least <= drawn <= most
    assert any(not drawn for _, drawn in draws)


def test_a_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    traces = {_trace(hash_seed) for hash_seed in ("1", "4711")}
    assert len(traces) == 1
    assert "trace" in traces.pop()


def _trace(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seeds", "1-3", "--verbose"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line for line in done.stdout.splitlines() if "trace" in line)


def test_quick_connections_read_what_ordinary_ones_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed on SQLAlchemy's own connections tells the same story."""
    quick = play(3)
    monkeypatch.setattr("tests.sim.writer.store_of", lambda image: store_of(image, quick=False))
    people.cache_clear()
    try:
        assert play(3).digest == quick.digest
    finally:
        people.cache_clear()


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    mutant = next(item for item in MUTANTS if item.name == name)
    assert hunt(mutant, range(6)) is not None, f"{name} lives"


@pytest.mark.parametrize(
    "mutant", [it for it in MUTANTS if it.bots != BOTS], ids=lambda it: it.name
)
def test_the_bots_of_a_hunt_break_no_law_without_its_bug(mutant: Mutant) -> None:
    hunted = range(3) if mutant.only is None else range(mutant.only, 3 * EACH, EACH)
    for seed in hunted:
        outcome = play(seed, bots=mutant.bots)
        assert outcome.broken is None, outcome.story()


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_parameters_let_every_deadline_pass_within_a_run() -> None:
    waits = PARAMETERS.audit_waits
    assert waits.jitter_us + waits.idle_us + waits.answer_us + waits.worker_us < 240_000_000


def test_workers_that_drop_sessions_lose_no_more_than_what_they_dropped() -> None:
    """Five times as many drops as the 2 % of ``--flaky``, so that a short run has some."""

    class Often(flaky.Flaky):
        dropped = 0.1

    found = flaky.measure(range(1), Often, seconds=900)
    assert found.dropped >= 2
    assert found.mean > 1 - Often.dropped
    assert found.banned == 0


@pytest.mark.parametrize("name", ["milks after 3 segments", "vanishes when asked to open"])
def test_a_cheat_loses_more_than_it_earned(name: str) -> None:
    cheat = next(item for item in cheats.CHEATS if item.name == name)
    profit, gain, banned = cheats.one(cheat, seed=0)
    assert banned
    assert gain < 0
    assert profit <= gain
