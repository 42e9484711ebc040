"""The loop that challenges devices: asks those whose time has come, recomputes what they open.

Two tasks. One looks at the store now and then, sends plans, watches deadlines and writes outcomes
down. The other takes openings one after another and has them recomputed by a child process on the
reference interpreter, away from the event loop and from the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.host import EngineProcess
from flopmarket.jobs.proving import recompute_command
from flopmarket.limits import BENCHMARK_VERIFY_SECONDS
from flopmarket_coordinator.application.types_benchmark import VoidReason
from flopmarket_coordinator.auditor import REFERENCE_DEVICE
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.desk import Ended
from flopmarket_coordinator.rpc import convert_benchmark

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_TWINS_SECONDS = 60.0
_FAILURE_PAUSE_SECONDS = 1.0
_NICE = 5


class PlaceEngine(Protocol):
    """What recomputes opened places; :class:`EngineProcess` is the real one."""

    async def recompute(self, command: Mapping[str, Any]) -> tuple[bytes, ...]:
        """The values of all places of ``jobs.proving.recompute_command``."""
        ...

    async def stop(self) -> None:
        """End it."""
        ...


StartPlaceEngine = Callable[[], Awaitable[PlaceEngine]]


async def start_reference() -> PlaceEngine:
    """A child process with the reference interpreter, which defines the bits."""
    return await EngineProcess.start(REFERENCE_DEVICE, nice=_NICE)


class Challenger:
    """Runs until cancelled. ``now`` is a monotonic clock in seconds."""

    def __init__(
        self,
        backend: Backend,
        *,
        now: Callable[[], float],
        start_engine: StartPlaceEngine = start_reference,
    ) -> None:
        self._backend = backend
        self._now = now
        self._start_engine = start_engine
        self._engine: PlaceEngine | None = None
        self._looked_at = self._twins_at = float("-inf")

    async def run(self) -> None:
        """Void what an earlier process left open, then go on until cancelled."""
        backend = self._backend
        voided = await backend.command(backend.application.void_open_challenges)
        if voided:
            _log.info("%d challenges were open when the coordinator ended; they are void", voided)
        verifying = asyncio.create_task(self._verify_all())
        try:
            while True:
                try:
                    await self.round()
                except Exception:  # the boundary of a daemon
                    _log.exception("challenger round failed")
                    await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            verifying.cancel()
            await asyncio.gather(verifying, return_exceptions=True)
            await asyncio.shield(self._end_engine())

    async def round(self) -> None:
        """Deadlines, outcomes, and, when it is time, new challenges."""
        backend, desk = self._backend, self._backend.desk
        desk.expire(backend.clock_us())
        while desk.ended:
            await self._write_down(desk.ended.pop(0))
        now = self._now()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        all_twins = now - self._twins_at >= _TWINS_SECONDS
        if all_twins:
            self._twins_at = now
        addresses, room = backend.hub.addresses(), desk.room
        asked = await backend.tick.submit(
            lambda tx: backend.application.begin_challenges(
                tx, addresses, room, all_twins=all_twins
            )
        )
        desk.begin(asked)
        for item in asked:
            _log.info("challenge %s for device %s", item.challenge_id, item.device_id[:16])

    async def verify_next(self) -> None:
        """Wait for an opening and judge it. A fault of ours voids the challenge."""
        desk = self._backend.desk
        challenge_id = await desk.openings.get()
        try:
            async with asyncio.timeout(BENCHMARK_VERIFY_SECONDS):
                live, opening, tasks = await asyncio.to_thread(desk.check_opening, challenge_id)
                values: tuple[bytes, ...] = ()
                if tasks:
                    verifier = live.verifier
                    command = await asyncio.to_thread(
                        recompute_command,
                        verifier.plan,
                        verifier.start,
                        verifier.roots,
                        live.asked.sampling_seed,
                        opening,
                    )
                    values = await (await self._running()).recompute(command)
            desk.conclude(live, values)
        except Exception as error:  # whatever it is, it is not held against the device
            _log.exception("challenge %s could not be verified", challenge_id)
            desk.void(challenge_id, VoidReason.UNVERIFIED, type(error).__name__)
            await self._end_engine()

    async def _verify_all(self) -> None:
        while True:
            await self.verify_next()
            if self._backend.desk.openings.empty():
                await self._end_engine()

    async def _write_down(self, ended: Ended) -> None:
        backend = self._backend
        try:
            verdict = await backend.command(
                lambda tx: backend.application.challenge_ended(
                    tx, ended.challenge_id, ended.outcome, ended.detail
                )
            )
        except Exception:
            backend.desk.ended.append(ended)  # behind the others, and tried again
            raise
        if verdict is not None:
            _log.info("challenge %s: %s %s", ended.challenge_id, verdict.reason, verdict.detail)
            backend.hub.send(verdict.device_key_id, convert_benchmark.verdict(verdict))

    async def _running(self) -> PlaceEngine:
        if self._engine is None:
            self._engine = await self._start_engine()
        return self._engine

    async def _end_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(FlopmarketError):
                await engine.stop()
