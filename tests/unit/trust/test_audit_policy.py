"""The audit rules: rates, money, strikes, levels, as laws over whole ranges."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.trust.audit_policy import (
    RULES,
    AuditRules,
    Consequence,
    Level,
    Signature,
    after_fault,
    after_silence,
    audit_debt_nano,
    audit_load_ppm,
    detection_ppm,
    divide_pay,
    is_flip,
    is_outlier,
    least_terms,
    level_terms,
    look_back,
    may_audit,
    rate_ppm,
    split_slash,
    stake_rate_ppm,
    streak_rate_ppm,
    surcharge_ppm,
)
from flopmarket.trust.encoding import decode, digest, encode

ONE = 1_000_000
UNIT = 2_500_000
AMOUNTS = st.integers(0, 2**62)
PRICES = st.integers(1, 2**50)
FLIP = Signature(differing_elements=1, most_flipped_bits=1, follows=True)


@pytest.mark.parametrize(
    ("stake_units", "rate"),
    [(0, ONE), (4, ONE), (50, 85_715), (100, 42_858), (300, 14_286), (1_000, 10_000)],
)
def test_the_rates_of_the_design(stake_units: int, rate: int) -> None:
    assert stake_rate_ppm(RULES, UNIT, stake_units * UNIT) == rate


@given(PRICES, AMOUNTS)
def test_one_wrong_unit_loses_on_average_whatever_is_at_stake(price: int, stake: int) -> None:
    """Every segment by itself: the chance to be seen by an honest auditor, times what is lost with
    it, is ``safety`` times the gain, or the audit is certain.
    """
    rate = rate_ppm(RULES, Level.DETER, 10**9, price, stake)
    assert RULES.floor_ppm <= rate <= ONE
    honest = Fraction(rate * (ONE - RULES.colluding_ppm), ONE**2)
    assert rate == ONE or honest * stake >= RULES.safety * price


@given(PRICES, st.integers(0, 2**61), st.integers(0, 2**61))
def test_more_at_stake_is_never_watched_more(price: int, stake: int, more: int) -> None:
    assert stake_rate_ppm(RULES, price, stake + more) <= stake_rate_ppm(RULES, price, stake)


@given(st.integers(1, 2**40), st.integers(0, 2**43), st.integers(2, 10**5))
def test_rates_are_of_ratios(price: int, stake: int, factor: int) -> None:
    assert stake_rate_ppm(RULES, price * factor, stake * factor) == stake_rate_ppm(
        RULES, price, stake
    )


@given(st.integers(0, 100), st.integers(0, 10**9), PRICES, AMOUNTS)
def test_reputation_never_buys_immunity(streak: int, more: int, price: int, stake: int) -> None:
    early = rate_ppm(RULES, Level.DETER, streak, price, stake)
    late = rate_ppm(RULES, Level.DETER, streak + more, price, stake)
    assert stake_rate_ppm(RULES, price, stake) <= late <= early


def test_the_schedule_of_newcomers() -> None:
    assert [streak_rate_ppm(RULES, streak) for streak in (0, 19, 20, 49, 50)] == [
        ONE,
        ONE,
        100_000,
        100_000,
        0,
    ]


def test_outliers_are_always_audited() -> None:
    stake = 300 * UNIT
    assert not is_outlier(RULES, 30 * UNIT, stake)
    assert is_outlier(RULES, 30 * UNIT + 1, stake)
    assert rate_ppm(RULES, Level.DETER, 100, 30 * UNIT + 1, stake) == ONE
    assert rate_ppm(RULES, Level.DETER, 100, 30 * UNIT, stake) < ONE


def test_levels_are_floors() -> None:
    rates = [rate_ppm(RULES, level, 100, UNIT, 300 * UNIT) for level in Level]
    assert rates == [14_286, 200_000, ONE]


def test_an_auditor_is_through_its_onboarding_and_has_the_whole_bond() -> None:
    assert may_audit(RULES, 50, 100 * UNIT, UNIT)
    assert not may_audit(RULES, 49, 100 * UNIT, UNIT)
    assert not may_audit(RULES, 50, 100 * UNIT - 1, UNIT)


# --- money ----------------------------------------------------------------------------------------


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_pay_is_divided_without_loss(pay: int, debt: int, bond: int, target: int) -> None:
    part = divide_pay(RULES, pay, debt, bond, target)
    assert part.to_audits_nano + part.to_bond_nano + part.to_held_nano == pay
    assert min(part.to_audits_nano, part.to_bond_nano, part.to_held_nano) >= 0
    assert part.to_audits_nano <= min(debt, -(-pay // 2))
    assert bond + part.to_bond_nano <= max(bond, target)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.booleans()), max_size=200))
def test_a_newcomers_debt_never_passes_its_bond(units: list[tuple[int, bool]]) -> None:
    """However prices go up and down, who leaves has paid for its audits: no farm of identities."""
    debt = bond = 0
    for number, (price, audited) in enumerate(units):
        debt += audit_debt_nano(RULES, number, price) if audited else 0
        part = divide_pay(RULES, price, debt, bond, 10**15)
        debt, bond = debt - part.to_audits_nano, bond + part.to_bond_nano
        assert debt <= bond + 1 + number  # a nano-unit of rounding a unit


def test_audits_are_free_after_the_first_hundred_units() -> None:
    assert audit_debt_nano(RULES, 99, UNIT) == UNIT
    assert audit_debt_nano(RULES, 100, UNIT) == 0


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_slash_is_split_without_loss_and_half_of_it_stays(
    amount: int, void: int, owed: int
) -> None:
    split = split_slash(RULES, amount, void, owed)
    parts = (split.owed_nano, split.refund_nano, split.auditor_nano, split.reserve_nano)
    assert sum(parts) == amount and min(parts) >= 0
    assert split.reserve_nano >= amount - amount // 2
    assert split.owed_nano == min(owed, amount // 2), "losses come first"
    assert split.refund_nano == min(void, amount // 2 - split.owed_nano), "then damages"
    assert split.auditor_nano - Fraction(amount, 4) < 1


# --- faults and silence ---------------------------------------------------------------------------


def test_a_first_flip_is_forgiven_and_a_second_is_not() -> None:
    assert after_fault(RULES, FLIP, 700, ()) is Consequence.QUARANTINE
    assert after_fault(RULES, FLIP, 700, (200,)) is Consequence.QUARANTINE
    assert after_fault(RULES, FLIP, 700, (201,)) is Consequence.SLASH


@pytest.mark.parametrize(
    "signature",
    [
        replace(FLIP, differing_elements=5),
        replace(FLIP, most_flipped_bits=3),
        replace(FLIP, follows=False),
        replace(FLIP, differing_elements=0),
    ],
)
def test_what_saved_work_is_no_flip(signature: Signature) -> None:
    assert not is_flip(RULES, signature)
    assert after_fault(RULES, signature, 700, ()) is Consequence.SLASH


def test_silence_hides_nothing() -> None:
    assert after_silence(RULES, 10, (), roots_differ=True) is Consequence.SLASH
    assert after_silence(RULES, 900, (1, 2, 3), roots_differ=False) is Consequence.FORFEIT
    assert after_silence(RULES, 900, (500, 600, 700, 800), roots_differ=False) is Consequence.SLASH
    assert after_silence(RULES, 900, (400, 600, 700, 800), roots_differ=False) is (
        Consequence.FORFEIT
    )


def test_looking_back_covers_what_is_held_and_the_house_has_not_seen() -> None:
    assert look_back(RULES, 3, (1,)) == (0, 2)
    window = look_back(RULES, 1_000, (999, 850))
    assert (window[0], window[-1], len(window)) == (800, 998, 198)


# --- levels ---------------------------------------------------------------------------------------


def test_levels_for_quotes() -> None:
    assert [surcharge_ppm(RULES, level, 30_000) for level in Level] == [0, 178_000, 970_000]
    assert [surcharge_ppm(RULES, level, 0) for level in Level] == [10_400, 208_000, ONE]
    assert [surcharge_ppm(RULES, level, 300_000) for level in Level] == [0, 0, 700_000]
    assert [least_terms(RULES, level, 0).audited_ppm for level in Level] == [10_000, 200_000, ONE]
    deter, check, dual = (level_terms(RULES, level, 14_286) for level in Level)
    assert (deter.audited_ppm, deter.price_factor_ppm) == (14_286, 1_030_000)
    assert (check.audited_ppm, check.price_factor_ppm) == (200_000, 1_208_000)
    assert (dual.audited_ppm, dual.price_factor_ppm) == (ONE, 2 * ONE)
    assert audit_load_ppm(RULES, 14_286) == 14_858


@pytest.mark.parametrize(
    ("rate", "wrong", "seen"),
    [
        (14_286, 1, 14_286),
        (200_000, 5, 672_320),
        (200_000, 10, 892_626),
        (10_000, 100, 633_968),
        (ONE, 1, ONE),
        (ONE, 0, 0),
        (10_000, 10**9, ONE - 1),
    ],
)
def test_detection(rate: int, wrong: int, seen: int) -> None:
    assert detection_ppm(RULES, rate, wrong) == seen


@given(st.integers(0, ONE), st.integers(0, 60), st.integers(1, ONE))
def test_detection_is_the_exact_probability_rounded(rate: int, wrong: int, d: int) -> None:
    rules = replace(RULES, detection_ppm=d)
    exact = (1 - (1 - Fraction(rate * d, ONE**2)) ** wrong) * ONE
    found = detection_ppm(rules, rate, wrong)
    assert abs(found - exact) <= 1
    assert (found == ONE) == (exact == ONE)


def test_rules_are_a_document() -> None:
    assert decode(AuditRules, encode(RULES)) == RULES
    assert digest(replace(RULES, floor_ppm=9_999)) != digest(RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {"floor_ppm": 0},
        {"colluding_ppm": ONE},
        {"detection_ppm": 0},
        {"check_ppm": ONE + 1},
        {"refund_ppm": 800_000},
        {"full_streak": 51},
        {"safety": 0},
    ],
)
def test_rules_that_deter_nobody_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(RULES, **changes)
    assert caught.value.code == "AUDIT_RULES"


def test_a_detection_without_meaning_is_refused() -> None:
    with pytest.raises(InvalidInput):
        detection_ppm(RULES, ONE + 1, 1)
