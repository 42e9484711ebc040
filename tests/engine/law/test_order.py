"""The order of sums: K may be split and padded as docs/numerics.md §2 allows, and no bit moves."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.realise import Realiser
from tests.engine.backend.random_graphs import values
from tests.engine.law.checking import THRESHOLDS, Array, assert_bits, assert_same, expected_of, law

FLOATS = tuple(dtype for dtype in dtypes.DTYPES if dtype.is_float)
SEEDS = st.integers(0, 2**32 - 1)


def operands(
    dtype: DType, rows: int, terms: int, columns: int, seed: int
) -> tuple[Node, Node, dict[Node, Array]]:
    a = graph.input_("buffer", "a", dtype, (1, rows, terms))
    b = graph.input_("buffer", "b", dtype, (1, terms, columns))
    rng = np.random.default_rng(seed)
    return a, b, {x: values(dtype, x.shape, rng) for x in (a, b)}


def padded(x: Node, axis: int, before: int, after: int) -> Node:
    return graph.pad(x, [(before, after) if at == axis else (0, 0) for at in range(3)])


def part(x: Node, axis: int, start: int, count: int) -> Node:
    whole = [(0, 1, n) for n in x.shape]
    whole[axis] = (start, 1, count)
    return graph.slice_(x, whole)


@law(quick=3, deep=40)
@given(seed=SEEDS, dtype=st.sampled_from(FLOATS))
def test_dot_split_at_the_borders_of_chunks(device: Realiser, seed: int, dtype: DType) -> None:
    """Chunk by chunk, all else of both operands being zero; zeros appended; zeros between."""
    random = Random(seed)
    terms = random.choice([513, 1024, 1500])
    rows, columns = random.choice([(2, 3), (5, 33), (33, 17)])
    a, b, leaves = operands(dtype, rows, terms, columns, seed)
    whole = graph.dot(a, b)
    parts: list[Node] = []
    for start in range(0, terms, DOT_CHUNK):
        count = min(DOT_CHUNK, terms - start)
        rest = terms - start - count
        parts.append(
            graph.dot(
                padded(part(a, 2, start, count), 2, start, rest),
                padded(part(b, 1, start, count), 1, start, rest),
            )
        )
    total = graph.filled(0.0, whole.dtype, whole.shape)
    for each in parts:
        total = graph.add(total, each)
    more = random.choice([1, 3, 511, 512, 700])
    longer = graph.dot(padded(a, 2, 0, more), padded(b, 1, 0, more))
    first, rest = DOT_CHUNK, terms - DOT_CHUNK
    zeros = random.choice([1, 2]) * DOT_CHUNK
    parted = graph.dot(
        graph.concat([padded(part(a, 2, 0, first), 2, 0, zeros), part(a, 2, first, rest)], 2),
        graph.concat([padded(part(b, 1, 0, first), 1, 0, zeros), part(b, 1, first, rest)], 1),
    )
    (expected,) = expected_of([whole], leaves)
    for node in (total, longer, parted):
        (by_reference,) = expected_of([node], leaves)
        assert_bits(expected, by_reference, "the reference itself")
    assert_same(device, [whole, total, longer, parted], leaves, [expected] * 4)


@law(quick=3, deep=40)
@given(seed=SEEDS, dtype=st.sampled_from(FLOATS))
def test_a_valid_length_is_a_shorter_sum(device: Realiser, seed: int, dtype: DType) -> None:
    """Row by row: skipped terms may hold Inf and NaN."""
    random = Random(seed)
    terms, columns = random.choice([65, 513, 600]), random.choice([1, 5, 33])
    counts = [0, 1, terms - 1, terms, terms + 5, -3, random.randrange(terms)]
    a, b, leaves = operands(dtype, len(counts), terms, columns, seed)
    with np.errstate(all="ignore"):
        leaves[b][0, terms // 2 :] = np.where(
            np.arange(columns) % 2 == 0, np.float32(np.nan), np.float32(np.inf)
        ).astype(dtype.numpy)
    leaves[b] = dtypes.canonical(leaves[b])
    valid = graph.const(np.array([counts]), dtypes.int32, (1, len(counts)))
    whole = graph.dot(a, b, valid)
    rows = [
        graph.dot(part(part(a, 1, row, 1), 2, 0, kept), part(b, 1, 0, kept))
        for row, kept in enumerate(max(0, min(terms, count)) for count in counts)
    ]
    expected = expected_of([whole], leaves)[0]
    assert_same(device, [whole], leaves, [expected])
    for row, by_reference in enumerate(expected_of(rows, leaves)):
        assert_bits(expected[:, row : row + 1], by_reference, f"row {row}")


SHAPES = [
    (rows, terms, columns)
    for rows in THRESHOLDS
    for terms in THRESHOLDS
    for columns in THRESHOLDS
    if rows * terms * columns <= 300_000
]


@law(quick=3, deep=40)
@given(seed=SEEDS)
def test_dot_across_thresholds(device: Realiser, seed: int) -> None:
    """Every length of every axis at least once in each example, in random company."""
    random = Random(seed)
    outputs, leaves = [], {}
    for length in THRESHOLDS:
        at = random.randrange(3)
        shape = random.choice([s for s in SHAPES if s[at] == length])
        dtype = random.choice((dtypes.float32, dtypes.float32, *FLOATS))
        a = graph.input_("buffer", f"a{length}", dtype, (1, *shape[:2]))
        b = graph.input_("buffer", f"b{length}", dtype, (1, *shape[1:]))
        rng = np.random.default_rng(seed + length)
        leaves |= {x: values(dtype, x.shape, rng) for x in (a, b)}
        outputs.append(graph.dot(a, b))
    assert_same(device, outputs, leaves, expected_of(outputs, leaves))


@pytest.mark.parametrize("kind", ["sum", "prod", "sumprod", "max"])
def test_reduce_across_thresholds(kind: str, device: Realiser) -> None:
    """Every length, in rows and in columns, and a length that is two axes."""
    outputs, leaves = [], {}
    for number, length in enumerate((*THRESHOLDS, 8193)):
        dtype = FLOATS[number % len(FLOATS)] if number % 2 else dtypes.float32
        shape = (3, length) if number % 3 else (length, 3)
        x = graph.input_("buffer", f"x{length}", dtype, shape)
        y = graph.input_("buffer", f"y{length}", dtype, shape)
        rng = np.random.default_rng(length)
        leaves |= {node: values(dtype, shape, rng) for node in (x, y)}
        axis = 1 if number % 3 else 0
        outputs.append(graph.reduce(kind, x, (axis,), y if kind == "sumprod" else None))
    image = graph.input_("buffer", "image", dtypes.float32, (5, 9, 65))
    leaves[image] = values(dtypes.float32, image.shape, np.random.default_rng(1))
    outputs.append(graph.reduce(kind, image, (0, 2), image if kind == "sumprod" else None))
    assert_same(device, outputs, leaves, expected_of(outputs, leaves))


def test_elementwise_across_thresholds(device: Realiser) -> None:
    outputs, leaves = [], {}
    for number, length in enumerate(THRESHOLDS):
        dtype = FLOATS[number % len(FLOATS)]
        x = graph.input_("buffer", f"x{length}", dtype, (length,))
        leaves[x] = values(dtype, x.shape, np.random.default_rng(length))
        turned = graph.slice_(x, [(length - 1, -1, length)])
        outputs.append(graph.fma(graph.sqrt(x), turned, graph.div(turned, x)))
        outputs.append(graph.concat([graph.cast(x, dtypes.uint8), graph.cast(x, dtypes.uint8)], 0))
    assert_same(device, outputs, leaves, expected_of(outputs, leaves))
