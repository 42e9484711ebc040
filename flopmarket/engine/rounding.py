"""Rounding to whole numbers, signs, remainders and the bits of signed integers, on nodes.

Everything is exact for every float type: the rounding is done by adding and taking off a power of
two beyond which all numbers are whole. Derivatives are 0 where a function is flat. Shapes of
operands are equal. Called by the tensor methods and by ``elementary.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import compose, dtypes, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType, bool_
from flopmarket.engine.graph import Node

_WHOLE_FROM = {
    dtypes.float16: 2.0**10,
    dtypes.bfloat16: 2.0**7,
    dtypes.float32: 2.0**23,
    dtypes.float64: 2.0**52,
}
"""From this magnitude on every value of a float type is a whole number."""

LARGEST = {
    dtypes.float16: 65504.0,
    dtypes.bfloat16: (2 - 2.0**-7) * 2.0**127,
    dtypes.float32: (2 - 2.0**-23) * 2.0**127,
    dtypes.float64: (2 - 2.0**-52) * 2.0**1023,
}
"""The largest finite value of every float type."""


def sign_bit(dtype: DType) -> int:
    """The top bit of a type's words."""
    return 1 << (dtype.bits - 1)


def magnitude(x: Node) -> Node:
    """|x| of a float by clearing the sign bit; no derivative."""
    bits = graph.bitcast(x, dtypes.unsigned_of(x.dtype))
    return graph.bitcast(graph.bit("and", bits, like(sign_bit(x.dtype) - 1, bits)), x.dtype)


def copy_sign(size: Node, x: Node) -> Node:
    """A float ``size`` (sign bit clear) with the sign of ``x``, zeros included; no derivative."""
    words = dtypes.unsigned_of(x.dtype)
    bits = graph.bitcast(x, words)
    sign = graph.bit("and", bits, like(sign_bit(x.dtype), bits))
    return graph.bitcast(graph.bit("or", graph.bitcast(size, words), sign), x.dtype)


def half_even(x: Node) -> Node:
    """The nearest whole number, ties to the even one; -0, infinities and NaN stay."""
    return _rounded(x, lambda whole, size, _: whole)


def trunc(x: Node) -> Node:
    """Toward zero."""
    return _rounded(x, _lowered)


def floor(x: Node) -> Node:
    """The largest whole number not above."""

    def rule(whole: Node, size: Node, negative: Node) -> Node:
        return graph.where(negative, _raised(whole, size), _lowered(whole, size))

    return _rounded(x, rule)


def ceil(x: Node) -> Node:
    """The smallest whole number not below."""

    def rule(whole: Node, size: Node, negative: Node) -> Node:
        return graph.where(negative, _lowered(whole, size), _raised(whole, size))

    return _rounded(x, rule)


def _lowered(whole: Node, size: Node, _: Node | None = None) -> Node:
    return graph.where(graph.cmp("lt", size, whole), graph.add(whole, like(-1.0, whole)), whole)


def _raised(whole: Node, size: Node) -> Node:
    return graph.where(graph.cmp("lt", whole, size), graph.add(whole, like(1.0, whole)), whole)


def _rounded(x: Node, rule: Callable[[Node, Node, Node], Node]) -> Node:
    """``rule(nearest, size, negative)`` on the magnitude, with the sign put back."""
    size, border = magnitude(x), like(_WHOLE_FROM[x.dtype], x)
    nearest = graph.add(graph.add(size, border), compose.negative(border))
    whole = rule(nearest, size, graph.cmp("lt", x, like(0.0, x)))
    return copy_sign(graph.where(graph.cmp("lt", size, border), whole, size), x)


# ---------------------------------------------------------------- remainders


def fmod(a: Node, b: Node) -> Node:
    """C's fmod: a - b * trunc(a / b), the sign of ``a``; x % 0 is NaN (0 of integers: x).

    Floats are exact while |a / b| < 2^46 (float64: 2^104, float16: always); larger quotients are
    not reduced to the end. The derivative by ``b`` is minus the whole quotient.
    """
    if not a.dtype.is_float:
        rest = compose.subtract(a, graph.mul(graph.div(a, b), b))
        crossed = graph.bit("and", _nonzero(rest), _differ_in_sign(rest, a))
        return graph.where(crossed, compose.subtract(rest, b), rest)
    if a.dtype.is_narrow_float:
        wide = fmod(graph.cast(a, dtypes.float32), graph.cast(b, dtypes.float32))
        return graph.cast(wide, a.dtype)
    rest = a
    for _ in range(3):
        quotient = half_even(graph.div(rest, b))
        rest = graph.fma(compose.negative(quotient), b, rest)
    # Rounding the quotient to nearest may have gone one step past zero.
    past = graph.bit("and", _nonzero(rest), _differ_in_sign(rest, a))
    back = graph.where(_differ_in_sign(rest, b), graph.add(rest, b), compose.subtract(rest, b))
    rest = graph.where(past, back, rest)
    lost = graph.bit("and", graph.cmp("eq", rest, like(0.0, a)), graph.cmp("lt", a, like(0.0, a)))
    rest = graph.where(lost, like(-0.0, a), rest)
    endless = graph.cmp("eq", magnitude(b), like(float("inf"), b))
    finite = graph.cmp("lt", magnitude(a), like(float("inf"), a))
    return graph.where(graph.bit("and", endless, finite), a, rest)


def remainder(a: Node, b: Node) -> Node:
    """Python's %: a - b * floor(a / b), the sign of ``b``; exact where :func:`fmod` is."""
    if not a.dtype.is_float:
        return compose.subtract(a, graph.mul(graph.div(a, b), b))
    rest = fmod(a, b)
    crossed = graph.bit("and", _nonzero(rest), _differ_in_sign(rest, b))
    return graph.where(crossed, graph.add(rest, b), rest)


def _nonzero(x: Node) -> Node:
    return compose.invert(graph.cmp("eq", x, like(0, x)))


def _differ_in_sign(a: Node, b: Node) -> Node:
    """Whether one is below 0 and the other is not."""
    zero = like(0, a)
    return graph.bit("xor", graph.cmp("lt", a, zero), graph.cmp("lt", b, zero))


# ---------------------------------------------------------------- bits of any integer


def bitwise(kind: str, a: Node, b: Node) -> Node:
    """'and' 'or' 'xor' 'shl' 'shr' on bool and integers; signed shifts right keep the sign.

    A shift by the width or more, or by a negative amount, shifts everything out.
    """
    if a.dtype.kind != "i":
        return graph.bit(kind, a, b)
    words = dtypes.unsigned_of(a.dtype)
    left, right = graph.bitcast(a, words), graph.bitcast(b, words)
    if kind != "shr":
        return graph.bitcast(graph.bit(kind, left, right), a.dtype)
    ones = like(2**words.bits - 1, left)
    filled = graph.bit("xor", graph.bit("shr", graph.bit("xor", left, ones), right), ones)
    below = graph.cmp("lt", a, like(0, a))
    return graph.bitcast(graph.where(below, filled, graph.bit("shr", left, right)), a.dtype)


def bitwise_not(x: Node) -> Node:
    """~x of bool and integers."""
    if x.dtype is bool_:
        return compose.invert(x)
    words = dtypes.unsigned_of(x.dtype)
    return graph.bitcast(compose.invert(graph.bitcast(x, words)), x.dtype)
