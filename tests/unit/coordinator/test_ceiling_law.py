"""The law of money: no invoice passes the ceiling, whoever is matched and however work is split.

Offers, prices and splits are chosen by an adversary: any offer that matching admits may win, asks
change between leases, leases come back early, segments end where they like. Quote, matching and
invoice call the same functions here as in the coordinator.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.market.money import MoneyError
from flopmarket.market.offer import Offer
from flopmarket.market.order import (
    Constraints,
    OrderTerms,
    OrderType,
    order_ceiling_nano,
    over_limit,
    unmet,
)
from flopmarket.market.price import PriceTerms, bill, most_work, price, price_bound, split_fee
from flopmarket.market.quote import quote_offer
from flopmarket.market.reasons import Reason
from flopmarket.market.work import DeviceRates, JobWork, StepWork
from flopmarket_coordinator.core.matching import Candidate, Demand, OpenWork, leasable

CLASS = "dot-f32"
NOW_US, DEADLINE_US = 10**15, 2**61
QUOTED = 3
"""Fewer than the coordinator looks at, so that offers beyond the quote are common."""

asks = st.one_of(st.integers(1, 10), st.integers(10**6, 10**9), st.integers(10**15, 10**17))
rates = st.one_of(st.integers(1, 100), st.integers(10**9, 10**14))
regions = st.sampled_from(["", "eu", "eu-de", "us"])


@st.composite
def offers(draw: st.DrawFn, name: str) -> Offer:
    return Offer(
        offer_id=name,
        account_id=f"owner of {name}",
        device_key_id=name,
        device_id=name,
        device_name=name,
        driver="",
        profile="FX1",
        memory_bytes=draw(st.sampled_from([10, 1000])),
        rates=DeviceRates(
            {CLASS: draw(rates)},
            draw(st.integers(1, 10**12)),
            draw(st.integers(0, 10**4)),
            build_milliseconds=draw(st.integers(0, 10**4)),
            download_bytes_per_second=draw(st.sampled_from([0, 10**6])),
        ),
        ask_nano_per_hour=draw(asks),
        milliwatts=draw(st.sampled_from([0, 100_000])),
        watts_source="declared",
        card_price_nano=0,
        region=draw(regions),
    )


@st.composite
def works(draw: st.DrawFn) -> JobWork:
    step = StepWork({CLASS: draw(st.integers(1, 10**12))}, draw(st.integers(0, 10**9)), 1)
    return JobWork(
        step, draw(st.integers(1, 60)), draw(st.integers(0, 10**9)), draw(st.integers(0, 20))
    )


orders = st.one_of(
    st.just(OrderTerms()),
    st.builds(
        lambda limit, regions: OrderTerms(
            OrderType.LIMIT, Constraints(CLASS, limit, allowed_regions=regions)
        ),
        st.one_of(st.integers(1, 10**4), st.integers(10**6, 10**18)),
        st.sampled_from([(), ("eu",)]),
    ),
)


@dataclass
class Ledger:
    """What was promised and billed of one job."""

    ceiling: int
    billed: int = 0

    def left(self) -> int:
        return self.ceiling - self.billed


@settings(max_examples=120, deadline=None)
@given(st.data(), works(), orders, st.one_of(st.none(), st.integers(1, 10**18)))
def test_no_invoice_passes_the_ceiling(
    data: st.DataObject, work: JobWork, order: OrderTerms, budget: int | None
) -> None:
    book = {name: data.draw(offers(name), name) for name in "abcdef"}
    demand = Demand("buyer", "FX1", 100, work, order.constraints)
    extra_ppm = data.draw(st.sampled_from([0, 1, 178_000, 970_000]), "surcharge of the level")
    ceiling = _ceiling(demand, order, list(book.values()), budget, extra_ppm)
    if ceiling is None:
        return
    money, done, paid = Ledger(ceiling), 0, 0
    for _ in range(40):
        if done == work.steps:
            break
        at = data.draw(st.integers(done, work.steps - 1), "not every range is in order")
        count = data.draw(st.integers(1, work.steps - done), "steps of the lease")
        left = most_work(money.left(), work.steps - done, extra_ppm)
        open_work = OpenWork("job", at, count, demand, left, work.steps - done, DEADLINE_US)
        admitted: list[tuple[Offer, PriceTerms]] = []
        for offer in book.values():
            terms = leasable(open_work, Candidate(offer, True, False, False), NOW_US)
            if not isinstance(terms, Reason):
                admitted.append((offer, terms))
        if not admitted:
            break
        offer, terms = data.draw(st.sampled_from(admitted), "whom matching might take")
        assert unmet(order.constraints, offer) is None
        assert not over_limit(order.constraints, work.step, terms)
        returned = data.draw(st.integers(0, count), "steps before it gives the lease back")
        while returned:
            segment = data.draw(st.integers(1, returned), "where a segment ends")
            cost = price(terms, segment)
            split = split_fee(cost, 30_000)
            assert split.worker_nano + split.fee_nano == cost
            paid += cost
            money.billed += bill(cost, extra_ppm)
            done += segment
            returned -= segment
            assert money.billed <= ceiling
        name = data.draw(st.sampled_from(sorted(book)), "whose ask changes")
        book[name] = replace(book[name], ask_nano_per_hour=data.draw(asks))
    assert money.billed <= ceiling
    if order.constraints.max_unit_price_nano:
        limit = order.constraints.max_unit_price_nano
        assert paid * 10**15 <= limit * work.step.flops[CLASS] * done + 10**15


def _ceiling(
    demand: Demand, order: OrderTerms, book: list[Offer], budget: int | None, extra_ppm: int
) -> int | None:
    """What the coordinator holds for the order, None when it is refused."""
    work = demand.work
    if order.kind is OrderType.LIMIT:
        most = 10**18 if budget is None else budget
        return order_ceiling_nano(order.constraints, work.step, work.steps, most, extra_ppm)
    fitting = []
    for offer in book:
        unbounded = OpenWork("job", 0, 1, demand, 2**62, 1, DEADLINE_US)
        terms = leasable(unbounded, Candidate(offer, True, True, False), NOW_US)
        if terms is Reason.BUSY:  # fits, were it idle: a quote looks at busy offers too
            with suppress(MoneyError):  # the whole has no price there: UNPRICEABLE
                fitting.append(quote_offer(offer, work, 1, 0, extra_ppm))
    fitting.sort(key=lambda item: (item.total_nano, item.seconds, item.offer_id))
    bounds = [item.bound_nano for item in fitting[:QUOTED]]
    if not bounds:
        return None
    for item in fitting[:QUOTED]:
        assert item.total_nano <= item.bound_nano == price_bound(item.terms, work.steps, extra_ppm)
    if budget is not None and budget < min(bounds):
        return None
    return max(bounds) if budget is None else min(max(bounds), budget)
