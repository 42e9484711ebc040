"""Lists, spot prices and depth say what a plain loop over the offers says."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.market.offer import Offer
from flopmarket.market.suitability import suited_for
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.book.listing import FIELDS, NUMBERS, OfferFilter
from flopmarket_coordinator.core.book.orders import OpenOrder, bid_of
from flopmarket_coordinator.core.book.table import Listing
from tests.unit.coordinator.book.samples import (
    CLASSES,
    NOW_US,
    OWNERS,
    REGIONS,
    book_of,
    books,
    candidate,
    listings,
    orders,
)
from tests.unit.coordinator.book.test_clearing import open_orders

CLASS = CLASSES[0]
FILTERS = st.builds(
    OfferFilter,
    st.sampled_from(("memory", "ask_per_hour", "verified_segments", "price", "watts")),
    st.sampled_from(("=", "!=", "<", "<=", ">", ">=")),
    st.sampled_from(("0", "1", "2.5", "1000", "360000000", "1e300", str(2**62), str(2**80))),
) | st.builds(
    OfferFilter,
    st.sampled_from(("account", "region", "state", "device_name", "offer")),
    st.sampled_from(("=", "!=", "~")),
    st.sampled_from((*OWNERS, *REGIONS, "idle", "card", "CARD", "a")),
)


def everything(book: Book, filters: tuple[OfferFilter, ...] = (), order_by: str = "price",
               size: int = 100) -> list[Listing]:  # fmt: skip
    """All pages together."""
    found: list[Listing] = []
    after = None
    while True:
        page, after, matching = book.page(
            now_us=NOW_US, work_class=CLASS, needs_rate=False, filters=filters, order_by=order_by,
            after=after, size=size,
        )  # fmt: skip
        assert len(page) <= size and matching <= book.offer_count
        found += page
        if after is None:
            assert len(found) == matching
            return found


def live(found: list[Listing]) -> list[Listing]:
    made = [(item, candidate(item, found)) for item in found]
    return [item for item, standing in made if standing.online and not standing.banned]


def keep(item: Listing, condition: OfferFilter) -> bool:
    offer = item.offer
    texts = {
        "account": offer.account_id, "region": offer.region, "device_name": offer.device_name,
        "offer": offer.offer_id, "state": "busy" if item.busy else "idle",
    }  # fmt: skip
    if condition.field in texts:
        text, value = texts[condition.field], condition.value
        if condition.op == "~":
            return value.casefold() in text.casefold()
        return (text == value) == (condition.op == "=")
    rate = offer.rates.flops_per_second.get(CLASS, 0)
    price = offer.ask_nano_per_hour * (10**15 / 3600) / rate if rate else float("inf")
    number: float = {
        "memory": offer.memory_bytes, "ask_per_hour": offer.ask_nano_per_hour,
        "verified_segments": item.verified_segments, "price": price,
        "watts": offer.milliwatts / 1e3,
    }[condition.field]  # fmt: skip
    try:
        value_number: float = int(condition.value)
    except ValueError:
        value_number = float(condition.value)
    return {
        "=": number == value_number, "!=": number != value_number, "<": number < value_number,
        "<=": number <= value_number, ">": number > value_number, ">=": number >= value_number,
    }[condition.op]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(books(), st.lists(FILTERS, max_size=3), st.integers(1, 4))
def test_filters_leave_exactly_the_others_out(
    found: list[Listing], filters: list[OfferFilter], size: int
) -> None:
    right = {
        item.offer.offer_id
        for item in live(found)
        if all(keep(item, condition) for condition in filters)
    }
    got = everything(book_of(found), tuple(filters), size=size)
    assert [item.offer.offer_id for item in got] == list(
        dict.fromkeys(item.offer.offer_id for item in got)
    )
    assert {item.offer.offer_id for item in got} == right


@settings(max_examples=200, deadline=None)
@given(books(), st.sampled_from(sorted(NUMBERS)), st.booleans(), st.integers(1, 5))
def test_pages_of_any_order_join_without_gap_and_ties_go_by_id(
    found: list[Listing], name: str, descending: bool, size: int
) -> None:
    book, order_by = book_of(found), "-" * descending + name
    assert everything(book, order_by=order_by, size=size) == everything(book, order_by=order_by)
    ids = [item.offer.offer_id for item in everything(book, order_by=order_by)]
    assert sorted(ids) == sorted(item.offer.offer_id for item in live(found))
    if name in ("memory", "ask_per_hour"):
        sign = -1 if descending else 1
        by_id = {item.offer.offer_id: item.offer for item in found}

        def key(offer_id: str) -> tuple[int, str]:
            offer = by_id[offer_id]
            value = offer.memory_bytes if name == "memory" else offer.ask_nano_per_hour
            return sign * value, offer_id

        assert ids == sorted(ids, key=key)


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        (OfferFilter("colour", "=", "red"), "FILTER_FIELD_UNKNOWN"),
        (OfferFilter("memory", "~", "1"), "FILTER_OP_UNKNOWN"),
        (OfferFilter("region", "<", "eu"), "FILTER_OP_UNKNOWN"),
        (OfferFilter("memory", ">", "much"), "FILTER_VALUE"),
        (OfferFilter("memory", ">", "nan"), "FILTER_VALUE"),
        (OfferFilter("suited_for", "=", "gaming"), "FILTER_VALUE"),
        (OfferFilter("mode", "=", "swift"), "FILTER_VALUE"),
        (OfferFilter("region", "=", "x" * 200), "FILTER_VALUE"),
    ],
)
def test_filters_that_make_no_sense_are_refused(condition: OfferFilter, code: str) -> None:
    with pytest.raises(InvalidInput) as error:
        everything(book_of([]), (condition,))
    assert error.value.code == code


def test_an_order_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        everything(book_of([]), order_by="beauty")
    assert error.value.code == "ORDER_UNKNOWN" and "price" in FIELDS


@settings(max_examples=100, deadline=None)
@given(books(), st.sampled_from(("training", "inference")), st.sampled_from(("=", "!=")))
def test_suitability_is_filtered_as_it_is_shown(found: list[Listing], use: str, op: str) -> None:
    def suits(offer: Offer) -> bool:
        figures = offer.rates.flops_per_second
        uses = suited_for(figures, offer.memory_bytes, offer.rates.bandwidth_bytes_per_second)
        return (use in uses) == (op == "=")

    got = everything(book_of(found), (OfferFilter("suited_for", op, use),))
    assert {item.offer.offer_id for item in got} == {
        item.offer.offer_id for item in live(found) if suits(item.offer)
    }


@settings(max_examples=100, deadline=None)
@given(books(), st.sampled_from(Mode), st.sampled_from(("=", "!=")))
def test_modes_and_classes_are_filtered_as_they_are_shown(
    found: list[Listing], mode: Mode, op: str
) -> None:
    book = book_of(found)
    assert {item.offer.offer_id for item in everything(book, (OfferFilter("mode", op, mode),))} == {
        item.offer.offer_id for item in live(found) if (mode in item.offer.modes) == (op == "=")
    }
    got = everything(book, (OfferFilter("device_class", op, "c1"),))
    assert {item.offer.offer_id for item in got} == {
        item.offer.offer_id
        for item in live(found)
        if (item.offer.device_class == "c1") == (op == "=")
    }


def may_run(item: Listing, mode: Mode, among: list[Listing]) -> bool:
    """Whether a device gets jobs of a mode; in class mode another account must be there to audit
    it."""
    if mode is not Mode.CLASS or mode not in item.offer.modes:
        return mode in item.offer.modes
    return len(candidate(item, among).class_accounts) > 1


@settings(max_examples=300, deadline=None)
@given(books(), open_orders(), st.integers(1, 4), st.sampled_from(Mode))
def test_depth_and_spot_are_sums_of_what_there_is(
    found: list[Listing], waiting: list[OpenOrder], levels: int, mode: Mode
) -> None:
    book = book_of(found)
    for order in waiting:
        book.put_order(order)
    for work_class in CLASSES:
        asks: dict[int, list[Listing]] = defaultdict(list)
        for item in live(found):
            price = item.offer.pflop_price(work_class)
            if price is not None and may_run(item, mode, found):
                asks[price].append(item)
        bids: dict[int, list[int]] = defaultdict(list)
        for order in waiting:
            name, price, operations = bid_of(order)
            if name == work_class and order.demand.mode is mode:
                bids[price].append(operations)
        got = book.depth(work_class, levels=levels, now_us=NOW_US, mode=mode)
        rate = [
            (sum(rates_of(asks[price], work_class)), sum(rates_of(asks[price], work_class, True)))
            for price in sorted(asks)[:levels]
        ]
        assert [(a.per_pflop_nano, a.offers) for a in got.asks] == [
            (price, len(asks[price])) for price in sorted(asks)[:levels]
        ]
        assert [(a.flops_per_second, a.idle_flops_per_second) for a in got.asks] == rate
        assert [(b.per_pflop_nano, b.orders, b.operations) for b in got.bids] == [
            (price, len(bids[price]), sum(bids[price]))
            for price in sorted(bids, reverse=True)[:levels]
        ]
        assert got.offers == sum(map(len, asks.values()))
        assert got.orders == sum(map(len, bids.values()))
        best = book.best(now_us=NOW_US, mode=mode).get(work_class)
        if best is None:
            assert not asks and not bids
            continue
        figures, offer = best
        assert figures.ask_nano == (min(asks) if asks else None)
        assert figures.bid_nano == (max(bids) if bids else None)
        assert offer is None or offer.offer_id == min(
            item.offer.offer_id for item in asks[min(asks)]
        )


def rates_of(found: list[Listing], work_class: str, idle: bool = False) -> list[int]:
    return [
        item.offer.rates.flops_per_second[work_class] for item in found if not (idle and item.busy)
    ]


@settings(max_examples=200, deadline=None)
@given(books(), listings("newcomer"), open_orders(), orders(100), st.booleans())
def test_what_is_not_exact_moves_no_exact_price(
    found: list[Listing],
    newcomer: Listing,
    waiting: list[OpenOrder],
    another: OpenOrder,
    in_class: bool,
) -> None:
    """However cheap a fast-only device is, and however high somebody bids for one."""
    book = book_of(found)
    for order in waiting:
        book.put_order(order)
    best = book.best(now_us=NOW_US)
    depths = [book.depth(name, levels=9, now_us=NOW_US) for name in CLASSES]
    fast_only = replace(
        newcomer.offer,
        ask_nano_per_hour=1,
        modes=(Mode.CLASS, Mode.TOLERANCE) if in_class else (Mode.TOLERANCE,),
        device_class="c1" if in_class else "",
    )
    book.put_offer(replace(newcomer, offer=fast_only, connected=True, seen_us=NOW_US))
    mode = Mode.CLASS if in_class else Mode.TOLERANCE
    demand = replace(another.demand, mode=mode, device_class="c1" if in_class else "")
    book.put_order(replace(another, demand=demand))
    assert book.best(now_us=NOW_US) == best
    assert [book.depth(name, levels=9, now_us=NOW_US) for name in CLASSES] == depths


@settings(max_examples=200, deadline=None)
@given(books())
def test_cheaper_devices_are_those_that_take_the_same_jobs(found: list[Listing]) -> None:
    book = book_of(found)
    for mine in (item.offer for item in found):
        rivals = [
            item.offer
            for item in live(found)
            if not item.busy
            and item.offer.account_id != mine.account_id
            and (
                set(mine.modes) & set(item.offer.modes) - {Mode.CLASS}
                or (mine.device_class and mine.device_class == item.offer.device_class)
            )
        ]
        wanted = {}
        for work_class in CLASSES:
            price = mine.pflop_price(work_class)
            if price is None:
                continue
            asked = [other.pflop_price(work_class) for other in rivals]
            wanted[work_class] = sum(1 for ask in asked if ask is not None and ask < price)
        assert dict(book.count_cheaper(mine, now_us=NOW_US)) == wanted


@given(orders(1))
def test_an_order_that_does_not_rest_bids_nothing(order: OpenOrder) -> None:
    assert bid_of(replace(order, rests=False)) == ("", 0, 0)
