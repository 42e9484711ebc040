"""Heartbeats of one moment, joined into one command.

A stream waits a little with its worker's sign of life; all that came meanwhile share a SAVEPOINT
and their statements. Each gets its own answer.
"""

from __future__ import annotations

import asyncio
import logging

from flopmarket.errors import FlopmarketError, Forbidden
from flopmarket.limits import MAX_JOINED_HEARTBEATS
from flopmarket_coordinator.application.beating import Beat
from flopmarket_coordinator.application.types_working import HeartbeatAnswer
from flopmarket_coordinator.backend import Backend

_log = logging.getLogger(__name__)

JOIN_SECONDS = 0.05


class Heartbeats:
    """One of these serves all streams; one event loop owns it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._waiting: list[tuple[Beat, asyncio.Future[HeartbeatAnswer]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def beat(self, beat: Beat) -> HeartbeatAnswer:
        """The answer to one sign of life; raises Forbidden for a banned key, or what failed."""
        done: asyncio.Future[HeartbeatAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append((beat, done))
        if len(self._waiting) == 1:
            task = asyncio.create_task(self._join())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await done

    async def _join(self) -> None:
        await asyncio.sleep(JOIN_SECONDS)
        together = [waits for waits in self._waiting if not waits[1].done()]  # streams that ended
        self._waiting = []
        for first in range(0, len(together), MAX_JOINED_HEARTBEATS):
            await self._send(together[first : first + MAX_JOINED_HEARTBEATS])

    async def _send(self, together: list[tuple[Beat, asyncio.Future[HeartbeatAnswer]]]) -> None:
        beats = tuple(beat for beat, _ in together)
        application = self._backend.application
        try:
            answers = await self._backend.command(
                lambda tx: application.worker_heartbeats(tx, beats)
            )
        except Exception as error:  # whoever waits hears of it; the others go on
            if not isinstance(error, FlopmarketError):
                _log.exception("heartbeats failed")
            for _, done in together:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), answer in zip(together, answers, strict=True):
            if done.done():  # its stream is gone
                continue
            if isinstance(answer, Forbidden):
                done.set_exception(answer)
            else:
                done.set_result(answer)
