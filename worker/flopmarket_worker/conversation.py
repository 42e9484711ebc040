"""The stream of one connection: greeting, messages out through a bounded queue, messages in.

Sending never waits: a full queue ends the connection, and what it held is sent again after the next
greeting. The call is always cancelled by whoever opened it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc import aio

from flopmarket.errors import Unavailable
from flopmarket.limits import MAX_OUTGOING_MESSAGES, UNARY_DEADLINE_SECONDS
from flopmarket.v1 import worker_pb2

_FLUSH_SECONDS = 1.0


class Conversation:
    """One open ``WorkerService.Session`` call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._queue: asyncio.Queue[worker_pb2.SessionRequest | None] = asyncio.Queue(
            MAX_OUTGOING_MESSAGES
        )
        self._ended = asyncio.Event()
        self._overflowed = False

    async def greet(self, hello: worker_pb2.Hello) -> worker_pb2.Welcome:
        """Say hello and wait for the welcome; Unavailable when something else comes first."""
        async with asyncio.timeout(UNARY_DEADLINE_SECONDS):
            await self._call.write(worker_pb2.SessionRequest(hello=hello))
            answer = await self._call.read()
        if answer is aio.EOF or answer.WhichOneof("message") != "welcome":  # type: ignore[attr-defined]
            raise Unavailable("the coordinator did not welcome us", code="SESSION_NO_WELCOME")
        welcome: worker_pb2.Welcome = answer.welcome
        return welcome

    def send(self, message: worker_pb2.SessionRequest) -> None:
        """Queue a message; a full queue ends the connection."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self._overflowed = True
            self._call.cancel()

    async def write_all(self) -> None:
        """Write what is queued until the stream ends; failures show on the reading side."""
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while (message := await self._queue.get()) is not None:
                await self._call.write(message)
            await self._call.done_writing()

    async def beat(
        self, period_seconds: float, heartbeat: Callable[[], worker_pb2.Heartbeat]
    ) -> None:
        """Queue a heartbeat every period."""
        while True:
            await asyncio.sleep(period_seconds)
            self.send(worker_pb2.SessionRequest(heartbeat=heartbeat()))

    async def messages(self) -> AsyncIterator[worker_pb2.SessionResponse]:
        """What the coordinator sends, until it ends the stream; raises AioRpcError on failure."""
        try:
            while (message := await self._call.read()) is not aio.EOF:  # type: ignore[attr-defined]
                yield message
        except asyncio.CancelledError:
            if not self._overflowed:
                raise
            raise Unavailable(
                f"{MAX_OUTGOING_MESSAGES} messages wait for the coordinator", code="OUTBOX_FULL"
            ) from None
        finally:
            self._ended.set()

    async def finish(self) -> None:
        """Write what is queued, say that no more comes, give the other side a moment."""
        with contextlib.suppress(asyncio.QueueFull, TimeoutError):
            self._queue.put_nowait(None)
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._ended.wait()
