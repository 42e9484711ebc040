"""Elementary functions of float64, for models that compute in it.

float64 in and out, any shape, total. They are plain: Taylor series on the usual range reductions,
many more operations than the macros of float32. Profile FX1 does not name them; errors in the
docstrings are the largest against 80-bit arithmetic over the ranges that the tests cover.
Derivatives come out right: what only chooses a range or repairs rounding is detached.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float64, int64, uint64
from flopmarket.engine.graph import Node

_INFINITY = float("inf")
_NAN = float("nan")

# ln 2 with 21 trailing zero bits, pi / 2 with none, and what each lacks.
_LN2 = 0.6931471803691238
_LN2_REST = 1.9082149292705877e-10
_LOG2_E = 1.4426950408889634
_HALF_PI = 1.5707963267948966
_HALF_PI_REST = 6.123233995736766e-17
_HALF_PI_LAST = -1.4973849048591833e-33

_EXP = tuple(1.0 / factorial(n) for n in range(14))
_SIN = tuple((-1.0) ** n / factorial(2 * n + 1) for n in range(1, 10))
_COS = tuple((-1.0) ** n / factorial(2 * n) for n in range(2, 11))
_ATAN = tuple((-1.0) ** n / (2 * n + 1) for n in range(1, 22))
_LOG = tuple(2.0 / (2 * n + 1) for n in range(1, 13))
_ATAN_FROM = 0.4142135623730951

_ERF_FROM = 3.0
_ERF_TERMS = 64
_ERF_LEVELS = 40
_TWO_OVER_SQRT_PI = 1.1283791670955126


def _polynomial(coefficients: Sequence[float], x: Node) -> Node:
    total = like(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = graph.fma(total, x, like(coefficient, x))
    return total


def _signed(size: Node, x: Node) -> Node:
    """``size`` with the sign of ``x``; ``x`` itself where it is a zero."""
    zero = like(0.0, x)
    flipped = graph.where(graph.cmp("lt", x, zero), compose.negative(size), size)
    return graph.where(graph.cmp("eq", x, zero), x, flipped)


def _repaired(value: Node, factor: Node) -> Node:
    """value * factor for a factor near 1; the derivative of value."""
    missing = compose.subtract(graph.mul(value, factor), value)
    return graph.add(value, compose.detach(missing))


def _power_of_two(exponent: Node) -> Node:
    """2**n of an int64 n in -1022..1023."""
    bits = graph.bitcast(graph.add(exponent, like(1023, exponent)), uint64)
    return graph.bitcast(graph.bit("shl", bits, like(52, bits)), float64)


def exp(x: Node) -> Node:
    """e**x. Measured: 0.9 ulp."""
    x = graph.max_(compose.at_most(x, like(710.0, x)), like(-746.0, x))
    whole = compose.detach(rounding.half_even(graph.mul(x, like(_LOG2_E, x))))
    minus = compose.negative(whole)
    rest = graph.fma(minus, like(_LN2_REST, x), graph.fma(minus, like(_LN2, x), x))
    value = _polynomial(_EXP, rest)
    exponent = graph.cast(whole, int64)
    half = graph.div(exponent, like(2, exponent))
    for part in (half, compose.subtract(exponent, half)):
        value = graph.mul(value, _power_of_two(part))
    return value


def log(x: Node) -> Node:
    """Natural logarithm; -inf at zeros, NaN below. Measured: 0.9 ulp."""
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
    series = graph.mul(square, _polynomial(_LOG, square))
    bend = graph.mul(ratio, compose.subtract(series, fraction))
    near = graph.add(fraction, graph.fma(exponent, like(_LN2_REST, x), bend))
    value = graph.fma(exponent, like(_LN2, x), near)
    zero, infinity = like(0.0, x), like(_INFINITY, x)
    below = graph.where(graph.cmp("eq", x, zero), like(-_INFINITY, x), like(_NAN, x))
    special = graph.where(graph.cmp("eq", x, infinity), infinity, below)
    usual = graph.bit("and", graph.cmp("lt", zero, x), graph.cmp("lt", x, infinity))
    # x over itself is 1, and its derivative is the logarithm's.
    slope = graph.add(graph.div(x, graph.where(usual, known, like(1.0, x))), like(-1.0, x))
    return graph.where(usual, graph.add(value, graph.where(usual, slope, zero)), special)


def log1p(x: Node) -> Node:
    """log(1 + x). Measured: 2.2 ulp."""
    grown = graph.add(x, like(1.0, x))
    value = log(grown)
    lost = graph.div(x, graph.add(grown, like(-1.0, x)))
    plain = graph.cmp("eq", compose.absolute(value), like(_INFINITY, x))
    same = graph.cmp("eq", grown, like(1.0, x))
    return graph.where(same, x, graph.where(plain, value, _repaired(value, lost)))


def expm1(x: Node) -> Node:
    """e**x - 1. Measured: 2.5 ulp."""
    grown = exp(x)
    less = graph.add(grown, like(-1.0, x))
    repaired = _repaired(less, graph.div(x, log(grown)))
    far = graph.cmp("lt", like(40.0, x), compose.absolute(x))
    same = graph.cmp("eq", grown, like(1.0, x))
    return graph.where(same, x, graph.where(far, less, repaired))


def sigmoid(x: Node) -> Node:
    """1 / (1 + e**-x). Measured: 2.2 ulp."""
    negative = graph.cmp("lt", x, like(0.0, x))
    decayed = exp(compose.negative(compose.absolute(x)))
    return graph.div(graph.where(negative, decayed, like(1.0, x)), graph.add(decayed, like(1.0, x)))


# ---------------------------------------------------------------- hyperbolic


def tanh(x: Node) -> Node:
    """Hyperbolic tangent. Measured: 4.5 ulp."""
    size = compose.absolute(x)
    less = expm1(graph.mul(size, like(-2.0, x)))
    return _signed(graph.div(compose.negative(less), graph.add(less, like(2.0, x))), x)


def sinh(x: Node) -> Node:
    """Hyperbolic sine. Measured: 2.4 ulp."""
    size = compose.absolute(x)
    less = expm1(size)
    near = graph.add(less, graph.div(less, graph.add(less, like(1.0, x))))
    near = graph.mul(near, like(0.5, x))
    return _signed(graph.where(graph.cmp("lt", size, like(40.0, x)), near, _half_exp(size)), x)


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
    far = graph.add(log(size), like(_LN2 + _LN2_REST, x))
    return _signed(graph.where(large, far, near), x)


def acosh(x: Node) -> Node:
    """Inverse hyperbolic cosine; NaN below 1. Measured: 2.4 ulp."""
    large = graph.cmp("lt", like(2.0**28, x), x)
    above = graph.add(graph.where(large, like(2.0, x), x), like(-1.0, x))
    root = graph.sqrt(graph.mul(above, graph.add(above, like(2.0, x))))
    far = graph.add(log(x), like(_LN2 + _LN2_REST, x))
    value = graph.where(large, far, log1p(graph.add(above, root)))
    return graph.where(graph.cmp("lt", x, like(1.0, x)), like(_NAN, x), value)


def atanh(x: Node) -> Node:
    """Inverse hyperbolic tangent; +-inf at +-1, NaN beyond. Measured: 2.4 ulp."""
    size = compose.absolute(x)
    rest = graph.add(like(1.0, x), compose.negative(size))
    value = log1p(graph.div(graph.add(size, size), rest))
    return _signed(graph.mul(value, like(0.5, x)), x)


# ---------------------------------------------------------------- circular


def _turned(x: Node) -> tuple[Node, Node]:
    """x less its nearest multiple of pi / 2, and that multiple (int64)."""
    known = graph.cmp("lt", compose.absolute(x), like(2.0**50, x))
    x = graph.where(known, x, like(_NAN, x))
    whole = compose.detach(rounding.half_even(graph.mul(x, like(2.0 / 3.141592653589793, x))))
    rest = x
    for part in (_HALF_PI, _HALF_PI_REST, _HALF_PI_LAST):
        rest = graph.fma(compose.negative(whole), like(part, x), rest)
    return rest, graph.cast(whole, int64)


def _circular(x: Node, quarter: int) -> Node:
    """sin(x + quarter pi / 2)."""
    rest, turns = _turned(x)
    square = graph.mul(rest, rest)
    sine = graph.fma(graph.mul(rest, square), _polynomial(_SIN, square), rest)
    bend = graph.fma(square, like(-0.5, x), like(1.0, x))
    cosine = graph.fma(graph.mul(square, square), _polynomial(_COS, square), bend)
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
    tail = graph.mul(graph.mul(reduced, square), _polynomial(_ATAN, square))
    share = graph.where(large, one, graph.where(middle, like(0.5, x), like(0.0, x)))
    low = graph.fma(share, like(_HALF_PI_REST, x), tail)
    return _signed(graph.fma(share, like(_HALF_PI, x), graph.add(reduced, low)), x)


def asin(x: Node) -> Node:
    """Inverse sine; NaN beyond +-1. Measured: 1.9 ulp."""
    size, one = compose.absolute(x), like(1.0, x)
    rest = graph.mul(graph.add(one, compose.negative(size)), graph.add(one, size))
    return _signed(atan(graph.div(size, graph.sqrt(rest))), x)


def acos(x: Node) -> Node:
    """Inverse cosine; NaN beyond +-1. Measured: 2.4 ulp."""
    one = like(1.0, x)
    below = graph.add(one, compose.negative(x))
    half = atan(graph.sqrt(graph.div(below, graph.add(one, x))))
    return graph.add(half, half)


# ---------------------------------------------------------------- erf, pow


def erf(x: Node) -> Node:
    """Error function. Measured: 5.2 ulp.

    2 x e^(-x^2) / sqrt(pi) times the sum of (2 x^2)^n / (2 n + 1)!! up to 3, whose terms are all
    positive; Laplace's continued fraction of erfc beyond.
    """
    size = compose.absolute(x)
    small = graph.cmp("lt", size, like(_ERF_FROM, x))
    inner = graph.where(small, size, like(0.0, x))
    square = graph.mul(inner, inner)
    total = like(1.0, x)
    for n in range(_ERF_TERMS, 0, -1):
        total = graph.fma(graph.mul(total, square), like(2.0 / (2 * n + 1), x), like(1.0, x))
    decayed = exp(compose.negative(square))
    near = graph.mul(graph.mul(graph.mul(inner, like(_TWO_OVER_SQRT_PI, x)), decayed), total)
    outer = graph.where(small, like(_ERF_FROM, x), compose.at_most(size, like(6.0, x)))
    fraction = outer
    for n in range(_ERF_LEVELS, 0, -1):
        fraction = graph.add(outer, graph.div(like(n / 2, x), fraction))
    tail = graph.div(exp(compose.negative(graph.mul(outer, outer))), fraction)
    far = graph.fma(tail, like(-0.5 * _TWO_OVER_SQRT_PI, x), like(1.0, x))
    return _signed(graph.where(small, near, far), x)


def power(x: Node, y: Node) -> Node:
    """x**y as e**(y log x), IEEE 754's special cases included.

    The relative error grows with the result's exponent, to 2^-43 at the ends of the range.
    """
    zero, one = like(0.0, x), like(1.0, x)
    size = compose.absolute(x)
    value = exp(graph.mul(y, log(size)))
    infinite = graph.cmp("eq", compose.absolute(y), like(_INFINITY, y))
    half = graph.mul(y, like(0.5, y))
    whole = graph.cmp("eq", rounding.half_even(y), y)
    odd = graph.bit("and", whole, compose.invert(graph.cmp("eq", rounding.half_even(half), half)))
    minus = graph.cmp("lt", graph.div(one, rounding.copy_sign(one, x)), zero)
    value = graph.where(graph.bit("and", minus, odd), compose.negative(value), value)
    open_ends = graph.bit("or", infinite, graph.cmp("eq", size, like(_INFINITY, x)))
    undefined = graph.bit(
        "and", graph.cmp("lt", x, zero), compose.invert(graph.bit("or", whole, open_ends))
    )
    value = graph.where(undefined, like(_NAN, x), value)
    always_one = graph.bit("or", graph.cmp("eq", y, zero), graph.cmp("eq", x, one))
    unit = graph.bit("and", graph.cmp("eq", size, one), infinite)
    is_nan = compose.invert(graph.cmp("eq", value, value))
    return graph.where(graph.bit("and", is_nan, graph.bit("or", always_one, unit)), one, value)
