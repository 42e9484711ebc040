"""Engines that compute something else than they are paid for, down to one bit of one operation.

Each fault changes what single operations of one step give, and everything after it follows from
that. :class:`LyingEngine` commits to it; asked about it in a dispute it says what it did
(``consistent``), or what an honest device does. For demonstrations and tests: it computes with the
reference interpreter, in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.host import Engine, SegmentDone, StepDone
from flopmarket.jobs.operations import Operation, Part
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.questions import TraceQuestion, TraceStart
from flopmarket.jobs.spec import JobSpec
from flopmarket.jobs.tracing import Evaluate, SegmentData, SegmentTrace, by_reference
from flopmarket.trust.dispute import Ask
from flopmarket.trust.dispute_documents import Claim, DisputeOpening, Party
from flopmarket.trust.encoding import decode, digest, encode, tagged_hash
from flopmarket_worker.passing import PassingEngine

_KEYS = bytes([1]) * 32, bytes([2]) * 32
"""Claims of nobody, for a replay that is no dispute."""


@dataclass(slots=True)
class Lie:
    """Evaluates operations right, but for those of one step; ``place`` is the first wrong one."""

    name: str
    step: int
    place: tuple[int, int] | None = None
    products: int = 0
    _states: dict[str, Array] | None = None

    def __call__(self, step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        right = by_reference(step, at, op, sources)
        given = _LIES[self.name](self, step, op, sources, right)
        if _kind(op) == "state":
            # A stale state is that of the step before, so it has to be remembered.
            self._states = {**(self._states or {}), _name(op): right}
        if given is None or step != self.step:
            return right
        wrong = dtypes.canonical(np.ascontiguousarray(given)).reshape(op.shape)
        if wrong.tobytes() == right.tobytes():
            return right
        if self.place is None or (step, at) < self.place:
            self.place = (step, at)
        return wrong


def _kind(op: Operation) -> str:
    is_input = op.node is not None and op.node.op is Op.INPUT
    return str(op.node.arg[0]) if is_input and op.node is not None else ""


def _name(op: Operation) -> str:
    return str(op.node.arg[1]) if op.node is not None else op.name


def _first(lie: Lie, step: int, op: Operation, what: Op) -> bool:
    """Whether this is an operation to change: the first float one of its kind in the step."""
    fits = op.node is not None and op.node.op is what and op.dtype.is_float and op.elements > 0
    return fits and step == lie.step and lie.place is None


def _wrong_op(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """Another operation in its place: a product is negated."""
    return -right if _first(lie, step, op, Op.DOT) else None


def _wrong_tile(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """One tile of a product is not computed."""
    if not _first(lie, step, op, Op.DOT):
        return None
    wrong = np.asarray(right).copy()
    wrong.reshape(-1)[op.layout.elements(op.layout.count - 1)] = 0
    return wrong


def _flipped_bit(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """One bit of the largest element of the second product (the first one's may be cut off)."""
    if not _first(lie, step, op, Op.DOT):
        return None
    lie.products += 1
    if lie.products % 2:
        return None
    wrong = np.asarray(right).copy()
    words = wrong.reshape(-1).view(dtypes.unsigned_of(op.dtype).numpy)
    words[int(np.argmax(right))] ^= words.dtype.type(1 << 12)
    return wrong


def _skipped_step(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """The state leaves the step as it came."""
    if op.part is not Part.STATE or lie._states is None:
        return None
    return lie._states.get(op.name)


def _stale_state(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """The step begins from the state before the last one."""
    if _kind(op) != "state" or lie._states is None:
        return None
    return lie._states.get(_name(op))


def _lower_precision(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """Products of half-precision operands."""
    if op.node is None or op.node.op is not Op.DOT or not op.dtype.is_float:
        return None
    halves = [s.astype(np.float16).astype(s.dtype) for s in sources[:2]]
    return by_reference(step, 0, op, [*halves, *sources[2:]])


def _wrong_data_row(
    lie: Lie, step: int, op: Operation, sources: Sequence[Array], right: Array
) -> Array | None:
    """Rows of the data in another order than the seed says."""
    return np.roll(right, 1, axis=0) if _kind(op) == "input" else None


_LIES: Mapping[str, Callable[[Lie, int, Operation, Sequence[Array], Array], Array | None]] = {
    "wrong-op": _wrong_op,
    "wrong-tile": _wrong_tile,
    "flipped-bit": _flipped_bit,
    "skipped-step": _skipped_step,
    "stale-state": _stale_state,
    "lower-precision": _lower_precision,
    "wrong-data-row": _wrong_data_row,
}
LIES = tuple(_LIES)


class LyingEngine(PassingEngine):
    """Does the work of ``engine`` with one fault in the second step of every segment (the first
    where there is one). ``consistent``: disputes are answered from the same wrong values;
    proofs are honest, for only paid work is falsified."""

    def __init__(self, engine: Engine, fault: str, *, consistent: bool = True) -> None:
        super().__init__(engine)
        self._fault = fault
        self._consistent = consistent
        self._job: tuple[JobSpec, Program, Tensors, Tensors] | None = None
        self._state: Tensors = {}
        self._traced: tuple[SegmentTrace, Lie] | None = None
        self.places: list[tuple[int, int]] = []
        """Step of the segment and operation of every fault that was committed to."""

    async def open(self, folder: Path, spec: bytes) -> None:
        await self._engine.open(folder, spec)
        self._job = _read(folder, spec)

    async def load_state(self, path: Path | None, step: int) -> bytes:
        self._state = bundle.read(path) if path is not None else {}
        return await self._engine.load_state(path, step)

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """All steps at once; an interrupt comes too late."""
        before = bundle.root(self._state)
        state, outputs, place = await asyncio.to_thread(self._lied, first_step, count)
        if place is not None:
            self.places.append(place)
        self._state = state
        outputs_path.write_bytes(bundle.save(outputs))
        if state_path is not None:
            state_path.write_bytes(bundle.save(state))
        yield StepDone(first_step + count, {})
        roots = bundle.root(state), bundle.root(outputs)
        inner = tagged_hash("flopmarket.lie.v1", *roots)
        yield SegmentDone(first_step, count, before, *roots, inner, 1)

    async def trace_open(self, folder: Path, spec: bytes, start: TraceStart) -> None:
        """Honest up to the disputed segment."""
        await self._engine.trace_open(folder, spec, start)
        if self._consistent:
            self._traced = await asyncio.to_thread(_retraced, folder, spec, start, self._fault)

    async def trace_answer(self, question: TraceQuestion, path: Path) -> None:
        if self._traced is None:
            await self._engine.trace_answer(question, path)
            return
        trace, lie = self._traced
        lie.place, lie.products = None, 0
        ask = Ask(Party.PRODUCER, question.level, question.place, 0)
        payload = await asyncio.to_thread(trace.answer, ask)
        path.write_bytes(encode(payload))

    async def close_job(self) -> None:
        self._job = self._traced = None
        await self._engine.close_job()

    def _lied(self, first_step: int, count: int) -> tuple[Tensors, Tensors, tuple[int, int] | None]:
        assert self._job is not None, "a job is open"
        spec, program, frozen, data = self._job
        problem = JobProblem(_nobodys(spec, first_step, count, self._state), spec, program)
        lie = Lie(self._fault, min(1, count - 1))
        state, outputs = SegmentTrace(problem, SegmentData(frozen, data, self._state), lie).run()
        return state, outputs, lie.place


def _read(folder: Path, spec: bytes) -> tuple[JobSpec, Program, Tensors, Tensors]:
    program = Program.from_bytes((folder / PROGRAM_FILE).read_bytes())
    frozen, data = bundle.read(folder / FROZEN_FILE), bundle.read(folder / DATA_FILE)
    return decode(JobSpec, spec), program, frozen, data


def _nobodys(spec: JobSpec, first_step: int, steps: int, state: Tensors) -> DisputeOpening:
    """What a replay needs to know of a segment."""
    ours, theirs = (Claim(key, bytes(32), bytes(32), bytes(32)) for key in _KEYS)
    root = bundle.root(state)
    return DisputeOpening("", digest(spec), 0, first_step, steps, root, ours, theirs, 0, 1)


def _retraced(
    folder: Path, spec_bytes: bytes, start: TraceStart, fault: str
) -> tuple[SegmentTrace, Lie]:
    """The disputed segment again with the same fault, from where honest steps lead to it."""
    spec, program, frozen, data = _read(folder, spec_bytes)
    state = bundle.read(start.path) if start.path is not None else {}
    first, opening = start.opening.first_step, start.opening
    if state and start.step < first:
        before = _nobodys(spec, start.step, first - start.step, state)
        honest: Evaluate = by_reference
        problem = JobProblem(before, spec, program)
        state, _ = SegmentTrace(problem, SegmentData(frozen, data, state), honest).run()
    lie = Lie(fault, min(1, opening.steps - 1))
    problem = JobProblem(opening, spec, program)
    return SegmentTrace(problem, SegmentData(frozen, data, state), lie), lie
