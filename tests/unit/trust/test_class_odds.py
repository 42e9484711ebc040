"""Chances inside a class, held to counting every draw and to playing the arbitration itself."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from math import ceil, floor

import pytest

from flopmarket.errors import InvalidInput
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.arbitration import Outcome, Vote, judge
from flopmarket.trust.audit_policy import (
    RULES,
    Level,
    least_terms,
    stake_rate_ppm,
    surcharge_ppm,
)
from flopmarket.trust.class_odds import (
    at_worst,
    can_decide,
    class_surcharge_ppm,
    class_terms,
    convicted_ppm,
    outvoted_ppm,
    worth_ppm,
)


def counted(others: int, colluding: int, outcome: Outcome, *, worker_is_wrong: bool) -> Fraction:
    """Over every draw of an auditor and two arbiters; colluders say what hurts the honest."""
    hits = total = 0
    for drawn in permutations(range(others), 3):
        friends, strangers = (b"wrong", b"right")  # colluders repeat one wrong answer
        said = [friends if place < colluding else strangers for place in drawn]
        own = b"wrong" if worker_is_wrong else b"right"
        votes = [Vote(str(i), str(i), root, b"") for i, root in enumerate([own, *said])]
        total += 1
        hits += said[0] != own and judge(votes[0], votes[1], votes[2:]) is outcome
    return Fraction(hits, total)


@pytest.mark.parametrize("others", range(3, 8))
def test_formulas_are_what_counting_gives(others: int) -> None:
    for colluding in range(others + 1):
        lost = counted(others, colluding, Outcome.PRODUCER_WRONG, worker_is_wrong=False)
        assert outvoted_ppm(others, colluding, house=False) == ceil(lost * PARTS_PER_MILLION)
        found = counted(others, colluding, Outcome.PRODUCER_WRONG, worker_is_wrong=True)
        assert convicted_ppm(others, colluding, house=False) == floor(found * PARTS_PER_MILLION)


def test_small_classes_and_the_house() -> None:
    assert [can_decide(n, house=False) for n in range(5)] == [False, False, False, True, True]
    assert [can_decide(n, house=True) for n in range(3)] == [False, True, True]
    assert outvoted_ppm(3, 3, house=False) == PARTS_PER_MILLION
    assert outvoted_ppm(3, 2, house=False) == outvoted_ppm(2, 2, house=False) == 0
    assert outvoted_ppm(50, 50, house=True) == 0
    assert convicted_ppm(2, 0, house=False) == 0
    assert convicted_ppm(10, 3, house=True) == 700_000
    with pytest.raises(InvalidInput):
        outvoted_ppm(3, 4, house=False)


def test_where_nothing_can_be_decided_everything_is_audited() -> None:
    """The rate follows from what an audit is worth; the rules are those of the project."""
    cases = (
        (2, False, 1),
        (4, False, 1),  # two of them are friends: two against two
        (5, False, 142_857),
        (10, False, 416_665),
        (100, False, 483_611),
        (1, True, PARTS_PER_MILLION),
    )
    for others, house, expected in cases:
        assert worth_ppm(RULES, others, house=house) == expected
    rates = [
        stake_rate_ppm(replace(RULES, detection_ppm=expected), 10**9, 300 * 10**9)
        for _, _, expected in cases
    ]
    assert rates == [PARTS_PER_MILLION, PARTS_PER_MILLION, 100_001, 34_286, 29_540, 14_286]


@pytest.mark.parametrize("level", list(Level))
def test_where_a_referee_decides_levels_cost_what_they_always_cost(level: Level) -> None:
    for fee in (0, 30_000, 50_000):
        assert class_terms(RULES, level, fee, PARTS_PER_MILLION) == least_terms(RULES, level, fee)
        ours = class_surcharge_ppm(RULES, level, fee, PARTS_PER_MILLION)
        assert ours == surcharge_ppm(RULES, level, fee)


def test_who_can_decide_less_pays_for_more_audits() -> None:
    """Audits of a class are paid for by its jobs: where all are needed, as at level dual."""
    ten = worth_ppm(RULES, 10, house=False)
    assert class_terms(RULES, Level.DETER, 30_000, ten).audited_ppm == 24_001
    assert class_surcharge_ppm(RULES, Level.DETER, 30_000, ten) == 0
    assert class_terms(RULES, Level.CHECK, 30_000, ten).audited_ppm == 480_002
    for level in Level:
        alone = class_surcharge_ppm(RULES, level, 30_000, worth_ppm(RULES, 2, house=False))
        assert alone == surcharge_ppm(RULES, Level.DUAL, 30_000) == 970_000


def framing_ppm(others: int, colluding: int, reward_ppm: int) -> Fraction:
    """What an auditor of a coalition may expect from calling an honest worker wrong, in stakes:
    the reward if both arbiters are its friends, less its own stake if neither is."""
    pairs = (others - 1) * (others - 2)
    gain = Fraction((colluding - 1) * (colluding - 2), pairs) * Fraction(reward_ppm, 1_000_000)
    return gain - Fraction((others - colluding) * (others - colluding - 1), pairs)


def test_framing_pays_nobody_because_a_vote_has_no_reward() -> None:
    """A finder's share of the stake, as disputes have it, would pay beside two friends in three;
    so a conviction by votes has none, and lying about an honest worker can only lose."""
    for others in range(3, 60):
        for colluding in range(1, others + 1):
            assert framing_ppm(others, colluding, 0) <= 0
    assert framing_ppm(60, 45, RULES.auditor_ppm) > 0
    assert framing_ppm(10, 3, RULES.auditor_ppm) < Fraction(-1, 2)


def test_a_quote_assumes_three_in_ten_rounded_up() -> None:
    assert at_worst(RULES, 2) == (0, 0)
    assert at_worst(RULES, 10) == (
        convicted_ppm(10, 3, house=False),
        outvoted_ppm(10, 3, house=False),
    )
    assert at_worst(RULES, 3) == (0, 0), "one friend of three: two against two"
