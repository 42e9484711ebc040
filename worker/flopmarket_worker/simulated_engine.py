"""Many simulated cards on one real engine: every bit is computed, in turns, on one thread.

A card is slower than the engine by its share: after a segment it waits for the rest of the time
that it would have taken, and reports that time. Results are the engine's own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flopmarket.errors import Unavailable
from flopmarket.jobs.host import JobRefused, SegmentDone, StepDone
from flopmarket.jobs.process import EngineServer, describe
from flopmarket.jobs.questions import (
    StepsQuestion,
    TraceQuestion,
    TraceStart,
    trace_answer_command,
    trace_end_command,
    trace_open_command,
)
from flopmarket.trust.dispute_port import Place

MAX_WAIT_SECONDS = 10.0
"""The longest that a simulated card takes longer than the engine, a segment."""


class SharedEngine:
    """One device, one thread, any number of cards. Close it in the end."""

    def __init__(self, device: str | None, cache_dir: Path | None) -> None:
        self._device = device
        self._cache_dir = cache_dir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shared-engine")

    async def info(self) -> Mapping[str, Any]:
        """The real device's card."""
        card = SimulatedCard(self, 100)
        return dict((await card.call({"op": "info"}))["info"])

    async def card(self, share_percent: int) -> SimulatedCard:
        """A card that is as fast as so many percent of the engine."""
        return SimulatedCard(self, share_percent)

    def server(self, stop: threading.Event) -> EngineServer:
        """What holds the job of one card."""
        return EngineServer(self._device, self._cache_dir, lambda _: None, stop)

    async def turn(self, server: EngineServer, command: dict[str, Any]) -> dict[str, Any]:
        """One command, when it is its turn."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, server.handle, command)

    def close(self) -> None:
        """End the thread after its present command."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class SimulatedCard:
    """One card: an :class:`~flopmarket.jobs.host.Engine` that shares the real one."""

    def __init__(self, shared: SharedEngine, share_percent: int) -> None:
        self._shared = shared
        self._share_percent = share_percent
        self._stop = threading.Event()
        self._server = shared.server(self._stop)

    @property
    def device_info(self) -> Mapping[str, Any]:
        return {"name": "simulated card", "device_id": ""}

    async def call(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command; failures are sorted as an engine process sorts them."""
        try:
            return await self._shared.turn(self._server, command)
        except Exception as error:  # the boundary of the engine: every failure is an answer
            said = describe(error)
            kind = Unavailable if said["retryable"] else JobRefused
            raise kind(
                said["message"], code=said["code"], retryable=said["retryable"], hint=said["hint"]
            ) from error

    async def open(self, folder: Path, spec: bytes) -> None:
        await self.call({"op": "open", "folder": str(folder), "spec": spec.hex()})

    async def load_state(self, path: Path | None, step: int) -> bytes:
        command = {"op": "load_state", "path": str(path) if path else "", "step": step}
        return bytes.fromhex((await self.call(command))["state_root"])

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        self._stop.clear()
        done = await self.call(
            {
                "op": "run",
                "first_step": first_step,
                "count": count,
                "outputs_path": str(outputs_path),
                "state_path": str(state_path) if state_path else "",
                "roots_ppm": roots_ppm,
            }
        )
        engine_us = int(done["run_us"])
        card_us = engine_us * 100 // self._share_percent
        await asyncio.sleep(min(MAX_WAIT_SECONDS, (card_us - engine_us) / 1e6))
        yield StepDone(first_step + int(done["steps_done"]), {})
        yield SegmentDone(
            done["first_step"],
            done["steps_done"],
            bytes.fromhex(done["state_root_before"]),
            bytes.fromhex(done["state_root_after"]),
            bytes.fromhex(done["outputs_root"]),
            bytes.fromhex(done["inner"]),
            card_us,
        )

    async def interrupt(self) -> None:
        self._stop.set()

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        self._stop.clear()
        await self.call(trace_open_command(folder, spec, start))

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        await self.call(trace_answer_command(question, path))

    async def trace_end(self, place: Place, tile_path: Path) -> tuple[bytes, bytes]:
        answer = await self.call(trace_end_command(place, tile_path))
        return bytes.fromhex(answer["state_root"]), bytes.fromhex(answer["outputs_root"])

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        self._stop.clear()
        await self.call(asked.to_command(folder, spec, target))

    async def close_job(self) -> None:
        await self.call({"op": "close_job"})

    async def admission(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.call({"op": "admission"}))["admission"]
        return answer

    async def classification(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.call({"op": "classification"}))["classification"]
        return answer

    async def benchmark(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.call({"op": "benchmark"}))["benchmark"]
        return answer

    async def stop(self) -> None:
        self._stop.set()
        await self.close_job()
