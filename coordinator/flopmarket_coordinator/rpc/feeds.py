"""The market's live streams: one reader of the store and the book for all who listen.

After a commit the writer thread rings a bell and goes on; tasks on the event loop look at what is
new, at most once in ``STREAM_INTERVAL_SECONDS``, make each message once and give it to every
subscriber of its series, a few at a time: the more subscribers, the more is in one message.

A stream begins with a snapshot, or behind the resume token of the last message its peer saw. Trades
are numbered in the store, so that any trade can be repeated; changes of the book are numbered here
and the last of them remembered, so that an older token, or one of another run, gets a snapshot that
says ``gap``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from google.protobuf.message import Message

from flopmarket.limits import (
    MAX_STREAM_BATCH_TRADES,
    MAX_STREAM_BURST,
    STREAM_BURST_SECONDS,
    STREAM_INTERVAL_SECONDS,
)
from flopmarket.v1 import market_pb2
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.changes import Change, SegmentChanged, SegmentSettled
from flopmarket_coordinator.core.tape import check_class, check_mode
from flopmarket_coordinator.rpc.book_line import BookLine, BookToken
from flopmarket_coordinator.rpc.series import Series
from flopmarket_coordinator.rpc.subscribers import Subscribers, Write, draining, write_in_time
from flopmarket_coordinator.rpc.trade_messages import (
    TradeToken,
    alive_message,
    behind,
    opening_message,
    trades_message,
)
from flopmarket_coordinator.store.engine import Transaction

_log = logging.getLogger(__name__)
_TRADES, _BOOK = "trades", "book"
_FAILURE_PAUSE_SECONDS = 1.0


class Bell:
    """Rung on any thread, heard on the event loop; many rings before a look are one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()
        self._on_its_way = False

    def ring(self) -> None:
        """Something may be new. Costs the caller next to nothing, and does not wait."""
        loop = self._loop
        if loop is not None and not self._on_its_way:
            self._on_its_way = True
            loop.call_soon_threadsafe(self._rung.set)

    def open(self) -> None:
        """Rings count from now on; called on the loop that hears them."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Rings come to nothing from now on."""
        self._loop = None

    async def heard(self) -> None:
        """Wait for a ring since the last time."""
        await self._rung.wait()
        self._on_its_way = False
        self._rung.clear()


class MarketFeeds:
    """The live streams of one coordinator: an observer of its tick, and a task, :meth:`run`.

    ``run_id`` is another one for every run of a process.
    """

    def __init__(self, run_id: str) -> None:
        self.subscribers = Subscribers()
        self._run_id = run_id
        self._traded, self._moved = Bell(), Bell()
        self._lines: dict[Series, BookLine] = {}

    # --- on the writer thread -----------------------------------------------------------------

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """Nothing is told before it is committed."""

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        """Wake whoever has something to look at."""
        if any(isinstance(change, SegmentSettled) for change in changes):
            self._traded.ring()
        if any(not isinstance(change, (SegmentChanged, SegmentSettled)) for change in changes):
            self._moved.ring()

    def reset(self, tx: Transaction) -> None:
        """The store may say something else than before."""
        self._traded.ring()
        self._moved.ring()

    # --- on the event loop --------------------------------------------------------------------

    async def run(self, backend: Backend) -> None:
        """Follow the tape and the book until cancelled. A failure is logged and tried again."""
        self._traded.open()
        self._moved.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_again_and_again(lambda: self._follow_trades(backend)))
                tasks.create_task(_again_and_again(lambda: self._follow_book(backend)))
        finally:
            self._traded.close()
            self._moved.close()

    def drain(self) -> None:
        """End every stream: the coordinator goes down."""
        self.subscribers.drop_all(draining())

    async def serve_trades(
        self, backend: Backend, request: market_pb2.StreamTradesRequest, write: Write
    ) -> None:
        """One ``StreamTrades``: writes until the caller goes away, or a failure is raised."""
        series = Series(
            check_class(request.work_class) if request.work_class else "",
            check_mode(request.mode) if request.mode else None,
        )
        token = TradeToken.parse(request.resume_token, series)
        with self.subscribers.joined(_TRADES, series) as subscriber:
            last = await _first_trades(backend, series, token)
            await write_in_time(write, last)
            while True:
                message = await subscriber.next()
                if message is None:
                    now_us = backend.clock_us()
                    await write_in_time(
                        write, alive_message(now_us, last.sequence, last.resume_token)
                    )
                    continue
                assert isinstance(message, market_pb2.StreamTradesResponse)
                if message.sequence <= last.sequence:
                    continue  # it was queued while the first message was made, which has it all
                if message.batch.trades[0].number <= last.sequence:
                    message = behind(message, last.sequence)
                last = message
                if message.batch.trades:
                    await write_in_time(write, message)

    async def serve_book(
        self, backend: Backend, request: market_pb2.StreamBookRequest, write: Write
    ) -> None:
        """One ``StreamBook``: writes until the caller goes away, or a failure is raised."""
        series = Series(check_class(request.work_class), check_mode(request.mode))
        token = BookToken.parse(request.resume_token, series)
        with self.subscribers.joined(_BOOK, series) as subscriber:
            line = self._line(series)
            if await line.refresh(backend):
                self._moved.ring()  # the others have not heard of it yet
            sequence = line.sequence
            for message in line.behind(token):
                await write_in_time(write, message)
            while True:
                queued = await subscriber.next()
                if queued is None:
                    await write_in_time(write, line.alive(backend.clock_us()))
                    continue
                assert isinstance(queued, market_pb2.StreamBookResponse)
                if queued.sequence > sequence:
                    await write_in_time(write, queued)

    async def _follow_trades(self, backend: Backend) -> None:
        application = backend.application
        start = await backend.query(lambda tx: application.newest_trades(tx, "", gap=False))
        number = start.number
        while True:
            await self._traded.heard()
            more = True
            while more:
                new = await backend.query(
                    lambda tx, after=number: application.trades_since(  # type: ignore[misc]
                        tx, after, MAX_STREAM_BATCH_TRADES
                    )
                )
                for series in self.subscribers.followed(_TRADES):
                    message = trades_message(new, series)
                    if message is not None:
                        await self._tell(_TRADES, series, message)
                number, more = new.number, len(new.trades) == MAX_STREAM_BATCH_TRADES
            await asyncio.sleep(STREAM_INTERVAL_SECONDS)

    async def _follow_book(self, backend: Backend) -> None:
        while True:
            await self._moved.heard()
            for series in self.subscribers.followed(_BOOK):
                line = self._line(series)
                await line.refresh(backend)
                while line.untold:
                    await self._tell(_BOOK, series, line.untold.popleft())
            await asyncio.sleep(STREAM_INTERVAL_SECONDS)

    async def _tell(self, stream: str, series: Series, message: Message) -> None:
        """Queue a message for everybody who listens, a few at a time.

        Writing to hundreds at once would hold the interpreter for as long as a tick takes.
        """
        listeners = self.subscribers.of(stream, series)
        for first in range(0, len(listeners), MAX_STREAM_BURST):
            if first:
                await asyncio.sleep(STREAM_BURST_SECONDS)
            for subscriber in listeners[first : first + MAX_STREAM_BURST]:
                subscriber.put(message)

    def _line(self, series: Series) -> BookLine:
        return self._lines.setdefault(series, BookLine(series, self._run_id))


async def _again_and_again(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await follow()
        except Exception:  # the boundary of a daemon
            _log.exception("a market feed failed")
        await asyncio.sleep(_FAILURE_PAUSE_SECONDS)


async def _first_trades(
    backend: Backend, series: Series, token: TradeToken | None
) -> market_pb2.StreamTradesResponse:
    """What was missed behind a token, or the newest trades."""
    application = backend.application

    def look(tx: Transaction) -> market_pb2.StreamTradesResponse:
        if token is not None:
            missed = application.resume_trades(
                tx, series.work_class, series.mode, token.number, token.mark
            )
            if missed is not None:
                place = str(TradeToken(series, missed.number, missed.mark))
                return trades_message(missed, series) or alive_message(
                    missed.as_of_us, missed.number, place
                )
        newest = application.newest_trades(
            tx, series.work_class, series.mode, gap=token is not None
        )
        return opening_message(newest, series)

    return await backend.query(look)
