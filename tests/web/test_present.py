"""Figures and texts as readers see them."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.limits import MAX_BOARD_NAME_CHARACTERS
from flopmarket.market.money import MAX_NANO, NANO_PER_UNIT
from flopmarket_coordinator.web import present


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_762_870, "$0.001763"),
        (12_345_678, "$0.01235"),
        (612_000_000, "$0.6120"),
        (1_234_567_890, "$1.235"),
        (18_734_000_000, "$18.73"),
        (1_234_567_890_000_000, "$1,234,567.89"),
        (-73_120_000, "−$0.07312"),
        (None, "–"),
    ],
)
def test_money_has_four_digits_and_two_decimals(nano: int | None, text: str) -> None:
    assert present.money(nano, "USD") == text


def test_other_currencies_are_named() -> None:
    assert present.money(1_500_000_000, "flopcoin") == "1.500 flopcoin"
    assert present.exact(1_500_000_001, "flopcoin") == "1.500000001 flopcoin"


@given(st.integers(-MAX_NANO, MAX_NANO))
def test_shown_money_is_near_the_exact_amount(nano: int) -> None:
    shown = Decimal(present.bare(nano).replace(",", ""))
    exact = Decimal(nano) / NANO_PER_UNIT
    assert abs(shown - exact) <= max(abs(exact) * Decimal("0.0005"), Decimal("5e-10"))


@given(st.text())
def test_names_cannot_give_orders_and_are_bounded(text: str) -> None:
    shown = present.name(text)
    assert len(shown) <= MAX_BOARD_NAME_CHARACTERS + 1
    assert not any(unicodedata.category(c)[0] == "C" for c in shown)
    if text.isalnum() and len(text) <= MAX_BOARD_NAME_CHARACTERS:
        assert shown == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 FLOP"),
        (3.6e21, "3.60 ZFLOP"),
        (5.67e17, "567 PFLOP"),
        (2.61e13, "26.1 TFLOP"),
        (999.0, "999 FLOP"),
        (0.012345, "0.0123 FLOP"),
    ],
)
def test_scaled(value: float | None, text: str) -> None:
    assert present.scaled(value, "FLOP") == text


def test_energy_has_a_readable_unit() -> None:
    assert present.energy(7_200_000.0) == "2.00 kWh"
    assert present.energy(1_500.0) == "1.50 kJ"
    assert present.energy(None) == "–"


def test_instants() -> None:
    assert present.moment(1_795_381_200_000_000) == "2026-11-22 21:00:00"
    assert present.moment(0) == "–"
    assert present.moment(2**62) == "?"


def test_age_uses_one_unit() -> None:
    assert [present.age(s) for s in (-1, 3.9, 61, 7_300, 200_000)] == [
        "0 s",
        "3 s",
        "1 min",
        "2 h",
        "2 d",
    ]


def test_changes_have_a_sign() -> None:
    assert present.change(-0.0848) == "−8.48 %"
    assert present.change(0.114) == "+11.40 %"
    assert present.change(None) == "–"


def test_every_class_of_the_engine_has_words() -> None:
    from flopmarket.engine.cost import WORK_CLASSES

    assert set(WORK_CLASSES) <= set(present.CLASSES)
