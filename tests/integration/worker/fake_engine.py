"""An engine in memory that counts: see :mod:`tests.integration.worker.fake_job`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import checksums_path
from flopmarket.jobs.host import EngineProcessDied, JobRefused, SegmentDone, StepDone
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.roots import StateRoots, roots_path
from flopmarket.jobs.stepping import CHECKSUMS_FILE, ROOTS_FILE, state_file
from tests.integration.worker.fake_job import checksums_of, state_after


class FakeEngine:
    """Counts. ``step_seconds`` is how long a step takes; ``die_at`` steps at which it dies, once
    each; ``refuse`` is the code with which it refuses to open a job; ``flipped``: whether replays
    come to another end than runs."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.die_at: set[int] = set()
        self.refuse = ""
        self.step = -1
        self.closed_jobs = 0
        self.starts = 0
        self.dead = False
        self.ran: list[int] = []
        self.replayed: list[StepsQuestion] = []
        self.flipped = False
        self._interrupted = False

    async def start(self) -> FakeEngine:
        self.starts += 1
        self.dead = False
        self.step = -1
        return self

    @property
    def device_info(self) -> Mapping[str, Any]:
        return {"name": "fake", "device_id": "f" * 64}

    async def open(self, folder: Path, spec: bytes) -> None:
        if self.refuse:
            raise JobRefused("refused by the test", code=self.refuse)
        assert (folder / "program.bin").read_bytes() == b"program"

    async def load_state(self, path: Path | None, step: int) -> bytes:
        assert path is not None
        tensors = bundle.read(path)
        self.step = step
        return bundle.root(tensors)

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        assert first_step == self.step
        self._interrupted = False
        done = 0
        while done < count and not (done and self._interrupted):
            await asyncio.sleep(self.step_seconds)
            if self.step in self.die_at:
                self.die_at.discard(self.step)
                raise EngineProcessDied("killed by the test")
            self.ran.append(self.step)
            done += 1
            self.step += 1
            yield StepDone(self.step, {"loss": 1.0 / self.step})
        outputs = {"loss": np.arange(done, dtype=np.float32)}
        outputs_path.write_bytes(bundle.save(outputs))
        sums = checksums_of(first_step, done)
        checksums_path(outputs_path).write_bytes(sums.to_bytes())
        if roots_ppm:
            states = (state_after(n) for n in range(first_step, first_step + done + 1))
            roots = StateRoots(first_step, b"".join(bundle.root(state) for state in states))
            roots_path(outputs_path).write_bytes(roots.to_bytes())
        if state_path is not None:
            state_path.write_bytes(bundle.save(state_after(self.step)))
        yield SegmentDone(
            first_step,
            done,
            bundle.root(state_after(first_step)),
            bundle.root(state_after(self.step)),
            bundle.root(outputs),
            sums.inner(),
        )

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        assert (folder / "program.bin").read_bytes() == b"program"
        self.replayed.append(asked)
        end = asked.first_step + asked.steps
        if asked.drawn:
            end = asked.drawn[-1] + 1
            for step in asked.drawn:
                (target / state_file(step)).write_bytes(bundle.save(state_after(step)))
        else:
            roots = [bundle.root(state_after(n)) for n in range(asked.first_step, end + 1)]
            (target / ROOTS_FILE).write_bytes(b"".join(roots))
        sums = checksums_of(asked.first_step, end - asked.first_step)
        if self.flipped:
            wrong = bytearray(sums.data)
            wrong[-1] ^= 1
            sums = replace(sums, data=bytes(wrong))
        (target / CHECKSUMS_FILE).write_bytes(sums.to_bytes())

    async def interrupt(self) -> None:
        self._interrupted = True

    async def close_job(self) -> None:
        self.closed_jobs += 1

    async def admission(self) -> dict[str, Any]:
        return {"admitted": True, "probes": []}

    async def classification(self) -> dict[str, Any]:
        digests = {"kernels": "ab" * 32, "results": "cd" * 32}
        return {**digests, "deterministic": True, "failures": [], "reason": ""}

    async def benchmark(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        self.dead = True
