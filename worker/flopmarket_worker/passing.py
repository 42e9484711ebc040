"""An engine that hands everything on to another one, for those that change one thing of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.jobs.host import Engine, Provable
from flopmarket.jobs.questions import StepsQuestion, TraceQuestion, TraceStart
from flopmarket.trust.dispute_port import Place


class PassingEngine:
    """Everything of :class:`flopmarket.jobs.host.Engine` but ``run``, by the engine behind."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def device_info(self) -> Mapping[str, Any]:
        return self._engine.device_info

    async def open(self, folder: Path, spec: bytes) -> None:
        await self._engine.open(folder, spec)

    async def load_state(self, path: Path | None, step: int) -> bytes:
        return await self._engine.load_state(path, step)

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        await self._engine.trace_open(folder, spec, start)

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        await self._engine.trace_answer(question, path)

    async def trace_end(self, place: Place, tile_path: Path) -> tuple[bytes, bytes]:
        return await self._engine.trace_end(place, tile_path)

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        await self._engine.replay_steps(folder, spec, asked, target)

    async def interrupt(self) -> None:
        await self._engine.interrupt()

    async def close_job(self) -> None:
        await self._engine.close_job()

    async def admission(self) -> dict[str, Any]:
        return await self._engine.admission()

    async def classification(self) -> dict[str, Any]:
        return await self._engine.classification()

    async def benchmark(self) -> dict[str, Any]:
        return await self._engine.benchmark()

    async def prove(self, step: str, document: bytes = b"") -> bytes:
        if not isinstance(self._engine, Provable):
            raise InvalidInput("this engine answers no challenges", code="CHALLENGE_UNSUPPORTED")
        return await self._engine.prove(step, document)

    async def stop(self) -> None:
        await self._engine.stop()

    async def kill(self) -> None:
        """End the process behind at once, where it can be."""
        kill = getattr(self._engine, "kill", None)
        if kill is not None:
            await kill()
