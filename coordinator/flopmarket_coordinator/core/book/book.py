"""The order book of one coordinator: live offers, open orders, and everything asked of the two.

One thread changes the book (the writer of the store) and may read it freely; other threads ask it
questions at any time. Changes and questions take a lock for as long as they last, matching takes
none: it reads on the writer's thread and leaves the book as it is until :meth:`Book.settle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.money import MAX_NANO
from flopmarket.market.offer import Offer
from flopmarket.market.order import NO_CAP, step_limit_nano
from flopmarket.market.price import PICOSECONDS_PER_HOUR, PriceTerms
from flopmarket.market.quote import ClassSize
from flopmarket.market.reasons import Reason
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book import depth as depths
from flopmarket_coordinator.core.book.classes import class_sizes
from flopmarket_coordinator.core.book.clearing import Cleared, Clearing
from flopmarket_coordinator.core.book.listing import Key, OfferFilter, list_rows
from flopmarket_coordinator.core.book.orders import OpenOrder, OrderTable
from flopmarket_coordinator.core.book.reasons import Limits, count_reasons
from flopmarket_coordinator.core.book.search import Resources, Source, Stream
from flopmarket_coordinator.core.book.table import CLASS_COLUMN, Listing, OfferTable
from flopmarket_coordinator.core.book.tree import OfferIndex
from flopmarket_coordinator.core.matching import Demand

_ANY_NUMBER = 2**63


@dataclass(frozen=True, slots=True)
class Ranked:
    """An offer that fits, at its price, and whether its device is free now."""

    offer: Offer
    terms: PriceTerms
    idle: bool


class Book:
    """Offers and orders in memory. ``presence_ttl_us`` is how long a sign of life counts;
    ``requires_proof`` leaves unproved devices without work.

    ``lock`` keeps threads apart and may be taken again by the one that holds it; without one the
    book is for one thread.
    """

    def __init__(
        self,
        presence_ttl_us: int,
        lock: AbstractContextManager[object] | None = None,
        *,
        requires_proof: bool = False,
    ) -> None:
        self._presence_ttl_us = presence_ttl_us
        self._requires_proof = requires_proof
        self._lock = lock or nullcontext()
        self.clear_all()

    def clear_all(self) -> None:
        """Forget everything."""
        with self._lock:
            self._offers = OfferTable(requires_proof=self._requires_proof)
            self._orders = OrderTable()
            self._index: OfferIndex | None = None
            self._fresh: set[int] = set()
            self._cleared_us = 0
            self.version = getattr(self, "version", 0) + 1
            """Rises when prices, devices' standing or orders changed."""

    # --- changes: the writer's thread ---------------------------------------------------------

    def set_presence_ttl(self, presence_ttl_us: int) -> None:
        """How long a sign of life counts from now on."""
        with self._lock:
            if presence_ttl_us != self._presence_ttl_us:
                self._presence_ttl_us = presence_ttl_us
                self._orders.wake_all()
                self.version += 1

    def put_offer(self, listing: Listing) -> None:
        """List an offer or replace it, with the standing of its device."""
        with self._lock:
            table = self._offers
            known = table.row_of.get(listing.offer.offer_id)
            before = None if known is None else self._listing(known)
            if before == listing:
                return
            row = table.put(listing)
            priced_before = None if before is None else _priced_by(before.offer)
            if priced_before != _priced_by(listing.offer):
                self._touch(row)
            if before is None or self._suits_more(before, listing):
                self._fresh.add(row)
            self._wake_class(before, listing)
            self.version += 1

    def remove_offer(self, offer_id: str) -> None:
        """An offer was withdrawn; one that is not here is no error."""
        with self._lock:
            row = self._offers.remove(offer_id)
            if row is not None:
                self._touch(row)
                self._fresh.discard(row)
                self.version += 1

    def set_presence(self, device_key_id: str, *, connected: bool, seen_us: int) -> None:
        """A worker's connection, and its last sign of life."""
        with self._lock:
            table = self._offers
            for row in table.rows_of_key(device_key_id):
                silent = seen_us - int(table.seen[row]) > self._presence_ttl_us
                if connected and (silent or not table.connected[row]):
                    self._fresh.add(row)
                    self.version += 1
                elif connected != bool(table.connected[row]):
                    self.version += 1
                table.connected[row] = connected
                table.seen[row] = seen_us

    def set_banned(self, device_key_id: str, *, banned: bool) -> None:
        """A key was banned, or may act again."""
        with self._lock:
            for row in self._offers.rows_of_key(device_key_id):
                self._offers.banned[row] = banned
                self._fresh.add(row)
                self._wake_class(None, self._listing(row))
                self.version += 1

    def set_busy(self, offer_id: str, *, busy: bool) -> None:
        """Whether a live lease holds the device."""
        with self._lock:
            row = self._offers.row_of.get(offer_id)
            if row is None or bool(self._offers.busy[row]) == busy:
                return
            self._offers.busy[row] = busy
            if not busy:
                self._fresh.add(row)
            self.version += 1

    def put_order(self, order: OpenOrder) -> None:
        """Open or replace the order of a job; it will be examined against all offers."""
        with self._lock:
            self._orders.put(order)
            self.version += 1

    def remove_order(self, job_id: str) -> None:
        """A job has no open steps any more; one that had none is no error."""
        with self._lock:
            if self._orders.get(job_id) is not None:
                self._orders.remove(job_id)
                self.version += 1

    # --- matching: the writer's thread --------------------------------------------------------

    def match(self, now_us: int, most: int, most_searches: int = _ANY_NUMBER) -> Cleared:
        """What open orders get of the idle offers now: ``most`` pieces at most, after as many
        searches at most. What is left over comes first in the next tick.

        Decides and changes nothing: :meth:`settle` follows when it was carried out.
        """
        table, orders = self._offers, self._orders
        if now_us < self._cleared_us:  # a clock that was set back: devices may be present again
            with self._lock:
                orders.wake_all()
        idle = table.tradable(slice(0, table.size), now_us - self._presence_ttl_us)
        idle &= ~table.busy[: table.size]
        fresh = np.fromiter(self._fresh, np.int64, len(self._fresh))
        fresh = fresh[idle[fresh]]
        awake, woken = orders.awake(), orders.woken(table, fresh)
        clearing = Clearing(table, orders, self._fresh_index(), idle, fresh, now_us)
        cleared = clearing.run(awake, woken, most, most_searches)
        cleared.fresh = len(self._fresh)
        return cleared

    def settle(self, cleared: Cleared, now_us: int) -> None:
        """The matches of a tick were carried out: what found nothing sleeps."""
        with self._lock:
            for row in cleared.left_over:
                self._orders.wake(row)
            for row in cleared.found_nothing:
                self._orders.sleep(row)
            self._fresh.clear()
            self._cleared_us = now_us

    # --- questions: any thread ----------------------------------------------------------------

    @property
    def offer_count(self) -> int:
        """How many offers are listed, present or not."""
        return len(self._offers)

    def order(self, job_id: str) -> OpenOrder | None:
        """The open order of a job."""
        with self._lock:
            return self._orders.get(job_id)

    def orders(self) -> list[OpenOrder]:
        """All open orders."""
        with self._lock:
            return [standing.order for standing in self._orders.standings()]

    def listing(self, offer_id: str) -> Listing | None:
        """An offer and the standing of its device, if it is listed."""
        with self._lock:
            row = self._offers.row_of.get(offer_id)
            return None if row is None else self._listing(row)

    def listings(self) -> list[Listing]:
        """All offers, by id."""
        with self._lock:
            rows = self._offers.row_of
            return [self._listing(rows[offer_id]) for offer_id in sorted(rows)]

    def best_offers(
        self,
        demand: Demand,
        *,
        steps: int,
        count: int,
        now_us: int,
        most_picoseconds: int = NO_CAP,
        alone_too: bool = False,
    ) -> tuple[Ranked, ...]:
        """The cheapest live offers that fit, busy ones too, such that ``steps`` steps have a price.

        Equal prices: the faster device first, then the lower id. A class of devices in which a work
        would find nobody to audit it has offers for those who only compare (``alone_too``).
        """
        with self._lock:
            table = self._offers
            if table.alone(demand) and not alone_too:
                return ()
            resources, index = Resources(demand.work), self._any_index()
            stream = Stream(
                table,
                demand,
                Source(index.parts(), index),
                table.tradable(slice(0, table.size), now_us - self._presence_ttl_us),
                resources=resources,
                most_picoseconds=most_picoseconds if most_picoseconds < NO_CAP else 0,
            )
            # No step may cost more than the limit, nor all of them more than there are numbers.
            limit_nano = step_limit_nano(demand.constraints, demand.work.step)
            most_nano = min(limit_nano, MAX_NANO // steps) * PICOSECONDS_PER_HOUR
            found: list[Ranked] = []
            while len(found) < count and (best := stream.peek(most_nano)) is not None:
                stream.drop()
                if best.terms.step_picoseconds <= most_picoseconds:
                    found.append(Ranked(best.offer, best.terms, not table.busy[best.row]))
            return tuple(found)

    def classes(self, buyer: str, most: int) -> Mapping[str, ClassSize]:
        """The largest classes of devices with what is listed in each, devices of ``buyer`` apart:
        those of the most accounts, then of the most devices, first."""
        with self._lock:
            return class_sizes(self._offers, buyer, most)

    def class_accounts(self, device_class: str) -> frozenset[str]:
        """Accounts that list a device of a class under a key that may act."""
        with self._lock:
            return self._offers.class_accounts(device_class)

    def count_cheaper(self, offer: Offer, *, now_us: int) -> Mapping[str, int]:
        """Idle offers of other owners that take the same jobs and ask less than this one, for each
        class it has."""
        with self._lock:
            table = self._offers
            live = depths.live_flags(table, now_us - self._presence_ttl_us)
            others = table.account[: table.size] != table.accounts.known(offer.account_id)
            rows = np.flatnonzero(live & others & ~table.busy[: table.size] & table.rivals(offer))
            return {
                work_class: depths.count_below(table, rows, work_class, price)
                for work_class in offer.rates.flops_per_second
                if work_class in CLASS_COLUMN
                and (price := offer.pflop_price(work_class)) is not None
            }

    def count_reasons(
        self,
        demand: Demand,
        *,
        now_us: int,
        steps: int = 1,
        cap_nano: int = NO_CAP,
        most_picoseconds: int = NO_CAP,
        idle_only: bool = False,
        avoid: Sequence[str] = (),
    ) -> Mapping[Reason, int]:
        """How many offers each reason keeps from a demand. Looks at all offers."""
        limits = Limits(
            since_us=now_us - self._presence_ttl_us,
            steps=steps,
            cap_nano=cap_nano,
            most_picoseconds=most_picoseconds,
            busy_counts=idle_only,
            avoid=avoid,
        )
        with self._lock:
            return count_reasons(self._offers, demand, limits)

    def depth(
        self, work_class: str, *, levels: int, now_us: int, mode: Mode = Mode.EXACT
    ) -> depths.Depth:
        """Both sides of one class in one mode, best first."""
        with self._lock:
            since_us = now_us - self._presence_ttl_us
            return depths.depth(self._offers, self._orders, since_us, work_class, mode, levels)

    def best(
        self, *, now_us: int, mode: Mode = Mode.EXACT
    ) -> Mapping[str, tuple[depths.Best, Offer | None]]:
        """Where each class stands that has a live offer or an order in a mode, and its cheapest
        offer."""
        with self._lock:
            table = self._offers
            live = depths.live_flags(table, now_us - self._presence_ttl_us) & table.takes(mode)
            found: dict[str, tuple[depths.Best, Offer | None]] = {}
            for work_class in WORK_CLASSES:
                best = depths.best(self._offers, self._orders, live, work_class, mode)
                if best.offers or best.orders:
                    offer = None if best.row is None else self._offers.offer(best.row)
                    found[work_class] = best, offer
            return found

    def page(
        self,
        *,
        now_us: int,
        work_class: str,
        needs_rate: bool,
        filters: Sequence[OfferFilter],
        order_by: str,
        after: Key | None,
        size: int,
    ) -> tuple[list[Listing], Key | None, int]:
        """Live offers that satisfy the filters, in order; where to go on; how many there are."""
        with self._lock:
            page = list_rows(
                self._offers,
                since_us=now_us - self._presence_ttl_us,
                work_class=work_class,
                needs_rate=needs_rate,
                filters=filters,
                order_by=order_by,
                after=after,
                size=size,
            )
            return [self._listing(row) for row in page.rows], page.last, page.matching

    # --- inside -------------------------------------------------------------------------------

    def _suits_more(self, before: Listing, after: Listing) -> bool:
        """Whether an offer may suit orders now that it did not suit before."""
        silent = after.seen_us - before.seen_us > self._presence_ttl_us
        return silent or _may_suit(before) != _may_suit(after)

    def _wake_class(self, before: Listing | None, after: Listing) -> None:
        """Where a class got a device, its orders may find somebody who audits them now."""
        named = after.offer.device_class
        was = before is not None and not before.banned and before.offer.device_class == named
        if named and not after.banned and not was:
            self._orders.wake_class(named)

    def _listing(self, row: int) -> Listing:
        table = self._offers
        return Listing(
            offer=table.offer(row),
            connected=bool(table.connected[row]),
            seen_us=int(table.seen[row]),
            busy=bool(table.busy[row]),
            banned=bool(table.banned[row]),
            verified_segments=int(table.verified[row]),
            rejected_segments=int(table.rejected[row]),
            updated_at_us=int(table.updated[row]),
            proof=table.proof(row),
        )

    def _touch(self, row: int) -> None:
        if self._index is not None:
            self._index.touch(row)

    def _any_index(self) -> OfferIndex:
        """Leaves of all offers, however many changed since they were grown."""
        if self._index is None:
            self._index = OfferIndex(self._offers)
        return self._index

    def _fresh_index(self) -> OfferIndex:
        """The same, grown anew when it pays. Others may ask the old one meanwhile."""
        with self._lock:
            index = self._any_index()
        if index.overgrown:
            index = index.regrown()
            with self._lock:
                self._index = index
        return index


def _priced_by(offer: Offer) -> tuple[object, ...]:
    return offer.rates, offer.ask_nano_per_hour, offer.factors, offer.delivered_ppm


def _may_suit(listing: Listing) -> tuple[object, ...]:
    """Everything that decides which orders an offer suits, but for how long ago it was seen."""
    proved = listing.proof is not None
    return listing.offer, listing.connected, listing.busy, listing.banned, proved
