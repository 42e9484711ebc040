"""Devices without float64: float32 division and square root by integer remainders, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.codegen import prelude
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.plan import make_plan

from .conftest import bits
from .random_graphs import SPECIAL_FLOATS

Array = np.ndarray[Any, Any]
F32 = dtypes.float32
COUNT = 400_000


@pytest.fixture(scope="module")
def target(device: Device) -> Target:
    return replace(open_target(device), has_fp64=False)


def leaf(name: str, array: Array) -> Node:
    return graph.input_("buffer", name, dtypes.from_numpy(array.dtype), array.shape)


def run(device: Device, target: Target, outputs: list[Node], leaves: dict[Node, Array]) -> None:
    """Fails unless the device has the reference's bits."""
    prepared = Prepared(outputs, device, target, CompileOptions(poison=True))
    try:
        values = prepared.run(leaves)
    finally:
        prepared.release()
    for node, want in zip(outputs, reference.evaluate(outputs, leaves), strict=True):
        have = values[node]
        np.testing.assert_array_equal(have.view(bits(have)), want.view(bits(want)), repr(node))


def all_bits(rng: np.random.Generator, count: int = COUNT) -> Array:
    """Floats with every exponent alike: subnormals, infinities and NaN among them."""
    words = rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    return np.asarray(dtypes.canonical(words.view(np.float32)))


def at_the_edges(rng: np.random.Generator) -> tuple[Array, Array]:
    """Operands whose quotients are near overflow, subnormal, near half of the smallest, or short.

    Dividends are products of the divisor and a short number, then moved by an ulp: quotients that
    are exact, just above and just below what 24 bits and fewer can say.
    """
    divisor = np.ldexp(1 + rng.integers(0, 2**23, COUNT) * 2.0**-23, rng.integers(-60, 60, COUNT))
    short = np.ldexp(1.0 + rng.integers(0, 2**12, COUNT), rng.integers(-163, 118, COUNT))
    with np.errstate(over="ignore"):
        dividend = (divisor * short).astype(np.float32)
    moved = dividend.view(np.uint32) + rng.integers(-1, 2, COUNT).astype(np.uint32)
    sign = rng.choice(np.array([1, -1], dtype=np.float32), COUNT)
    return dtypes.canonical(moved.view(np.float32)) * sign, divisor.astype(np.float32)


def test_division_over_all_exponents(device: Device, target: Target) -> None:
    rng = np.random.default_rng(1)
    pairs = [(all_bits(rng), all_bits(rng)), at_the_edges(rng)]
    near = all_bits(rng)
    other = (near.view(np.uint32) ^ rng.integers(0, 2**23, COUNT).astype(np.uint32)).view(F32.numpy)
    pairs.append((near, dtypes.canonical(other)))  # quotients around 1
    edges = [x.ravel() for x in np.meshgrid(SPECIAL_FLOATS, SPECIAL_FLOATS)]
    pairs.append((edges[0], edges[1]))
    leaves: dict[Node, Array] = {}
    outputs = []
    for at, (a, b) in enumerate(pairs):
        left, right = leaf(f"a{at}", a), leaf(f"b{at}", b)
        leaves |= {left: dtypes.canonical(a), right: dtypes.canonical(b)}
        outputs.append(graph.div(left, right))
    run(device, target, outputs, leaves)


def test_square_root_over_all_exponents(device: Device, target: Target) -> None:
    rng = np.random.default_rng(2)
    exact = np.ldexp(1.0 + rng.integers(0, 2**12, COUNT), 0) ** 2
    squares = np.ldexp(exact, 2 * rng.integers(-80, 50, COUNT)).astype(np.float32)
    moved = squares.view(np.uint32) + rng.integers(-1, 2, COUNT).astype(np.uint32)
    subnormal = rng.integers(0, 2**23, COUNT).astype(np.uint32).view(np.float32)
    arrays = [all_bits(rng), moved.view(np.float32), subnormal, SPECIAL_FLOATS]
    leaves = {leaf(f"x{at}", x): np.asarray(dtypes.canonical(x)) for at, x in enumerate(arrays)}
    run(device, target, [graph.sqrt(x) for x in leaves], leaves)


@pytest.mark.parametrize("factor", ["1.0000007f", "0.9999993f"])
def test_a_poor_estimate_of_the_device_changes_nothing(
    device: Device, target: Target, factor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCL allows reciprocal and root 3 ulp; with twice that the remainders still decide."""
    text = prelude._DIVISION_IN_INTEGERS
    poor = text.replace("1.0f /", f"{factor} /").replace(
        "sqrt((float)m", f"{factor} * sqrt((float)m"
    )
    assert poor.count(factor) == 3
    monkeypatch.setattr(prelude, "_DIVISION_IN_INTEGERS", poor)
    rng = np.random.default_rng(4)
    leaves = {leaf("a", x := all_bits(rng)): x, leaf("b", y := all_bits(rng)): y}
    a, b = leaves
    run(device, target, [graph.div(a, b), graph.sqrt(a)], leaves)


def test_sixteen_bit_floats_need_no_float64(device: Device, target: Target) -> None:
    rng = np.random.default_rng(3)
    leaves: dict[Node, Array] = {}
    outputs = []
    for dtype in (dtypes.float16, dtypes.bfloat16):
        words = rng.integers(0, 2**16, (2, 5000)).astype(np.uint16)
        a, b = (dtypes.canonical(row.view(dtype.numpy)) for row in words)
        left, right = leaf(f"{dtype}a", a), leaf(f"{dtype}b", b)
        leaves |= {left: a, right: b}
        outputs += [graph.div(left, right), graph.sqrt(left), graph.fma(left, right, left)]
        outputs.append(graph.reduce("sum", left, (0,)))
    run(device, target, outputs, leaves)


def test_the_text_says_no_double(target: Target) -> None:
    x = leaf("x", np.zeros(8, dtype=np.float32))
    assert "double" not in make_plan([graph.div(x, x), graph.sqrt(x)], target).source


def test_a_program_that_uses_float64_is_refused_with_the_device_s_name(
    device: Device, target: Target
) -> None:
    x = leaf("x", np.zeros(8, dtype=np.float32))
    squared = graph.mul(graph.cast(x, dtypes.float64), graph.cast(x, dtypes.float64))
    with pytest.raises(EngineError, match="float64") as caught:
        Prepared([graph.cast(squared, F32)], device, target, CompileOptions())
    assert caught.value.code == "DEVICE_DTYPE"
    assert device.info.index_name in str(caught.value)
