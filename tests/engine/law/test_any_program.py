"""FX1 on random legal programs: one digest, however a program is stored, fused or tiled."""

from __future__ import annotations

import logging
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.graph import Node, Op, topological
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.schedule.fuse import is_packed_dot
from tests.engine.backend.random_graphs import CONTRACTED, as_program, grown, values
from tests.engine.law.checking import DEEP, Array, assert_same, expected_of, law
from tests.engine.law.conftest import Ways

GRAPHS_PER_BUILD = 8
RANDOM = st.randoms(use_true_random=False) if DEEP else st.builds(Random, st.integers(0, 2**32))
"""Hypothesis' own choices shrink a failing program; a seed gives a more varied one."""
SEEDS = st.integers(0, 2**32 - 1)


def forest(random: Random, seed: int) -> tuple[list[Node], dict[Node, Array]]:
    """Several random graphs as one: a build costs a driver more than what is in it."""
    outputs: list[Node] = []
    leaves: dict[Node, Array] = {}
    for number in range(GRAPHS_PER_BUILD):
        more, given_leaves = grown(random, seed + number, f"g{number}_", kind="input")
        outputs += more
        leaves |= given_leaves
    return list(dict.fromkeys(outputs)), leaves


@law(quick=6, deep=60)
@given(random=RANDOM, seed=SEEDS)
def test_reference_and_device_fused_and_unfused(
    ways: Ways, caplog: pytest.LogCaptureFixture, random: Random, seed: int
) -> None:
    outputs, leaves = forest(random, seed)
    expected = expected_of(outputs, leaves)
    with caplog.at_level(logging.WARNING, logger="flopmarket.engine"):
        for realiser in ways.values():
            assert_same(realiser, outputs, leaves, expected)
    assert not caplog.records, "a schedule fell back to no fusion"


@law(quick=100, deep=2000)
@given(random=RANDOM, seed=SEEDS)
def test_bytes_round_trip(random: Random, seed: int) -> None:
    outputs, leaves = grown(random, seed, "x", steps=20, kind="input")
    program = as_program(outputs, leaves)
    data = program.to_bytes()
    again = Program.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == program.digest
    assert again.output_nodes == program.output_nodes, "equal nodes are one object"
    assert again.cost == program.cost


def test_the_random_programs_hold_every_primitive_and_element_type() -> None:
    ops: set[Op] = set()
    types: set[dtypes.DType] = set()
    for seed in range(120):
        outputs, _ = grown(Random(seed), seed, "x")
        for node in topological(outputs):
            ops.add(node.op)
            types.add(node.dtype)
    assert ops == set(Op)
    assert types == set(dtypes.DTYPES)


_FLOAT_PAIRS = [(a, b) for a, b in CONTRACTED if a.is_float]


def product(random: Random, seed: int) -> tuple[list[Node], dict[Node, Array]]:
    """A product large enough to be packed, with something fused before and behind it."""
    rng = np.random.default_rng(seed)
    rows = random.choice([4, 31, 32, 33, 63, 64, 65, 129])
    columns = random.choice([8, 31, 33, 63, 64, 65, 100])
    terms = random.choice([64, 257, 511, 512, 513, 1025, 1500])
    batch = random.choice([1, 1, 2])
    left, right = random.choice([(dtypes.float32, dtypes.float32), random.choice(_FLOAT_PAIRS)])
    a = graph.input_("input", "a", left, (batch, rows, terms))
    b = graph.input_("input", "b", right, (batch, terms, columns))
    bias = graph.input_("input", "bias", dtypes.contraction(left, right, terms) or left, (columns,))
    leaves = {node: values(node.dtype, node.shape, rng) for node in (a, b, bias)}
    first, second = a, b
    if random.random() < 0.5:
        first = graph.max_(a, graph.filled(0.0, left, a.shape))
    if random.random() < 0.5:
        second = graph.slice_(b, [(0, 1, batch), (terms - 1, -1, terms), (0, 1, columns)])
    out = graph.dot(first, second)
    assert is_packed_dot(out)
    wide = graph.expand(graph.reshape(bias, (1, 1, columns)), out.shape)
    return [graph.max_(graph.add(out, wide), graph.filled(-0.5, out.dtype, out.shape))], leaves


@law(quick=6, deep=60)
@given(random=RANDOM, seed=SEEDS)
def test_every_tile_of_the_matrix_product(
    tiles: dict[GemmTile, Realiser], random: Random, seed: int
) -> None:
    outputs, leaves = product(random, seed)
    expected = expected_of(outputs, leaves)
    assert len(tiles) >= 5
    for realiser in tiles.values():
        assert_same(realiser, outputs, leaves, expected)
