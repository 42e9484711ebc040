"""Searching many offers at once finds what looking at each finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.market.money import MoneyError
from flopmarket.market.order import step_time_cap
from flopmarket.market.predict import NoRate
from flopmarket.market.reasons import Reason
from flopmarket_coordinator.core.book.depth import pflop_prices
from flopmarket_coordinator.core.book.orders import OpenOrder
from flopmarket_coordinator.core.book.search import Resources
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.matching import (
    Demand,
    leasable,
    money_cap,
    quotable,
    rank,
)
from tests.unit.coordinator.book.samples import (
    NOW_US,
    book_of,
    books,
    candidate,
    demands,
    listings,
    orders,
)


@settings(max_examples=300, deadline=None)
@given(books(), demands(), st.integers(1, 5), st.sampled_from((1, 4, 10**6)))
def test_the_best_offers_are_those_of_the_readable_rules(
    found: list[Listing], demand: Demand, count: int, steps: int
) -> None:
    right = []
    for listing in found:
        terms = quotable(demand, candidate(listing, found), steps)
        if not isinstance(terms, Reason):
            right.append((rank(terms, listing.offer.offer_id), terms))
    right.sort(key=lambda item: item[0])
    got = book_of(found).best_offers(demand, steps=steps, count=count, now_us=NOW_US)
    assert [(item.offer.offer_id, item.terms) for item in got] == [
        (ids[2], terms) for ids, terms in right[:count]
    ]


@settings(max_examples=200, deadline=None)
@given(books(), st.lists(st.tuples(st.integers(0, 13), listings("x")), max_size=12), demands())
def test_a_book_that_changed_finds_the_same_as_a_new_one(
    found: list[Listing], changes: list[tuple[int, Listing]], demand: Demand
) -> None:
    book, now = book_of(found), {item.offer.offer_id: item for item in found}
    book.best_offers(demand, steps=1, count=1, now_us=NOW_US)  # builds the index
    ids = sorted(now)
    for at, listing in changes:
        if not ids:
            break
        offer_id = ids[at % len(ids)]
        if at % 3 == 0 and offer_id in now:
            book.remove_offer(offer_id)
            del now[offer_id]
        else:
            now[offer_id] = replace(listing, offer=replace(listing.offer, offer_id=offer_id))
            book.put_offer(now[offer_id])
    assert book.listings() == [now[name] for name in sorted(now)]
    fresh = book_of(list(now.values()))
    ask = {"steps": 2, "count": 20, "now_us": NOW_US}
    got, right = book.best_offers(demand, **ask), fresh.best_offers(demand, **ask)
    assert [(item.offer, item.terms) for item in got] == [(i.offer, i.terms) for i in right]


@settings(max_examples=300, deadline=None)
@given(books(), orders(1), st.booleans())
def test_reasons_are_counted_as_the_readable_rules_give_them(
    found: list[Listing], order: OpenOrder, job: bool
) -> None:
    work = order.work(order.pieces[0])
    book = book_of(found)
    right: Counter[Reason] = Counter()
    for listing in found:
        if job:
            answer = leasable(work, candidate(listing, found), NOW_US)
        else:
            answer = quotable(work.demand, candidate(listing, found), work.money_steps)
        if isinstance(answer, Reason):
            right[answer] += 1
    if job:
        got = book.count_reasons(
            work.demand,
            now_us=NOW_US,
            cap_nano=money_cap(work),
            most_picoseconds=step_time_cap(work.step_count, NOW_US, work.deadline_us),
            idle_only=True,
            avoid=sorted(work.avoid),
        )
    else:
        got = book.count_reasons(work.demand, now_us=NOW_US, steps=work.money_steps)
    assert got == right


@settings(max_examples=500, deadline=None)
@given(listings("x"), demands())
def test_a_bound_is_never_above_the_exact_price(listing: Listing, demand: Demand) -> None:
    book = book_of([listing])
    low = Resources(demand.work).bounds(book._offers.cost[1:2])[0]
    try:
        terms = listing.offer.terms_for(demand.work)
    except (MoneyError, NoRate):
        return
    assert low <= terms.ask_nano_per_hour * terms.step_picoseconds


POSITIVE = st.integers(1, 2**63 - 1) | st.sampled_from((1, 2, 3_600, 10**15, 2**62, 2**63 - 1))


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=8), st.integers(1, 10**9))
def test_class_prices_are_exact(pairs: list[tuple[int, int]], scale: int) -> None:
    # The last ones come to a whole number, or a little more, by quotients that floats cannot hold.
    pairs = [*pairs, (3_600 * scale, 10**15), (3_600 * scale + 1, 10**15), (9 * scale, 10**10)]
    pairs += [(25_200 * scale, 7 * 10**14), (46_800 * scale, 13 * 10**14), (25_200 * scale + 1, 7)]
    asks, rates = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    for (ask, rate), got in zip(pairs, pflop_prices(asks, rates).tolist(), strict=True):
        exact = -(-ask * 10**15 // (rate * 3_600))
        assert got == (exact if exact < 2**63 else -1)
