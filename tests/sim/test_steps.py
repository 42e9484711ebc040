"""Markets with segments that are too big for the house, cheats of drawn steps, planted bugs."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim import step_cheats
from tests.sim.planting import hunt
from tests.sim.scenario import Outcome, play
from tests.sim.seeds import EACH, STEPS
from tests.sim.step_bots import STEP_BOTS
from tests.sim.step_laws import look_band
from tests.sim.step_mutants import STEP_MUTANTS
from tests.sim.step_run import STEP_PARAMETERS
from tests.sim.stories import right_story, signed_wrong

SEEDS = range(STEPS, 60, EACH)
QUICK_MUTANTS = (
    "steps-drawn-before-the-roots",
    "steps-roots-of-anything",
    "steps-say-yes",
    "steps-without-deadline",
    "steps-one-less",
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Every seed played once."""
    return [play(seed) for seed in SEEDS]


def test_every_law_holds(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.broken is None, outcome.story()


def test_steps_are_drawn_and_answers_are_right_wrong_and_missing(outcomes: list[Outcome]) -> None:
    seen = sum((outcome.seen for outcome in outcomes), start=Counter[str]())
    for what in ("EQUAL", "DIFFERS", "UNUSABLE", "VOID"):
        assert seen[f"steps: {what}"], what
    assert seen["wrong, and drawn steps missed it"]
    assert seen["house dispute: producer-wrong"]


def test_drawn_steps_meet_wrong_ones_as_often_as_chance_explains(outcomes: list[Outcome]) -> None:
    looks = [look for outcome in outcomes for look in outcome.looks]
    least, most, met = look_band(looks)
    assert len(looks) >= 5
    assert least <= met <= most


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    mutant = next(item for item in STEP_MUTANTS if item.name == name)
    assert hunt(mutant, range(12)) is not None, f"{name} lives"


@pytest.mark.parametrize("bot", STEP_BOTS, ids=lambda bot: bot.__name__)
def test_no_bot_alone_breaks_a_law(bot: type) -> None:
    outcome = play(STEPS, bots=(bot,))
    assert outcome.broken is None, outcome.story()


@pytest.mark.parametrize("name", ["makes up one step", "one step, silent where it was drawn"])
def test_a_cheat_of_single_steps_loses_more_than_it_earned(name: str) -> None:
    cheat = next(item for item in step_cheats.CHEATS if item.name == name)
    profit, gain, banned = step_cheats.one(cheat, seed=0)
    assert banned
    assert gain < 0
    assert profit <= gain


def test_an_answer_has_longer_than_anybody_is_away_by_chance() -> None:
    """Somebody honest whose power is gone, or whose link is cut, is struck seldom."""
    assert STEP_PARAMETERS.audit_waits.worker_us > 100_000_000


def test_a_story_is_wrong_where_it_was_changed() -> None:
    story = right_story(b"job", b"s" * 32, 5, 4)
    assert not story.wrong_steps()
    assert not signed_wrong(b"job", story.roots, story.sums)
    roots = list(story.roots)
    roots[2] = b"x" * 32
    assert signed_wrong(b"job", roots, story.sums) == {6, 7}
