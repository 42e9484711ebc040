"""The loop that frees stored bytes which nothing needs any more.

A plan is read beside the writers; rows go first, in a command that looks again, and files after the
commit, in a command that looks a third time: an upload of the same bytes meanwhile keeps them.
"""

from __future__ import annotations

import asyncio
import logging

from flopmarket.limits import MAX_COLLECTED_ARTIFACTS
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.store import collecting
from flopmarket_coordinator.store.engine import Transaction

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 3_600.0


class Collector:
    """Frees at most ``MAX_COLLECTED_ARTIFACTS`` in one round."""

    def __init__(self, backend: Backend, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._backend = backend
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Until cancelled. A failed round is logged and repeated at the next interval."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                while await self.round() == MAX_COLLECTED_ARTIFACTS:
                    await asyncio.sleep(0)
            except Exception:  # the boundary of a daemon
                _log.exception("collector round failed")

    async def round(self) -> int:
        """One pass; how many artifacts were freed."""
        backend = self._backend
        plan = await backend.tick.read(backend.application.plan_collection)
        if not plan.digests:
            return 0
        dropped = await backend.tick.submit(lambda tx: backend.application.collect(tx, plan))
        await backend.tick.submit(lambda tx: self._remove(tx, dropped))
        _log.info("collected %d artifacts of %d bytes", len(dropped), plan.size_bytes)
        return len(dropped)

    def _remove(self, tx: Transaction, digests: list[str]) -> None:
        for digest in collecting.unknown(tx, digests):
            self._backend.artifacts.remove(digest)
