"""Streams end with the session that opened them: when its time is over, or when it is ended.

An observer of the tick hears which sessions ended; the streams that they opened fail with
``SESSION_ENDED``, and whoever may open another session goes on from where it was. The stream of a
worker is not among them: it ends in good order (:mod:`flopmarket_coordinator.rpc.session_hub`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from flopmarket.errors import Unauthenticated
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.core.changes import Change, SessionsEnded
from flopmarket_coordinator.store.engine import Transaction


class OpenStreams:
    """Streams that are open now, by key. ``clock_us`` gives Unix microseconds."""

    def __init__(self, clock_us: Callable[[], int]) -> None:
        self._clock_us = clock_us
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[str, set[tuple[str, asyncio.Timeout]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    # --- on the writer thread -----------------------------------------------------------------

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """Nothing ends before it is committed."""

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        """End what was opened by sessions that are no more."""
        ended = [change for change in changes if isinstance(change, SessionsEnded)]
        if ended and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end, ended)

    def reset(self, tx: Transaction) -> None:
        """A stream that should have ended meanwhile ends when its session's time is over."""

    # --- on the event loop --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def bounded(self, session: Session, *, outlasts: bool = False) -> AsyncIterator[None]:
        """A stream of this session; :class:`Unauthenticated` inside when the session ends.

        One that ``outlasts`` its session ends only when somebody ends that, not when its time is
        over: a transfer that was under way is finished.
        """
        self._loop = loop = asyncio.get_running_loop()
        left_seconds = max(0, session.expires_at_us - self._clock_us()) / 1e6
        end = None if outlasts else loop.time() + left_seconds
        try:
            async with asyncio.timeout_at(end) as bound:
                entry = (session.session_id, bound)
                self._open.setdefault(session.key_id, set()).add(entry)
                try:
                    yield
                finally:
                    self._forget(session.key_id, entry)
        except TimeoutError:
            if not bound.expired():
                raise
            raise Unauthenticated(
                "the session that opened this stream has ended",
                code="SESSION_ENDED",
                hint="open a new session, and the stream again from where it was",
            ) from None

    def _forget(self, key_id: str, entry: tuple[str, asyncio.Timeout]) -> None:
        streams = self._open[key_id]
        streams.discard(entry)
        if not streams:
            del self._open[key_id]

    def _end(self, ended: Sequence[SessionsEnded]) -> None:
        for change in ended:
            for session_id, bound in self._open.get(change.key_id, ()):
                if change.session_id in ("", session_id) and not bound.expired():
                    bound.reschedule(asyncio.get_running_loop().time())
