"""Elementary functions: error in ulp, special values, stability under canonicalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import analytic, graph, macros, reference, rewrite
from flopmarket.engine.dtypes import float32
from flopmarket.engine.golden.macros import golden
from flopmarket.engine.graph import Node
from tests.engine.frontend.exact import EXACT

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")

# Where each function is hard: dense samples of these intervals.
HARD: dict[str, list[tuple[float, float]]] = {
    "exp2": [(-151, -120), (-1, 1), (120, 129)],
    "exp": [(-104.5, -80), (-1, 1), (85, 89.5)],
    "log2": [(0.5, 2), (1e-44, 1e-37)],
    "log": [(0.5, 2), (1e-44, 1e-37)],
    "tanh": [(0.3, 1), (1, 9.1), (-0.7, -0.5)],
    "sigmoid": [(-104, -80), (-4, 4)],
    "erf": [(0.8, 1.2), (1, 4), (-1.1, -0.5)],
    "erfc": [(-4, 0.8), (0.7, 4), (9, 10.1)],
    "sin": [(-4, 4), (1e4, 2e4), (1e30, 3e38)],
    "cos": [(-4, 4), (1e4, 2e4), (1e30, 3e38)],
    "tan": [(-4, 4), (1e4, 2e4), (1e30, 3e38)],
    "expm1": [(-1, 1), (-18, -1), (1, 30), (88, 89)],
    "log1p": [(-1, -0.5), (-0.5, 1), (1e38, 3e38)],
    "log10": [(0.5, 2), (1e-44, 1e-37)],
    "softplus": [(-4, 4), (-104, -80)],
    "sinh": [(-1.5, 1.5), (1, 10), (85, 90)],
    "cosh": [(-4, 4), (85, 90)],
    "asin": [(-1, 1), (0.45, 0.55)],
    "acos": [(-1, 1), (0.45, 0.55), (0.99, 1)],
    "atan": [(-2, 2), (1, 100)],
    "asinh": [(-2, 2), (1e4, 2e4), (1e30, 3e38)],
    "acosh": [(1, 2), (1e4, 2e4), (1e30, 3e38)],
    "atanh": [(-1, 1), (0.99, 1)],
    "normal_cdf": [(-14.5, -12), (-2, 2), (1, 6)],
    "gelu": [(-14.5, -12), (-2, 2), (-6, -1), (1, 6)],
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


@pytest.mark.parametrize("name", macros.MACROS)
def test_error_over_every_exponent_and_where_it_is_hard(name: str) -> None:
    # The golden error is over all inputs, or a sample of 2^24, which these may exceed a little.
    known = golden()[name]
    stated = known.max_ulp * (1.005 if known.log2_inputs == 32 else 1.25)
    random = np.random.default_rng(11)
    mantissas = random.integers(0, 2**23, (512, 300), dtype=np.uint32)
    mantissas[:, 0], mantissas[:, 1], mantissas[:, 2] = 0, 2**23 - 1, 1
    spread = ((np.arange(512, dtype=np.uint32)[:, None] << 23) | mantissas).view(np.float32)
    dense = [random.uniform(low, high, 50_000).astype(np.float32) for low, high in HARD[name]]
    for x in (spread.ravel(), *dense):
        with np.errstate(all="ignore"):
            wanted = EXACT[name](x.astype(np.float64))
            error = ulps(run(name, x), wanted)
        worst = int(error.argmax())
        assert error[worst] <= stated, f"{name}({x[worst]!r}) is {error[worst]:.3f} ulp off"


@pytest.mark.parametrize("name", macros.LAW)
def test_the_functions_of_the_law_are_within_two_ulp(name: str) -> None:
    assert golden()[name].max_ulp <= 2.0


SPECIAL = np.array([0.0, -0.0, INF, -INF, NAN, 1.0, -1.0], dtype=np.float32)


@pytest.mark.parametrize("name", macros.MACROS)
def test_special_values(name: str) -> None:
    with np.errstate(all="ignore"):
        wanted = EXACT[name](SPECIAL.astype(np.float64))
    found = run(name, SPECIAL)
    np.testing.assert_allclose(found, wanted, rtol=3e-7)
    assert (np.signbit(found) == np.signbit(wanted))[~np.isnan(wanted)].all()
    assert set(found.view(np.uint32)[np.isnan(found)].tolist()) <= {0x7FC00000}


def test_powers_of_two_are_exact() -> None:
    exponents = np.arange(-149, 128, dtype=np.float32)
    powers = np.ldexp(np.float32(1), exponents.astype(np.int32)).astype(np.float32)
    np.testing.assert_array_equal(run("exp2", exponents), powers)
    np.testing.assert_array_equal(run("log2", powers), exponents)


def test_reduction_keeps_its_digits_next_to_multiples_of_half_pi() -> None:
    # The float32 that lie closest to multiples of pi/2 (in ulp of the rest that is left).
    worst = 16367173.0 * 2.0**72
    x = np.array([worst, 11.0, 1.5707964, 3.1415927, 6.2831855, 102943.7, 5.3e31], np.float32)
    for name in ("sin", "cos", "tan"):
        assert (ulps(run(name, x), EXACT[name](x.astype(np.float64))) <= 2.0).all()


def test_logarithms_of_one_and_of_powers_of_ten() -> None:
    one = np.array([1.0], np.float32)
    for name in ("log", "log2", "log10"):
        assert run(name, one).view(np.uint32) == 0
    np.testing.assert_array_equal(run("log10", np.float32(10.0) ** np.arange(8)), np.arange(8))


def test_underflow_passes_through_subnormals_and_overflow_ends_in_infinity() -> None:
    x = np.array([-126.5, -148.75, -149.0, -150.5, 127.99999, 128.0], dtype=np.float32)
    found = run("exp2", x)
    assert found[0] == np.float32(2.0**-126.5)
    assert found[2] == np.float32(2.0**-149)
    assert found[3] == 0.0
    assert np.isfinite(found[4])
    assert found[5] == INF


@pytest.mark.parametrize("name", macros.MACROS)
def test_is_its_own_canonical_form_and_is_found_again(name: str) -> None:
    def apply(node: Node) -> Node:
        return macros.MACROS[name](node)

    for shape in ((), (3,), (2, 1)):
        x = graph.input_("input", "x", float32, shape)
        assert rewrite.canonicalise([apply(x)])[0] is apply(x)
        for argument in (x, graph.add(x, x), graph.mul(x, x), apply(x)):
            assert analytic.recognise(apply(argument)) == (name, argument)
        assert analytic.recognise(graph.mul(x, x)) is None
        assert analytic.recognise(graph.div(x, x)) is None
