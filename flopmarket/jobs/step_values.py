"""What the operations of one step come to on a worker's own device, for tolerance mode.

All of them are outputs of one program that runs without fusion, built once; where loops hide values
inside their bodies, operations run one by one. What rounding does not decide is computed by the
reference, as the judge does (:mod:`flopmarket.jobs.judging_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flopmarket.engine import loop
from flopmarket.engine.graph import input_
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.judging_steps import StepInputs, claimed_operations, values_of_step
from flopmarket.jobs.operations import Operation, Part, StepPlan
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.tracing import OnDevice

Values = dict[int, Array]


class DeviceValues:
    """Values of a program's steps on one device. ``open_program`` opens sessions there, without
    fusion. Close it after use."""

    def __init__(self, program: Program, open_program: Callable[[Program], Session]) -> None:
        self._program = program
        self._open = open_program
        self._session: Session | None = None
        self._single: OnDevice | None = None

    def of_step(self, inputs: StepInputs) -> tuple[Values, dict[Part, Tensors]]:
        """The claimed values by position in the plan, and the state and outputs they lead to."""
        plan = StepPlan(self._program)
        if loop.groups(self._program.nodes):
            if self._single is None:
                self._single = OnDevice(self._open)
            return values_of_step(plan, inputs, self._single)
        if self._session is None:
            self._session = self._open(values_program(plan))
        self._session.load(inputs.frozen, inputs.state)
        spec = inputs.spec
        rows = rows_of_step(spec.data_order, spec.seed, inputs.step)
        given = {tensor.name: inputs.data[tensor.name][rows] for tensor in self._program.inputs}
        made = self._session.step(given, seed=spec.seed, step=inputs.step)

        def known(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
            return made[str(at)]

        return values_of_step(plan, inputs, known)

    def close(self) -> None:
        """Free the device."""
        if self._session is not None:
            self._session.close()
        if self._single is not None:
            self._single.close()


def values_program(plan: StepPlan) -> Program:
    """A step whose outputs are its claimed values, named by position; its state stays. For
    programs without loops."""
    program = plan.program
    outputs = []
    for at in claimed_operations(plan):
        node = plan.operations[at].node
        assert node is not None, "only nodes are claimed"
        outputs.append((str(at), node))
    return Program.build(
        frozen=program.frozen,
        state=program.state,
        inputs=program.inputs,
        next_state=[input_("state", s.name, s.dtype, s.shape) for s in program.state],
        outputs=outputs,
    )
