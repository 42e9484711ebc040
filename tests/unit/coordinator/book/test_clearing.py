"""A tick of matching gives what the readable rules give, also when ticks follow each other."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.book.clearing import Cleared
from flopmarket_coordinator.core.book.orders import OpenOrder
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.matching import Assignment, assign
from tests.unit.coordinator.book.samples import (
    NOW_US,
    TTL_US,
    book_of,
    books,
    candidate,
    listings,
    orders,
)

ALL = 10**9


def open_orders(most: int = 5) -> st.SearchStrategy[list[OpenOrder]]:
    numbers = st.lists(st.integers(1, 99), unique=True, max_size=most)
    return numbers.flatmap(lambda found: st.tuples(*(orders(number) for number in found)).map(list))


def by_rules(
    found: list[OpenOrder], offers: list[Listing], now_us: int = NOW_US
) -> list[tuple[str, int, str]]:
    """Job, first step and offer of every match, in order."""
    works = [order.work(piece) for order in found for piece in order.pieces]
    given_out, _ = assign(works, [candidate(item, offers, now_us) for item in offers], now_us)
    return [named(item) for item in given_out]


def named(item: Assignment) -> tuple[str, int, str]:
    return item.work.job_id, item.work.first_step, item.offer.offer_id


def matched(cleared: Cleared) -> list[tuple[str, int, str]]:
    return [
        (item.order.job_id, item.piece.start.step, item.found.offer.offer_id)
        for item in cleared.matches
    ]


@settings(max_examples=300, deadline=None)
@given(books(), open_orders())
def test_a_tick_gives_what_the_rules_give(offers: list[Listing], found: list[OpenOrder]) -> None:
    book = book_of(offers)
    for order in found:
        book.put_order(order)
    assert matched(book.match(NOW_US, ALL)) == by_rules(found, offers)


@settings(max_examples=100, deadline=None)
@given(books(), open_orders(), st.integers(1, 2))
def test_ticks_that_are_cut_short_add_up(
    offers: list[Listing], found: list[OpenOrder], most: int
) -> None:
    """A tick that ends early leaves the rest to the next ones, which change nothing else."""
    book, rest, right = book_of(offers), {o.job_id: o for o in found}, []
    state = {item.offer.offer_id: item for item in offers}
    for order in found:
        book.put_order(order)
    for _ in range(40):
        cleared = book.match(NOW_US, most)
        expected = by_rules(list(rest.values()), list(state.values()))
        assert matched(cleared) == expected[:most]
        book.settle(cleared, NOW_US)
        right += matched(cleared)
        if not cleared.matches:
            break
        carry_out(book, cleared, state, rest)
    assert not cleared.matches


def carry_out(
    book: Book, cleared: Cleared, offers: dict[str, Listing], found: dict[str, OpenOrder]
) -> None:
    """What the application does with matches: offers get busy, orders lose the pieces."""
    for match in cleared.matches:
        offer_id = match.found.offer.offer_id
        offers[offer_id] = replace(offers[offer_id], busy=True)
        book.set_busy(offer_id, busy=True)
        order = found[match.order.job_id]
        left = tuple(piece for piece in order.pieces if piece != match.piece)
        changed = replace(
            order,
            pieces=left,
            held=order.held + 1,
            money_steps=sum(piece.step_count for piece in left),
        )
        found[order.job_id] = changed
        if left:
            book.put_order(changed)
        else:
            book.remove_order(order.job_id)
            del found[order.job_id]


class Histories(RuleBasedStateMachine):
    """Offers and orders come, change and go; every tick must match what the rules would match if
    they looked at everything again. So no order sleeps through an offer that suits it."""

    @initialize()
    def begin(self) -> None:
        self.book = Book(TTL_US)
        self.offers: dict[str, Listing] = {}
        self.orders: dict[str, OpenOrder] = {}
        self.now_us = NOW_US
        self.numbers = 0

    @rule(data=st.data(), name=st.sampled_from("abcdef"))
    def list_offer(self, data: st.DataObject, name: str) -> None:
        listing = data.draw(listings(name))
        self.offers[name] = listing
        self.book.put_offer(listing)

    @rule(name=st.sampled_from("abcdef"))
    def withdraw(self, name: str) -> None:
        self.offers.pop(name, None)
        self.book.remove_offer(name)

    @rule(name=st.sampled_from("abcdef"), busy=st.booleans())
    def begin_or_end_work(self, name: str, busy: bool) -> None:
        if name in self.offers:
            self.offers[name] = replace(self.offers[name], busy=busy)
            self.book.set_busy(name, busy=busy)

    @rule(key=st.sampled_from("abcdefxy"), connected=st.booleans())
    def hear_of_a_worker(self, key: str, connected: bool) -> None:
        key_id = f"key of {key}"
        for name, item in self.offers.items():
            if item.offer.device_key_id == key_id:
                self.offers[name] = replace(item, connected=connected, seen_us=self.now_us)
        self.book.set_presence(key_id, connected=connected, seen_us=self.now_us)

    @rule(key=st.sampled_from("abcdefxy"), banned=st.booleans())
    def ban(self, key: str, banned: bool) -> None:
        key_id = f"key of {key}"
        for name, item in self.offers.items():
            if item.offer.device_key_id == key_id:
                self.offers[name] = replace(item, banned=banned)
        self.book.set_banned(key_id, banned=banned)

    @rule(by_us=st.sampled_from((0, 1, TTL_US, 10 * TTL_US, -10 * TTL_US)))
    def let_time_pass(self, by_us: int) -> None:
        self.now_us += by_us

    @rule(data=st.data())
    def open_order(self, data: st.DataObject) -> None:
        self.numbers += 1
        order = data.draw(orders(self.numbers))
        self.orders[order.job_id] = order
        self.book.put_order(order)

    @rule(data=st.data())
    def end_order(self, data: st.DataObject) -> None:
        if self.orders:
            job_id = data.draw(st.sampled_from(sorted(self.orders)))
            del self.orders[job_id]
            self.book.remove_order(job_id)

    @rule(most=st.sampled_from((1, 2, ALL)))
    def tick(self, most: int) -> None:
        expected = by_rules(list(self.orders.values()), list(self.offers.values()), self.now_us)
        cleared = self.book.match(self.now_us, most)
        assert matched(cleared) == expected[:most]
        self.book.settle(cleared, self.now_us)
        carry_out(self.book, cleared, self.offers, self.orders)

    @invariant()
    def the_book_holds_what_it_was_told(self) -> None:
        if hasattr(self, "book"):
            assert self.book.listings() == [self.offers[name] for name in sorted(self.offers)]
            assert {o.job_id: o for o in self.book.orders()} == self.orders


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_equal_offers_go_by_id_and_a_job_of_many_ranges_does_not_starve_a_younger_one() -> None:
    """Fewest leases first, then arrival: each job gets a device before one gets its second."""
    listing = replace(
        samples_listing(),
        offer=replace(samples_listing().offer, account_id="dee"),
    )
    offers = [replace(listing, offer=replace(listing.offer, offer_id=name)) for name in "dbca"]
    book = book_of(offers)
    order = samples_order(1, pieces=3)
    book.put_order(order)
    book.put_order(samples_order(2, pieces=1))
    assert matched(book.match(NOW_US, ALL)) == [
        ("job 1", 0, "a"),
        ("job 2", 0, "b"),
        ("job 1", 1, "c"),
        ("job 1", 2, "d"),
    ]


def samples_listing() -> Listing:
    from types import MappingProxyType

    from flopmarket.market.offer import Offer
    from flopmarket.market.predict import DeviceRates

    rates = DeviceRates(MappingProxyType({"dot-f32": 10**12}), 10**12, 0)
    offer = Offer(
        "o", "ann", "key", "device", "card", "driver", "FX1", 1 << 30, rates, 10**9, 0, "unknown", 0
    )
    return Listing(offer, True, NOW_US, False, False)


def samples_order(number: int, *, pieces: int) -> OpenOrder:
    from flopmarket.market.predict import JobWork, StepWork
    from flopmarket_coordinator.core.book.orders import Piece
    from flopmarket_coordinator.core.leasing import StartPoint
    from flopmarket_coordinator.core.matching import Demand

    work = JobWork(StepWork({"dot-f32": 10**12}, 0, 0), pieces)
    return OpenOrder(
        job_id=f"job {number}",
        number=number,
        demand=Demand("buyer", "FX1", 1, work),
        pieces=tuple(Piece(StartPoint(at, at, "", b""), 1) for at in range(pieces)),
        money_nano=10**15,
        money_steps=pieces,
        deadline_us=NOW_US + 10**12,
    )
