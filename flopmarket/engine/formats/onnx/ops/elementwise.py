"""Operators of one operand: signs, rounding, roots, elementary functions.

The elementary functions are the engine's macros, float32 to at most a few ulp. 16-bit floats are
computed in float32 and rounded once; float64 has functions of its own.
"""

from __future__ import annotations

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.formats.onnx.narrow import is_narrow, narrow_of
from flopmarket.engine.formats.onnx.ops.operands import analysis, elementwise, unary
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor


def sign(x: Node) -> Node:
    """-1, 0 or 1; zeros and NaN stay as they are."""
    if not x.dtype.is_float:
        return compose.sign(x)
    up = graph.where(graph.cmp("lt", like(0.0, x), x), like(1.0, x), x)
    return graph.where(graph.cmp("lt", x, like(0.0, x)), like(-1.0, x), up)


# ---------------------------------------------------------------- tests of floats


def _float_of(x: Value) -> Value:
    """8-bit floats as the float32 that they stand for."""
    return narrow_of(x).decode() if is_narrow(x) else x


@op("IsNaN")
def is_nan(node: OpNode, x: Value) -> Tensor:
    """Where a float is NaN."""
    return elementwise(lambda a: compose.invert(graph.cmp("eq", a, a)), _float_of(x))


@op("IsInf")
def is_inf(node: OpNode, x: Value) -> Tensor:
    """Where a float is infinite, of the signs asked for."""
    wanted = [
        value
        for name, value in (("detect_positive", float("inf")), ("detect_negative", float("-inf")))
        if node.get(name, 1)
    ]

    def rule(a: Node) -> Node:
        found = like(False, graph.cmp("eq", a, a))
        for value in wanted:
            found = graph.bit("or", found, graph.cmp("eq", a, like(value, a)))
        return found

    return elementwise(rule, _float_of(x))


def reciprocal(x: Node) -> Node:
    """1 / x."""
    return graph.div(like(1.0, x), x)


unary("Neg", compose.negative)
unary("Abs", compose.absolute)
unary("Sign", sign)
unary("Round", rounding.half_even)
unary("Floor", rounding.floor)
unary("Ceil", rounding.ceil)
unary("Sqrt", graph.sqrt)
unary("Reciprocal", reciprocal)

for _name in (
    *("Exp", "Log", "Sigmoid", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
    *("Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh"),
):
    unary(_name, analysis(_name.lower()))
