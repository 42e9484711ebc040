"""The error function, its complement, and the normal distribution."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32, uint32
from flopmarket.engine.graph import Node
from flopmarket.engine.macros.parts import (
    LN2_SHORT,
    LN2_SHORT_REST,
    LOG2_E,
    ROUND_AND_BIAS,
    at_most,
    below,
    clamp,
    exp_less_one,
    exp_parts,
    flipped,
    literal,
    magnitude,
    negative,
    plus,
    polynomial,
    power_of_two,
    scale,
    times,
    with_sign_of,
    word,
)

# erf(x) / x - 1 in x^2 up to |x| = 1; -log(erfc x) above, to where erf rounds to 1.
_ERF_FROM = 1.0
_ERF_TO = 3.95
_ERF = (
    *(1.2837917e-01, -3.7612626e-01, 1.1283579e-01, -2.6853347e-02, 5.187162e-03, -7.997853e-04),
    7.806903e-05,
)
_LOG_ERFC = (
    *(3.4151296e-04, 1.1270893e00, 6.381447e-01, 1.03106916e-01, -2.1838142e-02, 2.9476746e-03),
    -1.8638017e-04,
)
# The same quotient, weighted for 1 - erf; and erfc(x) e^(x^2) (1 + x) in 1 / (1 + x), x >= 3/4.
_ERFC_FROM = 0.75
_ERFC_TO = 10.1  # from 10.06 on erfc rounds to 0
_ERFC_NEAR = (0.12837915, -0.37612572, 0.11282935, -0.026817203, 0.005084013, -0.0006556472)
_ERFC_FAR = (
    *(0.5641908, 0.56410265, 0.28452587, -0.31859156, -0.37415212, -2.043575, 8.527881),
    *(-12.598106, 9.008515, -2.6374214),
)
# 2/sqrt(pi) e^(-y^2) to a few percent for |y| < 3/4, as a line in y^2.
_ERFC_SLOPE = (1.1283792, -0.87)
_NORMAL_TO = 14.75  # from 14.7 on even x * erfc(x / sqrt 2) / 2 rounds to 0
_SQRT_HALF = 0.7071067690849304  # float32 of sqrt(1/2), and what is missing
_SQRT_HALF_REST = 1.2101617485882343e-08


def erf(x: Node) -> Node:
    """Error function, any shape."""
    size = magnitude(x)
    grown, shifted = exp_parts(negative(polynomial(_LOG_ERFC, at_most(size, _ERF_TO))))
    size_of_rest = power_of_two(shifted, 127 - 254)
    large = graph.fma(times(grown, -1.0), size_of_rest, literal(1.0, x))
    small = graph.fma(size, polynomial(_ERF, graph.mul(size, size)), size)
    return with_sign_of(x, graph.where(below(size, _ERF_FROM), small, large))


def erfc(x: Node) -> Node:
    """1 - erf(x) without cancellation, subnormal results included, any shape."""
    y = clamp(x, -_ERFC_TO, _ERFC_TO)
    opposite = negative(y)
    square = graph.mul(y, opposite)
    missing = graph.fma(y, opposite, graph.mul(y, y))
    near = _near_complement(y)
    far, shifted = _far_complement(magnitude(y), None, square, missing)
    tail = scale(far, shifted)
    lifted = graph.fma(tail.src[0], negative(tail.src[1]), literal(2.0, x))
    far = graph.where(below(y, 0.0), lifted, tail)
    return graph.where(below(magnitude(y), _ERFC_FROM), near, far)


def normal_cdf(x: Node) -> Node:
    """erfc(-x / sqrt 2) / 2, what a normal variable falls below x with, any shape."""
    argument = _NormalArgument(x)
    near = times(_near_complement(argument.y, argument.rest), 0.5)
    far, shifted = argument.far()
    tail = scale(far, plus(shifted, -1.0))
    lifted = graph.fma(tail.src[0], negative(tail.src[1]), literal(1.0, x))
    far = graph.where(below(argument.y, 0.0), lifted, tail)
    return graph.where(below(argument.size, _ERFC_FROM), near, far)


def gelu(x: Node) -> Node:
    """x * normal_cdf(x), rounded into subnormals once; -0 at -inf, any shape."""
    argument = _NormalArgument(x)
    half = times(_near_complement(argument.y, argument.rest), 0.5)
    near = graph.mul(argument.limited, half)
    far, shifted = argument.far()
    tail = scale(graph.mul(far, argument.limited), plus(shifted, -1.0))
    # x - x * normal_cdf(-x) above 0.
    lifted = graph.fma(tail.src[0], negative(tail.src[1]), x)
    far = graph.where(below(argument.y, 0.0), lifted, tail)
    return graph.where(below(argument.size, _ERFC_FROM), near, far)


class _NormalArgument:
    """-x / sqrt 2 to twice the precision, and minus its square likewise, for |x| up to 14.75."""

    def __init__(self, x: Node) -> None:
        limited = clamp(x, -_NORMAL_TO, _NORMAL_TO)
        self.limited = limited
        self.y = times(limited, -_SQRT_HALF)
        self.size = magnitude(self.y)
        rest = graph.fma(limited, literal(-_SQRT_HALF, x), times(limited, _SQRT_HALF))
        self.rest = graph.fma(limited, literal(-_SQRT_HALF_REST, x), rest)

    def far(self) -> tuple[Node, Node]:
        """:func:`_far_complement` of this argument."""
        limited = self.limited
        product = graph.mul(limited, limited)
        missing = times(graph.fma(limited, negative(limited), product), 0.5)
        rest = flipped(self.rest, self.y)
        return _far_complement(self.size, rest, times(product, -0.5), missing)


def _near_complement(y: Node, rest: Node | None = None) -> Node:
    """erfc(y + rest) for |y| < 3/4: 1 - y is exact where the rest of the sum cancels most."""
    head = graph.fma(y, literal(-1.0, y), literal(1.0, y))
    square = graph.mul(y, y)
    product = graph.mul(y, negative(polynomial(_ERFC_NEAR, square)))
    if rest is None:
        return graph.fma(product.src[0], product.src[1], head)
    moved = graph.mul(rest, negative(polynomial(_ERFC_SLOPE, square)))
    return graph.add(head, graph.fma(product.src[0], product.src[1], moved))


def _near_reciprocal(x: Node) -> Node:
    """1 / x to about 2 ulp for normal x > 0: cheaper than DIV where the error is made good later.

    Taking the bits from a constant is within an eighth of 1 / x, and three steps of Newton's square
    that.
    """
    guess = graph.add(graph.mul(graph.bitcast(x, uint32), word(2**32 - 1, x)), word(0x7EF311C7, x))
    near = graph.bitcast(guess, float32)
    opposite = negative(x)
    for _ in range(3):
        near = graph.fma(near, graph.fma(opposite, near, literal(1.0, x)), near)
    return near


def _far_complement(
    size: Node, rest: Node | None, square: Node, missing: Node
) -> tuple[Node, Node]:
    """(m, shifted) with erfc(size + rest) = m * 2**n, n in the low bits of ``shifted``.

    ``size`` is in [3/4, 10.5], ``square + missing`` is minus the square of size + rest. What the
    rounding of 1 + size, of its reciprocal, its square and the first factor lost is made good.
    """
    one = literal(1.0, size)
    grown = plus(size, 1.0)
    lost = graph.fma(plus(grown, -1.0), literal(-1.0, size), size)
    if rest is not None:
        lost = graph.add(lost, rest)
    share = _near_reciprocal(grown)
    opposite = negative(share)
    missed = graph.fma(opposite, lost, graph.fma(opposite, grown, one))
    inner = polynomial(_ERFC_FAR[1:], share)
    first = literal(_ERFC_FAR[0], size)
    factor = graph.fma(share, inner, first)
    factor_low = graph.fma(share, inner, graph.fma(factor, literal(-1.0, size), first))
    shifted = graph.fma(square, literal(LOG2_E, size), literal(ROUND_AND_BIAS, size))
    whole = plus(shifted, -ROUND_AND_BIAS)
    small = graph.fma(whole, literal(-LN2_SHORT_REST, size), missing)
    risen = exp_less_one(graph.add(graph.fma(whole, literal(-LN2_SHORT, size), square), small))
    # share * factor * (1 + risen), with what share and factor lack.
    lacking = graph.mul(share, graph.fma(missed, factor, factor_low))
    corrected = graph.mul(lacking, plus(risen, 1.0))
    value = graph.mul(share, factor)
    return graph.fma(share, factor, graph.fma(value, risen, corrected)), shifted
