"""The pretended buyers and workers of the unit tests, against a coordinator that really serves.

What they do goes through the coordinator's own tick, so everything that follows the market (the
book, the streams) hears of it; who calls over gRPC sees the result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.application.context import ProgramCatalogue
from tests.integration.coordinator.market import Market
from tests.unit.coordinator.world import Answer, MemoryArtifacts, World
from tests.unit.coordinator.world_work import ASK

CALM = {"match_interval_seconds": 3_600.0}
"""Configuration under which nobody matches but :meth:`World.match`."""


class LiveWorld(World):
    """Use it from another thread than the coordinator's event loop: ``await asyncio.to_thread``."""

    def __init__(self, market: Market) -> None:
        backend = market.coordinator.backend
        self._loop = asyncio.get_running_loop()
        self._tick = backend.tick
        self.application = backend.application
        self.key: KeyPair = market.coordinator.directory.key
        self.operator = market.operator_key
        self.parameters = self.application._parameters
        self.artifacts = MemoryArtifacts()
        self.application._programs = ProgramCatalogue(self.artifacts)
        self._entropy_calls = 0

    @property
    def now_us(self) -> int:  # type: ignore[override]
        """The coordinator's clock is the real one."""
        return time.time_ns() // 1_000

    def do(self, run: Callable[..., Answer], *arguments: object) -> Answer:
        return self._wait(self._tick.submit(lambda tx: run(tx, *arguments)))

    def see(self, run: Callable[..., Answer], *arguments: object) -> Answer:
        return self._wait(self._tick.read(lambda tx: run(tx, *arguments)))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    def sell(self, segments: int, name: str = "job", ask: int = ASK) -> None:
        """A job of so many segments is bought, computed, verified and paid."""
        buyer = self.buyer(f"buyer of {name}")
        worker = self.worker(f"worker of {name}", ask=ask)
        buyer.submit(name, steps=3 * segments)
        (lease,) = self.offers()
        worker.accept(lease)
        for _ in range(segments):
            worker.commit(lease, 3)
            self.audit_all()
