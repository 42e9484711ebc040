"""Hyperbolic functions and their inverses."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.graph import Node
from flopmarket.engine.macros.exponential import log1p_scaled
from flopmarket.engine.macros.parts import (
    NAN,
    at_most,
    below,
    exp_parts,
    literal,
    magnitude,
    plus,
    polynomial,
    power_of_two,
    scale,
    times,
    with_sign_of,
)

# (tanh x - x) / x^3 in x^2, up to |x| = 0.625.
_TANH_FROM = 0.625
_TANH = (-3.333328e-01, 1.333141e-01, -5.3737268e-02, 2.0631723e-02, -5.697346e-03)
# (sinh x - x) / x^3 in x^2, up to |x| = 1.
_SINH_FROM = 1.0
_SINH = (1.6666667e-01, 8.3333105e-03, 1.9842896e-04, 2.7822132e-06)
# From here on asinh x and acosh x are log(2 x) to less than 2^-30.
_LOG_OF_TWICE_FROM = 2.0**14


def tanh(x: Node) -> Node:
    """Hyperbolic tangent, any shape."""
    size = magnitude(x)
    # From 9.02 on tanh rounds to 1; stopping at 10 keeps the scale of the exponential normal.
    twice = at_most(graph.add(size, size), 20.0)
    grown_part, shifted = exp_parts(twice)
    grown = graph.fma(grown_part, power_of_two(shifted, 127 - 254), literal(1.0, x))
    large = graph.fma(graph.div(literal(2.0, x), grown), literal(-1.0, x), literal(1.0, x))
    square = graph.mul(size, size)
    cubic = graph.mul(square, polynomial(_TANH, square))
    small = graph.fma(cubic, size, size)
    return with_sign_of(x, graph.where(below(size, _TANH_FROM), small, large))


def sinh(x: Node) -> Node:
    """Hyperbolic sine, any shape."""
    size = magnitude(x)
    half = _half_exp(size)
    large = graph.fma(half.src[0], half.src[1], graph.div(literal(-0.25, x), half))
    square = graph.mul(size, size)
    cubic = graph.mul(square, polynomial(_SINH, square))
    small = graph.fma(cubic, size, size)
    return with_sign_of(x, graph.where(below(size, _SINH_FROM), small, large))


def cosh(x: Node) -> Node:
    """Hyperbolic cosine, any shape."""
    half = _half_exp(magnitude(x))
    return graph.fma(half.src[0], half.src[1], graph.div(literal(0.25, x), half))


def _half_exp(size: Node) -> Node:
    """e**size / 2 for size >= 0, a product of which canonicalisation makes an FMA."""
    grown, shifted = exp_parts(at_most(size, 90.0))
    return scale(grown, plus(shifted, -1.0))


def asinh(x: Node) -> Node:
    """Inverse hyperbolic sine, any shape."""
    size = magnitude(x)
    root = graph.sqrt(graph.fma(size, size, literal(1.0, x)))
    near = graph.fma(size, graph.div(size, plus(root, 1.0)), size)
    return with_sign_of(x, _log_of_twice(size, near))


def acosh(x: Node) -> Node:
    """Inverse hyperbolic cosine; NaN below 1."""
    inside = graph.where(below(x, 1.0), literal(NAN, x), x)
    above = plus(inside, -1.0)
    near = graph.add(above, graph.sqrt(graph.fma(above, above, graph.add(above, above))))
    return _log_of_twice(inside, near)


def _log_of_twice(size: Node, near: Node) -> Node:
    """log(1 + near), or log(2 * size) where that is the same and ``near`` may have overflowed."""
    far = graph.cmp("lt", literal(_LOG_OF_TWICE_FROM, size), size)
    exponent = graph.where(far, literal(1.0, size), literal(0.0, size))
    return log1p_scaled(graph.where(far, plus(size, -1.0), near), exponent)


def atanh(x: Node) -> Node:
    """Inverse hyperbolic tangent; infinite at -1 and 1, NaN outside."""
    size = magnitude(x)
    size = graph.where(graph.cmp("lt", literal(1.0, x), size), literal(NAN, x), size)
    rest = graph.fma(size, literal(-1.0, x), literal(1.0, x))
    twice = graph.add(size, size)
    ratio = graph.fma(twice, graph.div(size, rest), twice)
    return with_sign_of(x, times(log1p_scaled(ratio, literal(0.0, x)), 0.5))
