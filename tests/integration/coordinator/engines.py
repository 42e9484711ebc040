"""An engine in this process: the real runner on the reference, with faults on demand."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from flopmarket.engine.errors import EngineError
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.host import EngineProcessDied, JobRefused, SegmentDone, StepDone
from flopmarket.jobs.process import EngineServer
from flopmarket.jobs.questions import (
    Flip,
    FlipQuestion,
    StepsQuestion,
    StepVerdict,
    TraceQuestion,
    TraceStart,
    ValuesQuestion,
    trace_answer_command,
    trace_end_command,
    trace_open_command,
)
from flopmarket.trust.dispute_port import Place


class InProcessEngine:
    """Implements ``flopmarket.jobs.host.Engine``. ``deaths`` is how many runs end in a crash."""

    def __init__(self, deaths: int = 0) -> None:
        self.deaths = deaths
        self.loads = 0
        self.runs: list[tuple[int, int]] = []
        self.stopped = False
        self._server = EngineServer("reference", None, lambda fields: None, threading.Event())

    @property
    def device_info(self) -> Mapping[str, Any]:
        return {"device_id": "reference"}

    def _call(self, **command: Any) -> dict[str, Any]:
        try:
            return self._server.handle(command)
        except (FlopmarketError, EngineError) as error:
            raise JobRefused(error.message, code=error.code) from error

    async def open(self, folder: Path, spec: bytes) -> None:
        self._call(op="open", folder=str(folder), spec=spec.hex())

    async def load_state(self, path: Path | None, step: int) -> bytes:
        self.loads += 1
        answer = self._call(op="load_state", path=str(path or ""), step=step)
        return bytes.fromhex(answer["state_root"])

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        if self.deaths:
            self.deaths -= 1
            raise EngineProcessDied("the engine process 1 ended with status -9")
        self.runs.append((first_step, count))
        done = self._call(
            op="run",
            first_step=first_step,
            count=count,
            outputs_path=str(outputs_path),
            state_path=str(state_path or ""),
            roots_ppm=roots_ppm,
        )
        yield StepDone(first_step + count, {})
        yield SegmentDone(
            done["first_step"],
            done["steps_done"],
            *(
                bytes.fromhex(done[name])
                for name in ("state_root_before", "state_root_after", "outputs_root", "inner")
            ),
        )

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        self._call(**trace_open_command(folder, spec, start))

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        self._call(**trace_answer_command(question, path))

    async def trace_end(self, place: Place, tile_path: Path) -> tuple[bytes, bytes]:
        answer = self._call(**trace_end_command(place, tile_path))
        return bytes.fromhex(answer["state_root"]), bytes.fromhex(answer["outputs_root"])

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        self._call(**asked.to_command(folder, spec, target))

    async def judge_step(self, question: ValuesQuestion) -> StepVerdict:
        return StepVerdict.of_fields(self._call(**question.to_command()))

    async def find_flips(self, folder: Path, spec: bytes, asked: FlipQuestion) -> tuple[Flip, ...]:
        found = self._call(**asked.to_command(folder, spec))["flips"]
        return tuple(Flip.of_fields(each) for each in found)

    async def interrupt(self) -> None:
        raise NotImplementedError

    async def close_job(self) -> None:
        self._call(op="close_job")

    async def admission(self) -> dict[str, Any]:
        return {"admitted": True}

    async def classification(self) -> dict[str, Any]:
        raise NotImplementedError

    async def benchmark(self) -> dict[str, Any]:
        raise NotImplementedError

    async def stop(self) -> None:
        self.stopped = True
