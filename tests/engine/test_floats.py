"""The arithmetic of every float type against exact rationals, ml_dtypes and the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flopmarket.engine import dtypes, floats, graph, reference
from flopmarket.engine.dtypes import DType, bfloat16, float16, float32, float64
from flopmarket.engine.exact import REDUCE_LANES

Array = np.ndarray[Any, Any]
FORMATS = {float16: (11, -14), bfloat16: (8, -126), float64: (53, -1022)}
"""Significand bits and smallest normal exponent."""


def nearest(exact: Fraction, dtype: DType) -> float:
    """The value of ``dtype`` nearest to an exact number, ties to even."""
    digits, lowest = FORMATS[dtype]
    if not exact:
        return 0.0
    exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
    while Fraction(2) ** exponent > abs(exact):
        exponent -= 1
    place = Fraction(2) ** (max(exponent, lowest) - digits + 1)
    rounded = round(exact / place) * place  # Python rounds halves to even
    top = Fraction(2) ** (1 - lowest) * 2
    if abs(rounded) >= top:
        return math.inf if rounded > 0 else -math.inf
    return float(rounded)


def bits(x: Array) -> Array:
    """Canonical bits."""
    x = np.asarray(dtypes.canonical(x))
    return x.view(f"u{x.itemsize}")


def run(node: graph.Node, leaves: dict[graph.Node, Array]) -> Array:
    return reference.evaluate([node], leaves)[0]


def leaf(name: str, array: Array) -> graph.Node:
    return graph.input_("input", name, dtypes.from_numpy(array.dtype), array.shape)


def every(dtype: DType) -> Array:
    """All 65536 values of a 16-bit float."""
    return np.asarray(dtypes.canonical(np.arange(65536, dtype=np.uint16).view(dtype.numpy)))


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_widening_is_exact_and_narrowing_its_inverse(dtype: DType) -> None:
    x = every(dtype)
    assert (bits(floats.narrow(floats.wide(x), dtype)) == bits(x)).all()
    assert (bits(floats.convert(x, float64).astype(np.float32)) == bits(floats.wide(x))).all()


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_narrowing_rounds_to_the_nearest_and_ties_to_even(dtype: DType, source: type) -> None:
    finite = np.unique(every(dtype)[np.isfinite(floats.wide(every(dtype)))].astype(np.float64))
    ties = (finite[1:] + finite[:-1]) / 2
    ties = np.append(ties, finite[-1] * 1.5 - finite[-2] / 2)  # where overflow begins
    near = np.concatenate([finite, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    x = near.astype(source)[::5]
    want = np.array([nearest(Fraction(float(v)), dtype) for v in x])
    assert (floats.narrow(x, dtype).astype(np.float64) == want).all()


def test_narrowing_agrees_with_ml_dtypes() -> None:
    x = np.random.default_rng(1).integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32)
    single = np.asarray(dtypes.canonical(x.view(np.float32)))
    with np.errstate(all="ignore"):
        want = single.astype(ml_dtypes.bfloat16)
    assert (bits(floats.narrow(single, bfloat16)) == bits(want)).all()


def test_float64_does_not_reach_a_16_bit_float_through_float32() -> None:
    """Just above a tie by less than float32 sees: two roundings would go down to the even side."""
    for dtype, half in ((float16, 2.0**-11), (bfloat16, 2.0**-8)):
        x = np.array([1 + half + 2.0**-40])
        node = graph.cast(leaf("x", x), dtype)
        assert float(run(node, {node.src[0]: x})[0]) == 1 + 2 * half
        through = graph.cast(graph.cast(node.src[0], float32), dtype)
        assert float(run(through, {node.src[0]: x})[0]) == 1


@pytest.mark.parametrize("source", [d for d in dtypes.DTYPES if d.is_integer], ids=str)
@pytest.mark.parametrize("dtype", [float16, bfloat16, float64], ids=str)
def test_integers_round_once(source: DType, dtype: DType) -> None:
    info = np.iinfo(source.numpy)
    numbers = [
        (significand << shift) + step
        for significand in (1, 0x101, 0x181, 0x183, 0x801, 0x803, 2**24 + 1, 2**53 + 1, 2**54 + 3)
        for shift in range(0, 60, 2)
        for step in (-1, 0, 1)
    ]
    numbers += [-n for n in numbers] + [int(info.min), int(info.max)]
    inside = [n for n in numbers if info.min <= n <= info.max]
    x = np.array(inside, dtype=source.numpy)
    node = graph.cast(leaf("x", x), dtype)
    found = run(node, {node.src[0]: x}).astype(np.float64)
    assert found.tolist() == [nearest(Fraction(n), dtype) for n in inside]


def awkward(count: int, seed: int) -> tuple[Array, Array, Array]:
    """float64 triples: cancelling, trapping a double rounding, subnormal, huge, special."""
    rng = np.random.default_rng(seed)
    a, b = (np.ldexp(rng.standard_normal(count), rng.integers(-300, 300, count)) for _ in range(2))
    c = np.where(rng.random(count) < 0.5, -(a * b) * (1 + 2.0**-52), rng.standard_normal(count))
    words = rng.integers(0, 2**64, (3, count), dtype=np.uint64).view(np.float64)
    wild = rng.random(count) < 0.2
    a, b, c = (np.where(wild, w, x) for w, x in zip(words, (a, b, c), strict=True))
    tiny = rng.random(count) < 0.2
    a = np.where(tiny, np.ldexp(a, -1000), a)
    c = np.where(tiny, rng.integers(-3, 4, count) * 5e-324, c)
    return a, b, c


def test_float64_fma_rounds_the_exact_value_once() -> None:
    with np.errstate(all="ignore"):
        a, b, c = awkward(4000, 2)
        found = floats.fma64(a, b, c)
        for x, y, z, result in zip(*(v.tolist() for v in (a, b, c, found)), strict=True):
            if not all(map(math.isfinite, (x, y, z))):
                assert math.isnan(result) == math.isnan(x * y + z) or math.isinf(z)
                continue
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            assert result == nearest(exact, float64), (x.hex(), y.hex(), z.hex())


def test_float64_fma_special_cases() -> None:
    inf, nan = np.inf, np.nan
    cases = [
        (0.0, 1.0, -0.0, 0.0),
        (-0.0, 1.0, -0.0, -0.0),
        (1.0, 1.0, -1.0, 0.0),
        (inf, 0.0, 1.0, nan),
        (inf, 1.0, -inf, nan),
        (1e300, 1e300, -inf, -inf),
        (1e-300, -1e-300, 0.0, -0.0),
        (1e-300, 1e-300, -5e-324, -5e-324),
        (1e300, 1e300, 0.0, inf),
        (2.0**-540, 2.0**-540, 5e-324, 5e-324),
        (1 + 2.0**-30, 1 + 2.0**-30, 2.0**-120, 1 + 2.0**-29 + 2.0**-60 + 0),
    ]
    a, b, c, want = (np.array(column) for column in zip(*cases, strict=True))
    with np.errstate(all="ignore"):
        found = floats.fma64(a, b, c)
    assert (bits(found)[:-1] == bits(want)[:-1]).all()
    assert found[-1] == nearest(Fraction(a[-1]) ** 2 + Fraction(c[-1]), float64)


BINARY: list[tuple[Callable[..., graph.Node], Callable[[Array, Array], Array]]] = [
    (graph.add, np.add),
    (graph.mul, np.multiply),
    (graph.div, np.divide),
    (lambda a, b: graph.fma(a, b, a), lambda a, b: floats.fma32(a, b, a)),
    (lambda a, b: graph.sqrt(graph.mul(a, a)), lambda a, b: np.sqrt(_again(a * a))),
]


def _again(x: Array) -> Array:
    """What the inner node of the last case leaves in float16."""
    return floats.wide(floats.narrow(x, float16)) if x.dtype == np.float32 else x


@pytest.mark.parametrize("case", range(len(BINARY)))
def test_16_bit_arithmetic_is_the_float32_operation_rounded(case: int) -> None:
    rng = np.random.default_rng(case)
    a, b = (rng.choice(every(float16), 20_000) for _ in range(2))
    left, right = leaf("a", a), leaf("b", b)
    build, formula = BINARY[case]
    with np.errstate(all="ignore"):
        want = formula(a.astype(np.float32), b.astype(np.float32)).astype(np.float16)
    assert (bits(run(build(left, right), {left: a, right: b})) == bits(want)).all()


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_16_bit_sums_round_at_the_end_only(dtype: DType) -> None:
    """Thousands of ones with a small tail: a 16-bit accumulator would stop counting."""
    x = np.ones(3000, dtype=dtype.numpy)
    node = graph.reduce("sum", leaf("x", x), (0,))
    assert float(run(node, {node.src[0]: x})) == float(floats.narrow(np.float32(3000), dtype))
    small = np.full(2 * REDUCE_LANES, 2.0**-12, dtype=dtype.numpy)
    small[0] = 1
    node = graph.reduce("sum", leaf("x", small), (0,))
    exact = 1 + (2 * REDUCE_LANES - 1) * 2.0**-12
    assert float(run(node, {node.src[0]: small})) == nearest(Fraction(exact), dtype)


def test_products_of_16_bit_floats_are_float32() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((1, 3, 70)), rng.standard_normal((1, 70, 4))
    left, right = a.astype(np.float16), b.astype(ml_dtypes.bfloat16)
    node = graph.dot(leaf("a", left), leaf("b", right))
    assert node.dtype is float32
    wide = [x.astype(np.float32) for x in (left, right)]
    same = graph.dot(leaf("a", wide[0]), leaf("b", wide[1]))
    found = run(node, dict(zip(node.src, (left, right), strict=True)))
    assert (bits(found) == bits(run(same, dict(zip(same.src, wide, strict=True))))).all()


def test_float64_products_and_folds_stay_in_float64() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((1, 2, 600)), rng.standard_normal((1, 600, 2))
    node = graph.dot(leaf("a", a), leaf("b", b))
    assert node.dtype is float64
    found = run(node, dict(zip(node.src, (a, b), strict=True)))
    for row in range(2):
        for column in range(2):
            total = 0.0
            for start in range(0, 600, 256):
                chunk = 0.0
                for k in range(start, min(start + 256, 600)):
                    exact = Fraction(a[0, row, k]) * Fraction(b[0, k, column]) + Fraction(chunk)
                    chunk = nearest(exact, float64)
                total += chunk
            assert found[0, row, column] == total


@pytest.mark.parametrize(
    ("a", "b", "terms", "result"),
    [
        ("int8", "int8", 131_071, "int32"),
        ("int8", "int8", 131_072, "int64"),
        ("uint8", "uint8", 33_025, "int32"),
        ("uint8", "uint8", 33_026, "int64"),
        ("int8", "uint16", 255, "int32"),
        ("int8", "uint16", 257, "int64"),
        ("int16", "int16", 1, "int32"),
        ("int16", "int16", 2, "int64"),
        ("uint16", "uint16", 1, "int64"),
        ("uint16", "uint16", 2**40, None),
        ("int32", "int32", 2**30, "int32"),
        ("int32", "int8", 9, "int32"),
        ("uint32", "int8", 9, None),
        ("int64", "int64", 9, None),
        ("bool", "int8", 9, None),
        ("float16", "bfloat16", 9, "float32"),
        ("float64", "float64", 9, "float64"),
        ("float64", "float32", 9, None),
        ("float32", "int8", 9, None),
    ],
)
def test_the_dtype_of_a_contraction(a: str, b: str, terms: int, result: str | None) -> None:
    left, right = dtypes.from_name(a), dtypes.from_name(b)
    for found in (dtypes.contraction(left, right, terms), dtypes.contraction(right, left, terms)):
        assert (None if found is None else found.name) == result


@pytest.mark.parametrize("dtype", [float16, bfloat16, float32, float64], ids=str)
def test_canonical_has_one_nan_and_the_rest_as_it_was(dtype: DType) -> None:
    words = dtypes.unsigned_of(dtype).numpy
    top = 1 << (dtype.bits - 1)
    nan = dtypes.CANONICAL_NAN[dtype]
    given = np.array([nan | 1, nan | top, nan, top, 1], dtype=words).view(dtype.numpy)
    found = dtypes.canonical(given).view(words).tolist()
    assert found == [nan, nan, nan, top, 1]
