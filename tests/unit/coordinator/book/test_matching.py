"""The readable rules: every obstacle has its name, and who comes first."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.market.offer import Offer
from flopmarket.market.order import Constraints
from flopmarket.market.predict import DeviceRates, JobWork, StepWork
from flopmarket.market.price import PICOSECONDS_PER_HOUR
from flopmarket.market.reasons import Reason
from flopmarket_coordinator.core.matching import (
    Candidate,
    Demand,
    OpenWork,
    assign,
    bid_nano_per_hour,
    leasable,
    priority,
    quotable,
)

NOW_US = 1_000_000


def rates(per_second: int) -> DeviceRates:
    return DeviceRates(MappingProxyType({"dot-f32": per_second}), 1_000, 0)


OFFER = Offer(
    "o1", "owner", "key", "card", "card", "driver", "FX1", 1_000, rates(1_000), 3_600, 0,
    "unknown", 0, "eu-de",
)  # fmt: skip
IDLE = Candidate(OFFER, online=True, busy=False, banned=False)
STEP = StepWork({"dot-f32": 1_000}, 0, 1)
DEMAND = Demand("buyer", "FX1", 500, JobWork(STEP, 10))
WORK = OpenWork("job", 0, 10, DEMAND, 10, 10, NOW_US + 10_000_000)


def asking(**wishes: object) -> OpenWork:
    return replace(WORK, demand=replace(DEMAND, constraints=Constraints(**wishes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("work", "candidate", "reason"),
    [
        (replace(WORK, demand=replace(DEMAND, profile="FX2")), IDLE, Reason.PROFILE),
        (replace(WORK, demand=replace(DEMAND, peak_memory_bytes=1_001)), IDLE, Reason.MEMORY),
        (replace(WORK, demand=replace(DEMAND, buyer="owner")), IDLE, Reason.SAME_OWNER),
        (
            replace(WORK, demand=replace(DEMAND, work=JobWork(StepWork({"integer": 1}, 0, 1), 1))),
            IDLE,
            Reason.NO_RATE,
        ),
        (
            replace(
                WORK, demand=replace(DEMAND, work=JobWork(StepWork({"dot-f32": 8_000}, 0, 1), 1))
            ),
            replace(IDLE, offer=replace(OFFER, ask_nano_per_hour=2**62, rates=rates(1))),
            Reason.UNPRICEABLE,
        ),
        (asking(allowed_regions=("us",)), IDLE, Reason.REGION),
        (asking(denied_regions=("eu",)), IDLE, Reason.REGION),
        (asking(denied_owners=("owner",)), IDLE, Reason.OWNER),
        (asking(allowed_owners=("friend",)), IDLE, Reason.OWNER),
        (asking(min_memory_bytes=1_001), IDLE, Reason.MIN_MEMORY),
        (asking(work_class="dot-f32", min_flops_per_watt=1), IDLE, Reason.POWER_UNKNOWN),
        (
            asking(work_class="dot-f32", min_flops_per_watt=11),
            replace(IDLE, offer=replace(OFFER, milliwatts=100_000)),
            Reason.EFFICIENCY,
        ),
        (asking(work_class="dot-f32", max_unit_price_nano=10**12 - 1), IDLE, Reason.LIMIT_PRICE),
        (replace(WORK, deadline_us=NOW_US + 9_999_999), IDLE, Reason.DEADLINE),
        (WORK, replace(IDLE, banned=True), Reason.BANNED),
        (WORK, replace(IDLE, online=False), Reason.OFFLINE),
        (WORK, replace(IDLE, busy=True), Reason.BUSY),
        (replace(WORK, avoid=frozenset({"o1"})), IDLE, Reason.RECENTLY_DECLINED),
        (replace(WORK, money_nano=9), IDLE, Reason.MAX_PRICE),
    ],
)
def test_every_obstacle_has_its_name(work: OpenWork, candidate: Candidate, reason: Reason) -> None:
    assert leasable(work, candidate, NOW_US) is reason


@pytest.mark.parametrize(
    "work",
    [
        WORK,
        asking(allowed_regions=("eu",), allowed_owners=("owner",), min_memory_bytes=1_000),
        asking(work_class="dot-f32", max_unit_price_nano=10**12),
    ],
)
def test_what_just_fits_is_leased_at_the_offers_price(work: OpenWork) -> None:
    terms = leasable(work, IDLE, NOW_US)
    assert not isinstance(terms, Reason)
    assert (terms.ask_nano_per_hour, terms.step_picoseconds) == (3_600, 10**12)


def test_a_price_that_overflows_for_all_steps_is_no_quote() -> None:
    dear = replace(IDLE, offer=replace(OFFER, ask_nano_per_hour=2**62))
    assert not isinstance(quotable(DEMAND, dear, 1), Reason)
    assert quotable(DEMAND, dear, 2**20) is Reason.UNPRICEABLE


@given(st.permutations(range(4)))
def test_matching_is_cheapest_first_and_does_not_depend_on_order(order: list[int]) -> None:
    asks = (4_000, 3_600, 3_600, 3_700)
    candidates = [
        replace(IDLE, offer=replace(OFFER, offer_id=f"o{at}", ask_nano_per_hour=asks[at]))
        for at in order
    ]
    rich = replace(WORK, money_nano=10**6)
    works = [replace(rich, job_id=f"job {at}", number=at) for at in range(3)]
    assignments, unmatched = assign(works, candidates, NOW_US)
    assert [(item.work.job_id, item.offer.offer_id) for item in assignments] == [
        ("job 0", "o1"),
        ("job 1", "o2"),
        ("job 2", "o3"),
    ]
    assert unmatched == ()


def test_what_stays_waiting_says_why() -> None:
    _, (left,) = assign([WORK, replace(WORK, job_id="second", number=1)], [IDLE], NOW_US)
    assert left.reasons == ((Reason.BUSY, 1),)


@given(st.permutations(range(6)))
def test_price_then_leases_then_arrival_decide_who_chooses(mixed: list[int]) -> None:
    low, high = asking(work_class="dot-f32", max_unit_price_nano=10**12), asking(
        work_class="dot-f32", max_unit_price_nano=2 * 10**12
    )  # fmt: skip
    expected = [(DEMAND, 0, 5), (DEMAND, 0, 9), (DEMAND, 1, 1), (high.demand, 0, 4)]
    expected += [(high.demand, 3, 2), (low.demand, 0, 1)]
    shuffled = [expected[at] for at in mixed]
    assert sorted(shuffled, key=lambda item: priority(*item)) == expected


def test_a_bid_is_what_an_hour_of_a_typical_device_would_earn() -> None:
    """10^12 nano-units a PFLOP are one nano-unit for a step of 1,000 operations, which takes a
    typical device 100 picoseconds."""
    work = asking(work_class="dot-f32", max_unit_price_nano=10**12)
    assert bid_nano_per_hour(work.demand) == PICOSECONDS_PER_HOUR // 100
    assert bid_nano_per_hour(DEMAND) is None
