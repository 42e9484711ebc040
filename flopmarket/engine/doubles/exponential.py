"""Exponentials, logarithms and what is made of them."""

from __future__ import annotations

from math import factorial

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.doubles.parts import (
    INFINITY,
    LN2,
    LN2_REST,
    LOG2_E,
    NAN,
    power_of_two,
    repaired,
)
from flopmarket.engine.dtypes import float64, int64, uint64
from flopmarket.engine.graph import Node

_LOG10_E = 0.4342944819032518
# log10(2) with 21 trailing zero bits, and what it lacks.
_LOG10_2 = 0.30102999554947019
_LOG10_2_REST = 1.1451100899212592e-10

_EXP = tuple(1.0 / factorial(n) for n in range(14))
_LOG = tuple(2.0 / (2 * n + 1) for n in range(1, 13))


def exp(x: Node) -> Node:
    """e**x. Measured: 0.9 ulp."""
    x = graph.max_(compose.at_most(x, like(710.0, x)), like(-746.0, x))
    whole = compose.detach(rounding.half_even(graph.mul(x, like(LOG2_E, x))))
    minus = compose.negative(whole)
    rest = graph.fma(minus, like(LN2_REST, x), graph.fma(minus, like(LN2, x), x))
    return _scaled(compose.polynomial(_EXP, rest), whole)


def exp2(x: Node) -> Node:
    """2**x. Measured: 0.9 ulp."""
    x = graph.max_(compose.at_most(x, like(1025.0, x)), like(-1076.0, x))
    whole = compose.detach(rounding.half_even(x))
    rest = graph.add(x, compose.negative(whole))
    natural = graph.fma(rest, like(LN2_REST, x), graph.mul(rest, like(LN2, x)))
    return _scaled(compose.polynomial(_EXP, natural), whole)


def _scaled(value: Node, whole: Node) -> Node:
    """value * 2**whole, rounded into subnormals once."""
    exponent = graph.cast(whole, int64)
    half = graph.div(exponent, like(2, exponent))
    for part in (half, compose.subtract(exponent, half)):
        value = graph.mul(value, power_of_two(part))
    return value


def log(x: Node) -> Node:
    """Natural logarithm; -inf at zeros, NaN below. Measured: 0.9 ulp."""
    exponent, fraction, bend = _log_parts(x)
    near = graph.add(fraction, graph.fma(exponent, like(LN2_REST, x), bend))
    return _logarithm(x, graph.fma(exponent, like(LN2, x), near), 1.0)


def log2(x: Node) -> Node:
    """Base-2 logarithm; exact at powers of two. Measured: 1.4 ulp."""
    exponent, fraction, bend = _log_parts(x)
    value = graph.fma(graph.add(fraction, bend), like(LOG2_E, x), exponent)
    return _logarithm(x, value, LOG2_E)


def log10(x: Node) -> Node:
    """Base-10 logarithm. Measured: 1.4 ulp."""
    exponent, fraction, bend = _log_parts(x)
    mantissa = graph.mul(graph.add(fraction, bend), like(_LOG10_E, x))
    near = graph.fma(exponent, like(_LOG10_2_REST, x), mantissa)
    return _logarithm(x, graph.fma(exponent, like(_LOG10_2, x), near), _LOG10_E)


def _log_parts(x: Node) -> tuple[Node, Node, Node]:
    """(n, f, r) of a positive finite x = 2**n (1 + f), with log(1 + f) = f + r; detached."""
    known = compose.detach(x)
    tiny = graph.cmp("lt", known, like(2.0**-1022, x))
    normal = graph.where(tiny, graph.mul(known, like(2.0**54, x)), known)
    word = graph.bitcast(normal, uint64)
    bits = graph.add(word, like(0x3FF0000000000000 - 0x3FE6A09E667F3BCD, word))
    biased = graph.cast(graph.bit("shr", bits, like(52, bits)), float64)
    exponent = graph.add(biased, graph.where(tiny, like(-1077.0, x), like(-1023.0, x)))
    low = graph.bit("and", bits, like(2**52 - 1, bits))
    mantissa = graph.bitcast(graph.add(low, like(0x3FE6A09E667F3BCD, low)), float64)
    fraction = graph.add(mantissa, like(-1.0, x))
    # log(1 + f) = f - s (f - R) with s = f / (2 + f) and R the rest of the series of atanh.
    ratio = graph.div(fraction, graph.add(fraction, like(2.0, x)))
    square = graph.mul(ratio, ratio)
    series = graph.mul(square, compose.polynomial(_LOG, square))
    return exponent, fraction, graph.mul(ratio, compose.subtract(series, fraction))


def _logarithm(x: Node, value: Node, slope: float) -> Node:
    """``value`` for positive finite x, with the derivative slope / x; the special cases."""
    zero, infinity = like(0.0, x), like(INFINITY, x)
    below = graph.where(graph.cmp("eq", x, zero), like(-INFINITY, x), like(NAN, x))
    special = graph.where(graph.cmp("eq", x, infinity), infinity, below)
    usual = graph.bit("and", graph.cmp("lt", zero, x), graph.cmp("lt", x, infinity))
    # x over itself is 1, and its derivative is the natural logarithm's.
    known = graph.where(usual, compose.detach(x), like(1.0, x))
    nothing = graph.add(graph.div(x, known), like(-1.0, x))
    nothing = graph.mul(nothing, like(slope, x))
    return graph.where(usual, graph.add(value, graph.where(usual, nothing, zero)), special)


def log1p(x: Node) -> Node:
    """log(1 + x). Measured: 2.2 ulp."""
    grown = graph.add(x, like(1.0, x))
    value = log(grown)
    lost = graph.div(x, graph.add(grown, like(-1.0, x)))
    plain = graph.cmp("eq", compose.absolute(value), like(INFINITY, x))
    same = graph.cmp("eq", grown, like(1.0, x))
    return graph.where(same, x, graph.where(plain, value, repaired(value, lost)))


def expm1(x: Node) -> Node:
    """e**x - 1. Measured: 2.5 ulp."""
    grown = exp(x)
    less = graph.add(grown, like(-1.0, x))
    near = repaired(less, graph.div(x, log(grown)))
    far = graph.cmp("lt", like(40.0, x), compose.absolute(x))
    same = graph.cmp("eq", grown, like(1.0, x))
    return graph.where(same, x, graph.where(far, less, near))


def sigmoid(x: Node) -> Node:
    """1 / (1 + e**-x). Measured: 2.2 ulp."""
    negative = graph.cmp("lt", x, like(0.0, x))
    decayed = exp(compose.negative(compose.absolute(x)))
    return graph.div(graph.where(negative, decayed, like(1.0, x)), graph.add(decayed, like(1.0, x)))


def softplus(x: Node) -> Node:
    """log(1 + e**x) without overflow. Measured: 2.2 ulp."""
    above = graph.max_(x, like(0.0, x))
    return graph.add(above, log1p(exp(compose.negative(compose.absolute(x)))))
