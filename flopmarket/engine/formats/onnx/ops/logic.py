"""Comparisons, logic, bits and choice."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from flopmarket.engine import arithmetic, compose, graph, rounding
from flopmarket.engine.formats.onnx.narrow import Narrow, is_narrow, narrow_of
from flopmarket.engine.formats.onnx.ops.operands import binary, elementwise, is_text, unary
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.formats.onnx.values import check_host
from flopmarket.engine.tensor import Tensor


@op("Equal")
def equal(node: OpNode, a: Value, b: Value) -> Tensor:
    """Elementwise ==; strings are compared on the host."""
    if is_text(a) or is_text(b):
        left, right = np.asarray(a, object), np.asarray(b, object)
        check_host(prod(compose.broadcast_shapes(left.shape, right.shape)))
        return Tensor(np.asarray(left == right, dtype=np.bool_))
    return elementwise(lambda x, y: graph.cmp("eq", x, y), a, b)


@op("Where")
def where(node: OpNode, condition: Value, a: Value, b: Value) -> Value:
    """a where the condition holds, else b; any type that both share."""
    if is_text(a) or is_text(b):
        chosen = node.host(condition, "the condition on strings")
        check_host(prod(compose.broadcast_shapes(*(v.shape for v in (chosen, a, b)))))
        return np.where(chosen, a, b)
    if is_narrow(a) or is_narrow(b):
        left, right = narrow_of(a), narrow_of(b)
        return Narrow(elementwise(graph.where, condition, left.codes, right.codes), left.format)
    return elementwise(graph.where, condition, a, b)


# ---------------------------------------------------------------- bits


@op("BitShift")
def bit_shift(node: OpNode, x: Value, by: Value) -> Tensor:
    """Shifted LEFT or RIGHT."""
    kind = "shl" if node.get("direction") == "LEFT" else "shr"
    return elementwise(partial(rounding.bitwise, kind), x, by)


for _kind in ("and", "or", "xor"):
    binary(_kind.capitalize(), partial(rounding.bitwise, _kind))
    binary(f"Bitwise{_kind.capitalize()}", partial(rounding.bitwise, _kind))
unary("Not", compose.invert)
unary("BitwiseNot", rounding.bitwise_not)
binary("Less", lambda a, b: graph.cmp("lt", a, b))
binary("Greater", lambda a, b: graph.cmp("lt", b, a))
binary("LessOrEqual", arithmetic.at_most)
binary("GreaterOrEqual", lambda a, b: arithmetic.at_most(b, a))
