"""What ``Cost`` says of memory and data movement, beside what sessions allocate and plans do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import functional
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.repeat import AnyCall, LoopCall
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import Program
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.replay import OpenCLSession, needed_bytes, results_of
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.plan import make_plan
from flopmarket.engine.tensor import Tensor
from tests.engine.backend.random_graphs import as_program, grown
from tests.engine.cost_cases import CASES, inference

MOST_BELOW = 1.1
"""Largest part of the estimate that a program may allocate."""
MOST_ABOVE = 2.5
"""Largest part of what is allocated that the estimate may be, where operands are packed."""

TARGETS = [Target(), Target(vector_floats=16), Target(is_cpu=False)]


def needed(program: Program, target: Target) -> int:
    """Bytes of a session on such a device; a test below holds it against allocations."""
    return needed_bytes(program, make_plan(results_of(program), target))


def random_program(seed: int, steps: int) -> Program:
    outputs, leaves = grown(Random(seed), seed, "x", steps=steps, kind="input")
    return as_program(outputs, leaves)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), steps=st.sampled_from([5, 20, 60]), target=st.sampled_from(TARGETS)
)
def test_a_random_program_needs_little_more_than_it_says(
    seed: int, steps: int, target: Target
) -> None:
    program = random_program(seed, steps)
    assert needed(program, target) <= MOST_BELOW * program.cost.peak_memory_bytes


@pytest.mark.parametrize("name", CASES)
def test_a_known_program_needs_no_more_than_it_says_and_not_much_less(name: str) -> None:
    program = CASES[name]()
    said = program.cost.peak_memory_bytes
    for target in TARGETS:
        assert needed(program, target) <= said
    assert said <= MOST_ABOVE * max(needed(program, target) for target in TARGETS)


def test_the_estimate_is_close_at_the_median() -> None:
    programs = [make() for make in CASES.values()]
    programs += [random_program(seed, 20) for seed in range(60)]
    ratios = [p.cost.peak_memory_bytes / needed(p, Target()) for p in programs]
    assert 1 <= statistics.median(ratios) <= 1.1
    assert statistics.quantiles(ratios, n=10)[-1] <= 1.5


def executed(calls: Sequence[AnyCall]) -> tuple[int, int]:
    """Launches and bytes of a plan's calls, every turn of loops counted."""
    launches = moved = 0
    for call in calls:
        if isinstance(call, LoopCall):
            inner, size = executed(call.calls)
            launches, moved = launches + call.count * inner, moved + call.count * size
        else:
            launches, moved = launches + 1, moved + call.size_bytes
    return launches, moved


@pytest.mark.parametrize("name", [name for name in CASES if name != "float16 gelu"])
def test_counted_movement_is_that_of_the_plan(name: str) -> None:
    """The plan of a GPU: it packs no operands. It may write some values of long bodies more."""
    program = CASES[name]()
    plan = make_plan(results_of(program), Target(is_cpu=False))
    launches, moved = executed([step.call for step in plan.steps])
    assert 0.8 * moved <= program.cost.bytes_moved <= 1.15 * moved
    assert 0.5 * launches <= program.cost.launches <= 2 * launches + 1


def test_a_chain_of_elementwise_functions_is_no_more_than_its_ends() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(4):
            x = functional.gelu(x) * 0.9 + 0.1
        return x

    program = inference(chain, (float32, (64, 1024)))
    assert program.cost.launches == 1
    assert program.cost.bytes_moved == 2 * 64 * 1024 * 4


@pytest.mark.parametrize("name", ["perceptron", "lstm", "states that stay", "int8 dot", "softmax"])
def test_a_session_allocates_what_it_needs_or_nothing(name: str) -> None:
    program = CASES[name]()
    said = program.cost.peak_memory_bytes
    with opened(devices.find(None)) as device:
        target = open_target(device)
        session = OpenCLSession(program, device, target, CompileOptions(max_bytes=said))
        taken = device.allocated_bytes
        assert needed(program, target) == taken <= said
        session.load({}, {s.name: np.zeros(s.shape, s.dtype.numpy) for s in program.state})
        session.step(
            {s.name: np.zeros(s.shape, s.dtype.numpy) for s in program.inputs}, seed=1, step=0
        )
        assert device.allocated_bytes == taken
        session.close()
        with pytest.raises(EngineError, match=f"needs {taken} bytes") as caught:
            OpenCLSession(program, device, target, CompileOptions(max_bytes=taken - 1))
        assert caught.value.code == "DEVICE_MEMORY"
        assert device.allocated_bytes == 0
