"""The depth of one class in one mode as ``StreamBook`` tells it: numbered changes, the last of
them kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flopmarket.limits import MAX_STREAM_REPLAY_MESSAGES, STREAMED_BOOK_LEVELS
from flopmarket.trust.modes import Mode
from flopmarket.v1 import market_pb2
from flopmarket_coordinator.application.types_market import DepthQuery, DepthReport
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert_market
from flopmarket_coordinator.rpc.series import Series
from flopmarket_coordinator.rpc.trade_messages import bad_token, count, fields

Levels = Mapping[int, market_pb2.BookLevel]
"""One side, by price in nano-units per PFLOP, best first."""


@dataclass(frozen=True, slots=True)
class BookToken:
    """Behind change ``sequence`` of a series, as numbered in one run of the coordinator."""

    series: Series
    run_id: str
    sequence: int

    def __str__(self) -> str:
        return f"book.{_name(self.series)}.{self.run_id}.{self.sequence}"

    @classmethod
    def parse(cls, text: str, series: Series) -> BookToken | None:
        """The token of a request, None without one; ``RESUME_TOKEN_INVALID`` otherwise."""
        if not text:
            return None
        stream, name, run_id, sequence = fields(text, 4)
        if stream != "book" or name != _name(series):
            raise bad_token("it belongs to another stream")
        return cls(series, run_id, count(sequence))


def _name(series: Series) -> str:
    """A token that names no mode is of exact mode."""
    return series.work_class if series.mode is Mode.EXACT else str(series)


class BookLine:
    """What subscribers of one series know, and the changes that led there."""

    def __init__(self, series: Series, run_id: str) -> None:
        self.sequence = 0
        self.untold: deque[market_pb2.StreamBookResponse] = deque(maxlen=MAX_STREAM_REPLAY_MESSAGES)
        """Changes that subscribers have not been told of, in order."""
        self._series = series
        self._query = DepthQuery(series.work_class, STREAMED_BOOK_LEVELS, series.mode or Mode.EXACT)
        self._run_id = run_id
        self._report = DepthReport(0, "", series.work_class, (), (), 0, 0, self._query.mode)
        self._asks: Levels = {}
        self._bids: Levels = {}
        self._changes: deque[market_pb2.StreamBookResponse] = deque(
            maxlen=MAX_STREAM_REPLAY_MESSAGES
        )
        self._lock = asyncio.Lock()  # a depth that was read earlier must not come in later

    async def refresh(self, backend: Backend) -> bool:
        """Look at the book; whether it changed since the last look."""
        async with self._lock:
            return self._apply(
                await backend.query(lambda tx: backend.application.depth(tx, self._query))
            )

    def behind(self, token: BookToken | None) -> list[market_pb2.StreamBookResponse]:
        """What a subscriber hears first: what it missed, or a snapshot; never nothing."""
        oldest = self.sequence - len(self._changes)
        if token is not None and token.run_id == self._run_id:
            if token.sequence == self.sequence:
                return [self.alive(self._report.as_of_us)]
            if oldest <= token.sequence < self.sequence:
                return [item for item in self._changes if item.sequence > token.sequence]
        snapshot = market_pb2.BookSnapshot(
            currency=self._report.currency,
            work_class=self._report.work_class,
            mode=self._report.mode,
            asks=self._asks.values(),
            bids=self._bids.values(),
            offers=self._report.offers,
            orders=self._report.orders,
            gap=token is not None,
        )
        return [self._message(self._report.as_of_us, snapshot=snapshot)]

    def alive(self, as_of_us: int) -> market_pb2.StreamBookResponse:
        """Nothing changed since the last change."""
        return self._message(as_of_us, alive=market_pb2.StreamAlive())

    def _apply(self, report: DepthReport) -> bool:
        before = (self._report.offers, self._report.orders)
        self._report = report
        asks = by_price(convert_market.ask_level(level) for level in report.asks)
        bids = by_price(convert_market.bid_level(level) for level in report.bids)
        changed_asks, self._asks = changed(self._asks, asks), asks
        changed_bids, self._bids = changed(self._bids, bids), bids
        if not (changed_asks or changed_bids or before != (report.offers, report.orders)):
            return False
        change = market_pb2.BookChange(
            asks=changed_asks, bids=changed_bids, offers=report.offers, orders=report.orders
        )
        self.sequence += 1
        message = self._message(report.as_of_us, change=change)
        self._changes.append(message)
        self.untold.append(message)
        return True

    def _message(self, as_of_us: int, **body: object) -> market_pb2.StreamBookResponse:
        token = BookToken(self._series, self._run_id, self.sequence)
        return market_pb2.StreamBookResponse(
            as_of_us=as_of_us,
            sequence=self.sequence,
            resume_token=str(token),
            **body,  # type: ignore[arg-type]
        )


def by_price(levels: Iterable[market_pb2.BookLevel]) -> Levels:
    """Levels under their prices."""
    return {level.per_pflop.nano: level for level in levels}


def changed(before: Levels, after: Levels) -> list[market_pb2.BookLevel]:
    """Levels of ``after`` that are new or other than before, and empty ones for those that went."""
    gone = [
        market_pb2.BookLevel(per_pflop=level.per_pflop, count=0)
        for price, level in before.items()
        if price not in after
    ]
    return [level for price, level in after.items() if before.get(price) != level] + gone
