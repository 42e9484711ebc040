"""pow against float64 on every exponent, its special cases, its derivatives; integer powers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import elementary, graph, reference
from flopmarket.engine.dtypes import float32, from_numpy
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


def evaluated(rule: Callable[[Node, Node], Node], a: Array, b: Array) -> Array:
    left = graph.input_("input", "a", from_numpy(a.dtype), a.shape)
    right = graph.input_("input", "b", from_numpy(b.dtype), b.shape)
    (found,) = reference.evaluate(canonicalise([rule(left, right)]), {left: a, right: b})
    return found


def pairs() -> tuple[Array, Array]:
    """Bases over every exponent with powers that stay in range, and small bases with large ones."""
    random = np.random.default_rng(7)
    count = 60_000
    exponents = np.repeat(np.arange(-149, 128), 400)
    wide = np.ldexp(random.uniform(1, 2, exponents.size), exponents).astype(np.float32)
    limit = 126 / np.maximum(1, np.abs(exponents))
    powers = (random.uniform(-1, 1, exponents.size) * limit).astype(np.float32)
    near = random.uniform(0.25, 4, count).astype(np.float32)
    large = random.uniform(-60, 60, count).astype(np.float32)
    close = (1 + random.uniform(-1e-3, 1e-3, count)).astype(np.float32)
    huge = random.uniform(-8e4, 8e4, count).astype(np.float32)
    return np.concatenate([wide, near, close]), np.concatenate([powers, large, huge])


def test_pow_is_within_its_stated_error() -> None:
    base, exponent = pairs()
    found = evaluated(elementary.power, base, exponent)
    with np.errstate(over="ignore"):
        wanted = np.power(base.astype(np.float64), exponent.astype(np.float64))
        near = wanted.astype(np.float32)
    inside = np.isfinite(near) & (near != 0)
    spacing = np.spacing(near[inside]).astype(np.float64)
    error = np.abs(found[inside].astype(np.float64) - wanted[inside]) / spacing
    assert error.max() <= 2.1
    certain = (wanted > 3.5e38) | (wanted < 1e-46)
    np.testing.assert_array_equal(found[certain], near[certain])


def test_pow_has_ieee_special_cases() -> None:
    sizes = [0.0, 1.0, np.inf, 2.0, 3.0, 0.5, 2.5, 1e30, 16777217, 16777215, 1e-40]
    special = np.array([*sizes, *(-size for size in sizes), np.nan], np.float32)
    base, exponent = (part.reshape(-1).copy() for part in np.meshgrid(special, special))
    found = evaluated(elementary.power, base, exponent)
    with np.errstate(all="ignore"):
        wanted = np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(found, wanted, rtol=3e-7)
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(wanted[number]))


def test_pow_has_derivatives_by_both_operands() -> None:
    base = np.array([0.3, 2.0, 7.5, 1e-3, 1.0], np.float32)
    exponent = np.array([2.5, -1.3, 0.7, 3.0, 4.0], np.float32)
    x, y = Tensor(base, device="reference"), Tensor(exponent, device="reference")
    total = Tensor(elementary.power(x.node, y.node), device="reference").sum()
    by_base, by_exponent = (slope.numpy() for slope in grad(total, [x, y]))
    wide, power = base.astype(np.float64), exponent.astype(np.float64)
    np.testing.assert_allclose(by_base, power * wide ** (power - 1), rtol=1e-6)
    np.testing.assert_allclose(by_exponent, np.log(wide) * wide**power, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.int8, np.uint32])
def test_integer_powers_wrap(dtype: type) -> None:
    grid = np.meshgrid(np.arange(-5, 6), np.arange(70))
    base: Array = grid[0].reshape(-1).astype(dtype)
    exponent: Array = grid[1].reshape(-1).astype(dtype)
    bits = 8 * np.dtype(dtype).itemsize
    wanted = [pow(int(a), int(b), 2**bits) for a, b in zip(base, exponent, strict=True)]
    found = evaluated(elementary.integer_power, base, exponent)
    assert [int(v) % 2**bits for v in found] == wanted


def test_negative_powers_of_integers_are_zero_but_for_units() -> None:
    base = np.array([2, 1, -1, -1, 0, -7], np.int32)
    exponent = np.array([-1, -5, -3, -4, -1, -2], np.int32)
    assert evaluated(elementary.integer_power, base, exponent).tolist() == [0, 1, -1, 1, 0, 0]


def test_pow_broadcast_free_shapes_are_kept() -> None:
    ones = Tensor(np.ones((2, 3), np.float32)).node
    assert elementary.power(ones, ones).shape == (2, 3)
    assert elementary.power(ones, ones).dtype is float32
