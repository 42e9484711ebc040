"""Amounts: bounds, the rounding rule, and decimal text."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.market.money import (
    MAX_NANO,
    MIN_NANO,
    NANO_PER_UNIT,
    MoneyError,
    check_nano,
    check_price,
    format_nano,
    parse_nano,
    part_of_nano,
    round_up_nano,
    sum_nano,
)

AMOUNTS = st.integers(MIN_NANO, MAX_NANO)
PRICES = st.integers(0, MAX_NANO)


def test_amounts_are_integers_of_64_bits() -> None:
    assert check_nano(MAX_NANO) == MAX_NANO
    assert check_nano(MIN_NANO) == MIN_NANO
    for wrong in (MAX_NANO + 1, MIN_NANO - 1):
        with pytest.raises(MoneyError) as caught:
            check_nano(wrong, "deposit")
        assert caught.value.code == "MONEY_OUT_OF_RANGE"
        assert "deposit" in caught.value.message
    for value in (1.0, True, "1", None, Decimal(1), Fraction(1)):
        with pytest.raises(MoneyError) as caught:
            check_nano(value)  # type: ignore[arg-type]
        assert caught.value.code == "MONEY_NOT_INTEGER"
    assert issubclass(MoneyError, InvalidInput)


def test_prices_are_not_negative() -> None:
    assert check_price(0) == 0
    with pytest.raises(MoneyError) as caught:
        check_price(-1)
    assert caught.value.code == "MONEY_NEGATIVE"


def test_sums_are_exact_and_bounded() -> None:
    assert sum_nano([]) == 0
    assert sum_nano([MAX_NANO, MIN_NANO, 5]) == 4
    with pytest.raises(MoneyError) as caught:
        sum_nano([MAX_NANO, 1])
    assert caught.value.code == "MONEY_OUT_OF_RANGE"
    with pytest.raises(MoneyError):
        sum_nano([MAX_NANO + 1, -1])


@given(st.fractions(min_value=0, max_value=MAX_NANO), st.integers(1, 10**12))
def test_rounding_up_is_the_least_amount_that_is_enough(amount: Fraction, divisor: int) -> None:
    rounded = round_up_nano(amount, divisor)
    assert rounded >= amount / divisor > rounded - 1


@given(PRICES)
def test_whole_amounts_are_not_rounded(amount: int) -> None:
    assert round_up_nano(amount) == amount == round_up_nano(Fraction(amount))


@given(st.lists(st.fractions(min_value=0, max_value=10**9), max_size=8))
def test_parts_rounded_one_by_one_cover_the_whole(parts: list[Fraction]) -> None:
    """A ceiling quoted as one sum of rounded segments is never below the rounded total."""
    assert sum_nano(round_up_nano(part) for part in parts) >= round_up_nano(sum(parts, Fraction(0)))


@pytest.mark.parametrize(
    ("amount", "divisor", "code"),
    [
        (1.5, 1, "MONEY_NOT_INTEGER"),
        (1, 1.5, "MONEY_NOT_INTEGER"),
        (True, 1, "MONEY_NOT_INTEGER"),
        (Decimal(1), 1, "MONEY_NOT_INTEGER"),
        (-1, 1, "MONEY_NEGATIVE"),
        (1, 0, "MONEY_NEGATIVE"),
        (1, -1, "MONEY_NEGATIVE"),
        (Fraction(2 * MAX_NANO + 1, 2), 1, "MONEY_OUT_OF_RANGE"),
    ],
)
def test_what_is_no_exact_price_is_refused(amount: Any, divisor: Any, code: str) -> None:
    with pytest.raises(MoneyError) as caught:
        round_up_nano(amount, divisor)
    assert caught.value.code == code


@given(PRICES, st.integers(0, 10_000))
def test_a_part_is_within_one_nano_above_and_never_more_than_the_whole(
    amount: int, parts: int
) -> None:
    share = part_of_nano(amount, parts, 10_000)
    assert share <= amount
    assert 0 <= share * 10_000 - amount * parts < 10_000


def test_a_fee_of_three_percent() -> None:
    assert part_of_nano(1000, 3, 100) == 30
    assert part_of_nano(1001, 3, 100) == 31
    assert part_of_nano(0, 3, 100) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("$0.0123", 12_300_000),
        ("-$2", -2 * NANO_PER_UNIT),
        ("-0.5", -500_000_000),
        ("0.000000001", 1),
        (" $3.00 ", 3 * NANO_PER_UNIT),
        ("007", 7 * NANO_PER_UNIT),
        ("9223372036.854775807", MAX_NANO),
        ("-9223372036.854775808", MIN_NANO),
    ],
)
def test_amounts_are_read_exactly(text: str, value: int) -> None:
    assert parse_nano(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "$", ".", ".5", "5.", "1e3", "1,5", "1,000", "0.0000000001", "+1", "$-1", "--1", "1 2",
     "nan", "inf", "0x1", "1_0", "٣", "½", "€1", "1\n2", "99999999999", "9" * 10_000],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError) as caught:
        parse_nano(text)
    assert caught.value.code == "MONEY_MALFORMED"
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("text", ["9223372036.854775808", "-9223372036.854775809", "9999999999"])
def test_amounts_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(MoneyError) as caught:
        parse_nano(text)
    assert caught.value.code == "MONEY_OUT_OF_RANGE"


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (0, {}, "$0.00"),
        (12_300_000, {}, "$0.0123"),
        (1_500_000_000, {}, "$1.50"),
        (-2 * NANO_PER_UNIT, {}, "-$2.00"),
        (1, {}, "$0.000000001"),
        (-1, {"symbol": ""}, "-0.000000001"),
        (7 * NANO_PER_UNIT, {"min_decimals": 0}, "$7"),
        (7 * NANO_PER_UNIT + 10, {"min_decimals": 0}, "$7.00000001"),
        (7 * NANO_PER_UNIT, {"min_decimals": 9}, "$7.000000000"),
    ],
)
def test_amounts_are_written_in_full(value: int, options: dict[str, Any], text: str) -> None:
    assert format_nano(value, **options) == text


@given(AMOUNTS, st.integers(0, 9), st.sampled_from(["", "$"]))
def test_what_is_written_reads_back(value: int, min_decimals: int, symbol: str) -> None:
    text = format_nano(value, symbol=symbol, min_decimals=min_decimals)
    assert parse_nano(text) == value
    assert Decimal(text.replace("$", "")) * NANO_PER_UNIT == value


def test_formatting_refuses_what_is_no_amount() -> None:
    for value, decimals in ((MAX_NANO + 1, 2), (1.5, 2), (1, 10), (1, -1)):
        with pytest.raises(MoneyError):
            format_nano(value, min_decimals=decimals)  # type: ignore[arg-type]
