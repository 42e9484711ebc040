"""The loop that hands out work and lets time pass.

Idempotent and without memory: what it sends is in the store first, and an instruction for a worker
that is not connected waits there for its next hello. It runs when something changed or a round
had more to do than one round does, and otherwise at a fixed interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from flopmarket_coordinator.backend import Backend

_log = logging.getLogger(__name__)

EXPIRE_SECONDS = 1.0
_LEAST_PAUSE_SECONDS = 0.01
_FAILURE_PAUSE_SECONDS = 1.0


class Dispatcher:
    """Calls ``match`` and ``expire`` and passes instructions to the streams of workers.

    ``now`` is a monotonic clock in seconds.
    """

    def __init__(
        self, backend: Backend, *, interval_seconds: float, now: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._interval_seconds = interval_seconds
        self._now = now
        self._expired_at: float | None = None

    async def run(self) -> None:
        """Until cancelled. A failed round is logged and repeated: nothing of it was kept."""
        while True:
            seen = self._backend.changed.version
            try:
                await self.round()
            except Exception:  # the boundary of a daemon
                _log.exception("dispatcher round failed")
                await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)  # commands of one moment share a round
            await self._backend.changed.wait_past(seen, self._interval_seconds)

    async def round(self) -> None:
        """One pass. Submits past the backend, so as not to wake itself."""
        backend = self._backend
        moved = False
        now = self._now()
        resumed = self._expired_at is None
        if self._expired_at is None or now - self._expired_at >= EXPIRE_SECONDS:
            report = await backend.tick.submit(
                lambda tx: backend.application.expire(tx, resumed=resumed)
            )
            await backend.tick.submit(backend.application.tend_ledger)
            await backend.tick.submit(backend.application.release_pay)
            self._expired_at = now
            moved = bool(report.leases_expired or report.jobs_failed)
        instructions = await backend.tick.submit(backend.application.match)
        for instruction in instructions:
            backend.hub.instruct(instruction)
        if moved or instructions or backend.application.keeper.behind:
            backend.changed.notify()
