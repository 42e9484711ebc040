"""The loop that signs a price snapshot now and then, whether or not anybody asks for it."""

from __future__ import annotations

import asyncio
import logging

from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.config import SNAPSHOT_SECONDS

_log = logging.getLogger(__name__)


async def sign_prices(backend: Backend, interval_seconds: float = SNAPSHOT_SECONDS) -> None:
    """One snapshot at once, then one an interval, until cancelled."""
    while True:
        try:
            # Past the backend: nobody has to look at the market anew because of it.
            await backend.tick.submit(backend.application.take_snapshot)
        except Exception:  # the boundary of a daemon
            _log.exception("no price snapshot this time")
        await asyncio.sleep(interval_seconds)
