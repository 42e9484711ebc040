"""Live figures: one stream from the coordinator, any bounded number of browsers behind it.

Each browser has a short queue. One that does not keep up is let go with a reason; its page then
connects again and gets the newest state, so nothing it shows is wrong.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flopmarket.errors import FlopmarketError, QuotaExceeded
from flopmarket.limits import (
    BOARD_RECONNECT_SECONDS,
    BOARD_STORY_SECONDS,
    BOARD_TAPE_TRADES,
    MAX_BOARD_JOB_EVENTS,
    MAX_BOARD_LISTENER_MESSAGES,
    MAX_BOARD_LISTENERS,
    MAX_BOARD_LOSS_POINTS,
    MAX_BOARD_SERIES,
    MAX_BOARD_WATCHED_JOBS,
)
from flopmarket_coordinator.web.gateway import Gateway
from flopmarket_coordinator.web.model import JobEvent, TapeMessage, Trade

Message = TypeVar("Message")


class Seats:
    """How many browsers follow anything at all."""

    def __init__(self) -> None:
        self.taken = 0

    def check(self) -> None:
        """Raise QuotaExceeded BOARD_FULL when there is none left."""
        if self.taken >= MAX_BOARD_LISTENERS:
            raise QuotaExceeded(
                f"{MAX_BOARD_LISTENERS} browsers follow this board already",
                code="BOARD_FULL",
                retryable=True,
                hint="pages work without live figures; reload for new ones",
            )

    def take(self) -> None:
        """One more; QuotaExceeded BOARD_FULL."""
        self.check()
        self.taken += 1

    def free(self) -> None:
        """One less."""
        self.taken -= 1


class Listeners(Generic[Message]):
    """Who follows one stream. ``None`` in a queue is its end."""

    def __init__(self, seats: Seats) -> None:
        self.seats = seats
        self._queues: set[asyncio.Queue[Message | None]] = set()

    def __len__(self) -> int:
        return len(self._queues)

    def publish(self, message: Message) -> None:
        """Give ``message`` to all; a queue that is full ends instead."""
        for queue in list(self._queues):
            if queue.qsize() >= MAX_BOARD_LISTENER_MESSAGES:
                self._end(queue)
            else:
                queue.put_nowait(message)

    def close(self) -> None:
        """End all."""
        for queue in list(self._queues):
            self._end(queue)

    def _end(self, queue: asyncio.Queue[Message | None]) -> None:
        self._queues.discard(queue)
        queue.put_nowait(None)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[asyncio.Queue[Message | None]]:
        """A queue of what is published from now on; QuotaExceeded BOARD_FULL."""
        self.seats.take()
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)
            self.seats.free()


class TapeFeed:
    """The tape: follows it as long as the board runs, and remembers the newest trades of each class
    and mode."""

    def __init__(self, gateway: Gateway, seats: Seats) -> None:
        self._gateway = gateway
        self._recent: dict[tuple[str, str], deque[Trade]] = {}
        self._last_number = 0
        self._task: asyncio.Task[None] | None = None
        self.listeners: Listeners[TapeMessage] = Listeners(seats)
        self.as_of_us = 0
        self.trouble: FlopmarketError | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Stop, and end all listeners."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.listeners.close()

    def recent(
        self, work_class: str = "", count: int = BOARD_TAPE_TRADES, mode: str = ""
    ) -> tuple[Trade, ...]:
        """The newest trades of a class and a mode, or of all; newest first."""
        found = [
            trade
            for (name, its_mode), trades in self._recent.items()
            if work_class in ("", name) and mode in ("", its_mode)
            for trade in trades
        ]
        return tuple(sorted(found, key=lambda trade: -trade.number)[:count])

    async def _follow(self) -> None:
        shortest, longest = BOARD_RECONNECT_SECONDS
        pause = shortest
        while True:
            try:
                async for message in self._gateway.trades():
                    pause, self.trouble = shortest, None
                    self._take(message)
            except FlopmarketError as error:
                self.trouble = error
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _take(self, message: TapeMessage) -> None:
        self.as_of_us = max(self.as_of_us, message.as_of_us)
        if message.trades and message.is_snapshot and message.trades[-1].number < self._last_number:
            self._recent.clear()  # another coordinator's tape, or one restored from a backup
            self._last_number = 0
        new = tuple(trade for trade in message.trades if trade.number > self._last_number)
        for trade in new:
            series = trade.work_class, trade.mode
            if series not in self._recent and len(self._recent) >= MAX_BOARD_SERIES:
                continue
            kept = self._recent.setdefault(series, deque(maxlen=BOARD_TAPE_TRADES))
            kept.append(trade)
            self._last_number = trade.number
        self.listeners.publish(TapeMessage(message.as_of_us, new))


@dataclass(slots=True)
class JobStory:
    """What was heard of one job since the board began to follow it.

    ``curves`` has points (step, value) of each scalar output. They are the worker's own report,
    sent while it computes; when there are too many, every second one goes.
    """

    events: deque[JobEvent] = field(default_factory=lambda: deque(maxlen=MAX_BOARD_JOB_EVENTS))
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    step: int = 0

    def take(self, event: JobEvent) -> None:
        """Remember one event."""
        if event.kind != "progress":
            self.events.append(event)
            return
        self.step = max(self.step, event.step)
        for name, value in event.scalars.items():
            points = self.curves.setdefault(name, [])
            # A segment that was computed again, by another worker, replaces what it reported.
            while points and points[-1][0] >= event.step:
                points.pop()
            points.append((event.step, value))
            if len(points) > MAX_BOARD_LOSS_POINTS:
                del points[1::2]


@dataclass(slots=True)
class _Watch:
    story: JobStory
    listeners: Listeners[JobEvent]
    task: asyncio.Task[None]


class JobFeeds:
    """Stories of jobs that somebody looks at; the least recently asked for is dropped first."""

    def __init__(
        self, gateway: Gateway, seats: Seats, changed: Callable[[str], None] = lambda _: None
    ) -> None:
        """``changed`` hears the id of a job whose story went on."""
        self._gateway = gateway
        self._seats = seats
        self._changed = changed
        self._watches: dict[str, _Watch] = {}

    def story(self, job_id: str) -> JobStory:
        """What is known of a job; follows it from now on."""
        return self._watch(job_id).story

    async def begun(self, job_id: str) -> JobStory:
        """:meth:`story`, after a moment for what happened before anybody looked."""
        watch = self._watch(job_id)
        if not watch.story.events:
            await asyncio.wait({watch.task}, timeout=BOARD_STORY_SECONDS)
        return watch.story

    def listeners(self, job_id: str) -> Listeners[JobEvent]:
        """Who follows a job; follows it from now on."""
        return self._watch(job_id).listeners

    def end_streams(self) -> None:
        """End all listeners of all jobs."""
        for watch in self._watches.values():
            watch.listeners.close()

    async def close(self) -> None:
        """Stop following all jobs."""
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.task.cancel()
            watch.listeners.close()
        await asyncio.gather(*(watch.task for watch in watches), return_exceptions=True)

    def _watch(self, job_id: str) -> _Watch:
        watch = self._watches.pop(job_id, None)
        if watch is None or (watch.task.done() and not _ended(watch.story)):
            story = JobStory() if watch is None else watch.story
            listeners: Listeners[JobEvent] = Listeners(self._seats)
            task = asyncio.get_running_loop().create_task(self._follow(job_id, story, listeners))
            watch = _Watch(story, listeners, task)
        self._watches[job_id] = watch
        while len(self._watches) > MAX_BOARD_WATCHED_JOBS:
            dropped = self._watches.pop(next(iter(self._watches)))
            dropped.task.cancel()
            dropped.listeners.close()
        return watch

    async def _follow(self, job_id: str, story: JobStory, listeners: Listeners[JobEvent]) -> None:
        seen = story.events[-1].sequence if story.events else -1
        try:
            async for event in self._gateway.job_events(job_id):
                if event.kind == "progress" or event.sequence > seen:
                    story.take(event)
                    if event.kind != "progress":
                        self._changed(job_id)
                    listeners.publish(event)
        except FlopmarketError:
            pass  # the page's own question says what is wrong; the next look starts another watch
        finally:
            listeners.close()


def _ended(story: JobStory) -> bool:
    return bool(story.events) and story.events[-1].kind in {"succeeded", "failed", "cancelled"}
