"""Steps of a job again, with their checksums, as far as somebody asks.

Unlike the runner's segments these leave nothing behind: whoever replays says from which state, step
by step, and what is looked at on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import Conflict
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Tensors
from flopmarket.jobs.instrument import CHECKSUMS
from flopmarket.jobs.order import RowSchedule
from flopmarket.jobs.spec import JobSpec


class Replay:
    """One job on a session, which its caller closes, that runs the *instrumented* ``program``.

    Where ``should_stop`` says so, the next step raises Conflict (TRACE_ABORTED).
    """

    def __init__(
        self,
        session: Session,
        program: Program,
        spec: JobSpec,
        frozen: Tensors,
        data: Tensors,
        should_stop: Callable[[], bool],
    ) -> None:
        self.program = program
        self.spec = spec
        self.frozen = frozen
        self.data = data
        self._session = session
        self._stop = should_stop
        self._schedule = RowSchedule(spec.data_order, spec.seed)

    def begin(self, path: Path | None, step: int, first_step: int) -> None:
        """Load the state after ``step`` steps from a file and run on to ``first_step``; a program
        without a state (None) begins there. InvalidInput (BUNDLE_MISMATCH) for another's state."""
        state = {} if path is None else bundle.read(path)
        bundle.check_specs(state, self.program.state, "state")
        self.load(state)
        for each in range(step if state else first_step, first_step):
            self.step(each)

    def load(self, state: Tensors, frozen: Tensors | None = None) -> None:
        """Go on from ``state``, with the job's frozen tensors or others."""
        self._session.load(self.frozen if frozen is None else frozen, state)

    def step(self, step: int) -> tuple[Tensors, bytes]:
        """Outputs of one step, and its checksums: 4 bytes for each state tensor and output."""
        if self._stop():
            raise Conflict("nobody waits for this answer any more", code="TRACE_ABORTED")
        rows = self._schedule.rows(step)
        inputs = {name: array[rows] for name, array in self.data.items()}
        outputs = dict(self._session.step(inputs, seed=self.spec.seed, step=step))
        return outputs, outputs.pop(CHECKSUMS).tobytes()

    def state(self) -> Tensors:
        """Copy of the present state."""
        return self._session.read_state()

    def root(self) -> bytes:
        """Root of the present state, 32 bytes."""
        return bundle.root(self.state())
