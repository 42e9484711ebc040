"""The reference interpreter against scalar spellings of the law (docs/numerics.md §1, §2, §5)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.dtypes import float32, int8, int32, uint8, uint32

Array = np.ndarray[Any, Any]
NAN, INF = np.float32(np.nan), np.float32(np.inf)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def run(node: graph.Node, **arrays: Array) -> Array:
    leaves = {
        leaf: arrays[leaf.arg[1]] for leaf in graph.topological([node]) if leaf.op is graph.Op.INPUT
    }
    return reference.evaluate([node], leaves)[0]


def leaf(name: str, array: Array) -> graph.Node:
    return graph.input_("input", name, dtypes.from_numpy(array.dtype), array.shape)


def rounded(exact: Fraction) -> np.float32:
    """The float32 nearest to an exact value, ties to even, by search among neighbours."""
    guess = np.float32(float(exact))
    best = [guess, np.nextafter(guess, INF), np.nextafter(guess, -INF)]
    best = [b for b in best if np.isfinite(b)]
    return min(best, key=lambda b: (abs(Fraction(float(b)) - exact), int(b.view(np.uint32)) & 1))


@settings(max_examples=300, deadline=None)
@given(floats, floats, floats)
def test_fma_rounds_the_exact_value_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if abs(exact) > Fraction(float(np.finfo(np.float32).max)):
        return
    got = reference.fma32(np.float32(a), np.float32(b), np.float32(c))
    if exact == 0:
        assert got == 0
    else:
        assert got == rounded(exact)


def test_fma_does_not_round_twice() -> None:
    """a = b = 1 + 2^-12, c = 2^-60: the sum lies just above a float32 tie."""
    a = np.float32(1 + 2**-12)
    assert float(reference.fma32(a, a, np.float32(2**-60))).hex() == "0x1.0020020000000p+0"
    naive = np.float32(np.float64(a) * np.float64(a) + np.float64(2**-60))
    assert naive != reference.fma32(a, a, np.float32(2**-60))


def chain(values: list[np.float32], combine: Any) -> np.float32:
    """REDUCE in scalars: blocks of 4096, 64 lanes, tree, then the same over block results."""
    if len(values) == 1:
        return values[0]
    results = []
    for start in range(0, len(values), 4096):
        block = values[start : start + 4096]
        lanes: list[np.float32] = []
        for j in range(min(64, len(block))):
            acc = block[j]
            for value in block[j + 64 :: 64]:
                acc = combine(acc, value)
            lanes.append(acc)
        step = 32
        while step:
            for j in range(step):
                if j + step < len(lanes):
                    lanes[j] = combine(lanes[j], lanes[j + step])
            lanes = lanes[:step]
            step //= 2
        results.append(lanes[0])
    return results[0] if len(results) == 1 else chain(results, combine)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 127, 1000, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("kind", ["sum", "prod"])
def test_reduce_order(n: int, kind: str) -> None:
    x = (np.random.default_rng(n).standard_normal((2, n)) + 1).astype(np.float32)
    if kind == "prod":
        x = np.float32(1) + x / np.float32(1000)
    combine = np.add if kind == "sum" else np.multiply
    got = run(graph.reduce(kind, leaf("x", x), (1,)), x=x)
    assert got.tolist() == [chain(list(row), combine) for row in x]


def test_sum_of_products_lanes_are_fma_chains_from_plus_zero() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 5000)).astype(np.float32)
    totals = []
    for start in range(0, 5000, 4096):
        lanes = []
        for j in range(min(64, 5000 - start)):
            acc = np.float32(0)
            for i in range(start + j, min(start + 4096, 5000), 64):
                acc = reference.fma32(x[i], y[i], acc)
            lanes.append(acc)
        totals.append(chain(lanes, np.add))
    got = run(graph.reduce("sumprod", leaf("x", x), (0,), leaf("y", y)), x=x, y=y)
    assert got == chain(totals, np.add)


@pytest.mark.parametrize("k", [0, 1, 255, 256, 257, 1030])
def test_dot_adds_chunks_of_fma_chains(k: int) -> None:
    rng = np.random.default_rng(k)
    a = rng.standard_normal((1, 2, k)).astype(np.float32)
    b = rng.standard_normal((1, k, 2)).astype(np.float32)
    want = np.zeros((1, 2, 2), dtype=np.float32)
    for m in range(2):
        for n in range(2):
            total = np.float32(0)
            for start in range(0, k, 256):
                acc = np.float32(0)
                for i in range(start, min(start + 256, k)):
                    acc = reference.fma32(a[0, m, i], b[0, i, n], acc)
                total = total + acc
            want[0, m, n] = total
    got = run(graph.dot(leaf("a", a), leaf("b", b)), a=a, b=b)
    assert got.tobytes() == want.tobytes()


def test_padding_both_operands_changes_nothing_and_valid_skips_infinities() -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((1, 3, 700)).astype(np.float32)
    b = rng.standard_normal((1, 700, 2)).astype(np.float32)
    plain = run(graph.dot(leaf("a", a), leaf("b", b)), a=a, b=b)
    a_long = np.concatenate([a, np.full((1, 3, 9), INF)], axis=2).astype(np.float32)
    b_long = np.concatenate([b, np.full((1, 9, 2), NAN)], axis=1).astype(np.float32)
    valid = np.full((1, 3), 700, dtype=np.int32)
    node = graph.dot(leaf("a", a_long), leaf("b", b_long), leaf("valid", valid))
    assert run(node, a=a_long, b=b_long, valid=valid).tobytes() == plain.tobytes()
    a_zero = np.pad(a, ((0, 0), (0, 0), (0, 9)))
    b_zero = np.pad(b, ((0, 0), (0, 9), (0, 0)))
    node = graph.dot(leaf("a", a_zero), leaf("b", b_zero))
    assert run(node, a=a_zero, b=b_zero).tobytes() == plain.tobytes()


def test_max_has_an_order_of_zeros_and_keeps_nan() -> None:
    a = np.array([0.0, -0.0, -0.0, 1, np.nan, np.inf], dtype=np.float32)
    b = np.array([-0.0, 0.0, -0.0, np.nan, 1, -np.inf], dtype=np.float32)
    got = run(graph.max_(leaf("a", a), leaf("b", b)), a=a, b=b)
    assert [hex(v) for v in got.view(np.uint32)] == [
        "0x0", "0x0", "0x80000000", "0x7fc00000", "0x7fc00000", "0x7f800000",
    ]  # fmt: skip


def test_reduce_max_and_min_of_zeros_do_not_depend_on_order() -> None:
    for values in ([0.0, -0.0, -0.0], [-0.0, -0.0, 0.0]):
        x = np.array(values, dtype=np.float32)
        assert not np.signbit(run(graph.reduce("max", leaf("x", x), (0,)), x=x))
        assert np.signbit(run(graph.reduce("min", leaf("x", x), (0,)), x=x))


def test_nan_is_canonical_at_the_border_and_through_bitcasts() -> None:
    payload = np.array([0xFFC12345, 0x7F800001], dtype=np.uint32)
    x = leaf("x", payload.view(np.float32))
    assert run(x, x=payload.view(np.float32)).view(np.uint32).tolist() == [0x7FC00000] * 2
    bits = graph.bitcast(x, uint32)
    assert run(bits, x=payload.view(np.float32)).tolist() == [0x7FC00000] * 2
    back = graph.bitcast(leaf("u", payload), float32)
    assert run(back, u=payload).view(np.uint32).tolist() == [0x7FC00000] * 2


def test_float_to_int_clamps_and_maps_nan_to_zero() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, -1.9, 1.9, 2147483520], dtype=np.float32)
    got = run(graph.cast(leaf("x", x), int32), x=x)
    assert got.tolist() == [0, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), -1, 1, 2147483520]
    got = run(graph.cast(leaf("x", x), uint8), x=x)
    assert got.tolist() == [0, 255, 0, 255, 0, 0, 1, 255]


def test_integer_division_floors_and_has_no_undefined_case() -> None:
    a = np.array([7, -7, 5, -(2**31), 0], dtype=np.int32)
    b = np.array([2, 2, 0, -1, -3], dtype=np.int32)
    assert run(graph.div(leaf("a", a), leaf("b", b)), a=a, b=b).tolist() == [3, -4, 0, -(2**31), 0]


def test_shifts_by_the_width_or_more_give_zero() -> None:
    a = np.full(4, 0x80000001, dtype=np.uint32)
    b = np.array([0, 31, 32, 4_000_000_000], dtype=np.uint32)
    shl = run(graph.bit("shl", leaf("a", a), leaf("b", b)), a=a, b=b)
    shr = run(graph.bit("shr", leaf("a", a), leaf("b", b)), a=a, b=b)
    assert shl.tolist() == [0x80000001, 0x80000000, 0, 0]
    assert shr.tolist() == [0x80000001, 1, 0, 0]


def test_integers_wrap() -> None:
    a = np.array([127], dtype=np.int8)
    assert run(graph.add(leaf("a", a), leaf("a", a)), a=a).tolist() == [-2]
    x = np.full((1, 1, 4), 127, dtype=np.int8)
    y = np.full((1, 4, 1), -128, dtype=np.int8)
    assert run(graph.dot(leaf("x", x), leaf("y", y)), x=x, y=y).item() == 4 * 127 * -128
    assert graph.dot(leaf("x", x), leaf("y", y)).dtype is int32
    assert int8.is_integer


def test_gather_clamps_and_scatter_drops_and_orders() -> None:
    data = np.arange(4, dtype=np.float32)
    index = np.array([-5, 0, 3, 99], dtype=np.int32)
    got = run(graph.gather(leaf("d", data), leaf("i", index), 0), d=data, i=index)
    assert got.tolist() == [0, 0, 3, 3]
    index = np.array([1, -1, 1, 4], dtype=np.int32)
    updates = np.array([1e8, 5, -1e8, 5], dtype=np.float32)
    base = np.full(4, 1, dtype=np.float32)
    node = graph.scatter("add", leaf("b", base), leaf("i", index), leaf("u", updates))
    # (1 + 1e8) - 1e8 in that order: the one is absorbed.
    assert run(node, b=base, i=index, u=updates).tolist() == [1, 0, 1, 1]
    node = graph.scatter("set", leaf("b", base), leaf("i", index), leaf("u", updates))
    assert run(node, b=base, i=index, u=updates).tolist() == [1, -1e8, 1, 1]


def test_views_match_numpy() -> None:
    x = np.arange(2 * 7 * 6, dtype=np.float32).reshape(2, 7, 6)
    node = graph.window(
        graph.pad(leaf("x", x), ((0, 0), (1, 0), (0, 2))), ((1, 3, 2, 1), (2, 2, 1, 3))
    )
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2)))
    want = np.stack(
        [
            np.stack([padded[:, i : i + 5 : 2, j : j + 5] for j in (0, 3)], axis=-1)
            for i in range(3)
        ],
        axis=-2,
    )[:, :3]
    windowed = run(node, x=x)
    assert windowed.shape == (2, 3, 5, 3, 2)
    want = np.empty(windowed.shape, dtype=np.float32)
    for p in range(3):
        for q in range(5):
            for i in range(3):
                for j in range(2):
                    want[:, p, q, i, j] = padded[:, 2 * p + i, q + 3 * j]
    assert windowed.tolist() == want.tolist()
    flipped = graph.slice_(leaf("x", x), ((0, 1, 2), (6, -2, 4), (5, -1, 6)))
    assert run(flipped, x=x).tolist() == x[:, ::-2, ::-1].tolist()


def test_a_missing_or_misshapen_input_is_named() -> None:
    x = graph.input_("input", "x", float32, (2,))
    with pytest.raises(reference.EngineError) as missing:
        reference.evaluate([x], {})
    assert missing.value.code == "INPUT_MISSING"
    with pytest.raises(reference.EngineError) as shape:
        reference.evaluate([x], {x: np.zeros(3, dtype=np.float32)})
    assert shape.value.code == "INPUT_SHAPE"


def test_a_scalar_stays_a_scalar() -> None:
    x = np.ones(3, dtype=np.float32)
    assert run(graph.reduce("sum", leaf("x", x), (0,)), x=x).shape == ()
