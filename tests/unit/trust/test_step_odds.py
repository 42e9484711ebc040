"""Levels where only drawn steps are looked at: seen as often as elsewhere, and paid for as done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flopmarket.trust.audit_policy import RULES, Level, least_terms, surcharge_ppm
from flopmarket.trust.step_odds import steps_surcharge_ppm, steps_terms

ONE = 1_000_000
FEE = 30_000
chances = st.integers(1, ONE)
levels = st.sampled_from(Level)


@given(levels, chances, st.integers(0, 300_000))
def test_nobody_pays_more_for_steps_than_for_the_whole(level: Level, chance: int, fee: int) -> None:
    extra = steps_surcharge_ppm(RULES, level, fee, chance)
    assert 0 <= extra <= surcharge_ppm(RULES, level, fee)


@given(levels, chances, chances)
def test_more_that_is_seen_costs_no_less(level: Level, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert steps_surcharge_ppm(RULES, level, FEE, less) <= steps_surcharge_ppm(
        RULES, level, FEE, more
    )


@given(levels, chances)
def test_a_wrong_segment_is_seen_as_often_until_all_are_audited(level: Level, chance: int) -> None:
    asked = least_terms(RULES, level, FEE).audited_ppm
    audited = steps_terms(RULES, level, FEE, chance).audited_ppm
    assert audited <= ONE
    assert audited == ONE or audited * chance >= asked * ONE
    if chance == ONE:
        assert audited == asked


@given(levels)
def test_all_steps_are_the_whole(level: Level) -> None:
    assert steps_terms(RULES, level, FEE, ONE) == least_terms(RULES, level, FEE)
    assert steps_surcharge_ppm(RULES, level, FEE, ONE) == surcharge_ppm(RULES, level, FEE)


def test_64_of_1000_steps_are_not_sold_as_a_second_computation() -> None:
    """6.4 % of the work again, canaries and cross-audits included, less the fee."""
    found = [steps_surcharge_ppm(RULES, level, FEE, 64_000) for level in Level]
    assert found == [0, 36_560, 36_560]
    assert [steps_terms(RULES, level, FEE, 64_000).audited_ppm for level in Level] == [
        156_250,
        ONE,
        ONE,
    ]
