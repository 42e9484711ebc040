"""The coordinator's own auditor: reads the files of every segment, recomputes some of them.

Files are read in a loop of their own, so that none waits for a recomputation. Recomputations are
taken one at a time, those of a job in the order of its steps. When one starts where the last one
ended, the engine just goes on; otherwise the last durable state is loaded and replayed up to the
start, and each segment on the way is compared with what was committed. What comes out is reported
as it is: verdicts are the application's. An engine that dies, hangs or has no device is our fault
and never a verdict: the job waits, longer each time, while others are audited.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flopmarket.errors import FlopmarketError, InvalidInput, Kind, Unavailable
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import checksums_path
from flopmarket.jobs.host import Engine, EngineProcess, JobRefused, SegmentDone
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import AUDIT_RETRY_MAX_SECONDS
from flopmarket.trust.encoding import decode
from flopmarket.trust.step_audit import Finding
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditResult,
    AuditTask,
    FilesResult,
    JobRefusedByAuditor,
    PathDiffers,
    PathSegment,
)
from flopmarket_coordinator.application.types_steps import StepsFound
from flopmarket_coordinator.artifacts import ArtifactStore
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.step_checks import look_at_steps, next_event

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_NICE = 5
REFERENCE_DEVICE = "reference"
_OUTPUTS_FILE = "outputs.safetensors"

Done = TypeVar("Done")
StartEngine = Callable[[], Awaitable[Engine]]

# Refusals that speak of how the engine was asked, not of the job: a fault of ours.
_OUR_FAULTS = ("ENGINE_", "SEGMENT_", "JOB_NOT_OPEN")


@dataclass(frozen=True, slots=True)
class _Position:
    """Which state the engine holds now."""

    job_id: str
    step: int
    state_root: bytes


class Recomputer:
    """One engine and what it has loaded. ``folder`` is its own and holds one job's files.

    ``start_engine`` starts an engine, at first use and after each failure.
    """

    def __init__(self, artifacts: ArtifactStore, folder: Path, start_engine: StartEngine) -> None:
        self._artifacts = artifacts
        self._folder = folder
        self._start_engine = start_engine
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()  # recomputations and looks at steps take turns
        self._job_id = ""
        self._position: _Position | None = None

    async def warm(self) -> None:
        """Start the engine now, so that the first audit does not wait for its admission."""
        if self._engine is None:
            self._engine = await self._start_engine()

    async def read_files(self, task: AuditTask) -> FilesResult:
        """The roots of the files that were uploaded; beside a recomputation, if one runs."""
        return FilesResult(
            outputs_artifact_root=await self._root_of(task.outputs_artifact),
            checkpoint_artifact_root=await self._root_of(task.checkpoint_artifact),
        )

    async def recompute(self, task: AuditTask) -> AuditResult | PathDiffers | JobRefusedByAuditor:
        """The segment as this engine computes it, and the roots of the files that were uploaded;
        or the first segment before it that this engine computes otherwise.

        Raises :class:`Unavailable` when the engine cannot work now; the next call starts another.
        """
        async with self._turn:
            done = await self._guarded(self._recompute(task))
        if isinstance(done, PathDiffers | JobRefusedByAuditor):
            return done
        files = await self.read_files(task)
        return AuditResult(
            state_root=done.state_root_after,
            outputs_root=done.outputs_root,
            outputs_artifact_root=files.outputs_artifact_root,
            checkpoint_artifact_root=files.checkpoint_artifact_root,
            inner=done.inner,
        )

    async def check_steps(self, task: AuditTask) -> StepsFound | JobRefusedByAuditor:
        """The drawn steps of a segment, run from the states that its worker handed over.

        Raises what :meth:`recompute` does.
        """
        async with self._turn:
            found = await self._guarded(self._check_steps(task))
        if isinstance(found, JobRefusedByAuditor):
            return found
        files = await self.read_files(task)
        return StepsFound(found, files.outputs_artifact_root, files.checkpoint_artifact_root)

    async def _check_steps(self, task: AuditTask) -> Finding:
        assert task.step_task is not None, "the task is of this kind"
        engine = await self._open(task)
        self._position = None  # each step starts from a state of its own
        stateless = decode(JobSpec, task.spec).state_root == bundle.EMPTY_ROOT
        return await look_at_steps(
            engine, task.step_task, task.spec, self._folder, self._artifacts.path, stateless
        )

    async def _guarded(self, doing: Awaitable[Done]) -> Done | JobRefusedByAuditor:
        """What comes of ``doing``, or that the engine will not run the job."""
        try:
            return await doing
        except JobRefused as error:
            if error.code.startswith(_OUR_FAULTS):
                await self.close()
                raise Unavailable(error.message, code=error.code) from error
            await self._forget_job()
            return JobRefusedByAuditor(error.code, error.message)
        except BaseException:
            # Cancelled or broken: what the engine holds is unknown.
            await self.close()
            raise

    async def close(self) -> None:
        """End the engine and remove the job's files."""
        engine, self._engine = self._engine, None
        self._job_id, self._position = "", None
        if engine is not None:
            with contextlib.suppress(FlopmarketError):
                await engine.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _recompute(self, task: AuditTask) -> SegmentDone | PathDiffers:
        engine = await self._open(task)
        start = _Position(task.job_id, task.first_step, task.state_root_before)
        if self._position != start:
            wrong = await self._go_to(engine, task)
            if wrong is not None:
                return wrong
        done = await self._run(engine, task.first_step, task.steps)
        self._position = _Position(task.job_id, task.first_step + task.steps, done.state_root_after)
        return done

    async def _open(self, task: AuditTask) -> Engine:
        await self.warm()
        engine = self._engine
        assert engine is not None
        if self._job_id != task.job_id:
            await self._forget_job()
            await asyncio.to_thread(self._place_files, task)
            await engine.open(self._folder, task.spec)
            self._job_id = task.job_id
        return engine

    async def _forget_job(self) -> None:
        if self._engine is not None and self._job_id:
            self._job_id, self._position = "", None
            await self._engine.close_job()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place_files(self, task: AuditTask) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, digest in (
            (PROGRAM_FILE, task.program_artifact),
            (FROZEN_FILE, task.frozen_artifact),
            (DATA_FILE, task.data_artifact),
        ):
            if digest:
                _link(self._artifacts.path(digest), self._folder / name)

    async def _go_to(self, engine: Engine, task: AuditTask) -> PathDiffers | None:
        """Run to where the segment starts, from where the engine is on the way there, or else from
        the last durable state; the first segment on the way that differs, if one does.
        """
        position = self._position
        left = _path_from(task, position)
        if left is None or position is None:
            left, step = task.path, task.replay_step
            root = await self._load(engine, task)
        else:
            step, root = position.step, position.state_root
        self._position = None
        for part in left:
            done = await self._run(engine, part.first_step, part.steps)
            step, root = part.end_step, done.state_root_after
            if (root, done.outputs_root) != (part.root_after, part.outputs_root):
                if part.recomputed:
                    raise _replay_differs(step, root, part.root_after)
                return PathDiffers(part.segment_id, root, done.outputs_root)
        segment_steps = decode(JobSpec, task.spec).segment_steps
        while step < task.first_step:
            done = await self._run(engine, step, min(segment_steps, task.first_step - step))
            step, root = step + done.steps_done, done.state_root_after
        if root != task.state_root_before:
            raise _replay_differs(step, root, task.state_root_before)
        return None

    async def _load(self, engine: Engine, task: AuditTask) -> bytes:
        """Give the engine the state that the replay starts from; its root."""
        self._position = None
        path = self._artifacts.path(task.replay_artifact) if task.replay_artifact else None
        root = await engine.load_state(path, task.replay_step)
        if root != task.replay_root:
            if task.replay_step == 0:
                raise JobRefused(
                    f"the initial state has root {root.hex()}, the job binds "
                    f"{task.replay_root.hex()}",
                    code="JOB_STATE",
                )
            raise Unavailable(
                f"stored state {task.replay_artifact} has root {root.hex()} instead of "
                f"{task.replay_root.hex()}",
                code="STORED_STATE_DIFFERS",
            )
        return root

    async def _run(self, engine: Engine, first_step: int, count: int) -> SegmentDone:
        """All of ``count`` steps, with a bound on the silence between two of them."""
        outputs = self._folder / _OUTPUTS_FILE
        run = engine.run(first_step, count, outputs_path=outputs, state_path=None)
        try:
            while True:
                event = await next_event(run)
                if isinstance(event, SegmentDone):
                    break
        finally:
            # Not started again after its last event; before that, closing kills the engine.
            if hasattr(run, "aclose"):
                await run.aclose()
            outputs.unlink(missing_ok=True)
            checksums_path(outputs).unlink(missing_ok=True)
        if event.first_step != first_step or event.steps_done != count:
            raise Unavailable(
                f"the engine did {event.steps_done} steps from {event.first_step}, asked were "
                f"{count} from {first_step}",
                code="ENGINE_STEPS_DIFFER",
            )
        return event

    async def _root_of(self, digest: str) -> bytes | None:
        """Root of an uploaded bundle: None when the task names none, ``b""`` when it is none."""
        if not digest:
            return None
        path = self._artifacts.path(digest)
        try:
            return await asyncio.to_thread(lambda: bundle.root(bundle.read(path)))
        except InvalidInput:
            return b""


class Auditor:
    """The loop around a :class:`Recomputer`. ``now`` is a monotonic clock in seconds."""

    def __init__(
        self, backend: Backend, recomputer: Recomputer, *, now: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._recomputer = recomputer
        self._now = now
        self._waiting: dict[tuple[AuditKind, str], _Wait] = {}

    async def run(self) -> None:
        """Until cancelled; the engine is stopped on the way out."""
        try:
            try:
                await self._recomputer.warm()
            except FlopmarketError as error:
                # Tried again with the first task; an operator should know before there is one.
                _log.error("the auditor's engine does not start: %s", error)
            async with asyncio.TaskGroup() as group:
                for kind in AuditKind:
                    group.create_task(self._work(kind), name=f"auditor: {kind}")
        finally:
            await asyncio.shield(self._recomputer.close())

    async def _work(self, kind: AuditKind) -> None:
        while True:
            seen = self._backend.changed.version
            try:
                busy = await self.step(kind)
            except Exception:  # the boundary of a daemon
                _log.exception("auditor failed")
                busy = False
            if not busy:
                await self._backend.changed.wait_past(seen, _POLL_SECONDS)

    async def step(self, kind: AuditKind) -> bool:
        """Take and finish one task of a kind; False when there is none to take now."""
        backend, now = self._backend, self._now()
        excluded = frozenset(
            job for (what, job), wait in self._waiting.items() if what is kind and wait.until > now
        )
        task = await backend.query(lambda tx: backend.application.next_audit(tx, excluded, kind))
        if task is None:
            return False
        result: FilesResult | AuditResult | StepsFound | PathDiffers | JobRefusedByAuditor
        try:
            if kind is AuditKind.FILES:
                result = await self._recomputer.read_files(task)
            elif kind is AuditKind.STEPS:
                result = await self._recomputer.check_steps(task)
            else:
                result = await self._recomputer.recompute(task)
        except FlopmarketError as error:
            self._put_off(task, error)
            return True
        self._waiting.pop((kind, task.job_id), None)
        outcome = await backend.command(
            lambda tx: backend.application.audit_finished(tx, task, result)
        )
        _log.info(
            "audited %s of job %s segment %d: applied %s accepted %s %s",
            kind,
            task.job_id,
            task.segment_index,
            outcome.applied,
            outcome.accepted,
            outcome.reason_code,
        )
        return True

    def _put_off(self, task: AuditTask, error: FlopmarketError) -> None:
        """Try the job again later: no fault of the engine or the store is held against a worker."""
        before = self._waiting.get((task.kind, task.job_id))
        delay = min(before.delay * 2 if before else _RETRY_SECONDS, AUDIT_RETRY_MAX_SECONDS)
        self._waiting[task.kind, task.job_id] = _Wait(self._now() + delay, delay)
        level = logging.WARNING if error.kind is Kind.UNAVAILABLE else logging.ERROR
        _log.log(
            level,
            "audit (%s) of job %s segment %d waits %.0f s: %s",
            task.kind,
            task.job_id,
            task.segment_index,
            delay,
            error,
        )


@dataclass(frozen=True, slots=True)
class _Wait:
    until: float
    delay: float


def _replay_differs(step: int, root: bytes, known: bytes) -> Unavailable:
    """What this engine, or one before it, computed otherwise: nobody's fault but ours."""
    return Unavailable(
        f"replay to step {step} came to {root.hex()}, verified was {known.hex()}",
        code="REPLAY_DIFFERS",
    )


def _path_from(task: AuditTask, position: _Position | None) -> tuple[PathSegment, ...] | None:
    """What is left of a task's path from where an engine is; None when it is not on it."""
    if position is None or position.job_id != task.job_id:
        return None
    for place, part in enumerate(task.path):
        if (part.end_step, part.root_after) == (position.step, position.state_root):
            return task.path[place + 1 :]
    return None


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; a copy where the file system cannot link."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def start_engine_on(device: str | None, cache_dir: Path | None) -> StartEngine:
    """Starts engines in child processes on ``device``, admitted for exact mode before first use.

    The reference interpreter (device ``reference``) defines the bits and needs no admission.
    """

    async def start() -> Engine:
        engine = await EngineProcess.start(device, cache_dir=cache_dir, nice=_NICE)
        try:
            if device != REFERENCE_DEVICE:
                admission = await engine.admission()
                if not admission["admitted"]:
                    raise Unavailable(
                        f"device {device or 'number one'} does not compute the profile exactly",
                        code="AUDITOR_NOT_ADMITTED",
                        hint="choose another with --audit-device",
                    )
        except BaseException:
            await engine.stop()
            raise
        return engine

    return start
