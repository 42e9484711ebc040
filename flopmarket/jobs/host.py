"""The parent's side of an engine process: start it, give it segments, survive its death.

Used by the worker's executor and by the coordinator's auditor. Asynchronous; one command at a time,
except ``interrupt`` and ``kill``, which may come while one runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from flopmarket.errors import FlopmarketError, Kind, Unavailable
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
from flopmarket.limits import MAX_CONTROL_LINE_BYTES
from flopmarket.trust.dispute_port import Place

_STOP_SECONDS = 8.0


class EngineProcessDied(Unavailable):
    """The child is gone: driver crash, out of memory, or killed. Nothing of the job is lost."""

    default_code = "ENGINE_PROCESS_DIED"


class JobRefused(FlopmarketError):
    """The engine will not run this: a bad program, wrong roots, or more memory than it has."""

    kind = Kind.INVALID
    default_code = "JOB_REFUSED"


@dataclass(frozen=True, slots=True)
class StepDone:
    """Progress: steps of the job done so far, and scalar outputs of the last one."""

    step: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """End of a segment; its files are written. Roots and ``inner`` are 32 bytes.

    ``run_us`` is the engine's time for its steps and roots, 0 when an engine does not tell.
    """

    first_step: int
    steps_done: int
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    inner: bytes
    run_us: int = 0


class Engine(Protocol):
    """What executor and auditor ask of an engine; :class:`EngineProcess` is the real one."""

    @property
    def device_info(self) -> Mapping[str, Any]:
        """The device card, as JSON values."""
        ...

    async def open(self, folder: Path, spec: bytes) -> None:
        """Open the job whose files are in ``folder`` and whose canonical spec is ``spec``."""
        ...

    async def load_state(self, path: Path | None, step: int) -> bytes:
        """Load the state after ``step`` steps; returns its root."""
        ...

    def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """Run a segment; the last event is SegmentDone.

        Outputs and, if asked, the end state are written to files, and beside the outputs the list
        of checksums (``checksums_path``), where it is not too long to keep. ``roots_ppm`` is the
        chance that the roots of all states will be asked for: where it is worth what they cost they
        are written there too (``roots_path``). Abandoning the iteration ends the engine: use
        ``interrupt`` to stop early.
        """
        ...

    async def interrupt(self) -> None:
        """End the running segment after its present step."""
        ...

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        """Open a disputed segment of the job in ``folder`` for questions; ends a job that is open.

        JobRefused when the files are not the job's, or TRACE_ABORTED after ``interrupt``.
        """
        ...

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        """Write the canonical bytes of the list that a dispute asks for to ``path``."""
        ...

    async def trace_end(self, place: Place, tile_path: Path) -> tuple[bytes, bytes]:
        """State root and outputs root of the segment if the tile at ``place`` had the bytes
        of a file and everything after it were right."""
        ...

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        """Run a segment of the job in ``folder`` again; ends a job that is open.

        Into the folder ``target`` go ``checksums.bin`` and either ``roots.bin`` or a file for each
        drawn step (:mod:`flopmarket.jobs.stepping`). JobRefused when the files are not the job's,
        or TRACE_ABORTED after ``interrupt``.
        """
        ...

    async def close_job(self) -> None:
        """Overwrite and free the job's device memory."""
        ...

    async def admission(self) -> dict[str, Any]:
        """Probe the device for exact mode."""
        ...

    async def classification(self) -> dict[str, Any]:
        """The device's class for fast kernels: ``engine.classes.ClassReport`` as JSON values."""
        ...

    async def benchmark(self) -> dict[str, Any]:
        """Measure the device."""
        ...

    async def stop(self) -> None:
        """End the process in good order, or by force after a few seconds."""
        ...


@runtime_checkable
class Provable(Protocol):
    """An engine that answers benchmark challenges; simulated ones do not."""

    async def prove(self, step: str, document: bytes = b"") -> bytes:
        """One step of :class:`flopmarket.jobs.proving.Proving`."""
        ...


@runtime_checkable
class FlipFinder(Protocol):
    """An engine that looks for bits that flipped once; it must compute FX1."""

    async def find_flips(self, folder: Path, spec: bytes, asked: FlipQuestion) -> tuple[Flip, ...]:
        """See :class:`flopmarket.jobs.flips.FlipSearch`, for the job in ``folder``; ends a job that
        is open. JobRefused when the files are not the job's."""
        ...


@runtime_checkable
class StepJudge(Protocol):
    """An engine that judges steps of tolerance mode; it must compute FX1. Simulated ones do not."""

    async def judge_step(self, question: ValuesQuestion) -> StepVerdict:
        """See :func:`flopmarket.jobs.step_verdict.verdict_of_step`."""
        ...


class EngineProcess:
    """One child process with one device. Use :meth:`start`, and always :meth:`stop`.

    ``module`` is what the child runs: :mod:`flopmarket.jobs.process`, or one that calls its
    ``main``.
    """

    module: ClassVar[str] = "flopmarket.jobs.process"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()
        self._reading = asyncio.Lock()  # a stream has one reader, and whoever stops reads, too
        self._info: dict[str, Any] = {}

    @classmethod
    async def start(
        cls, device: str | None, *, cache_dir: Path | None = None, nice: int = 0
    ) -> Self:
        """Spawn the child for ``device`` (None: the first one) and read its device card.

        Raises EngineProcessDied when it does not come up, JobRefused when there is no such device.
        """
        arguments = ["--nice", str(nice)]
        if device is not None:
            arguments += ["--device", device]
        if cache_dir is not None:
            arguments += ["--cache-dir", str(cache_dir)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            cls.module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_CONTROL_LINE_BYTES,
            env={**os.environ, "PYOPENCL_NO_CACHE": "1"},
            start_new_session=True,  # a Ctrl-C of the terminal is for the agent to translate
        )
        engine = cls(process)
        try:
            engine._info = (await engine._call({"op": "info"}))["info"]
        except BaseException:
            await engine.stop()
            raise
        return engine

    @property
    def device_info(self) -> Mapping[str, Any]:
        return self._info

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.returncode is None

    async def open(self, folder: Path, spec: bytes) -> None:
        await self._call({"op": "open", "folder": str(folder), "spec": spec.hex()})

    async def load_state(self, path: Path | None, step: int) -> bytes:
        answer = await self._call(
            {"op": "load_state", "path": str(path) if path else "", "step": step}
        )
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
        command = {
            "op": "run",
            "first_step": first_step,
            "count": count,
            "outputs_path": str(outputs_path),
            "state_path": str(state_path) if state_path else "",
            "roots_ppm": roots_ppm,
        }
        async with self._lock:
            await self._send(command)
            try:
                while (event := await self._receive())["event"] == "step":
                    yield StepDone(event["step"], event["scalars"])
            except (GeneratorExit, asyncio.CancelledError):
                # Nobody waits for this segment any more, and the answers to come belong to nobody.
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                raise
        yield SegmentDone(
            event["first_step"],
            event["steps_done"],
            bytes.fromhex(event["state_root_before"]),
            bytes.fromhex(event["state_root_after"]),
            bytes.fromhex(event["outputs_root"]),
            bytes.fromhex(event["inner"]),
            int(event["run_us"]),
        )

    async def interrupt(self) -> None:
        await self._send({"op": "interrupt"})

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        await self._call(trace_open_command(folder, spec, start))

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        await self._call(trace_answer_command(question, path))

    async def trace_end(self, place: Place, tile_path: Path) -> tuple[bytes, bytes]:
        answer = await self._call(trace_end_command(place, tile_path))
        return bytes.fromhex(answer["state_root"]), bytes.fromhex(answer["outputs_root"])

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        await self._call(asked.to_command(folder, spec, target))

    async def judge_step(self, question: ValuesQuestion) -> StepVerdict:
        return StepVerdict.of_fields(await self._call(question.to_command()))

    async def find_flips(self, folder: Path, spec: bytes, asked: FlipQuestion) -> tuple[Flip, ...]:
        found = (await self._call(asked.to_command(folder, spec)))["flips"]
        return tuple(Flip.of_fields(each) for each in found)

    async def close_job(self) -> None:
        await self._call({"op": "close_job"})

    async def admission(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call({"op": "admission"}))["admission"]
        return answer

    async def classification(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call({"op": "classification"}))["classification"]
        return answer

    async def benchmark(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call({"op": "benchmark"}))["benchmark"]
        return answer

    async def prove(self, step: str, document: bytes = b"") -> bytes:
        command = {"op": "prove", "step": step, "document": document.hex()}
        return bytes.fromhex((await self._call(command))["document"])

    async def recompute(self, command: Mapping[str, Any]) -> tuple[bytes, ...]:
        """Opened places of a challenge, as ``jobs.proving.recompute_command`` has them."""
        answer = await self._call({"op": "recompute", **command})
        return tuple(bytes.fromhex(value) for value in answer["values"])

    async def stop(self) -> None:
        if self.alive:
            with contextlib.suppress(EngineProcessDied):
                await self._send({"op": "interrupt"})
                await self._send({"op": "exit"})
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    # Drain, or a child that writes into a full pipe could not end.
                    assert self._process.stdout is not None
                    async with self._reading:
                        while await self._process.stdout.read(MAX_CONTROL_LINE_BYTES):
                            pass
                    await self._process.wait()
            except TimeoutError:
                await self.kill()
        self._release()

    async def kill(self) -> None:
        """End the child at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._release()

    def _release(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def _call(self, command: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            await self._send(command)
            return await self._receive()

    async def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._died() from None

    async def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with self._reading:
            line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise await self._died()
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            kind = Unavailable if event["retryable"] else JobRefused
            raise kind(
                event["message"],
                code=event["code"],
                retryable=event["retryable"],
                hint=event["hint"],
            )
        return event

    async def _died(self) -> EngineProcessDied:
        status = await self._process.wait()
        return EngineProcessDied(
            f"the engine process {self._process.pid} ended with status {status}",
            details={"status": str(status)},
        )
