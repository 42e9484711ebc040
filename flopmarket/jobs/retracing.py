"""The engine's side of a dispute: a segment opened for questions, and each answered into a file.

:class:`Retrace` loads a durable state, runs on to where the disputed segment begins, and answers
through :class:`flopmarket.jobs.tracing.SegmentTrace`. Steps run on the device that does the work;
the operations of one step by the reference where that takes seconds, else on the device one by one.
Asking it to stop ends it at the next step or operation with Conflict (TRACE_ABORTED).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import REFERENCE, open_session
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import Conflict, InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.operations import Operation
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.questions import TraceQuestion, TraceStart
from flopmarket.jobs.runner import check_job
from flopmarket.jobs.spec import JobSpec
from flopmarket.jobs.tracing import Evaluate, OnDevice, SegmentData, SegmentTrace, by_reference
from flopmarket.limits import MAX_REFERENCE_STEP_OPERATIONS
from flopmarket.trust.dispute import Ask
from flopmarket.trust.dispute_documents import NOWHERE, Party, Payload
from flopmarket.trust.dispute_port import Place


class Retrace:
    """One disputed segment on one device. Close it after use."""

    def __init__(
        self,
        spec: JobSpec,
        program: Program,
        frozen: Tensors,
        data: Tensors,
        start: TraceStart,
        device: str | None,
        cache_dir: Path | None,
        should_stop: Callable[[], bool],
    ) -> None:
        check_job(spec, program, frozen, data)
        problem = JobProblem(start.opening, spec, program)
        self._stop = should_stop
        options = CompileOptions(cache_dir=cache_dir)
        self._on_device: OnDevice | None = None
        self._session = _Watched(open_session(program, device, options), self._check)
        try:
            evaluate: Evaluate = by_reference
            operations = sum(program.cost.flops.values())
            if device != REFERENCE and operations > MAX_REFERENCE_STEP_OPERATIONS:
                self._on_device = OnDevice(lambda alone: open_session(alone, device, options))
                evaluate = self._on_device
            state = self._go_to(spec, frozen, data, start)
            tensors = SegmentData(frozen, data, state)
            self._trace = SegmentTrace(problem, tensors, self._watched(evaluate), self._session)
        except BaseException:
            self.close()
            raise

    def answer(self, question: TraceQuestion) -> Payload:
        """The list that is asked for."""
        return self._trace.answer(Ask(Party.PRODUCER, question.level, question.place, 0))

    def end_after(self, place: Place, tile: bytes) -> tuple[bytes, bytes]:
        """See :meth:`SegmentTrace.end_after`."""
        if place.step == NOWHERE:
            raise InvalidInput("the steps agree: nothing follows the tile", code="ENGINE_COMMAND")
        return self._trace.end_after(place, tile)

    def close(self) -> None:
        """Free the device."""
        self._session.close()
        if self._on_device is not None:
            self._on_device.close()

    def _go_to(self, spec: JobSpec, frozen: Tensors, data: Tensors, start: TraceStart) -> Tensors:
        """The state before the segment, by this device."""
        first = start.opening.first_step
        if not start.step <= first:
            raise InvalidInput(
                f"a replay from step {start.step} does not come to step {first}",
                code="SEGMENT_START",
            )
        state = bundle.read(start.path) if start.path is not None else {}
        bundle.check_specs(state, self._session.program.state, "state")
        if not state:
            return state
        self._session.load(frozen, state)
        for step in range(start.step, first):
            rows = rows_of_step(spec.data_order, spec.seed, step)
            inputs = {s.name: data[s.name][rows] for s in self._session.program.inputs}
            self._session.step(inputs, seed=spec.seed, step=step)
        return self._session.read_state()

    def _watched(self, evaluate: Evaluate) -> Evaluate:
        def watched(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
            self._check()
            return evaluate(step, at, op, sources)

        return watched

    def _check(self) -> None:
        if self._stop():
            raise Conflict("nobody waits for this answer any more", code="TRACE_ABORTED")


class _Watched:
    """A session that looks before each step whether it is still wanted."""

    def __init__(self, session: Session, check: Callable[[], None]) -> None:
        self._session = session
        self._check = check

    @property
    def program(self) -> Program:
        return self._session.program

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        self._session.load(frozen, state)

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        self._check()
        return self._session.step(inputs, seed=seed, step=step)

    def read_state(self) -> dict[str, Array]:
        return self._session.read_state()

    def close(self) -> None:
        self._session.close()
