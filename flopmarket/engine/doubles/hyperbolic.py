"""Hyperbolic functions and their inverses."""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.doubles.exponential import exp, expm1, log, log1p
from flopmarket.engine.doubles.parts import LN2, LN2_REST, NAN, signed
from flopmarket.engine.graph import Node


def tanh(x: Node) -> Node:
    """Hyperbolic tangent. Measured: 4.5 ulp."""
    size = compose.absolute(x)
    less = expm1(graph.mul(size, like(-2.0, x)))
    return signed(graph.div(compose.negative(less), graph.add(less, like(2.0, x))), x)


def sinh(x: Node) -> Node:
    """Hyperbolic sine. Measured: 2.4 ulp."""
    size = compose.absolute(x)
    less = expm1(size)
    near = graph.add(less, graph.div(less, graph.add(less, like(1.0, x))))
    near = graph.mul(near, like(0.5, x))
    return signed(graph.where(graph.cmp("lt", size, like(40.0, x)), near, _half_exp(size)), x)


def cosh(x: Node) -> Node:
    """Hyperbolic cosine. Measured: 2.4 ulp."""
    size = compose.absolute(x)
    less = expm1(size)
    grown = graph.add(less, like(1.0, x))
    near = graph.fma(graph.mul(less, like(0.5, x)), graph.div(less, grown), like(1.0, x))
    return graph.where(graph.cmp("lt", size, like(40.0, x)), near, _half_exp(size))


def _half_exp(x: Node) -> Node:
    """e**x / 2, finite as long as the result is."""
    root = exp(graph.mul(x, like(0.5, x)))
    return graph.mul(graph.mul(root, like(0.5, x)), root)


def asinh(x: Node) -> Node:
    """Inverse hyperbolic sine. Measured: 2.3 ulp."""
    size = compose.absolute(x)
    large = graph.cmp("lt", like(2.0**28, x), size)
    bounded = graph.where(large, like(1.0, x), size)
    square = graph.mul(bounded, bounded)
    root = graph.sqrt(graph.add(square, like(1.0, x)))
    near = log1p(graph.add(bounded, graph.div(square, graph.add(root, like(1.0, x)))))
    far = graph.add(log(size), like(LN2 + LN2_REST, x))
    return signed(graph.where(large, far, near), x)


def acosh(x: Node) -> Node:
    """Inverse hyperbolic cosine; NaN below 1. Measured: 2.4 ulp."""
    large = graph.cmp("lt", like(2.0**28, x), x)
    above = graph.add(graph.where(large, like(2.0, x), x), like(-1.0, x))
    root = graph.sqrt(graph.mul(above, graph.add(above, like(2.0, x))))
    far = graph.add(log(x), like(LN2 + LN2_REST, x))
    value = graph.where(large, far, log1p(graph.add(above, root)))
    return graph.where(graph.cmp("lt", x, like(1.0, x)), like(NAN, x), value)


def atanh(x: Node) -> Node:
    """Inverse hyperbolic tangent; +-inf at +-1, NaN beyond. Measured: 2.4 ulp."""
    size = compose.absolute(x)
    rest = graph.add(like(1.0, x), compose.negative(size))
    value = log1p(graph.div(graph.add(size, size), rest))
    return signed(graph.mul(value, like(0.5, x)), x)
