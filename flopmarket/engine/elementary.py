"""Powers: IEEE 754's pow for float32 (float64's is ``doubles.power``), and powers of integers.

Any shape, total. pow is a composition of macros whose derivative comes out right: corrections that
only repair rounding are detached. The error in its docstring is the largest against float64 on
every exponent with hundreds of mantissas, and dense where it is hard.
"""

from __future__ import annotations

from flopmarket.engine import arithmetic, compose, doubles, graph, macros
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float32, float64, int32, uint32, unsigned_of
from flopmarket.engine.graph import Node

_LN2 = 0.6931471824645996
_NAN = float("nan")
_INFINITY = float("inf")

# 2 / ln 2 as two float32, and 1/3 + t/5 + t^2/7 + ... for atanh(s) = s + s^3 (...), t = s^2.
_TWO_OVER_LN2 = 2.885390043258667
_TWO_OVER_LN2_REST = 3.851925900346577e-08
_ATANH = tuple(1.0 / n for n in (3, 5, 7, 9, 11, 13))


def is_infinite(x: Node) -> Node:
    """bool: whether a float is +-inf."""
    return graph.cmp("eq", compose.absolute(x), like(_INFINITY, x))


def power(x: Node, y: Node) -> Node:
    """x**y as IEEE 754's pow, specials included; one shape, float32 or float64.

    Measured for float32: 2.1 ulp.
    """
    if x.dtype is float64:
        return doubles.power(x, y)
    size = compose.absolute(x)
    value = _positive_power(size, y)
    whole, odd = _parity(y)
    negative = graph.cmp("lt", x, like(0.0, x))
    turned = graph.where(odd, compose.negative(value), value)
    defined = graph.bit("or", whole, graph.bit("or", is_infinite(x), is_infinite(y)))
    below = graph.where(defined, turned, like(_NAN, x))
    value = graph.where(negative, below, value)
    # -0 to an odd power keeps its sign; 1 / x tells it from +0.
    minus_zero = graph.bit(
        "and",
        graph.cmp("eq", x, like(0.0, x)),
        graph.cmp("lt", graph.div(like(1.0, x), x), like(0.0, x)),
    )
    value = graph.where(graph.bit("and", minus_zero, odd), compose.negative(value), value)
    always_one = graph.bit("or", graph.cmp("eq", y, like(0.0, y)), graph.cmp("eq", x, like(1.0, x)))
    return _one_for_nan(always_one, value)


def _positive_power(x: Node, y: Node) -> Node:
    """x**y for x >= +0: 2**(y log2 x) with the logarithm and the product in two float32 each."""
    main = macros.log2(x)
    product = graph.mul(y, main)
    missing = graph.fma(y, main, compose.negative(product))
    tail = graph.fma(y, _log2_rest(x, main), missing)
    value = macros.exp2(product)
    usual = graph.fma(value, graph.mul(tail, like(_LN2, x)), value)
    # Where something is infinite the tail is no number, and the plain value is right.
    exact = graph.cmp("lt", compose.absolute(tail), like(1.0, x))
    finite = graph.cmp("lt", value, like(_INFINITY, x))
    value = graph.where(graph.bit("and", exact, finite), usual, value)
    # |x| = 1 makes the logarithm 0 whatever y is, infinite ones included.
    one = graph.cmp("eq", x, like(1.0, x))
    number = graph.cmp("eq", y, y)
    return _one_for_nan(graph.bit("and", one, number), value)


def _one_for_nan(where: Node, value: Node) -> Node:
    """1 where ``where`` holds but ``value`` is NaN; numbers keep their derivative."""
    is_nan = compose.invert(graph.cmp("eq", value, value))
    return graph.where(graph.bit("and", where, is_nan), like(1.0, value), value)


def _log2_rest(x: Node, main: Node) -> Node:
    """log2(x) - ``main`` for its float32 approximation, to about 2^-30 of the whole; detached."""
    x, main = compose.detach(x), compose.detach(main)
    tiny = graph.cmp("lt", x, like(2.0**-126, x))
    normal = graph.where(tiny, graph.mul(x, like(2.0**23, x)), x)
    word = graph.bitcast(normal, uint32)
    bits = graph.add(word, like(0x3F800000 - 0x3F3504F3, word))
    biased = graph.cast(graph.bit("shr", bits, like(23, bits)), float32)
    bias = graph.where(tiny, like(-150.0, x), like(-127.0, x))
    exponent = graph.add(biased, bias)
    mantissa = graph.add(graph.bit("and", bits, like(0x7FFFFF, bits)), like(0x3F3504F3, bits))
    fraction = graph.add(graph.bitcast(mantissa, float32), like(-1.0, x))
    # s = f / (2 + f) as two float32; log2(1 + f) = (2 / ln 2) atanh(s).
    below = graph.add(fraction, like(2.0, x))
    below_rest = graph.add(fraction, compose.negative(graph.add(below, like(-2.0, x))))
    ratio = graph.div(fraction, below)
    left = graph.fma(compose.negative(ratio), below, fraction)
    ratio_rest = graph.div(graph.fma(compose.negative(ratio), below_rest, left), below)
    square = graph.mul(ratio, ratio)
    cubic = graph.mul(graph.mul(ratio, square), compose.polynomial(_ATANH, square))
    tail = graph.add(cubic, ratio_rest)
    head = graph.fma(ratio, like(_TWO_OVER_LN2, x), graph.add(exponent, compose.negative(main)))
    low = graph.fma(tail, like(_TWO_OVER_LN2, x), graph.mul(ratio, like(_TWO_OVER_LN2_REST, x)))
    return graph.add(head, low)


def _parity(y: Node) -> tuple[Node, Node]:
    """Whether a float is a whole number, and whether it is an odd one."""
    size = compose.absolute(y)
    # From 2^24 on every float is even; below, int32 holds it.
    small = graph.cmp("lt", size, like(2.0**24, y))
    integer = graph.cast(graph.where(small, y, like(0.0, y)), int32)
    whole = graph.where(small, graph.cmp("eq", graph.cast(integer, float32), y), small)
    huge = graph.bit("xor", small, like(True, small))
    word = graph.bitcast(integer, uint32)
    last = graph.cmp("eq", graph.bit("and", word, like(1, word)), like(1, word))
    number = graph.bit("or", whole, graph.bit("and", huge, graph.cmp("eq", y, y)))
    return number, graph.bit("and", whole, last)


def integer_power(x: Node, y: Node) -> Node:
    """x**y for integers of one dtype by squaring, wrapping; 0 for negative y unless |x| is 1."""
    word = graph.bitcast(y, unsigned_of(y.dtype))
    result, square = like(1, x), x
    for place in range(y.dtype.bits):
        bit = graph.bit("and", graph.bit("shr", word, like(place, word)), like(1, word))
        taken = graph.cmp("eq", bit, like(1, bit))
        result = graph.where(taken, graph.mul(result, square), result)
        square = graph.mul(square, square)
    if x.dtype.kind != "i":
        return result
    unit = graph.cmp("eq", compose.absolute(x), like(1, x))
    # A unit is its own inverse, so the loop over two's complement bits is right for it.
    kept = graph.bit("or", unit, arithmetic.at_most(like(0, y), y))
    return graph.where(kept, result, like(0, x))
