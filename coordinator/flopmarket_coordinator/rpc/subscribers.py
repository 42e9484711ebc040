"""Who listens to a market stream, and what happens to those who listen too slowly.

Each subscriber has a queue of its own with a named bound. A subscriber whose queue is full is
dropped with a reason: the others and the market do not wait for it. Everything here runs on the
event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from google.protobuf.message import Message

from flopmarket.errors import FlopmarketError, QuotaExceeded, Unavailable
from flopmarket.limits import (
    MAX_STREAM_QUEUE_MESSAGES,
    MAX_STREAM_SUBSCRIBERS,
    STREAM_ALIVE_SECONDS,
    STREAM_WRITE_SECONDS,
)
from flopmarket_coordinator.rpc.series import Series

Write = Callable[[Message], Awaitable[None]]
"""Sends one message to the peer of a stream; returns once it is on its way."""

_SETTLE_SECONDS = 1.0


class Subscriber:
    """One open stream: messages on their way to it, and why it must end."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.failure: FlopmarketError | None = None
        self._task = task
        self._queue: deque[Message] = deque()
        self._ready = asyncio.Event()

    def put(self, message: Message) -> None:
        """Queue a message; a full queue ends the stream instead."""
        if self.failure is not None:
            return
        if len(self._queue) >= MAX_STREAM_QUEUE_MESSAGES:
            self.drop(_too_slow(f"{MAX_STREAM_QUEUE_MESSAGES} messages wait for this stream"))
            return
        self._queue.append(message)
        self._ready.set()

    def drop(self, failure: FlopmarketError) -> None:
        """End the stream with an error, also while it waits for its peer to read."""
        if self.failure is None:
            self.failure = failure
            self._queue.clear()
            self._ready.set()
            if self._task is not None:
                self._task.cancel()

    async def next(self) -> Message | None:
        """The next message, or None after ``STREAM_ALIVE_SECONDS`` without one."""
        if not self._queue:
            self._ready.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_ALIVE_SECONDS):
                    await self._ready.wait()
        return self._queue.popleft() if self._queue else None


class Subscribers:
    """All subscribers of one coordinator's market streams."""

    def __init__(self, most: int = MAX_STREAM_SUBSCRIBERS) -> None:
        self._most = most
        self._open: dict[tuple[str, Series], set[Subscriber]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def followed(self, stream: str) -> list[Series]:
        """What somebody listens to of a stream."""
        return [name for (kind, name), present in self._open.items() if kind == stream and present]

    def of(self, stream: str, series: Series) -> tuple[Subscriber, ...]:
        """Those who listen to a series of a stream."""
        return tuple(self._open.get((stream, series), ()))

    @contextmanager
    def joined(self, stream: str, series: Series) -> Iterator[Subscriber]:
        """A new subscriber for the length of the block; ``STREAMS_FULL`` when there are too many.

        A drop cancels the task that runs the block and comes out of it as the drop's error.
        """
        if len(self) >= self._most:
            raise QuotaExceeded(
                f"{self._most} market streams are open, their limit",
                code="STREAMS_FULL",
                retryable=True,
                hint="try again later, or ask GetSpot and ListTrades now and then",
                details={"limit": str(self._most)},
            )
        subscriber = Subscriber(asyncio.current_task())
        present = self._open.setdefault((stream, series), set())
        present.add(subscriber)
        try:
            yield subscriber
        except asyncio.CancelledError:
            if subscriber.failure is None:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            raise subscriber.failure from None
        finally:
            present.discard(subscriber)

    def drop_all(self, failure: FlopmarketError) -> None:
        """End every stream."""
        for present in self._open.values():
            for subscriber in tuple(present):
                subscriber.drop(failure)


def draining() -> Unavailable:
    """Why streams end when the coordinator goes down."""
    return Unavailable(
        "the coordinator is going down",
        code="DRAINING",
        hint="connect again with the resume token of the last message",
    )


async def write_in_time(write: Write, message: Message) -> None:
    """Write one message; ``STREAM_TOO_SLOW`` when it does not leave in time.

    Streams write for themselves, here: gRPC's own loop over a generator would wait for ever for a
    peer that never reads. A write that is under way is not cancelled with its stream but waited for
    a moment: gRPC cannot end a call with a status before, and its peer would never hear why.
    """
    pending = asyncio.ensure_future(write(message))
    try:
        async with asyncio.timeout(STREAM_WRITE_SECONDS):
            await asyncio.shield(pending)
    except TimeoutError:
        pending.cancel()
        raise _too_slow(f"nothing was read for {STREAM_WRITE_SECONDS:.0f} s") from None
    except asyncio.CancelledError:
        await asyncio.wait({pending}, timeout=_SETTLE_SECONDS)
        pending.cancel()
        raise


def _too_slow(message: str) -> QuotaExceeded:
    return QuotaExceeded(
        message,
        code="STREAM_TOO_SLOW",
        retryable=True,
        hint="connect again with the resume token of the last message, and read faster",
        details={"limit": str(MAX_STREAM_QUEUE_MESSAGES)},
    )
