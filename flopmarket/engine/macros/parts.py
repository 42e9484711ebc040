"""What the elementary functions are made of: literals, selections, scales of two, polynomials.

Nodes in, nodes out, shapes kept; everything is float32 unless a name says otherwise. A sum of a
product would be contracted by canonicalisation, so the functions spell such sums as FMA themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32, uint32
from flopmarket.engine.graph import Node

INFINITY = float("inf")
NAN = float("nan")
LN2 = 0.6931471824645996  # float32 of ln 2, and what is missing
LN2_REST = -1.904654323148236e-09

# 1.5 * 2^23 + 254: adding it rounds a small float to an integer n and leaves n + 254 in the low
# mantissa bits, from where two shifts make the float32 scales 2^floor(n/2) and 2^ceil(n/2).
ROUND_AND_BIAS = 12583166.0
LOG2_E = 1.4426950408889634
LN2_SHORT = 0.693145751953125  # 16 bits: its product with any exponent is exact
LN2_SHORT_REST = 1.4286068203094172e-06
EXP = (1.0, 1.0, 4.9999994e-01, 1.6666521e-01, 4.1668274e-02, 8.368686e-03, 1.3820136e-03)
"""Coefficients of e**r for |r| <= ln(2) / 2."""
LOG = (
    *(-4.9999988e-01, 3.3333325e-01, -2.50016e-01, 2.000196e-01, -1.6608717e-01, 1.4182329e-01),
    *(-1.3246424e-01, 1.2900986e-01, -7.608474e-02),
)
"""Coefficients of (log(1 + f) - f) / f^2 on [sqrt(1/2) - 1, sqrt(2) - 1]."""
SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 1.1754943508222875e-38


def literal(value: float, like: Node) -> Node:
    """``value`` in the dtype and shape of ``like``."""
    return graph.filled(value, like.dtype, like.shape)


def word(value: int, like: Node) -> Node:
    """A uint32 in the shape of ``like``."""
    return graph.filled(value, uint32, like.shape)


def below(x: Node, limit: float) -> Node:
    """x < limit, as bool."""
    return graph.cmp("lt", x, literal(limit, x))


def negative(x: Node) -> Node:
    """-x."""
    return graph.mul(x, literal(-1.0, x))


def plus(x: Node, value: float) -> Node:
    """x + value, for an ``x`` that is no product."""
    return graph.add(x, literal(value, x))


def times(x: Node, value: float) -> Node:
    """x * value."""
    return graph.mul(x, literal(value, x))


def at_most(x: Node, high: float) -> Node:
    """min(x, high) that keeps NaN."""
    limit = literal(high, x)
    return graph.where(graph.cmp("lt", limit, x), limit, x)


def clamp(x: Node, low: float, high: float) -> Node:
    """x limited to [low, high]; NaN stays NaN."""
    return graph.max_(at_most(x, high), literal(low, x))


def polynomial(coefficients: Sequence[float], x: Node) -> Node:
    """Horner's rule, lowest coefficient first, one FMA a step."""
    total = literal(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = graph.fma(total, x, literal(coefficient, x))
    return total


# ---------------------------------------------------------------- bits


def magnitude(x: Node) -> Node:
    """|x|, through the bits."""
    return graph.bitcast(graph.bit("and", graph.bitcast(x, uint32), word(0x7FFFFFFF, x)), float32)


def with_sign_of(x: Node, size: Node) -> Node:
    """``size`` with the sign bit of ``x`` added."""
    sign = graph.bit("and", graph.bitcast(x, uint32), word(0x80000000, x))
    return graph.bitcast(graph.bit("or", graph.bitcast(size, uint32), sign), float32)


def flipped(size: Node, x: Node) -> Node:
    """``size``, negated where the sign bit of ``x`` is set."""
    sign = graph.bit("and", graph.bitcast(x, uint32), word(0x80000000, x))
    return graph.bitcast(graph.bit("xor", graph.bitcast(size, uint32), sign), float32)


def power_of_two(shifted: Node, bias: int) -> Node:
    """2**n as a float, for n whose float32 exponent is normal."""
    bits = graph.add(graph.bitcast(shifted, uint32), word(bias % 2**32, shifted))
    return graph.bitcast(graph.bit("shl", bits, word(23, shifted)), float32)


def scale(x: Node, shifted: Node) -> Node:
    """x * 2**n in two steps, so that only the last multiplication rounds, once, into subnormals."""
    bits = graph.bitcast(shifted, uint32)
    one, places = word(1, x), word(23, x)
    lower = graph.bit("shr", bits, one)
    upper = graph.bit("shr", graph.add(bits, one), one)
    for half in (lower, upper):
        x = graph.mul(x, graph.bitcast(graph.bit("shl", half, places), float32))
    return x


# ---------------------------------------------------------------- exponential and logarithm


def exp_rest(x: Node) -> tuple[Node, Node]:
    """(r, shifted) with x = r + n * ln(2), |r| <= ln(2) / 2, n in the low bits of ``shifted``."""
    shifted = graph.fma(x, literal(LOG2_E, x), literal(ROUND_AND_BIAS, x))
    whole = graph.add(shifted, literal(-ROUND_AND_BIAS, x))
    rest = graph.fma(whole, literal(-LN2_SHORT, x), x)
    return graph.fma(whole, literal(-LN2_SHORT_REST, x), rest), shifted


def exp_parts(x: Node) -> tuple[Node, Node]:
    """(p, shifted) with e**x = p * 2**n, p near [0.7, 1.42], n in the low bits of ``shifted``."""
    rest, shifted = exp_rest(x)
    return polynomial(EXP, rest), shifted


def exp_less_one(rest: Node) -> Node:
    """e**r - 1 for |r| <= ln(2) / 2, with a small relative error at small r too."""
    return graph.fma(graph.mul(rest, rest), polynomial(EXP[2:], rest), rest)


def split(x: Node) -> tuple[Node, Node]:
    """(e, f) with x = 2**e * (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1), for x > 0 and finite."""
    tiny = below(x, _SMALLEST_NORMAL)
    normal = graph.where(tiny, graph.mul(x, literal(2.0**23, x)), x)
    offset = word(0x3F800000 - SQRT_HALF_BITS, x)
    bits = graph.add(graph.bitcast(normal, uint32), offset)
    biased = graph.cast(graph.bit("shr", bits, word(23, x)), float32)
    missing = graph.where(tiny, literal(-127.0 - 23.0, x), literal(-127.0, x))
    mantissa = graph.add(graph.bit("and", bits, word(0x7FFFFF, x)), word(SQRT_HALF_BITS, x))
    fraction = graph.add(graph.bitcast(mantissa, float32), literal(-1.0, x))
    return graph.add(biased, missing), fraction


def log_of_parts(exponent: Node, fraction: Node) -> Node:
    """exponent * ln(2) + log(1 + fraction), for a fraction as :func:`split` gives it."""
    square = graph.mul(fraction, fraction)
    low = graph.mul(exponent, literal(LN2_REST, fraction))
    near = graph.add(fraction, graph.fma(square, polynomial(LOG, fraction), low))
    return graph.fma(exponent, literal(LN2, fraction), near)


def log_specials(x: Node, value: Node) -> Node:
    """``value``, but -inf at zeros, inf at inf, NaN at negative numbers and NaN."""
    zero = literal(0.0, x)
    infinite = graph.where(graph.cmp("lt", x, literal(INFINITY, x)), value, x)
    at_most_zero = graph.where(graph.cmp("eq", x, zero), literal(-INFINITY, x), literal(NAN, x))
    return graph.where(graph.cmp("lt", zero, x), infinite, at_most_zero)
