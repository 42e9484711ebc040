"""One upstream answer for many viewers, and the last good one while the coordinator is away.

A figure is asked for once, whoever and however many want it, and is served for a short time. When
the next answer is slow or does not come, the older one is served with its trouble beside it; pages
say so. Time is given, so that tests need not wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flopmarket.errors import FlopmarketError, NotFound, Unavailable
from flopmarket.limits import (
    BOARD_PATIENCE_SECONDS,
    MAX_BOARD_CACHE_ENTRIES,
    MAX_BOARD_STALE_SECONDS,
    MAX_BOARD_UPSTREAM_CALLS,
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Answer(Generic[Value]):
    """A value, how old it is, and why there is no newer one (None when it is fresh)."""

    value: Value
    age_seconds: float
    trouble: FlopmarketError | None = None


@dataclass(slots=True)
class _Entry:
    value: Any
    fetched_at: float


class Cache:
    """Values by key. Used from one event loop.

    ``clock`` gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(
        self, key: Hashable, lifetime_seconds: float, fetch: Callable[[], Awaitable[Value]]
    ) -> Answer[Value]:
        """The value of ``key``, asked for by ``fetch`` when none is young enough.

        Raises what ``fetch`` raised when there is no older value that may still be shown, and
        always for an upstream "no such thing": that is an answer, not a failure.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            age = self._clock() - entry.fetched_at
            if age <= lifetime_seconds:
                return Answer(entry.value, age)
            if age > MAX_BOARD_STALE_SECONDS:
                entry = None
        try:
            task = self._running.get(key) or self._start(key, fetch)
            # Shielded: a viewer who leaves must not take the answer away from the others.
            wait = asyncio.shield(task)
            if entry is None:
                return Answer(await wait, 0.0)
            value = await asyncio.wait_for(wait, BOARD_PATIENCE_SECONDS)
            return Answer(value, 0.0)
        except TimeoutError:
            assert entry is not None, "only a page that has an older figure stops waiting"
            slow = Unavailable("the coordinator is slow to answer", code="COORDINATOR_SLOW")
            return Answer(entry.value, self._clock() - entry.fetched_at, slow)
        except NotFound:
            raise
        except FlopmarketError as error:
            if entry is None:
                raise
            return Answer(entry.value, self._clock() - entry.fetched_at, error)

    def forget(self, key: Hashable) -> None:
        """The next question for ``key`` goes upstream."""
        self._entries.pop(key, None)

    def _start(self, key: Hashable, fetch: Callable[[], Awaitable[Value]]) -> asyncio.Task[Value]:
        if len(self._running) >= MAX_BOARD_UPSTREAM_CALLS:
            raise Unavailable(
                f"{MAX_BOARD_UPSTREAM_CALLS} questions to the coordinator are open already",
                code="BOARD_BUSY",
                hint="ask again in a few seconds",
            )

        async def run() -> Value:
            try:
                value = await fetch()
                self._entries[key] = _Entry(value, self._clock())
                self._entries.move_to_end(key)
                while len(self._entries) > MAX_BOARD_CACHE_ENTRIES:
                    self._entries.popitem(last=False)
                return value
            finally:
                del self._running[key]

        task = asyncio.get_running_loop().create_task(run())
        self._running[key] = task
        # Nobody may be waiting any more when it fails; that must not be reported as forgotten.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def close(self) -> None:
        """Give up what is being asked."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
