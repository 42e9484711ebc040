"""Circular functions and their inverses."""

from __future__ import annotations

from math import factorial

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.doubles.parts import NAN, signed
from flopmarket.engine.dtypes import int64, uint64
from flopmarket.engine.graph import Node

# pi / 2 in three parts.
_HALF_PI = 1.5707963267948966
_HALF_PI_REST = 6.123233995736766e-17
_HALF_PI_LAST = -1.4973849048591833e-33

_SIN = tuple((-1.0) ** n / factorial(2 * n + 1) for n in range(1, 10))
_COS = tuple((-1.0) ** n / factorial(2 * n) for n in range(2, 11))
_ATAN = tuple((-1.0) ** n / (2 * n + 1) for n in range(1, 22))
_ATAN_FROM = 0.4142135623730951


def _turned(x: Node) -> tuple[Node, Node]:
    """x less its nearest multiple of pi / 2, and that multiple (int64)."""
    known = graph.cmp("lt", compose.absolute(x), like(2.0**50, x))
    x = graph.where(known, x, like(NAN, x))
    whole = compose.detach(rounding.half_even(graph.mul(x, like(2.0 / 3.141592653589793, x))))
    rest = x
    for part in (_HALF_PI, _HALF_PI_REST, _HALF_PI_LAST):
        rest = graph.fma(compose.negative(whole), like(part, x), rest)
    return rest, graph.cast(whole, int64)


def _circular(x: Node, quarter: int) -> Node:
    """sin(x + quarter pi / 2)."""
    rest, turns = _turned(x)
    square = graph.mul(rest, rest)
    sine = graph.fma(graph.mul(rest, square), compose.polynomial(_SIN, square), rest)
    bend = graph.fma(square, like(-0.5, x), like(1.0, x))
    cosine = graph.fma(graph.mul(square, square), compose.polynomial(_COS, square), bend)
    word = graph.bitcast(graph.add(turns, like(quarter, turns)), uint64)
    odd, half = (
        graph.cmp("lt", like(0, word), graph.bit("and", word, like(place, word)))
        for place in (1, 2)
    )
    value = graph.where(odd, cosine, sine)
    return graph.where(half, compose.negative(value), value)


def sin(x: Node) -> Node:
    """Sine. Measured: 1.5 ulp; NaN from |x| = 2^50 on."""
    return graph.where(graph.cmp("eq", x, like(0.0, x)), x, _circular(x, 0))


def cos(x: Node) -> Node:
    """Cosine. Measured: 1.5 ulp; NaN from |x| = 2^50 on."""
    return _circular(x, 1)


def tan(x: Node) -> Node:
    """Tangent. Measured: 2.8 ulp; NaN from |x| = 2^50 on."""
    return graph.div(sin(x), cos(x))


def atan(x: Node) -> Node:
    """Inverse tangent. Measured: 1.3 ulp."""
    size, one = compose.absolute(x), like(1.0, x)
    middle = graph.cmp("lt", like(_ATAN_FROM, x), size)
    large = graph.cmp("lt", like(1.0 / _ATAN_FROM, x), size)
    # pi/4 + atan((x - 1) / (x + 1)) or pi/2 - atan(1 / x) beyond tan(pi/8).
    safe = graph.where(large, one, size)
    turned = graph.div(graph.add(safe, like(-1.0, x)), graph.add(safe, one))
    inverse = graph.div(like(-1.0, x), graph.where(large, size, one))
    reduced = graph.where(large, inverse, graph.where(middle, turned, size))
    square = graph.mul(reduced, reduced)
    tail = graph.mul(graph.mul(reduced, square), compose.polynomial(_ATAN, square))
    share = graph.where(large, one, graph.where(middle, like(0.5, x), like(0.0, x)))
    low = graph.fma(share, like(_HALF_PI_REST, x), tail)
    return signed(graph.fma(share, like(_HALF_PI, x), graph.add(reduced, low)), x)


def asin(x: Node) -> Node:
    """Inverse sine; NaN beyond +-1. Measured: 1.9 ulp."""
    size, one = compose.absolute(x), like(1.0, x)
    rest = graph.mul(graph.add(one, compose.negative(size)), graph.add(one, size))
    return signed(atan(graph.div(size, graph.sqrt(rest))), x)


def acos(x: Node) -> Node:
    """Inverse cosine; NaN beyond +-1. Measured: 2.4 ulp."""
    one = like(1.0, x)
    below = graph.add(one, compose.negative(x))
    half = atan(graph.sqrt(graph.div(below, graph.add(one, x))))
    return graph.add(half, half)
