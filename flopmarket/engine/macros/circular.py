"""Sine, cosine and tangent over the whole range of float32, and their inverses.

Arguments from pi/4 on are multiplied by 2/pi in integers, with as many of its bits as matter at
their exponent (Payne and Hanek, "Radian reduction for trigonometric functions", 1983), so that
sin(3e38) is as good as sin(3).
"""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32, int64, uint32, uint64
from flopmarket.engine.graph import Node
from flopmarket.engine.macros.parts import (
    INFINITY,
    NAN,
    below,
    flipped,
    literal,
    magnitude,
    negative,
    plus,
    polynomial,
    times,
    with_sign_of,
    word,
)

_QUARTER_PI = 0.7853981633974483
_HALF_PI = 1.5707963705062866  # float32 of pi/2, and what is missing
_HALF_PI_REST = -4.371138828673793e-08

# (sin r - r) / r^3, (cos r - 1) / r^2 + 1/2 over r^2, and (tan r - r) / r^3, in r^2 to (pi/4)^2.
_SIN = (-0.16666655, 0.008332188, -0.000195181)
_COS = (-0.5, 0.041666646, -0.0013887311, 2.4432553e-05)
_TAN = (
    *(0.3333335, 0.13332674, 0.054059166, 0.021284645, 0.010831931, 9.215487e-05),
    0.0043758578,
)
# (atan t - t) / t^3 in t^2 to 1, (asin t - t) / t^3 in t^2 to 1/4.
_ATAN = (
    *(-0.333333, 0.19998531, -0.14264052, 0.10951175, -0.08400475, 0.057906546),
    *(-0.031127002, 0.010887361, -0.0017875476),
)
_ASIN = (0.1666666, 0.07500522, 0.044513375, 0.0318391, 0.014314811, 0.03769684)

# Bits of 2/pi from the one of weight 2^25 downwards.
_TWO_OVER_PI = (
    *(0x00000028BE60DB93, 0x91054A7F09D5F47D, 0x4D377036D8A5664F, 0x10E4107F9458EAF7),
    0xAEF1586DC91B8E90,
)
# pi/2 * 2^-62 as the sum of two float32.
_TURN = 3.4061216748705226e-19
_TURN_REST = -9.478396428567739e-27


def sin(x: Node) -> Node:
    """Sine of radians, any shape; NaN at infinities."""
    quadrant, rest, low = _reduced(x)
    value = graph.where(_is_odd(quadrant), _cosine(rest, low), _sine(rest, low))
    return flipped(flipped(value, x), _second_bit_on_top(quadrant))


def cos(x: Node) -> Node:
    """Cosine of radians, any shape; NaN at infinities."""
    quadrant, rest, low = _reduced(x)
    value = graph.where(_is_odd(quadrant), _sine(rest, low), _cosine(rest, low))
    return flipped(value, _second_bit_on_top(graph.add(quadrant, word(1, x))))


def tan(x: Node) -> Node:
    """Tangent of radians, any shape; NaN at infinities."""
    quadrant, rest, low = _reduced(x)
    square = graph.mul(rest, rest)
    # tan(r + l) = tan(r) + l * (1 + tan(r)^2), nearly l * (1 + r^2).
    low = graph.fma(low, square, low)
    cubic = graph.mul(rest, square)
    value = graph.add(rest, graph.fma(cubic, polynomial(_TAN, square), low))
    turned = graph.div(literal(-1.0, x), value)
    return flipped(graph.where(_is_odd(quadrant), turned, value), x)


def asin(x: Node) -> Node:
    """Inverse sine; NaN outside [-1, 1]."""
    far, root, cubic, factor = _asin_parts(magnitude(x))
    folded = graph.add(root, graph.fma(cubic, factor, literal(-_HALF_PI_REST / 2, x)))
    beyond = graph.fma(folded, literal(-2.0, x), literal(_HALF_PI, x))
    return with_sign_of(x, graph.where(far, beyond, graph.fma(cubic, factor, root)))


def acos(x: Node) -> Node:
    """Inverse cosine; NaN outside [-1, 1]."""
    far, root, cubic, factor = _asin_parts(magnitude(x))
    # asin|x|, or half of acos|x|, less what pi/2 lacks.
    falling = below(x, 0.0)
    signed = with_sign_of(x, root)
    lifted = graph.add(
        signed, graph.fma(with_sign_of(x, cubic), factor, literal(-_HALF_PI_REST, x))
    )
    middle = _from_half_pi(lifted)
    folded = graph.add(root, graph.fma(cubic, factor, literal(-_HALF_PI_REST, x)))
    beyond = graph.fma(folded, literal(-2.0, x), literal(2.0 * _HALF_PI, x))
    half = graph.fma(cubic, factor, root)
    ends = graph.where(falling, beyond, graph.add(half, half))
    return graph.where(far, ends, middle)


def atan(x: Node) -> Node:
    """Inverse tangent, any shape."""
    size, one = magnitude(x), literal(1.0, x)
    far = graph.cmp("lt", one, size)
    slope = graph.div(graph.where(far, one, size), graph.where(far, size, one))
    square = graph.mul(slope, slope)
    cubic, factor = graph.mul(slope, square), polynomial(_ATAN, square)
    near = graph.fma(cubic, factor, slope)
    lifted = graph.add(slope, graph.fma(cubic, factor, literal(-_HALF_PI_REST, x)))
    return with_sign_of(x, graph.where(far, _from_half_pi(lifted), near))


def _from_half_pi(x: Node) -> Node:
    return graph.fma(x, literal(-1.0, x), literal(_HALF_PI, x))


def _asin_parts(size: Node) -> tuple[Node, Node, Node, Node]:
    """(far, r, c, p): asin(r) = r + c * p, with r = sqrt((1 - size) / 2) where far, else size."""
    far = graph.cmp("lt", literal(0.5, size), size)
    halved = graph.fma(size, literal(-0.5, size), literal(0.5, size))
    root = graph.where(far, graph.sqrt(halved), size)
    square = graph.where(far, halved, graph.mul(size, size))
    return far, root, graph.mul(root, square), polynomial(_ASIN, square)


# ---------------------------------------------------------------- reduction


def _reduced(x: Node) -> tuple[Node, Node, Node]:
    """(q, r, l) with |x| = q * pi/2 + r + l modulo 2 pi, |r| <= pi/4, l far below r; q in 0..3.

    Below pi/4, r is |x| itself. At infinities and NaN, r is NaN.
    """
    size = magnitude(x)
    turns = _turns(graph.bitcast(size, uint32))
    quadrant = graph.bit("shr", graph.add(turns, _long(1 << 61, x)), _long(62, x))
    whole = graph.mul(quadrant, _long(-(1 << 62) % 2**64, x))
    part = graph.bitcast(graph.add(turns, whole), int64)
    high = graph.cast(part, float32)
    missing = graph.add(part, graph.mul(graph.cast(high, int64), graph.filled(-1, int64, x.shape)))
    low = graph.cast(missing, float32)
    # r = part * TURN to twice the precision. The minus stands in a factor, so that no sum of a
    # product is left to canonicalisation.
    rest, opposite = times(high, _TURN), times(high, -_TURN)
    error = graph.fma(high, literal(_TURN, x), opposite)
    error = graph.fma(high, literal(_TURN_REST, x), error)
    error = graph.fma(low, literal(_TURN, x), error)
    direct = below(size, _QUARTER_PI)
    finite = below(size, INFINITY)
    rest = graph.where(direct, size, graph.where(finite, rest, literal(NAN, x)))
    no_turns = graph.where(direct, word(0, x), graph.cast(quadrant, uint32))
    return no_turns, rest, graph.where(direct, literal(0.0, x), error)


def _turns(bits: Node) -> Node:
    """|x| * 2/pi modulo 4 in units of 2^-62, uint64, for the bits of a finite |x| >= 1/2.

    The error is below 2^-8 units: the window below has 96 bits and the mantissa 24.
    """
    position = graph.add(graph.bit("shr", bits, word(23, bits)), word(-126 % 2**32, bits))
    mantissa = graph.bit("and", bits, word(0x7FFFFF, bits))
    mantissa = graph.cast(graph.bit("or", mantissa, word(0x800000, bits)), uint64)
    low_word = graph.cmp("lt", position, word(64, bits))
    last_word = graph.cmp("eq", position, word(128, bits))
    shift = graph.cast(graph.bit("and", position, word(63, bits)), uint64)
    first, second, third = (
        graph.where(
            low_word,
            _long(_TWO_OVER_PI[at], bits),
            graph.where(
                last_word, _long(_TWO_OVER_PI[at + 2], bits), _long(_TWO_OVER_PI[at + 1], bits)
            ),
        )
        for at in range(3)
    )
    back = graph.add(graph.mul(shift, _long(2**64 - 1, bits)), _long(64, bits))
    upper = graph.bit("or", graph.bit("shl", first, shift), graph.bit("shr", second, back))
    lower = graph.bit("or", graph.bit("shl", second, shift), graph.bit("shr", third, back))
    carried = graph.mul(mantissa, graph.bit("shr", lower, _long(32, bits)))
    return graph.add(graph.mul(mantissa, upper), graph.bit("shr", carried, _long(32, bits)))


def _sine(rest: Node, low: Node) -> Node:
    """sin(rest + low), |rest| <= pi/4."""
    square = graph.mul(rest, rest)
    return graph.add(rest, graph.fma(graph.mul(rest, square), polynomial(_SIN, square), low))


def _cosine(rest: Node, low: Node) -> Node:
    """cos(rest + low), |rest| <= pi/4."""
    square = graph.mul(rest, rest)
    moved = graph.mul(rest, negative(low))
    return plus(graph.fma(square, polynomial(_COS, square), moved), 1.0)


def _is_odd(quadrant: Node) -> Node:
    return graph.cmp("eq", graph.bit("and", quadrant, word(1, quadrant)), word(1, quadrant))


def _second_bit_on_top(quadrant: Node) -> Node:
    return graph.bitcast(graph.bit("shl", quadrant, word(30, quadrant)), float32)


def _long(value: int, like: Node) -> Node:
    return graph.filled(value, uint64, like.shape)
