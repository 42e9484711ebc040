"""Recoveries of owner keys take effect when they have waited; their streams of old keys end."""

from __future__ import annotations

import asyncio
import logging

from flopmarket.errors import Unauthenticated
from flopmarket_coordinator.backend import Backend

_log = logging.getLogger(__name__)


async def complete_recoveries(backend: Backend, interval_seconds: float) -> None:
    """Look again and again, until cancelled."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            ended = await backend.command(backend.application.complete_recoveries)
        except Exception:  # the next look comes soon
            _log.warning("recoveries were not completed", exc_info=True)
            continue
        if ended:
            failure = Unauthenticated("the account was recovered", code="KEY_REVOKED")
            backend.hub.drop_keys(ended, failure)
            _log.info("recoveries took effect: %d keys ended", len(ended))
