"""The kernels that FAST has for GPUs, run by the CPU's driver: tiled products, grouped folds.

On integers every order of a sum gives the same floats, so that most tests compare bits with the
reference; the golden programs are compared within the rounding of another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.tiled import MAX_PARTS, SQUARES, split_of
from flopmarket.engine.dtypes import DType
from flopmarket.engine.golden import suite
from flopmarket.engine.golden.suite import Array
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

FAST = CompileOptions(numerics=Numerics.FAST, poison=True)


@pytest.fixture(scope="session")
def gpu(device: Device) -> Target:
    """What a GPU with four compute units would get."""
    target = open_target(device, numerics=Numerics.FAST)
    return replace(target, is_cpu=False, vector_floats=1, compute_units=4)


def run(
    device: Device, target: Target, outputs: Sequence[Node], leaves: dict[Node, Array]
) -> tuple[list[Array], list[str]]:
    """Values of canonical ``outputs``, equal in two runs, and the families of kernels."""
    nodes = canonicalise(outputs)
    prepared = Prepared(nodes, device, target, FAST)
    try:
        first, second = prepared.run(leaves), prepared.run(leaves)
        families = [step.call.family for step in prepared.plan.steps]
    finally:
        prepared.release()
    for node in nodes:
        assert first[node].tobytes() == second[node].tobytes()
    return [first[node] for node in nodes], families


def whole_numbers(seed: int, shape: tuple[int, ...], dtype: DType = dtypes.float32) -> Array:
    """Small integers as floats."""
    random = np.random.default_rng(seed)
    return random.integers(-8, 9, shape).astype(np.float32).astype(dtype.numpy)


def leaf(name: str, array: Array) -> Node:
    return graph.input_("input", name, dtypes.from_numpy(array.dtype), array.shape)


def agree(device: Device, target: Target, output: Node, leaves: dict[Node, Array]) -> list[str]:
    """Assert the reference's bits; the families of kernels."""
    (have,), families = run(device, target, [output], leaves)
    (want,) = reference.evaluate(canonicalise([output]), leaves)
    np.testing.assert_array_equal(have, want)
    return families


PRODUCTS = [
    ((1, 64, 64, 64), dtypes.float32, (False, False)),
    ((2, 65, 33, 70), dtypes.float32, (True, True)),
    ((1, 130, 100, 131), dtypes.float32, (False, True)),
    ((3, 40, 47, 150), dtypes.float16, (True, False)),
    ((1, 128, 96, 128), dtypes.bfloat16, (False, False)),
    ((2, 150, 65, 66), dtypes.bfloat16, (False, True)),
]
"""((batch, rows, terms, columns), dtype, which operand is transposed)"""


@pytest.mark.parametrize(("sizes", "dtype", "transposed"), PRODUCTS, ids=str)
def test_a_product_of_any_shape(
    device: Device,
    gpu: Target,
    sizes: tuple[int, int, int, int],
    dtype: DType,
    transposed: tuple[bool, bool],
) -> None:
    batch, M, K, N = sizes
    shapes = [(batch, M, K), (batch, K, N)]
    arrays = []
    for at, (shape, turned) in enumerate(zip(shapes, transposed, strict=True)):
        shape = (shape[0], shape[2], shape[1]) if turned else shape
        arrays.append(whole_numbers(at, shape, dtype))
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    left, right = (
        graph.permute(x, (0, 2, 1)) if turned else x
        for x, turned in zip((a, b), transposed, strict=True)
    )
    families = agree(device, gpu, graph.dot(left, right), dict(zip((a, b), arrays, strict=True)))
    assert families[0] == "gemm_tiled"


@pytest.mark.parametrize("units", [1, 4, 64])
def test_every_square_of_sums(device: Device, gpu: Target, units: int) -> None:
    arrays = [whole_numbers(1, (1, 200, 100)), whole_numbers(2, (1, 100, 260))]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    target = replace(gpu, compute_units=units)
    agree(device, target, graph.dot(a, b), {a: arrays[0], b: arrays[1]})


def test_what_is_fused_around_a_product(device: Device, gpu: Target) -> None:
    """A prologue in both operands, a bias, a second root, and a shared right operand."""
    arrays = [whole_numbers(1, (3, 40, 50)), whole_numbers(2, (50, 70)), whole_numbers(3, (70,))]
    a, b, c = (leaf(name, array) for name, array in zip("abc", arrays, strict=True))
    two = graph.filled(2.0, dtypes.float32, a.shape)
    right = graph.expand(graph.reshape(b, (1, 50, 70)), (3, 50, 70))
    product = graph.dot(graph.fma(a, two, two), graph.add(right, right))
    bias = graph.expand(graph.reshape(c, (1, 1, 70)), product.shape)
    agree(
        device,
        gpu,
        graph.max_(graph.add(product, bias), bias),
        dict(zip((a, b, c), arrays, strict=True)),
    )


def test_a_long_sum_of_a_small_product_is_split(device: Device, gpu: Target) -> None:
    arrays = [whole_numbers(1, (2, 20, 3000)), whole_numbers(2, (2, 3000, 17))]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    one = graph.filled(1.0, dtypes.float32, (2, 20, 17))
    output = graph.add(graph.dot(a, b), one)
    target = replace(gpu, compute_units=32)
    families = agree(device, target, output, dict(zip((a, b), arrays, strict=True)))
    assert families == ["gemm_tiled", "add_parts"]


@given(
    batch=st.integers(1, 64),
    M=st.integers(4, 5000),
    N=st.integers(8, 5000),
    K=st.integers(4, 100_000),
    units=st.integers(1, 200),
)
def test_tiles_and_parts_are_bounded(batch: int, M: int, N: int, K: int, units: int) -> None:
    split = split_of(batch, M, N, K, units, is_fast=True)
    assert split.square in SQUARES
    assert 1 <= split.parts <= MAX_PARTS
    assert split.parts == 1 or split.square == SQUARES[-1]


FOLDS = [
    ("sum", (7, 33), 0, dtypes.float32),
    ("sum", (5, 4097), 1, dtypes.float32),
    ("sum", (2, 10_000), 1, dtypes.float32),
    ("sum", (4097, 9), 0, dtypes.float32),
    ("sumprod", (300, 40), 0, dtypes.float32),
    ("sumprod", (3, 129), 1, dtypes.float32),
    ("max", (65, 64), 1, dtypes.float32),
    ("min", (65, 64), 0, dtypes.float32),
    ("sum", (3, 129), 1, dtypes.int32),
    ("max", (5, 4097), 1, dtypes.bool_),
    ("min", (1, 31), 1, dtypes.bool_),
]


@pytest.mark.parametrize(("kind", "shape", "axis", "dtype"), FOLDS, ids=str)
def test_a_fold_of_any_length_along_either_axis(
    device: Device, gpu: Target, kind: str, shape: tuple[int, int], axis: int, dtype: DType
) -> None:
    arrays = [whole_numbers(at, shape).astype(dtype.numpy) for at in range(2)]
    x, y = (leaf(name, array) for name, array in zip("xy", arrays, strict=True))
    sources = (x, y) if kind == "sumprod" else (x,)
    output = graph.reduce(kind, sources[0], (axis,), *sources[1:])
    agree(device, gpu, output, dict(zip((x, y), arrays, strict=True)))


@pytest.mark.parametrize(
    "name",
    [
        *("dot float32", "dot bfloat16", "reduce float32", "reduce float64", "softmax"),
        *("layer norm", "convolution", "attention", "adam step", "movement"),
    ],
)
def test_golden_programs_are_close_to_the_law(device: Device, gpu: Target, name: str) -> None:
    golden = suite.programs()[name]()
    have, _ = run(device, gpu, golden.nodes, dict(golden.leaves))
    for label, node, value, want in zip(
        golden.labels, golden.nodes, have, suite.expected(golden), strict=True
    ):
        near = 1e-2 if node.dtype.size_bytes == 2 else 1e-4
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(
                value.astype(np.float64), want.astype(np.float64), near, 1e-3, err_msg=label
            )
