"""Steps judged by the values of their operations: honest rounding is inside, cheats are not, and
nothing that a stranger sends is more than an opinion."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.errors import FlopmarketError, InvalidInput, LimitExceeded
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.judging_steps import (
    StepInputs,
    StepJudgement,
    check_program,
    claimed_operations,
    judge_step,
    values_of_step,
)
from flopmarket.jobs.operations import Part, StepPlan
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.tracing import Evaluate, by_reference
from flopmarket.trust.tolerance import Opinion
from tests.unit.jobs.disputes import JOBS
from tests.unit.jobs.rounding import CHEATS, HONEST

Values = dict[int, Array]


@cache
def case(name: str, step: int = 0) -> tuple[StepPlan, StepInputs]:
    """A job's step, from the state that honest work comes to."""
    job: PreparedJob = JOBS[name]()
    spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    state = run_local(job, "reference", steps=step).state if step else job.state
    return StepPlan(job.program), StepInputs(spec, step, job.frozen, job.data, state)


def claimed_by(name: str, evaluate: Evaluate, step: int = 0) -> Values:
    plan, inputs = case(name, step)
    return dict(values_of_step(plan, inputs, evaluate)[0])


def judged(name: str, values: Values, step: int = 0, **options: int) -> StepJudgement:
    plan, inputs = case(name, step)
    return judge_step(plan, inputs, values, seed=7, **options)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("device", HONEST)
def test_honest_devices_are_inside_and_lead_where_they_said(name: str, device: str) -> None:
    """However products are computed by the judge: in full, or by vectors and drawn rows."""
    plan, inputs = case(name)
    values, ends = values_of_step(plan, inputs, HONEST[device])
    for product_flops in (10**9, 4_000):
        found = judge_step(plan, inputs, values, seed=3, product_flops=product_flops)
        assert found.opinion is Opinion.INSIDE, found.detail
        assert found.judged == len(values)
        for part, led in ((Part.STATE, found.state), (Part.OUTPUT, found.outputs)):
            assert {n: v.tobytes() for n, v in led.items()} == {
                n: v.tobytes() for n, v in ends[part].items()
            }


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31), st.sampled_from(sorted(HONEST)), st.sampled_from([1e-38, 1e-20, 1.0]))
def test_honest_devices_are_never_at_fault_whatever_the_state(
    seed: int, device: str, scale: float
) -> None:
    """Also with tiny weights, whose products are subnormal and whose quotients are not finite."""
    plan, inputs = case("mlp")
    rng = np.random.default_rng(seed)
    state = {
        name: (value if value.dtype != np.float32 else value + rng.standard_normal(value.shape))
        for name, value in inputs.state.items()
    }
    state = {
        name: (value * scale).astype(np.float32) if value.dtype.kind == "f" else value
        for name, value in state.items()
    }
    given_inputs = StepInputs(inputs.spec, 0, inputs.frozen, inputs.data, state)
    values, _ = values_of_step(plan, given_inputs, HONEST[device])
    found = judge_step(plan, given_inputs, values, seed=seed)
    assert found.opinion is not Opinion.FAULT, found.detail


@pytest.mark.parametrize("name", ["mlp", "conv", "inference"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheaper_products_are_outside(name: str, cheat: str) -> None:
    values = claimed_by(name, CHEATS[cheat])
    for product_flops in (10**9, 4_000):
        found = judged(name, values, product_flops=product_flops)
        assert found.opinion is not Opinion.INSIDE
        assert "DOT" in found.detail and found.operation in values


def test_a_skipped_step_is_a_fault() -> None:
    """Values of the step before, or of nothing at all, are not those of this step's operands."""
    plan, inputs = case("mlp", 2)
    earlier = claimed_by("mlp", by_reference, 1)
    assert judged("mlp", earlier, 2).opinion is Opinion.FAULT
    empty = {at: np.zeros_like(value) for at, value in earlier.items()}
    assert judged("mlp", empty, 2).opinion is Opinion.FAULT
    assert plan.operations and inputs.step == 2


def changed(values: Values, plan: StepPlan, at: int, change: Callable[[Array], Array]) -> Values:
    value = values[at].copy()
    return {**values, at: change(value).astype(value.dtype).reshape(plan.operations[at].shape)}


@pytest.mark.parametrize("name", JOBS)
def test_no_operation_may_be_off_by_one_per_cent(name: str) -> None:
    """Every claimed operation by itself: a change of 1 % of its largest element is a fault, or at
    the least outside; an integer or a choice may not differ at all."""
    plan, _ = case(name)
    values = claimed_by(name, by_reference)
    for at, value in values.items():
        if not value.size:
            continue

        def change(x: Array) -> Array:
            flat = x.reshape(-1)
            if x.dtype == np.bool_:
                flat[0] = not flat[0]
            elif x.dtype.kind != "f":
                flat[0] += 1
            else:
                place = int(np.argmax(np.abs(flat)))
                flat[place] = flat[place] * 1.01 if flat[place] else 1.0
            return flat

        found = judged(name, changed(values, plan, at, change))
        assert found.opinion is not Opinion.INSIDE, plan.operations[at].describe()
        assert found.operation == at or found.opinion is Opinion.FAULT


HOSTILE: dict[str, Callable[[Array], Array]] = {
    "NaN": lambda x: np.full_like(x, np.nan),
    "infinite": lambda x: np.full_like(x, np.inf),
    "largest": lambda x: np.full_like(x, np.finfo(np.float32).max),
    "another NaN": lambda x: np.full(x.shape, 0x7F800001, np.uint32).view(np.float32),
    "another shape": lambda x: x.reshape(-1)[:-1],
    "another type": lambda x: x.astype(np.float64),
    "empty": lambda x: np.zeros(0, np.float32),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_are_opinions(hostile: str) -> None:
    plan, _ = case("mlp")
    values = claimed_by("mlp", by_reference)
    for at in claimed_operations(plan)[::9]:
        if values[at].dtype == np.float32 and values[at].size:
            found = judged("mlp", {**values, at: HOSTILE[hostile](values[at])})
            assert found.opinion is not Opinion.INSIDE
            assert found.detail


def test_missing_and_surplus_values_are_faults() -> None:
    plan, _ = case("conv")
    values = claimed_by("conv", by_reference)
    first = claimed_operations(plan)[0]
    less = {at: value for at, value in values.items() if at != first}
    more = {**values, 10**6: np.zeros(1, np.float32)}
    unasked = next(at for at in range(len(plan.operations)) if at not in values)
    for wrong in ({}, less, more, {**values, unasked: np.zeros(1, np.float32)}):
        found = judged("conv", wrong)
        assert (found.opinion, found.judged) == (Opinion.FAULT, 0)
        assert "missing or were not asked for" in found.detail


def test_only_what_rounding_decides_is_handed_over() -> None:
    plan, _ = case("conv")
    for at in claimed_operations(plan):
        node = plan.operations[at].node
        assert node is not None and node.op not in (Op.VIEW, Op.CONST, Op.WHERE, Op.GATHER)
        assert any(source.dtype.is_float for source in node.src)
    size = sum(value.nbytes for value in claimed_by("conv", by_reference).values())
    assert check_program(plan.program) == size
    loop_plan, _ = case("loop")
    size = sum(value.nbytes for value in claimed_by("loop", by_reference).values())
    assert check_program(loop_plan.program) == size, "loops are counted turn by turn"


def product_program(rows: int, terms: int, columns: int, dtype: dtypes.DType) -> Program:
    a = graph.input_("input", "a", dtype, (1, rows, terms))
    b = graph.input_("frozen", "b", dtype, (1, terms, columns))
    return Program.build(
        frozen=[TensorSpec("b", dtype, b.shape)],
        state=[],
        inputs=[TensorSpec("a", dtype, a.shape)],
        next_state=[],
        outputs=[("c", graph.dot(a, b))],
    )


@pytest.mark.parametrize(
    ("program", "kind", "code"),
    [
        (product_program(8_192, 2, 8_193, dtypes.float32), LimitExceeded, "TOLERANCE_TOO_LARGE"),
        (product_program(2, 65_537, 2, dtypes.float32), InvalidInput, "TOLERANCE_TERMS"),
        (product_program(600, 1_000, 600, dtypes.float64), LimitExceeded, "TOLERANCE_TOO_LARGE"),
    ],
    ids=["bytes", "terms", "float64"],
)
def test_what_cannot_be_judged_is_refused_before(
    program: Program, kind: type[FlopmarketError], code: str
) -> None:
    with pytest.raises(kind) as error:
        check_program(program)
    assert error.value.code == code and error.value.hint
