"""Every primitive at the edges of its types: the device gives the reference's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, samples
from flopmarket.engine.graph import Node

from .conftest import Check
from .random_graphs import SPECIAL_FLOATS, special_floats, values

F32 = dtypes.float32
Array = np.ndarray[Any, Any]


class Leaves:
    """Named leaves with seeded values."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.values: dict[Node, Array] = {}

    def add(self, array: Array) -> Node:
        dtype = dtypes.from_numpy(array.dtype)
        node = graph.input_("buffer", f"x{len(self.values)}", dtype, array.shape)
        self.values[node] = dtypes.canonical(array)
        return node

    def normal(self, *shape: int) -> Node:
        return self.add(self.rng.standard_normal(shape).astype(np.float32))


def pairs(dtype: dtypes.DType) -> tuple[Array, Array]:
    """All pairs of edge values of a type."""
    if dtype.is_float:
        edges = special_floats(dtype)
    elif dtype is dtypes.bool_:
        edges = np.array([False, True])
    else:
        info = np.iinfo(dtype.numpy)
        small = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100]
        edges = np.array(
            [info.min, info.min + 1, info.max, info.max - 1, *small], dtype=dtype.numpy
        )
        if dtype.kind == "i":
            edges = np.concatenate([edges, -edges[4:]]).astype(dtype.numpy)
    a, b = np.meshgrid(edges, edges)
    return a.ravel(), b.ravel()


@pytest.mark.parametrize("dtype", dtypes.DTYPES, ids=str)
def test_elementwise_operations_on_all_pairs_of_edge_values(
    dtype: dtypes.DType, check: Check
) -> None:
    leaves = Leaves()
    a, b = (leaves.add(array) for array in pairs(dtype))
    outputs = [graph.max_(a, b), graph.cmp("lt", a, b), graph.cmp("eq", a, b)]
    outputs.append(graph.where(graph.cmp("lt", a, b), a, b))
    if dtype is not dtypes.bool_:
        outputs += [graph.add(a, b), graph.mul(a, b), graph.div(a, b)]
    if dtype.is_float:
        outputs += [
            graph.sqrt(a),
            graph.fma(a, b, a),
            graph.fma(a, graph.filled(-1, dtype, a.shape), b),
        ]
    if dtype.kind in "ub":
        kinds = (
            ("and", "or", "xor") if dtype is dtypes.bool_ else ("and", "or", "xor", "shl", "shr")
        )
        outputs += [graph.bit(kind, a, b) for kind in kinds]
    outputs += [graph.cast(a, other) for other in dtypes.DTYPES]
    outputs += [
        graph.bitcast(a, other)
        for other in dtypes.DTYPES
        if other.bits == dtype.bits and dtypes.bool_ not in (dtype, other)
    ]
    check(outputs, leaves.values)


def test_fma_has_one_rounding_whatever_its_operands_are(check: Check) -> None:
    leaves = Leaves()
    a, b, c, _ = (leaves.add(array) for array in samples.adversarial(4096))
    tenth = graph.filled(0.1, F32, a.shape)
    ramp = graph.cast(graph.iota(0, a.shape), F32)
    outputs = [graph.fma(a, b, c), graph.fma(tenth, tenth, c), graph.fma(a, tenth, c)]
    # Both factors known to the compiler: contraction must not let it round their product.
    outputs += [
        graph.fma(graph.mul(ramp, tenth), tenth, c),
        graph.fma(graph.max_(a, tenth), tenth, c),
    ]
    outputs.append(graph.reduce("sumprod", graph.mul(ramp, tenth), (0,), tenth))
    outputs.append(graph.add(graph.mul(a, b), graph.mul(c, a)))
    check(outputs, leaves.values)


def test_literals_keep_their_bits(check: Check) -> None:
    leaves = Leaves()
    x = leaves.add(SPECIAL_FLOATS)
    outputs = []
    for value in SPECIAL_FLOATS:
        literal = graph.filled(value, F32, x.shape)
        outputs += [graph.mul(x, literal), graph.add(x, literal)]
    outputs += [graph.const(SPECIAL_FLOATS, F32, x.shape), graph.filled(np.nan, F32, (3,))]
    check(outputs, leaves.values)


@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min", "sumprod"])
def test_reduce_at_every_threshold(kind: str, check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for count in (1, 2, 31, 33, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097, 8192, 9000):
        x = leaves.normal(2, count)
        outputs.append(
            graph.reduce(kind, x, (1,), leaves.normal(2, count) if kind == "sumprod" else None)
        )
    check(outputs, leaves.values)


@pytest.mark.parametrize("kind", ["sum", "max", "sumprod"])
def test_reduce_over_outer_and_scattered_axes(kind: str, check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for shape, axes in (
        ((256, 70), (0,)),
        ((65, 9), (0,)),
        ((4100, 33), (0,)),
        ((3, 10, 64), (0, 2)),
        ((3, 128, 5, 16), (0, 2, 3)),
        ((8, 3, 4), (0, 1, 2)),
        ((0, 4), (1,)),
    ):
        x = leaves.normal(*shape)
        outputs.append(graph.reduce(kind, x, axes, x if kind == "sumprod" else None))
    if kind != "max":
        outputs.append(
            graph.reduce(
                kind, leaves.normal(4, 0), (1,), leaves.normal(4, 0) if kind == "sumprod" else None
            )
        )
    check(outputs, leaves.values)


def test_reduce_of_a_million_elements_has_three_levels_of_blocks(check: Check) -> None:
    leaves = Leaves()
    ones = graph.cast(graph.iota(0, (5_000_000,)), F32)
    check(
        [graph.reduce("sum", ones, (0,)), graph.reduce("max", leaves.normal(70_000), (0,))],
        leaves.values,
    )


@pytest.mark.parametrize("dtype", [d for d in dtypes.DTYPES if not d.is_float], ids=str)
def test_integer_reductions_wrap(dtype: dtypes.DType, check: Check) -> None:
    leaves = Leaves()
    x = leaves.add(values(dtype, (7, 333), leaves.rng))
    kinds = ["max", "min"] if dtype is dtypes.bool_ else ["sum", "prod", "max", "min", "sumprod"]
    outputs = [
        graph.reduce(k, x, (axis,), x if k == "sumprod" else None) for k in kinds for axis in (0, 1)
    ]
    check(outputs, leaves.values)


SHAPES = [
    (1, 1, 1, 1),
    (1, 1, 513, 1),
    (2, 3, 511, 5),
    (1, 70, 33, 3),
    (1, 5, 64, 70),
    (1, 33, 100, 47),
    (3, 40, 70, 65),
    (1, 64, 1025, 17),
    (1, 4, 600, 200),
    (2, 5, 0, 4),
]


def test_dot_on_both_sides_of_every_threshold(check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for batch, rows, terms, columns in SHAPES:
        a, b = leaves.normal(batch, rows, terms), leaves.normal(batch, terms, columns)
        outputs.append(graph.dot(a, b))
        turned = graph.permute(leaves.normal(batch, columns, terms), (0, 2, 1))
        outputs.append(graph.dot(graph.max_(a, graph.filled(0, F32, a.shape)), turned))
    check(outputs, leaves.values)


def test_dot_with_special_values_and_a_shared_operand(check: Check) -> None:
    leaves = Leaves()
    a = leaves.add(values(F32, (3, 40, 70), np.random.default_rng(1)))
    b = leaves.add(values(F32, (1, 70, 50), np.random.default_rng(4)))
    check([graph.dot(a, graph.expand(b, (3, 70, 50)))], leaves.values)


def test_dot_skips_terms_beyond_the_valid_length(check: Check) -> None:
    leaves = Leaves()
    a = leaves.normal(2, 9, 600)
    valid = leaves.add(leaves.rng.integers(-5, 700, (2, 9)).astype(np.int32))
    poisoned = np.full((2, 600, 3), np.nan, dtype=np.float32)
    poisoned[:, :300] = 1
    outputs = [graph.dot(a, leaves.normal(2, 600, n), valid) for n in (1, 3, 70)]
    half = leaves.add(np.full((2, 9), 300, dtype=np.int32))
    outputs.append(graph.dot(a, leaves.add(poisoned), half))
    check(outputs, leaves.values)


def test_integer_dot(check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for left, right in (
        (dtypes.int8, dtypes.int8),
        (dtypes.uint8, dtypes.int8),
        (dtypes.int32, dtypes.int32),
    ):
        a = leaves.add(values(left, (2, 9, 130), leaves.rng))
        outputs.append(graph.dot(a, leaves.add(values(right, (2, 130, 33), leaves.rng))))
        valid = leaves.add(leaves.rng.integers(0, 140, (2, 9)).astype(np.int32))
        outputs.append(graph.dot(a, leaves.add(values(right, (2, 130, 2), leaves.rng)), valid))
    check(outputs, leaves.values)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_as_a_dot_over_padded_windows(stride: int, check: Check) -> None:
    leaves = Leaves()
    image = graph.max_(leaves.normal(2, 3, 13, 13), graph.filled(-1, F32, (2, 3, 13, 13)))
    windows = graph.window(
        graph.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1))), ((2, 3, stride, 1), (3, 3, stride, 1))
    )
    rows = prod_of(windows.shape[2:4])
    columns = graph.reshape(graph.permute(windows, (0, 2, 3, 1, 4, 5)), (1, 2 * rows, 27))
    weight = graph.permute(graph.reshape(leaves.normal(8, 3, 3, 3), (1, 8, 27)), (0, 2, 1))
    bias = graph.expand(graph.reshape(leaves.normal(8), (1, 1, 8)), (1, 2 * rows, 8))
    check([graph.add(graph.dot(columns, weight), bias)], leaves.values)


def prod_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


@pytest.mark.parametrize("dtype", [dtypes.int32, dtypes.int64, dtypes.uint32], ids=str)
def test_gather_clamps_and_scatter_drops(dtype: dtypes.DType, check: Check) -> None:
    leaves = Leaves()
    data = leaves.normal(5, 7)
    wild = leaves.add(values(dtype, (40,), leaves.rng))
    valid = leaves.add(leaves.rng.integers(0, 5, 40).astype(dtype.numpy))
    updates = leaves.normal(40, 7)
    outputs = [graph.gather(data, wild, axis) for axis in (0, 1)]
    for index in (wild, valid):
        outputs += [graph.scatter(kind, data, index, updates) for kind in ("add", "set")]
        column = graph.slice_(data, ((0, 1, 5), (0, 1, 1)))
        one = graph.slice_(updates, ((0, 1, 40), (2, 1, 1)))
        outputs.append(graph.scatter("add", column, index, one))
    check(outputs, leaves.values)


def test_concat_and_views_as_results(check: Check) -> None:
    leaves = Leaves()
    a, b = leaves.normal(3, 4), leaves.normal(3, 4)
    outputs = [
        graph.concat([a, graph.add(a, b), b], 0),
        graph.concat([a, graph.slice_(b, ((0, 1, 3), (0, 1, 0))), b], 1),
        graph.pad(a, ((2, 0), (0, 3))),
        graph.window(a, ((1, 2, 1, 2),)),
        graph.slice_(a, ((2, -1, 3), (0, 2, 2))),
        a,
        graph.iota(1, (3, 5)),
    ]
    check(outputs, leaves.values)
