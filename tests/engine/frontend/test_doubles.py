"""Elementary functions of float64 against 80-bit arithmetic, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, erfc
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import analytic, doubles, graph, reference
from flopmarket.engine.dtypes import float64
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Wide = np.longdouble

precise = pytest.mark.skipif(
    np.finfo(Wide).nmant < 60, reason="this machine has no arithmetic wider than float64"
)

ERRORS = (
    {"exp": 0.9, "log": 0.9, "log1p": 2.2, "expm1": 2.5, "sigmoid": 2.2}
    | {"tanh": 4.5, "sinh": 2.4, "cosh": 2.4, "asinh": 2.3, "acosh": 2.4, "atanh": 2.4}
    | {"sin": 1.5, "cos": 1.5, "tan": 2.8, "atan": 1.3, "asin": 1.9, "acos": 2.4}
    | {"exp2": 0.9, "log2": 1.4, "log10": 1.4, "softplus": 2.2}
    | {"erf": 1.9 + 1, "erfc": 5.7 + 1, "normal_cdf": 5.4 + 1, "gelu": 6 + 2}
)
"""What the docstrings state, in units in the last place; and what the C library may be off by."""

NUMPY = {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
NUMPY |= {"atan": "arctan", "asin": "arcsin", "acos": "arccos"}


def evaluated(rule: Callable[..., Node], *arrays: Array) -> Array:
    leaves = [
        graph.input_("input", f"x{at}", float64, array.shape) for at, array in enumerate(arrays)
    ]
    given = dict(zip(leaves, arrays, strict=True))
    return reference.evaluate(canonicalise([rule(*leaves)]), given)[0]


def exact(name: str, x: Array) -> Array:
    """The function to 64 bits of mantissa (those of the normal distribution: to float64)."""
    wide = x.astype(Wide)
    if name == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-wide)))
    if name == "softplus":
        return np.asarray(np.logaddexp(wide, Wide(0)))
    if name == "erf":
        return np.array([erf(value) for value in x], dtype=Wide)
    if name == "erfc":
        return complement(wide)
    if name in ("normal_cdf", "gelu"):
        share = complement(-wide * np.sqrt(Wide(0.5))) / 2
        return np.asarray(
            share if name == "normal_cdf" else np.where(x == -np.inf, 0, wide * share)
        )
    return np.asarray(getattr(np, NUMPY.get(name, name))(wide))


def complement(wide: Array) -> Array:
    """erfc of 80-bit numbers: the C library's at the nearest double, moved along its slope."""
    near = wide.astype(np.float64)
    moved = np.where(np.isfinite(near) & (np.abs(near) < 30), wide - near, 0)
    slope = 2 / np.sqrt(Wide(np.pi)) * np.exp(-np.minimum(wide * wide, 1_000))
    return np.array([erfc(value) for value in near], dtype=Wide) - slope * moved


def samples(name: str) -> Array:
    random = np.random.default_rng(5)
    sizes = np.ldexp(random.uniform(1, 2, 300), random.integers(-1074, 1024, 300))
    parts = [random.uniform(0, 3, 400), random.uniform(0, 1, 300), random.uniform(0, 750, 200)]
    if name in ("sin", "cos", "tan"):
        sizes = np.ldexp(random.uniform(1, 2, 300), random.integers(-1074, 16, 300))
        parts.append(np.linspace(0, 29.5 * np.pi, 60))
    if name in ("erfc", "normal_cdf", "gelu"):
        parts.append(random.uniform(0, 37 if name != "erfc" else 26, 600))
    positive = np.concatenate([sizes, *parts, 1 + random.uniform(-1e-3, 1e-3, 100)])
    special = [0.0, 1.0, np.inf, 0.5]
    both = np.concatenate([positive, special])
    return np.concatenate([both, -both, [np.nan]])


@precise
@pytest.mark.parametrize("name", ERRORS)
def test_functions_are_within_their_stated_errors(name: str) -> None:
    x = samples(name)
    found = evaluated(doubles.FUNCTIONS[name], x)
    with np.errstate(all="ignore"):
        wanted = exact(name, x)
        near = wanted.astype(np.float64)
    finite = np.isfinite(near)
    np.testing.assert_array_equal(found[~finite], near[~finite])
    spacing = np.maximum(np.spacing(np.abs(near[finite])), 5e-324)
    error = np.abs(found[finite].astype(Wide) - wanted[finite]) / spacing
    assert float(error.max()) <= ERRORS[name], x[finite][error.argmax()]


def test_odd_functions_keep_the_sign_of_zero() -> None:
    zeros = np.array([0.0, -0.0])
    for name in ("log1p", "expm1", "tanh", "sinh", "asinh", "atanh", "sin", "atan", "asin", "erf"):
        found = evaluated(doubles.FUNCTIONS[name], zeros)
        assert np.signbit(found).tolist() == [False, True], name


def test_circular_functions_of_huge_numbers_are_no_numbers() -> None:
    huge = np.array([2.0**50, -(2.0**900), np.inf])
    for name in ("sin", "cos", "tan"):
        assert np.isnan(evaluated(doubles.FUNCTIONS[name], huge)).all()


def test_pow_and_its_special_cases() -> None:
    random = np.random.default_rng(6)
    base, exponent = random.uniform(0, 50, 2_000), random.uniform(-150, 150, 2_000)
    wanted = np.power(base.astype(Wide), exponent.astype(Wide))
    found = evaluated(doubles.power, base, exponent)
    inside = (wanted > 1e-300) & (wanted < 1e300)
    assert (np.abs(found[inside] - wanted[inside]) <= 2.0**-43 * wanted[inside]).all()
    sizes = [0.0, 1.0, np.inf, 2.0, 3.0, 0.5, 2.5, 1e30, 2.0**53 + 2, 2.0**53 - 1]
    special = np.array([*sizes, *(-size for size in sizes), np.nan])
    grid = np.meshgrid(special, special)
    base, exponent = grid[0].reshape(-1), grid[1].reshape(-1)
    with np.errstate(all="ignore"):
        wanted64 = np.power(base, exponent)
    found = evaluated(doubles.power, base, exponent)
    np.testing.assert_allclose(found, wanted64, rtol=1e-12)
    number = ~np.isnan(wanted64)
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(wanted64[number]))


SLOPES: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": lambda x: 1 / x,
    "log1p": lambda x: 1 / (1 + x),
    "expm1": np.exp,
    "sigmoid": lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "sinh": np.cosh,
    "cosh": np.sinh,
    "asinh": lambda x: 1 / np.sqrt(x * x + 1),
    "atanh": lambda x: 1 / (1 - x * x),
    "sin": np.cos,
    "cos": lambda x: -np.sin(x),
    "tan": lambda x: 1 / np.cos(x) ** 2,
    "atan": lambda x: 1 / (1 + x * x),
    "asin": lambda x: 1 / np.sqrt(1 - x * x),
    "acos": lambda x: -1 / np.sqrt(1 - x * x),
    "erf": lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x),
    "erfc": lambda x: -2 / np.sqrt(np.pi) * np.exp(-x * x),
    "exp2": lambda x: np.log(2) * 2**x,
    "log2": lambda x: 1 / (x * np.log(2)),
    "log10": lambda x: 1 / (x * np.log(10)),
    "softplus": lambda x: 1 / (1 + np.exp(-x)),
    "normal_cdf": lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
}


@pytest.mark.parametrize("name", SLOPES)
def test_derivatives(name: str) -> None:
    points = np.array([1e-9, 0.01, 0.3, 0.45, 0.9])
    x = Tensor(points, device="reference")
    total = Tensor(doubles.FUNCTIONS[name](x.node), device="reference").sum()
    (slope,) = grad(total, [x])
    np.testing.assert_allclose(slope.numpy(), SLOPES[name](points), rtol=1e-9)


@pytest.mark.parametrize("name", doubles.FUNCTIONS)
def test_they_are_found_again(name: str) -> None:
    leaf = graph.input_("input", "x", float64, (3,))
    for argument in (leaf, graph.mul(leaf, leaf), doubles.FUNCTIONS["exp"](leaf)):
        assert analytic.recognise(doubles.FUNCTIONS[name](argument)) == (name, argument)


BENDS: dict[str, Callable[[Array], Array]] = {
    "log": lambda x: -1 / x**2,
    "exp": np.exp,
    "tanh": lambda x: -2 * np.tanh(x) / np.cosh(x) ** 2,
    "erf": lambda x: -4 * x / np.sqrt(np.pi) * np.exp(-x * x),
    "atan": lambda x: -2 * x / (1 + x * x) ** 2,
}


@pytest.mark.parametrize("name", BENDS)
def test_second_derivatives(name: str) -> None:
    points = np.array([0.01, 0.3, 0.45, 0.9])
    x = Tensor(points, device="reference")
    (slope,) = grad(Tensor(doubles.FUNCTIONS[name](x.node), device="reference").sum(), [x])
    (bend,) = grad(slope.sum(), [x])
    np.testing.assert_allclose(bend.numpy(), BENDS[name](points), rtol=1e-12)


@pytest.mark.parametrize("name", SLOPES)
def test_primitives_alone_have_the_first_derivative(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytic, "recognise", lambda node: None)
    test_derivatives(name)
