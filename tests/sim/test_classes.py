"""Seeds with classes of devices: laws that hold, decisions that are met, planted bugs."""

from __future__ import annotations

from collections import Counter

import pytest

from flopmarket.trust.device_class import class_of
from tests.sim import class_cheats
from tests.sim.class_bots import CLASS_BOTS, Framer
from tests.sim.class_mutants import CLASS_MUTANTS
from tests.sim.classes import ClassRun
from tests.sim.kinds import FAST_CARD, class_of_kind, kind_of_class
from tests.sim.planting import hunt
from tests.sim.scenario import Outcome, play
from tests.sim.seeds import CLASSES, EACH, run_of

SEEDS = (3, 33, 93, 103)
"""Among them a liar, devices of another class and friends of one mind."""
QUICK_MUTANTS = ("arbiters-of-one-account", "two-against-one", "void-unit-paid")


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Every seed played once."""
    return [play(seed) for seed in SEEDS]


def test_every_law_holds_in_a_class(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.broken is None, outcome.story()


def test_classes_decide_and_leave_undecided(outcomes: list[Outcome]) -> None:
    seen = sum((outcome.seen for outcome in outcomes), start=Counter[str]())
    for what in ("class REFUTED", "class UNDECIDED", "class arbiter: ended", "class unit void"):
        assert seen[what], what
    assert seen["segment settled"]


def test_a_tenth_of_the_seeds_has_classes() -> None:
    found = [seed for seed in range(30) if run_of(seed) is ClassRun]
    assert found == [CLASSES, CLASSES + 2 * EACH, CLASSES + 4 * EACH]
    assert all(run_of(seed) is ClassRun for seed in SEEDS)
    assert len(CLASS_BOTS) >= 6


def test_devices_offer_the_class_that_jobs_are_bound_to() -> None:
    run = ClassRun(SEEDS[0])
    worker = next(item for item in run.workers if item.card.kind == FAST_CARD)
    assert class_of(worker.terms()) == class_of_kind(FAST_CARD)
    assert kind_of_class(class_of_kind(FAST_CARD).hex()) == FAST_CARD
    assert kind_of_class("") == ""


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_bug_planted_in_class_mode_is_found(name: str) -> None:
    mutant = next(item for item in CLASS_MUTANTS if item.name == name)
    assert hunt(mutant, range(10)) is not None, f"{name} lives"


def test_two_friends_convict_nobody_and_three_may() -> None:
    """The documented weakness of a class, in the market's books."""
    two = class_cheats.ClassSteady(0, (Framer, Framer), seconds=60)
    two.play_books()
    assert two.convicted == 0
    three = class_cheats.ClassSteady(4, (Framer, Framer, Framer), seconds=60)
    three.play_books()
    assert three.convicted > 0
    assert three.laws.seen["honest device outvoted by three"] >= three.convicted
