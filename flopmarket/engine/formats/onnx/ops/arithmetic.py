"""Arithmetic operators with numpy's broadcasting: sums, quotients, remainders, powers, extremes.

Integer division truncates toward zero (x / 0 = 0, as everywhere in the engine); integer sums and
products wrap. Signatures that opset 6 and older had (axis, broadcast) are not read.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from flopmarket.engine import arithmetic, compose, elementary, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType, float32, float64, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx.ops.operands import (
    Rule,
    binary,
    elementwise,
    widened,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

# ---------------------------------------------------------------- quotients and remainders


def divide(a: Node, b: Node) -> Node:
    """a / b; integers truncate toward zero."""
    quotient = graph.div(a, b)
    if a.dtype.kind != "i":
        return quotient
    # The engine's quotient is floored: one too low where it is negative and not whole.
    rest = compose.subtract(a, graph.mul(quotient, b))
    zero = like(0, a)
    differ = graph.bit("xor", graph.cmp("lt", a, zero), graph.cmp("lt", b, zero))
    whole = graph.bit("or", graph.cmp("eq", rest, zero), graph.cmp("eq", b, zero))
    raised = graph.add(quotient, like(1, a))
    return graph.where(graph.bit("and", differ, compose.invert(whole)), raised, quotient)


def floored_remainder(a: Node, b: Node) -> Node:
    """Python's %: the sign of ``b``, zeros included."""
    rest = rounding.remainder(a, b)
    if not a.dtype.is_float:
        return rest
    zero = like(0.0, a)
    return graph.where(graph.cmp("eq", rest, zero), rounding.copy_sign(zero, b), rest)


@op("Mod")
def modulo(node: OpNode, a: Value, b: Value) -> Tensor:
    """Remainder with the sign of b, or of a where ``fmod`` is 1."""
    return elementwise(rounding.fmod if node.get("fmod", 0) else floored_remainder, a, b)


# ---------------------------------------------------------------- powers


@op("Pow")
def power(node: OpNode, base: Value, exponent: Value) -> Tensor:
    """base ** exponent in the base's dtype; the two may differ."""
    return elementwise(_power, base, exponent)


def _power(x: Node, y: Node) -> Node:
    known = graph.const_scalar(y)
    if known is not None and x.dtype.is_float:
        simple = _known_power(x, float(known))
        if simple is not None:
            return simple
    if x.dtype.is_integer and y.dtype.is_integer:
        return elementary.integer_power(x, _as_wide_as(y, x.dtype))
    dtype = float64 if float64 in (x.dtype, y.dtype) else float32
    wide = elementary.power(graph.cast(x, dtype), graph.cast(y, dtype))
    if x.dtype.is_float:
        return graph.cast(wide, x.dtype)
    # An integer to a whole float power is exact by squaring; other powers truncate.
    whole = graph.cast(y, int64)
    exact = elementary.integer_power(x, _as_wide_as(whole, x.dtype))
    is_whole = graph.cmp("eq", graph.cast(whole, y.dtype), y)
    natural = graph.bit("and", is_whole, arithmetic.at_most(like(0, whole), whole))
    return graph.where(natural, exact, graph.cast(wide, x.dtype))


def _as_wide_as(exponent: Node, base: DType) -> Node:
    """An integer exponent under the base's dtype; what does not fit keeps its sign and parity."""
    if exponent.dtype is base:
        return exponent
    wide = graph.cast(exponent, int64)
    last = rounding.bitwise("and", wide, like(1, wide))
    highest = min(int(np.iinfo(base.numpy).max), 2**62 - 1) - 1  # even
    large = graph.add(last, like(highest, wide))
    fits = graph.where(graph.cmp("lt", like(highest, wide), wide), large, wide)
    if base.kind == "i":
        below = graph.cmp("lt", fits, like(-highest, wide))
        fits = graph.where(below, compose.negative(large), fits)
    return graph.cast(fits, base)


def _known_power(x: Node, exponent: float) -> Node | None:
    """Powers that are a few exact operations, which is what models have; None for others."""
    if exponent == 0.5:
        # pow(-inf, 0.5) is +inf and pow(-0, 0.5) is +0, where a square root is not.
        root = graph.sqrt(graph.add(x, like(0.0, x)))
        lowest = graph.cmp("eq", x, like(float("-inf"), x))
        return graph.where(lowest, like(float("inf"), x), root)
    if exponent == int(exponent) and 0 <= exponent <= 4:
        return arithmetic.power(x, int(exponent))
    if exponent == -1.0:
        return graph.div(like(1.0, x), x)
    return None


# ---------------------------------------------------------------- many operands


def _variadic(op_type: str, rule: Rule) -> None:
    @op(op_type)
    def handler(node: OpNode, *values: Value) -> Tensor:
        if not values:
            raise EngineError(f"{op_type} wants at least one operand", code="ONNX_INPUTS")
        if len(values) == 1:
            return tensor(values[0])
        return elementwise(lambda *nodes: reduce(rule, nodes), *values)


def _mean(node: OpNode, *values: Value) -> Tensor:
    def rule(*nodes: Node) -> Node:
        total = reduce(graph.add, nodes)
        return graph.div(total, like(float(len(nodes)), total))

    return elementwise(widened(rule), *values)


def clip(x: Node, low: Node | None, high: Node | None) -> Node:
    """min(max(x, low), high): the upper bound wins, NaN stays."""
    if low is not None:
        x = graph.where(graph.cmp("lt", x, low), low, x)
    return x if high is None else graph.where(graph.cmp("lt", high, x), high, x)


@op("Clip", since=11)
def clip_between(
    node: OpNode, x: Value, low: Value | None = None, high: Value | None = None
) -> Tensor:
    """Limited to scalars that are inputs."""
    result = tensor(x)
    if low is not None:
        result = elementwise(lambda a, b: clip(a, b, None), result, tensor(low).reshape(()))
    if high is not None:
        result = elementwise(lambda a, b: clip(a, None, b), result, tensor(high).reshape(()))
    return result


@op("Clip", since=6)
def clip_attributes(node: OpNode, x: Value) -> Tensor:
    """Limited to attributes."""
    low, high = node.get("min"), node.get("max")

    def rule(a: Node) -> Node:
        return clip(
            a,
            None if low is None else like(low, a),
            None if high is None else like(high, a),
        )

    return elementwise(rule, x)


binary("Add", graph.add)
binary("Sub", compose.subtract)
binary("Mul", graph.mul)
binary("Div", divide)
_variadic("Sum", graph.add)
_variadic("Max", graph.max_)
_variadic("Min", compose.minimum)
op("Mean")(_mean)
