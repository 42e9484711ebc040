"""Orders: what their constraints admit, what they refuse, and the exact arithmetic of limits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import InvalidInput
from flopmarket.market.offer import Offer
from flopmarket.market.order import (
    MARKET_ORDER,
    NO_CAP,
    PFLOP,
    Constraints,
    OrderTerms,
    OrderType,
    ceiling_of_limit_nano,
    check_order_fits_program,
    order_ceiling_nano,
    over_limit,
    step_cap_nano,
    step_limit_nano,
    step_time_cap,
    unmet,
)
from flopmarket.market.price import PriceTerms, price, price_bound
from flopmarket.market.reasons import Reason
from flopmarket.market.work import DeviceRates, StepWork
from flopmarket.trust.encoding import decode, encode

DOT = "dot-f32"
OFFER = Offer(
    offer_id="offer",
    account_id="owner",
    device_key_id="k" * 64,
    device_id="d" * 64,
    device_name="card",
    driver="driver",
    profile="FX1",
    memory_bytes=8 << 30,
    rates=DeviceRates({DOT: 20 * 10**12}, 10**12, 1000),
    ask_nano_per_hour=100_000_000,
    milliwatts=250_000,
    watts_source="declared",
    card_price_nano=0,
    region="eu-de",
)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, None),
        ({"allowed_owners": ("owner",)}, None),
        ({"allowed_owners": ("other",)}, Reason.OWNER),
        ({"denied_owners": ("owner",)}, Reason.OWNER),
        ({"denied_owners": ("other",)}, None),
        ({"allowed_regions": ("eu",)}, None),
        ({"allowed_regions": ("eu-de",)}, None),
        ({"allowed_regions": ("eu-de-berlin",)}, Reason.REGION),
        ({"allowed_regions": ("e",)}, Reason.REGION),
        ({"allowed_regions": ("us",)}, Reason.REGION),
        ({"denied_regions": ("eu",)}, Reason.REGION),
        ({"denied_regions": ("eu-fr",)}, None),
        ({"allowed_regions": ("eu",), "denied_regions": ("eu-de",)}, Reason.REGION),
        ({"min_memory_bytes": 8 << 30}, None),
        ({"min_memory_bytes": (8 << 30) + 1}, Reason.MIN_MEMORY),
        ({"min_flops_per_watt": 80 * 10**9, "work_class": DOT}, None),
        ({"min_flops_per_watt": 80 * 10**9 + 1, "work_class": DOT}, Reason.EFFICIENCY),
        ({"min_flops_per_watt": 1, "work_class": "dot-int"}, Reason.EFFICIENCY),
    ],
)
def test_what_an_offer_does_not_satisfy(asked: dict[str, Any], reason: Reason | None) -> None:
    assert unmet(Constraints(**asked), OFFER) is reason


def test_what_is_not_stated_satisfies_no_demand_about_it() -> None:
    nowhere = replace(OFFER, region="")
    assert unmet(Constraints(allowed_regions=("eu",)), nowhere) is Reason.REGION
    assert unmet(Constraints(denied_regions=("us",)), nowhere) is Reason.REGION
    powerless = replace(OFFER, milliwatts=0, watts_source="unknown")
    asked = Constraints(work_class=DOT, min_flops_per_watt=1)
    assert unmet(asked, powerless) is Reason.POWER_UNKNOWN
    assert unmet(Constraints(), replace(powerless, region="")) is None


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"max_unit_price_nano": -1, "work_class": DOT}, "ORDER_PRICE"),
        ({"max_unit_price_nano": 2**63, "work_class": DOT}, "ORDER_PRICE"),
        ({"max_unit_price_nano": True, "work_class": DOT}, "ORDER_PRICE"),
        ({"max_unit_price_nano": 0.02, "work_class": DOT}, "ORDER_PRICE"),
        ({"min_memory_bytes": -1}, "ORDER_MEMORY"),
        ({"min_memory_bytes": 2**63}, "ORDER_MEMORY"),
        ({"min_flops_per_watt": -1, "work_class": DOT}, "ORDER_EFFICIENCY"),
        ({"min_flops_per_watt": 2**64, "work_class": DOT}, "ORDER_EFFICIENCY"),
        ({"max_unit_price_nano": 1}, "ORDER_CLASS"),
        ({"min_flops_per_watt": 1}, "ORDER_CLASS"),
        ({"work_class": DOT}, "ORDER_CLASS"),
        ({"max_unit_price_nano": 1, "work_class": "DOT f32"}, "ORDER_CLASS"),
        ({"allowed_regions": ("EU",)}, "REGION_MALFORMED"),
        ({"allowed_regions": ("",)}, "REGION_MALFORMED"),
        ({"allowed_regions": ("eu-",)}, "REGION_MALFORMED"),
        ({"denied_regions": ("a" * 33,)}, "REGION_MALFORMED"),
        ({"allowed_regions": ("us", "eu")}, "ORDER_LIST"),
        ({"allowed_regions": ("eu", "eu")}, "ORDER_LIST"),
        ({"allowed_owners": ("b", "a")}, "ORDER_LIST"),
        ({"allowed_owners": ("",)}, "ORDER_LIST"),
        ({"denied_owners": tuple(f"{n:03}" for n in range(65))}, "ORDER_LIST_TOO_LONG"),
        ({"allowed_owners": ("a", "b"), "denied_owners": ("b",)}, "ORDER_CONTRADICTION"),
        ({"allowed_regions": ("eu",), "denied_regions": ("eu",)}, "ORDER_CONTRADICTION"),
        ({"allowed_regions": ("eu-de", "us"), "denied_regions": ("eu",)}, "ORDER_CONTRADICTION"),
    ],
)
def test_an_order_that_makes_no_sense_cannot_be_made(asked: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Constraints(**asked)
    assert caught.value.code == code
    assert len(caught.value.message) < 400


def test_orders_have_one_encoding() -> None:
    full = OrderTerms(
        OrderType.LIMIT,
        Constraints(DOT, 20_000_000, 8 << 30, 20 * 10**9, ("eu",), ("eu-fr",), ("a",), ("b", "c")),
    )
    for order in (MARKET_ORDER, full):
        assert decode(OrderTerms, encode(order)) == order
    assert encode(full) != encode(MARKET_ORDER)


def test_the_example_of_the_design() -> None:
    """300 PFLOP dot-f32 at most at 0.02 a PFLOP is a ceiling of 6.00."""
    assert ceiling_of_limit_nano(20_000_000, 3 * PFLOP, 100) == 6_000_000_000


def test_a_limit_must_be_in_a_class_that_the_program_has() -> None:
    work = StepWork({DOT: 10**9, "dot-int": 0}, 0, 0)
    check_order_fits_program(MARKET_ORDER, work)
    for name in ("dot-int", "no-such-class"):
        order = OrderTerms(OrderType.LIMIT, Constraints(name, 10**9))
        with pytest.raises(InvalidInput, match=name) as caught:
            check_order_fits_program(order, work)
        assert caught.value.code == "ORDER_CLASS"
    check_order_fits_program(OrderTerms(OrderType.LIMIT, Constraints(DOT, 10**6)), work)
    with pytest.raises(InvalidInput) as caught:  # a step of a millionth of a PFLOP: below a nano
        check_order_fits_program(OrderTerms(OrderType.LIMIT, Constraints(DOT, 10**6 - 1)), work)
    assert caught.value.code == "ORDER_PRICE"


money = st.integers(1, 2**63 - 1)
works = st.builds(
    lambda count, other: StepWork({DOT: count, "integer": other}, 0, 0),
    st.integers(1, 10**15),
    st.integers(0, 10**12),
)
terms_strategy = st.builds(PriceTerms, st.integers(1, 10**12), st.integers(1, 10**15))
steps_strategy = st.integers(1, 10**6)


@given(terms_strategy, works, st.integers(1, 10**12), money, steps_strategy)
def test_an_offer_under_the_cap_can_break_neither_limit_nor_budget(
    terms: PriceTerms, work: StepWork, limit: int, budget: int, steps: int
) -> None:
    """The law that matching relies on: one comparison a step bounds every split of all steps."""
    asked = Constraints(DOT, limit)
    cap = step_cap_nano(asked, work, budget, steps)
    fits = price(terms, 1) <= cap
    worst = steps * price(terms, 1)
    assert fits == (worst <= budget and not over_limit(asked, work, terms))
    if fits:
        assert price_bound(terms, steps) <= order_ceiling_nano(asked, work, steps, budget)


@given(works, st.integers(1, 10**12), money, steps_strategy)
def test_a_ceiling_is_the_limit_rounded_up_once_and_within_the_budget(
    work: StepWork, limit: int, budget: int, steps: int
) -> None:
    exact = Fraction(limit * work.flops[DOT] * steps, PFLOP)
    ceiling = order_ceiling_nano(Constraints(DOT, limit), work, steps, budget)
    assert ceiling == min(budget, -(-exact.numerator // exact.denominator))
    assert order_ceiling_nano(Constraints(), work, steps, budget) == budget


@given(works, money, steps_strategy)
def test_without_a_limit_the_money_alone_counts(work: StepWork, budget: int, steps: int) -> None:
    assert step_cap_nano(Constraints(), work, budget, steps) == budget // steps
    assert step_limit_nano(Constraints(), work) == NO_CAP


@given(steps_strategy, st.integers(0, 10**16), st.integers(0, 10**16), st.integers(1, 10**15))
def test_a_step_under_the_time_cap_ends_in_time(
    steps: int, now_us: int, deadline_us: int, picoseconds: int
) -> None:
    in_time = now_us * 10**6 + picoseconds * steps <= deadline_us * 10**6
    assert (picoseconds <= step_time_cap(steps, now_us, deadline_us)) == in_time


def test_a_clock_that_steps_back_opens_the_window_again_and_none_is_negative() -> None:
    assert step_time_cap(1, 200, 100) == 0
    assert step_time_cap(1, 50, 100) == 50 * 10**6


def test_classes_of_work_are_names_an_order_can_have() -> None:
    for name in WORK_CLASSES:
        assert Constraints(name, 1).work_class == name
