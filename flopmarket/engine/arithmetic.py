"""The operators of ``Tensor`` as rules on nodes of one dtype; shapes are equal."""

from __future__ import annotations

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.dtypes import bool_, float32
from flopmarket.engine.graph import Node


def add(a: Node, b: Node) -> Node:
    """a + b; on bool, or."""
    return graph.bit("or", a, b) if a.dtype is bool_ else graph.add(a, b)


def mul(a: Node, b: Node) -> Node:
    """a * b; on bool, and."""
    return graph.bit("and", a, b) if a.dtype is bool_ else graph.mul(a, b)


def divide(a: Node, b: Node) -> Node:
    """True division: of floats in their dtype, of integers in float32."""
    dtype = a.dtype if a.dtype.is_float else float32
    return graph.div(graph.cast(a, dtype), graph.cast(b, dtype))


def floor_divide(a: Node, b: Node) -> Node:
    """The quotient rounded down."""
    quotient = graph.div(a, b)
    return rounding.floor(quotient) if a.dtype.is_float else quotient


def at_most(a: Node, b: Node) -> Node:
    """a <= b; false with NaN."""
    return graph.bit("or", graph.cmp("lt", a, b), graph.cmp("eq", a, b))


def power(x: Node, exponent: int) -> Node:
    """x**exponent by squaring, from the lowest bit of the exponent up."""
    result: Node | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else graph.mul(result, x)
        exponent >>= 1
        if exponent:
            x = graph.mul(x, x)
    return compose.like(1, x) if result is None else result


def lerp(start: Node, end: Node, weight: Node) -> Node:
    """start + weight * (end - start), from the nearer end: exact at weights 0 and 1."""
    distance, one = compose.subtract(end, start), compose.like(1.0, weight)
    near = graph.fma(weight, distance, start)
    far = graph.fma(compose.subtract(weight, one), distance, end)
    return graph.where(graph.cmp("lt", weight, compose.like(0.5, weight)), near, far)
