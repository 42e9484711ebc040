"""One tick of matching: open orders against idle offers, in the order that :mod:`core.matching`
lays down, without trying each against each.

Orders of one group share a stream of offers, best first. An order that must skip many (its buyer's
own devices, or devices too slow for its deadline) gets a stream of its own that leaves them out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

import numpy as np

from flopmarket.market.order import step_time_cap
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.orders import OpenOrder, OrderTable, Piece, Standing
from flopmarket_coordinator.core.book.search import Found, Source, Stream
from flopmarket_coordinator.core.book.table import Flags, OfferTable, Rows
from flopmarket_coordinator.core.book.tree import OfferIndex, grown_leaves
from flopmarket_coordinator.core.matching import Demand, Priority

_MOST_SKIPPED = 16
_HURRY_BITS = 7
_COMPACT_AFTER = 512


@dataclass(frozen=True, slots=True)
class Match:
    """This piece of an order goes to this offer."""

    order: OpenOrder
    piece: Piece
    found: Found


@dataclass(slots=True)
class Cleared:
    """What a tick decided. ``found_nothing`` are rows of orders that may sleep, ``left_over`` rows
    that were not examined because the tick had done enough."""

    matches: list[Match] = field(default_factory=list)
    found_nothing: list[int] = field(default_factory=list)
    left_over: list[int] = field(default_factory=list)
    fresh: int = 0
    """Offers that had come since the last tick."""

    @property
    def news(self) -> bool:
        """Whether the next tick begins from something else than this one did."""
        return bool(self.matches or self.found_nothing or self.left_over or self.fresh)


class Clearing:
    """The state of one tick. ``idle`` marks the offers that may be had, by row; it is used up.

    Orders that ``woke`` are offered the ``fresh`` rows alone, the others every idle one.
    """

    def __init__(
        self,
        offers: OfferTable,
        orders: OrderTable,
        index: OfferIndex,
        idle: Flags,
        fresh: Rows,
        now_us: int,
    ) -> None:
        self._offers = offers
        self._orders = orders
        self._index = index
        self._idle = idle
        self._idle_count = int(np.count_nonzero(idle))
        self._fresh = fresh[idle[fresh]]
        self._fresh_idle = np.zeros_like(idle)
        self._fresh_idle[self._fresh] = True
        self._fresh_count = len(self._fresh)
        self._now_us = now_us
        self._sources: dict[bool, Source] = {}
        self._streams: dict[Hashable, Stream] = {}
        self._alone: dict[tuple[str, str], bool] = {}
        self._taken = 0

    def run(self, awake: list[int], woken: list[int], most: int, most_searches: int) -> Cleared:
        """Match these orders until nothing fits, ``most`` pieces are given away, or so many
        searches were begun."""
        cleared = Cleared()
        queue: list[tuple[Priority, int, bool, int]] = []
        for rows, fresh_only in ((awake, False), (woken, True)):
            for row in rows:
                standing = self._orders.standing(row)
                order = standing.order
                queue.append(((*standing.bid, order.held, order.number), row, fresh_only, 0))
        heapify(queue)
        while queue:
            if len(cleared.matches) >= most or len(self._streams) >= most_searches:
                cleared.left_over += [row for _, row, _, _ in queue]
                break
            (market, bid, held, number), row, fresh_only, at = heappop(queue)
            if not (self._fresh_count if fresh_only else self._idle_count):
                cleared.found_nothing.append(row)
                continue
            standing = self._orders.standing(row)
            if self._is_alone(standing.order.demand):
                cleared.found_nothing.append(row)
                continue
            match, at = self._next_match(standing, at, fresh_only)
            if match is None:
                cleared.found_nothing.append(row)
                continue
            cleared.matches.append(match)
            if at < len(standing.order.pieces):
                heappush(queue, ((market, bid, held + 1, number), row, fresh_only, at))
        return cleared

    def _is_alone(self, demand: Demand) -> bool:
        """As :meth:`OfferTable.alone`, looked up once a tick for each class and buyer."""
        if demand.mode is not Mode.CLASS:
            return False
        key = demand.device_class, demand.buyer
        if key not in self._alone:
            self._alone[key] = self._offers.alone(demand)
        return self._alone[key]

    def _next_match(
        self, standing: Standing, at: int, fresh_only: bool
    ) -> tuple[Match | None, int]:
        """Match the next piece that some offer can take; the position behind it.

        What a piece could not find, one of as many steps cannot either.
        """
        pieces = standing.order.pieces
        fewer_than = None
        for position in range(at, len(pieces)):
            piece = pieces[position]
            if fewer_than is not None and piece.step_count >= fewer_than:
                continue
            found = self._take(standing, piece, fresh_only)
            if found is not None:
                return Match(standing.order, piece, found), position + 1
            fewer_than = piece.step_count
        return None, len(pieces)

    def _take(self, standing: Standing, piece: Piece, fresh_only: bool) -> Found | None:
        """The best offer for a piece, which is then no longer idle."""
        order = standing.order
        slowest = step_time_cap(piece.step_count, self._now_us, order.deadline_us)
        if slowest < 1:
            return None
        found, done = None, False
        for stream, most_skipped in self._streams_for(standing, slowest, fresh_only):
            found, done = _choose(stream, standing, slowest, most_skipped)
            if done:
                break
        if found is not None:
            self._idle[found.row] = False
            self._idle_count -= 1
            if self._fresh_idle[found.row]:
                self._fresh_idle[found.row] = False
                self._fresh_count -= 1
            self._taken += 1
            if self._taken % _COMPACT_AFTER == 0:
                self._sources.clear()
        return found

    def _streams_for(
        self, standing: Standing, slowest: int, fresh_only: bool
    ) -> Iterator[tuple[Stream, int | None]]:
        """Streams to try in turn, and how much may be skipped in each: that of the whole group, of
        those in it that are in about as much of a hurry, and one for this very order."""
        group = (standing.group, fresh_only)
        yield self._stream(group, standing.demand, standing, fresh_only, 0), _MOST_SKIPPED
        shift = max(0, slowest.bit_length() - _HURRY_BITS)
        hurry = ((slowest >> shift) + 1) << shift
        hurried = (standing.group, hurry, fresh_only)
        yield self._stream(hurried, standing.demand, standing, fresh_only, hurry), _MOST_SKIPPED
        own = replace(standing.demand, buyer=standing.order.demand.buyer)
        key = (standing.order.job_id, slowest, fresh_only)
        yield self._stream(key, own, standing, fresh_only, slowest), None

    def _stream(
        self, key: Hashable, demand: Demand, standing: Standing, fresh_only: bool, slowest: int
    ) -> Stream:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(
                self._offers,
                demand,
                self._source(fresh_only),
                self._idle,
                resources=standing.resources,
                most_picoseconds=slowest,
            )
        return stream

    def _source(self, fresh_only: bool) -> Source:
        """Leaves with idle offers."""
        source = self._sources.get(fresh_only)
        if source is None:
            if fresh_only:
                fresh = np.flatnonzero(self._fresh_idle)
                source = Source([grown_leaves(self._offers, fresh)])
            else:
                parts = [part.with_any(self._idle) for part in self._index.parts()]
                source = Source(parts, self._index)
            self._sources[fresh_only] = source
        return source


def _choose(
    stream: Stream, standing: Standing, slowest: int, most_skipped: int | None
) -> tuple[Found | None, bool]:
    """The first offer of a stream that this very order may have, taken out of the stream.

    False with it when so many must be skipped that another stream had better be asked.
    """
    order, skipped = standing.order, list[Found]()
    buyer, found, done = order.demand.buyer, None, True
    while (best := stream.peek(standing.cap_nano)) is not None:
        if most_skipped is not None and len(skipped) > most_skipped:
            done = False
            break
        stream.drop()
        if (
            best.offer.account_id != buyer
            and best.terms.step_picoseconds <= slowest
            and best.offer.offer_id not in order.avoid
        ):
            found = best
            break
        skipped.append(best)
    stream.put_back(skipped)
    return found, done
