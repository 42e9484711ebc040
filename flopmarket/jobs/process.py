"""The engine process: one device, one job at a time, in a process of its own.

``python -m flopmarket.jobs.process --device SPEC`` reads commands and writes events as JSON lines
on its standard streams; tensors pass through files in the job's folder. A driver that crashes,
hangs or runs out of memory takes this process with it and nothing else. It opens no socket. When
its parent goes away it ends at the next step boundary, or after a few seconds in any case.

Parent side: :mod:`flopmarket.jobs.host` (worker executor and coordinator auditor alike).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.program import Program
from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import checksums_path
from flopmarket.jobs.instrument import instrument
from flopmarket.jobs.judging_steps import StepInputs
from flopmarket.jobs.questions import (
    FlipQuestion,
    StepsQuestion,
    TraceQuestion,
    TraceStart,
    ValuesQuestion,
)
from flopmarket.jobs.retracing import Retrace
from flopmarket.jobs.roots import roots_path
from flopmarket.jobs.runner import JobRunner, check_job
from flopmarket.jobs.spec import JobSpec, Mode
from flopmarket.limits import MAX_CONTROL_LINE_BYTES
from flopmarket.trust.dispute_documents import DisputeOpening
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import decode, encode

if TYPE_CHECKING:
    from flopmarket.engine.runtime.devices import DeviceInfo
    from flopmarket.engine.runtime.opencl import Device
    from flopmarket.engine.runtime.resident import CompileOptions
    from flopmarket.engine.runtime.session import Session
    from flopmarket.jobs.bundle import Tensors
    from flopmarket.jobs.proving import Proving

PROGRAM_FILE = "program.bin"
FROZEN_FILE = "frozen.safetensors"
DATA_FILE = "data.safetensors"

_PROGRESS_SECONDS = 0.1
_STOPPABLE = ("run", "trace_open", "trace_answer", "trace_end", "replay_steps", "find_flips")
_ORPHAN_SECONDS = 5.0

Command = dict[str, Any]
Fields = dict[str, Any]


class EngineServer:
    """Executes commands one after another; ``emit`` sends events, ``stop`` is set by interrupts."""

    def __init__(
        self,
        device: str | None,
        cache_dir: Path | None,
        emit: Callable[[Fields], None],
        stop: threading.Event,
    ) -> None:
        self._device = device
        self._cache_dir = cache_dir
        self._emit = emit
        self._stop = stop
        self._runner: JobRunner | None = None
        self._retrace: Retrace | None = None
        self._close: Callable[[], None] = lambda: None
        self._proving: Proving | None = None

    def open_device(self, info: DeviceInfo, options: CompileOptions) -> Device:
        """Open a device that work will run on."""
        from flopmarket.engine.runtime.open import opened

        return opened(info, options)

    def handle(self, command: Command) -> Fields:
        """Execute one command; returns the fields of its last event."""
        handlers: dict[str, Callable[[Command], Fields]] = {
            "info": self._info,
            "open": self._open,
            "load_state": self._load_state,
            "run": self._run,
            "trace_open": self._trace_open,
            "trace_answer": self._trace_answer,
            "trace_end": self._trace_end,
            "replay_steps": self._replay_steps,
            "find_flips": self._find_flips,
            "judge_step": self._judge_step,
            "close_job": self._close_job,
            "admission": self._admission,
            "classification": self._classification,
            "benchmark": self._benchmark,
            "prove": self._prove,
            "recompute": self._recompute,
        }
        name = str(command.get("op"))
        if name not in handlers:
            raise InvalidInput(f"unknown command {name!r}", code="ENGINE_COMMAND")
        return handlers[name](command)

    def _info(self, command: Command) -> Fields:
        if self._device == "reference":
            return {"info": {"name": "reference interpreter", "device_id": "reference"}}
        from flopmarket.engine.runtime import devices

        return {"info": dataclasses.asdict(devices.find(self._device))}

    def open_session(self, program: Program, spec: JobSpec, *, fusion: bool = True) -> Session:
        """A session of a job's instrumented program, by the numerics of the job."""
        from flopmarket.engine.runtime.open import open_session
        from flopmarket.engine.runtime.resident import CompileOptions

        numerics = Numerics.FAST if spec.mode is Mode.CLASS else Numerics.EXACT
        options = CompileOptions(fusion=fusion, cache_dir=self._cache_dir, numerics=numerics)
        return open_session(program, self._device, options, opener=self.open_device)

    def _job(self, command: Command) -> tuple[JobSpec, Program, Tensors, Tensors]:
        """Spec, program, frozen tensors and data of a command's job, which fit each other."""
        folder = Path(command["folder"])
        spec = decode(JobSpec, bytes.fromhex(command["spec"]))
        program = Program.from_bytes((folder / PROGRAM_FILE).read_bytes())
        frozen = bundle.read(folder / FROZEN_FILE)
        data = bundle.read(folder / DATA_FILE)
        check_job(spec, program, frozen, data)
        return spec, program, frozen, data

    def _open(self, command: Command) -> Fields:
        self._close_job(command)
        spec, program, frozen, data = self._job(command)
        session = self.open_session(instrument(program), spec)
        self._close = session.close
        self._runner = JobRunner(session, spec, frozen, data)
        return {}

    def _load_state(self, command: Command) -> Fields:
        state = bundle.read(Path(command["path"])) if command["path"] else {}
        return {"state_root": self._opened().load(state, int(command["step"])).hex()}

    def _run(self, command: Command) -> Fields:
        runner = self._opened()
        last_report = 0.0

        def on_step(step: int, scalars: Mapping[str, float]) -> None:
            nonlocal last_report
            now = time.monotonic()
            if now - last_report >= _PROGRESS_SECONDS:
                last_report = now
                self._emit({"event": "step", "step": step, "scalars": dict(scalars)})

        began = time.monotonic()
        result = runner.run_segment(
            int(command["first_step"]),
            int(command["count"]),
            on_step=on_step,
            should_stop=self._stop.is_set,
            roots_ppm=int(command.get("roots_ppm", 0)),
        )
        # Files on disk are no work that is sold, nor is what an audit may ask for.
        run_us = round((time.monotonic() - began) * 1e6) - result.roots_us
        _write(Path(command["outputs_path"]), bundle.save(result.outputs))
        if result.checksums is not None:
            _write(checksums_path(Path(command["outputs_path"])), result.checksums.to_bytes())
        if result.roots is not None:
            _write(roots_path(Path(command["outputs_path"])), result.roots.to_bytes())
        if command["state_path"]:
            _write(Path(command["state_path"]), bundle.save(result.state))
        return {
            "first_step": result.first_step,
            "steps_done": result.steps_done,
            "state_root_before": result.state_root_before.hex(),
            "state_root_after": result.state_root_after.hex(),
            "outputs_root": result.outputs_root.hex(),
            "inner": result.inner.hex(),
            "run_us": run_us,
        }

    def _trace_open(self, command: Command) -> Fields:
        self._close_job(command)
        folder = Path(command["folder"])
        state = Path(command["state_path"]) if command["state_path"] else None
        opening = decode(DisputeOpening, bytes.fromhex(command["opening"]))
        self._retrace = Retrace(
            decode(JobSpec, bytes.fromhex(command["spec"])),
            Program.from_bytes((folder / PROGRAM_FILE).read_bytes()),
            bundle.read(folder / FROZEN_FILE),
            bundle.read(folder / DATA_FILE),
            TraceStart(opening, state, int(command["state_step"])),
            self._device,
            self._cache_dir,
            self._stop.is_set,
        )
        self._close = self._retrace.close
        return {}

    def _trace_answer(self, command: Command) -> Fields:
        payload = self._traced().answer(TraceQuestion.of_fields(command))
        _write(Path(command["path"]), encode(payload))
        return {}

    def _trace_end(self, command: Command) -> Fields:
        place = Place(int(command["step"]), int(command["operation"]), int(command["tile"]))
        state, outputs = self._traced().end_after(place, Path(command["tile_path"]).read_bytes())
        return {"state_root": state.hex(), "outputs_root": outputs.hex()}

    def _replay_steps(self, command: Command) -> Fields:
        """A segment again for a step audit; a job that is open is closed before."""
        self._close_job(command)
        from flopmarket.jobs.replay import Replay
        from flopmarket.jobs.step_values import DeviceValues
        from flopmarket.jobs.stepping import StepReplay

        spec, program, frozen, data = self._job(command)
        session = self.open_session(instrument(program), spec)
        values = DeviceValues(program, lambda own: self.open_session(own, spec, fusion=False))
        try:
            replay = Replay(session, program, spec, frozen, data, self._stop.is_set)
            answer = StepReplay(replay, values).answer(StepsQuestion.of_command(command))
            for name, content in answer:
                _write(Path(command["target"]) / name, content)
        finally:
            values.close()
            session.close()
        return {}

    def _judge_step(self, command: Command) -> Fields:
        """Judge the values that a worker claims of one step; a job that is open stays open."""
        from flopmarket.jobs.step_verdict import verdict_of_step

        question = ValuesQuestion.of_command(command)
        spec, program, frozen, data = self._job(command)
        state = StepInputs(spec, question.step, frozen, data, {})
        return verdict_of_step(
            question, program, state, self._device, lambda alone: self.open_session(alone, spec)
        ).to_fields()

    def _find_flips(self, command: Command) -> Fields:
        """Look for bits that flipped once; the job is closed before and after."""
        self._close_job(command)
        from flopmarket.jobs.flips import FlipSearch
        from flopmarket.jobs.replay import Replay

        spec, program, frozen, data = self._job(command)
        session = self.open_session(instrument(program), spec)
        try:
            replay = Replay(session, program, spec, frozen, data, self._stop.is_set)
            found = FlipSearch(replay, FlipQuestion.of_command(command)).find()
        finally:
            session.close()
        return {"flips": [flip.to_fields() for flip in found]}

    def _traced(self) -> Retrace:
        if self._retrace is None:
            raise Conflict("no segment is open", code="ENGINE_NO_JOB")
        return self._retrace

    def _close_job(self, command: Command) -> Fields:
        """Overwrite and free the device memory of the job, and of a benchmark challenge."""
        if self._proving is not None:
            self._proving.close()
        close, self._close = self._close, lambda: None
        self._runner = self._retrace = None
        close()
        return {}

    def _admission(self, command: Command) -> Fields:
        if self._device == "reference":
            raise InvalidInput(
                "the reference is the law; it is not admitted", code="ENGINE_COMMAND"
            )
        from flopmarket.engine.admission import admit
        from flopmarket.engine.runtime import devices
        from flopmarket.engine.runtime.resident import CompileOptions

        options = CompileOptions(cache_dir=self._cache_dir)
        with self.open_device(devices.find(self._device), options) as device:
            return {"admission": dataclasses.asdict(admit(device))}

    def _classification(self, command: Command) -> Fields:
        if self._device == "reference":
            raise InvalidInput("the reference is exact; it has no class", code="ENGINE_COMMAND")
        from flopmarket.engine.classes import classify
        from flopmarket.engine.runtime import devices
        from flopmarket.engine.runtime.resident import CompileOptions

        options = CompileOptions(cache_dir=self._cache_dir)
        with self.open_device(devices.find(self._device), options) as device:
            report = classify(device)
        return {"classification": {**dataclasses.asdict(report), "reason": report.reason}}

    def _benchmark(self, command: Command) -> Fields:
        from flopmarket.bench import benchmark

        return {"benchmark": benchmark(self._device, cache_dir=self._cache_dir).to_json()}

    def _prove(self, command: Command) -> Fields:
        """A step of a benchmark challenge; a job that is open is closed first."""
        if self._proving is None:
            from flopmarket.jobs.proving import proving_on

            self._proving = proving_on(self._device, self._cache_dir, self.open_device)
        if command["step"] == "open":
            self._close_job(command)
        document = bytes.fromhex(command["document"])
        return {"document": self._proving.step(command["step"], document).hex()}

    def _recompute(self, command: Command) -> Fields:
        from flopmarket.jobs.proving import recomputed

        values = recomputed(command, self._device, self._cache_dir)
        return {"values": [value.hex() for value in values]}

    def _opened(self) -> JobRunner:
        if self._runner is None:
            raise Conflict("no job is open", code="ENGINE_NO_JOB")
        return self._runner


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, also when this process is killed in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def describe(error: Exception) -> Fields:
    """The error as event fields; an unforeseen one keeps its type and text, not its traceback."""
    if isinstance(error, FlopmarketError | EngineError):
        return {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "hint": error.hint,
        }
    return {
        "code": "ENGINE_FAILED",
        "message": f"{type(error).__name__}: {error}",
        "retryable": True,
        "hint": "",
    }


def serve(
    commands: IO[bytes],
    events: IO[bytes],
    device: str | None,
    cache: Path | None,
    kind: type[EngineServer] = EngineServer,
) -> None:
    """Answer commands until the stream ends or ``exit`` comes."""
    queue: SimpleQueue[Command | None] = SimpleQueue()
    stop = threading.Event()

    def read() -> None:
        while line := commands.readline(MAX_CONTROL_LINE_BYTES):
            command = json.loads(line)
            if command["op"] == "interrupt":
                stop.set()
            else:
                queue.put(command)
        stop.set()
        queue.put(None)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(1)

    def emit(fields: Fields) -> None:
        events.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        events.flush()

    threading.Thread(target=read, name="commands", daemon=True).start()
    server = kind(device, cache, emit, stop)
    while (command := queue.get()) is not None and command["op"] != "exit":
        try:
            emit({"event": "done", **server.handle(command)})
        except Exception as error:  # the boundary of the process: every failure is an answer
            emit({"event": "error", **describe(error)})
        if command["op"] in _STOPPABLE:
            stop.clear()
    server.handle({"op": "close_job"})


def main(kind: type[EngineServer] = EngineServer) -> None:
    """Entry point of ``python -m flopmarket.jobs.process``."""
    parser = argparse.ArgumentParser(prog="flopmarket-engine")
    parser.add_argument("--device")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--nice", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.nice:
        os.nice(arguments.nice)
    # Drivers print what they like; only events may reach the parent's pipe.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, events, arguments.device, arguments.cache_dir, kind)
    # The reading thread holds stdin's lock, which an ordinary exit would wait for.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
