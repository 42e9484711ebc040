"""Challenges of devices without the exact profile: integers, whose sums no rounding touches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flopmarket.bench import challenge_programs as programs
from flopmarket.bench.challenge import StageRunner, plan_for
from flopmarket.engine import graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType, bfloat16, float16, float32
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import open_session, opened
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import ReferenceSession, Session
from flopmarket.errors import InvalidInput
from flopmarket.trust.benchmark import BenchmarkReason, sampling_commitment
from flopmarket.trust.benchmark_prover import Stage
from flopmarket.trust.benchmark_shape import (
    LARGEST_INTEGER,
    NO_MEMORY,
    Advertised,
    Operands,
    ProductShape,
    Shapes,
)
from tests.engine_processes import contracting, mutated, splitting
from tests.unit.bench.test_challenge import (
    KEY,
    folded,
    plan_of,
    played,
    reversed_program,
    stepped,
)

SHAPE = ProductShape(3, 2, 128, 24, Operands.INTEGERS)
PLAN = plan_of(products=SHAPE)
Round = Callable[[Node], Node]


def drawn(which: int, lines: int, terms: int, seed: int = 7) -> np.ndarray:
    """One operand of a product, [lines, terms]."""
    seed_node, step_node = programs._session_leaves()
    value = programs._integer_operand(
        graph.reshape(seed_node, (1, 2)),
        graph.reshape(step_node, (1, 1)),
        which,
        graph.iota(1, (1, lines), programs.uint32),
        terms,
    )
    return stepped(programs._stateless([], [("value", value)]), seed)["value"][0]


def test_operands_are_integers_of_twelve_bits_and_signs() -> None:
    left, right = drawn(0, 128, 256), drawn(1, 128, 256)
    assert left.dtype == right.dtype == np.float32
    assert (left == np.rint(left)).all()
    assert left.max() == LARGEST_INTEGER == -left.min()
    assert abs(left.mean()) < 50
    wide = np.abs(left) > 2048
    assert 0.45 < wide.mean() < 0.55  # half of them have 12 bits, and half of those are odd
    assert 0.45 < (np.abs(left[wide]) % 2).mean() < 0.55
    assert set(np.unique(right)) == {-1.0, 0.0, 1.0}
    assert all(0.31 < (right == value).mean() < 0.36 for value in (-1, 0, 1))
    assert not np.signbit(left[left == 0]).any()


def test_no_partial_sum_reaches_what_floats_round() -> None:
    assert ProductShape(1, 1, 64, 4097, Operands.INTEGERS).terms * LARGEST_INTEGER < 2**24
    with pytest.raises(InvalidInput) as caught:
        ProductShape(1, 1, 64, 4098, Operands.INTEGERS)
    assert caught.value.code == "BENCHMARK_SHAPE"


def test_the_product_is_that_of_the_integers_in_any_order() -> None:
    shape = ProductShape(1, 1, 128, 600, Operands.INTEGERS)
    folds = stepped(programs.product_program(shape), 7)[programs.FOLDS]
    exact = drawn(0, 128, 600).astype(np.int64) @ drawn(1, 128, 600).astype(np.int64).T
    assert (folded(exact.astype(np.int32)) == folds).all()
    assert (stepped(reversed_program(shape), 7)[programs.FOLDS] == folds).all()


def test_a_whole_challenge_is_accepted_and_says_what_it_multiplied() -> None:
    run = played(PLAN)
    assert run.verdict.accepted, run.verdict
    assert run.to_json()["product"]["operands"] == "integers"


def test_other_operands_are_another_plan() -> None:
    fractions = plan_of(products=ProductShape(3, 2, 128, 24))
    runner = StageRunner(fractions.shapes, ReferenceSession)
    assert played(PLAN, runner).verdict.reason is BenchmarkReason.TILE_WRONG


def _sixteen(dtype: DType) -> Round:
    return lambda value: graph.cast(graph.cast(value, dtype), float32)


def _tensor_float(value: Node) -> Node:
    """Ten bits of fraction, the last one rounded: what a matrix unit calls TF32."""
    bits = graph.bitcast(value, programs.uint32)
    rounded = graph.add(bits, like(0x1000, bits))
    return graph.bitcast(graph.bit("and", rounded, like(0xFFFFE000, bits)), float32)


@pytest.mark.parametrize(
    "narrow",
    [_sixteen(float16), _sixteen(bfloat16), _tensor_float],
    ids=["float16", "bfloat16", "tf32"],
)
def test_lower_precision_is_caught(narrow: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = programs._integer_operand
    with monkeypatch.context() as patched:
        patched.setattr(programs, "_integer_operand", lambda *given: narrow(whole(*given)))
        program = programs.product_program(SHAPE)
    runner = StageRunner(SHAPES, lambda _: ReferenceSession(program))
    assert played(PLAN, runner).verdict.reason is BenchmarkReason.TILE_WRONG


SHAPES = Shapes(SHAPE, NO_MEMORY)


def _on(rewrite: Callable[[str], str] | None, numerics: Numerics) -> Callable[[Program], Session]:
    options = CompileOptions(numerics=numerics)
    opener = opened if rewrite is None else lambda info, given: mutated(rewrite, info, given)
    return lambda program: open_session(program, "PoCL:0", options, opener=opener)


@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("rewrite", [None, contracting, splitting], ids=["as it is", "c", "s"])
def test_devices_without_the_exact_profile_have_the_bits(
    rewrite: Callable[[str], str] | None, numerics: Numerics
) -> None:
    shape = ProductShape(1, 1, 128, 600, Operands.INTEGERS)
    leaves = []
    for opener in (_on(rewrite, numerics), ReferenceSession):
        runner = StageRunner(Shapes(shape, NO_MEMORY), opener)
        leaves.append(runner.leaves(Stage(0, KEY, ())))
        runner.close()
    assert leaves[0] == leaves[1]


def test_a_plan_for_a_device_says_which_operands() -> None:
    for operands in Operands:
        plan = plan_for(
            Advertised(10**13, 10**12, 2**34),
            device_id="card",
            sampling_seed=b"s" * 32,
            max_allocation_bytes=2**32,
            operands=operands,
        )
        assert plan.shapes.product.operands is operands
        assert plan.sampling_commitment == sampling_commitment(b"s" * 32)
        assert plan.shapes.product.terms == 4096
