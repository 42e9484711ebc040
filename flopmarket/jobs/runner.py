"""The scan: one job advanced segment by segment on one session.

Worker, auditor and ``run_local`` all run this and nothing else, so the digests they compute can
only differ when the arithmetic did. Inputs of a step are rows of the data chosen by the seed; a
segment's result is what a commitment signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.engine.exact import PROFILE
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import Conflict, InvalidInput, LimitExceeded
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import ChecksumList, ListBuilder
from flopmarket.jobs.instrument import CHECKSUMS
from flopmarket.jobs.order import RowSchedule
from flopmarket.jobs.roots import RootsKeeper, StateRoots
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_SEGMENT_OUTPUT_BYTES

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called after every step with the number of steps of the job done so far and scalar outputs."""


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What one segment came to. Roots and ``inner`` are 32 bytes.

    ``inner`` is the hash of ``checksums``, which is None where the list passes its limit;
    ``outputs`` stacks every output along a new first axis of ``steps_done``; ``state`` is the very
    copy that ``state_root_after`` is the root of. ``roots`` are those of all states, where they
    were asked for and are worth what they cost, which was ``roots_us``.
    """

    first_step: int
    steps_done: int
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    inner: bytes
    checksums: ChecksumList | None
    outputs: Tensors
    state: Tensors
    roots: StateRoots | None = None
    roots_us: int = 0


def check_job(spec: JobSpec, program: Program, frozen: Tensors, data: Tensors) -> None:
    """Raise InvalidInput unless these are what ``spec`` binds and the program can run on them.

    Codes: JOB_PROFILE, JOB_PROGRAM, JOB_FROZEN, JOB_DATA, JOB_MEMORY, BUNDLE_MISMATCH.
    """
    if spec.profile != PROFILE:
        raise InvalidInput(f"profile {spec.profile!r}; this is {PROFILE}", code="JOB_PROFILE")
    if program.digest != spec.program_digest:
        raise InvalidInput("the program is not the one the job names", code="JOB_PROGRAM")
    if program.cost.peak_memory_bytes > spec.max_memory_bytes:
        raise InvalidInput(
            f"the program needs {program.cost.peak_memory_bytes} bytes, the job allows "
            f"{spec.max_memory_bytes}",
            code="JOB_MEMORY",
        )
    bundle.check_specs(frozen, program.frozen, "frozen")
    if bundle.root(frozen) != spec.frozen_root:
        raise InvalidInput("frozen tensors do not have the job's root", code="JOB_FROZEN")
    check_data(program, data, spec.data_order.rows, spec.data_order.batch)
    if bundle.root(data) != spec.data_root:
        raise InvalidInput("the data does not have the job's root", code="JOB_DATA")


def check_data(program: Program, data: Tensors, rows: int, batch: int) -> None:
    """Raise InvalidInput (JOB_DATA) unless ``data`` can feed every input, row by row."""
    if set(data) != {spec.name for spec in program.inputs}:
        names = sorted(spec.name for spec in program.inputs)
        raise InvalidInput(
            f"the program reads {names}, the data has {sorted(data)}", code="JOB_DATA"
        )
    for spec in program.inputs:
        array = data[spec.name]
        wanted = (rows, *spec.shape[1:])
        if not spec.shape or spec.shape[0] != batch:
            raise InvalidInput(
                f"input {spec.name!r} wants {list(spec.shape)}, steps have {batch} rows",
                code="JOB_DATA",
            )
        if array.shape != wanted or array.dtype != spec.dtype.numpy:
            raise InvalidInput(
                f"data {spec.name!r} is {array.dtype}{list(array.shape)}, the job wants "
                f"{spec.dtype}{list(wanted)}",
                code="JOB_DATA",
            )


class JobRunner:
    """One job on one session that runs the *instrumented* program of the job."""

    def __init__(
        self,
        session: Session,
        spec: JobSpec,
        frozen: Tensors,
        data: Tensors,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``clock`` tells seconds, for what roots cost and nothing else."""
        self._session = session
        self._spec = spec
        self._frozen = frozen
        self._data = data
        self._schedule = RowSchedule(spec.data_order, spec.seed)
        self._clock = clock
        self._step: int | None = None
        self._root = b""

    @property
    def step(self) -> int | None:
        """Steps done so far, or None before a state is loaded."""
        return self._step

    @property
    def state_root(self) -> bytes:
        """Root of the present state."""
        return self._root

    def load(self, state: Tensors, step: int) -> bytes:
        """Take ``state`` as the state after ``step`` steps; returns its root.

        Raises InvalidInput (BUNDLE_MISMATCH) when it is not a state of this program.
        """
        bundle.check_specs(state, self._session.program.state, "state")
        self._session.load(self._frozen, state)
        self._step = step
        self._root = bundle.root(state)
        return self._root

    def read_state(self) -> Tensors:
        """Copy of the present state."""
        return self._session.read_state()

    def run_segment(
        self,
        first_step: int,
        count: int,
        *,
        on_step: OnStep | None = None,
        should_stop: Callable[[], bool] | None = None,
        roots_ppm: int = 0,
    ) -> SegmentResult:
        """Run up to ``count`` steps from ``first_step``; stops early, after a whole step, if asked.

        ``roots_ppm`` is the chance that the roots of all states will be asked for.
        At least one step is run. Raises Conflict when the loaded state is not that of
        ``first_step``, LimitExceeded when the outputs grow beyond their limit.
        """
        if self._step != first_step:
            raise Conflict(
                f"the state is at step {self._step}, the segment starts at {first_step}",
                code="SEGMENT_START",
            )
        if not 0 < count <= self._spec.steps - first_step:
            raise InvalidInput(
                f"{count} steps from {first_step} of {self._spec.steps}", code="SEGMENT_LENGTH"
            )
        before = self._root
        sums, keeper = ListBuilder(first_step), RootsKeeper(first_step, before, roots_ppm)
        collected: dict[str, list[Array]] = {o.name: [] for o in self._session.program.outputs}
        collected.pop(CHECKSUMS)
        size = done = 0
        while done < count and not (done and should_stop is not None and should_stop()):
            outputs = self._one_step(first_step + done, sums, keeper)
            done += 1
            self._step = first_step + done
            for name, value in outputs.items():
                size += value.nbytes
                collected[name].append(value)
            if size > MAX_SEGMENT_OUTPUT_BYTES:
                raise LimitExceeded(
                    f"outputs of one segment pass {MAX_SEGMENT_OUTPUT_BYTES} bytes",
                    hint="shorter segments",
                )
            if on_step is not None:
                on_step(self._step, scalars(outputs))
        stacked = {name: np.stack(values) for name, values in collected.items()}
        state = self.read_state()
        self._root = bundle.root(state)
        outputs_root = bundle.root(stacked)
        inner, words = sums.inner(), sums.list()
        return SegmentResult(
            first_step,
            done,
            before,
            self._root,
            outputs_root,
            inner,
            words,
            stacked,
            state,
            keeper.roots(),
            round(keeper.root_us),
        )

    def _one_step(self, step: int, sums: ListBuilder, keeper: RootsKeeper) -> Tensors:
        began = self._clock() if keeper.wants_more else 0.0
        rows = self._schedule.rows(step)
        inputs = {name: array[rows] for name, array in self._data.items()}
        outputs = self._session.step(inputs, seed=self._spec.seed, step=step)
        sums.add(outputs.pop(CHECKSUMS).tobytes())
        if keeper.wants_more:
            stepped = self._clock()
            root = bundle.root(self.read_state())
            keeper.add(root, (stepped - began) * 1e6, (self._clock() - stepped) * 1e6)
        return outputs


def scalars(outputs: Mapping[str, Array]) -> dict[str, float]:
    """The outputs that are single numbers, for progress displays."""
    return {name: float(value.reshape(())) for name, value in outputs.items() if value.size == 1}
