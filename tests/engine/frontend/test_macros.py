"""Elementary functions: error in ulp, special values, stability under canonicalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from flopmarket.engine import graph, macros, reference, rewrite
from flopmarket.engine.dtypes import float32
from flopmarket.engine.graph import Node

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")

# Exact value in float64, the error stated in the docstring, and where it is hard.
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float, list[tuple[float, float]]]] = {
    "exp2": (np.exp2, 0.88, [(-151, -120), (-1, 1), (120, 129)]),
    "exp": (np.exp, 0.90, [(-104.5, -80), (-1, 1), (85, 89.5)]),
    "log2": (np.log2, 0.93, [(0.5, 2), (1e-44, 1e-37)]),
    "log": (np.log, 0.84, [(0.5, 2), (1e-44, 1e-37)]),
    "tanh": (np.tanh, 1.37, [(0.3, 1), (1, 9.1), (-0.7, -0.5)]),
    "sigmoid": (special.expit, 1.58, [(-104, -80), (-4, 4)]),
    "erf": (special.erf, 1.08, [(0.8, 1.2), (1, 4), (-1.1, -0.5)]),
}


def run(name: str, x: Array) -> Array:
    node = graph.input_("input", "x", float32, x.shape)
    (result,) = reference.evaluate(
        rewrite.canonicalise([macros.MACROS[name](node)]), {node: x.astype(np.float32)}
    )
    return result


def ulps(found: Array, exact: Array) -> Array:
    """Error in units in the last place of the exact value; beyond the range, 2^128 is infinity."""
    size = np.abs(exact)
    exponent = np.clip(np.floor(np.log2(np.where(size > 0, size, 1.0))), -126, 127)
    unit = np.where(size > 0, 2.0 ** (exponent - 23), 2.0**-149)
    clipped = np.clip(exact, -(2.0**128), 2.0**128)
    error = np.abs(np.clip(found.astype(np.float64), -(2.0**128), 2.0**128) - clipped) / unit
    both_nan = np.isnan(found) & np.isnan(exact)
    return np.where(both_nan | (found == exact), 0.0, np.where(np.isnan(error), INF, error))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_every_exponent_and_where_it_is_hard(name: str) -> None:
    exact, stated, hard = FUNCTIONS[name]
    random = np.random.default_rng(11)
    mantissas = random.integers(0, 2**23, (512, 300), dtype=np.uint32)
    mantissas[:, 0], mantissas[:, 1], mantissas[:, 2] = 0, 2**23 - 1, 1
    spread = ((np.arange(512, dtype=np.uint32)[:, None] << 23) | mantissas).view(np.float32)
    dense = [random.uniform(low, high, 50_000).astype(np.float32) for low, high in hard]
    for x in (spread.ravel(), *dense):
        with np.errstate(all="ignore"):
            wanted = np.asarray(exact(x.astype(np.float64)))
            error = ulps(run(name, x), wanted)
        worst = int(error.argmax())
        assert error[worst] <= stated, f"{name}({x[worst]!r}) is {error[worst]:.3f} ulp off"


SPECIAL = np.array([0.0, -0.0, INF, -INF, NAN, 1.0, -1.0], dtype=np.float32)
SPECIAL_RESULTS: dict[str, list[float]] = {
    "exp2": [1, 1, INF, 0, NAN, 2, 0.5],
    "exp": [1, 1, INF, 0, NAN, np.e, 1 / np.e],
    "log2": [-INF, -INF, INF, NAN, NAN, 0, NAN],
    "log": [-INF, -INF, INF, NAN, NAN, 0, NAN],
    "tanh": [0, -0.0, 1, -1, NAN, 0.7615941559557649, -0.7615941559557649],
    "sigmoid": [0.5, 0.5, 1, 0, NAN, 0.7310585786300049, 0.2689414213699951],
    "erf": [0, -0.0, 1, -1, NAN, 0.8427007929497149, -0.8427007929497149],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name: str) -> None:
    found, wanted = run(name, SPECIAL), np.array(SPECIAL_RESULTS[name])
    np.testing.assert_allclose(found, wanted, rtol=2e-7)
    assert (np.signbit(found) == np.signbit(wanted))[~np.isnan(wanted)].all()
    assert set(found.view(np.uint32)[np.isnan(found)].tolist()) == {0x7FC00000}


def test_powers_of_two_are_exact() -> None:
    exponents = np.arange(-149, 128, dtype=np.float32)
    powers = np.ldexp(np.float32(1), exponents.astype(np.int32)).astype(np.float32)
    np.testing.assert_array_equal(run("exp2", exponents), powers)
    np.testing.assert_array_equal(run("log2", powers), exponents)


def test_underflow_passes_through_subnormals_and_overflow_ends_in_infinity() -> None:
    x = np.array([-126.5, -148.75, -149.0, -150.5, 127.99999, 128.0], dtype=np.float32)
    found = run("exp2", x)
    assert found[0] == np.float32(2.0**-126.5)
    assert found[2] == np.float32(2.0**-149)
    assert found[3] == 0.0
    assert np.isfinite(found[4])
    assert found[5] == INF


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_its_own_canonical_form_and_is_found_again(name: str) -> None:
    def apply(node: Node) -> Node:
        return macros.MACROS[name](node)

    for shape in ((), (3,), (2, 1)):
        x = graph.input_("input", "x", float32, shape)
        assert rewrite.canonicalise([apply(x)])[0] is apply(x)
        for argument in (x, graph.add(x, x), apply(x)):
            assert macros.recognise(apply(argument)) == (name, argument)
        assert macros.recognise(graph.mul(x, x)) is None
        assert macros.recognise(graph.div(x, x)) is None
