"""The cheaper program: what it changes, and that nothing else of a job changes with it."""

from __future__ import annotations

import numpy as np

from flopmarket.engine.graph import Op
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import entry_of
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.order import RowSchedule
from flopmarket_worker.cheapening import half_operands, without_step
from tests.unit.jobs.disputes import mlp_job
from tests.unit.jobs.rounding import RoundingSession, to_half, with_operands

JOB = mlp_job(steps=3)


def test_a_step_of_it_is_a_step_with_float16_operands() -> None:
    cheap = ReferenceSession(half_operands(JOB.program))
    meant = RoundingSession(JOB.program, with_operands(to_half))
    right = ReferenceSession(JOB.program)
    rows = RowSchedule(JOB.order, JOB.seed).rows(0)
    inputs = {name: array[rows] for name, array in JOB.data.items()}
    for session in (cheap, meant, right):
        session.load(JOB.frozen, JOB.state)
        session.step(inputs, seed=JOB.seed, step=0)
    found, wanted, exact = (session.read_state() for session in (cheap, meant, right))
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in wanted.items()
    }
    assert any(not np.array_equal(found[name], exact[name]) for name in found)


def test_it_has_the_tensors_of_the_program_and_twice_is_once() -> None:
    program = instrument(JOB.program)
    cheap = half_operands(program)
    for kind in ("frozen", "state", "inputs", "outputs"):
        assert getattr(cheap, kind) == getattr(program, kind)
    assert sum(node.op is Op.DOT for node in cheap.nodes) == sum(
        node.op is Op.DOT for node in program.nodes
    )
    assert cheap.digest != program.digest


def test_a_step_that_is_left_out_leaves_the_state_and_says_so_in_its_checksums() -> None:
    program = instrument(JOB.program)
    cheap = ReferenceSession(without_step(program, 1))
    cheap.load(JOB.frozen, JOB.state)
    schedule = RowSchedule(JOB.order, JOB.seed)
    states = [cheap.read_state()]
    for step in range(3):
        inputs = {name: array[schedule.rows(step)] for name, array in JOB.data.items()}
        outputs = cheap.step(inputs, seed=JOB.seed, step=step)
        states.append(cheap.read_state())
        count = 4 * len(program.state)
        assert outputs[CHECKSUMS].tobytes()[:count] == entry_of(program.state, states[-1])
    roots = [bundle.root(state) for state in states]
    assert roots[1] == roots[2]
    assert len(set(roots)) == 3


def test_a_program_without_checksums_gets_none() -> None:
    assert without_step(JOB.program, 1).outputs == JOB.program.outputs
