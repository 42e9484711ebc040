"""What elementwise handlers share: values as nodes of one shape, and rules applied to them.

A rule is a function of graph nodes of one shape. ONNX operators want operands of one dtype already,
so nothing is promoted here. 16-bit floats have the engine's primitives but not its elementary
functions; those are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from flopmarket.engine import analytic, compose, graph
from flopmarket.engine.dtypes import float32, float64
from flopmarket.engine.formats.onnx.registry import Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device

Rule = Callable[..., Node]


def elementwise(rule: Rule, *values: Value) -> Tensor:
    """``rule`` on the values as nodes under their common shape."""
    tensors = [tensor(value) for value in values]
    nodes = compose.broadcast(*(t.node for t in tensors))
    return Tensor(rule(*nodes), device=common_device(*tensors))


def unary(op_type: str, rule: Rule, since: int = 1) -> None:
    """Register an operator of one operand and no attributes."""

    def handler(node: object, x: Value) -> Tensor:
        return elementwise(rule, x)

    op(op_type, since)(handler)


def binary(op_type: str, rule: Rule, since: int = 1) -> None:
    """Register an operator of two operands and no attributes, with numpy's broadcasting."""

    def handler(node: object, a: Value, b: Value) -> Tensor:
        return elementwise(rule, a, b)

    op(op_type, since)(handler)


def in_float32(rule: Rule) -> Rule:
    """``rule`` for any float dtype: computed in float32, rounded once to the operands' dtype."""

    def through(*nodes: Node) -> Node:
        kept = nodes[0].dtype
        return graph.cast(rule(*(graph.cast(node, float32) for node in nodes)), kept)

    return through


def analysis(name: str) -> Rule:
    """The elementary function called ``name`` for any float dtype.

    float64 has functions of its own; the others are computed in float32 and rounded once.
    """
    single = in_float32(partial(analytic.apply, name))

    def function(x: Node) -> Node:
        return analytic.apply(name, x) if x.dtype is float64 else single(x)

    return function


def widened(rule: Rule) -> Rule:
    """``rule`` for any dtype, 16-bit floats computed in float32 and rounded once."""
    through = in_float32(rule)

    def wide(*nodes: Node) -> Node:
        dtype = nodes[0].dtype
        return through(*nodes) if dtype.is_float and dtype.size_bytes == 2 else rule(*nodes)

    return wide


def is_text(value: Value) -> bool:
    """Whether the value is a host array of strings."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "OUS"
