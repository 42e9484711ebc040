"""Reductions: axes as an attribute or an input, empty sets, and no axes at all.

Sums and products keep the operand's dtype (integers wrap). Those with a root or a logarithm are
computed in float32 (or float64) throughout and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType, bool_, float32, float64
from flopmarket.engine.formats.onnx.ops.arithmetic import divide
from flopmarket.engine.formats.onnx.ops.operands import analysis
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Axes = tuple[int, ...]
Fold = Callable[[Node, Axes], Node]
"""From a node and ascending axes, maybe none, to the folded node with those axes as length 1."""


_EXP, _LOG = analysis("exp"), analysis("log")


def _reduction(op_type: str, fold: Fold) -> None:
    @op(op_type)
    def handler(node: OpNode, data: Value, axes: Value | None = None) -> Tensor:
        x = tensor(data)
        given = node.ints("axes") if axes is None else node.host_ints(axes, "the axes")
        if given:
            folded = compose.axes_of(given, x.ndim)
        else:
            folded = () if node.get("noop_with_empty_axes", 0) else tuple(range(x.ndim))
        result = fold(x.node, folded)
        if not node.get("keepdims", 1):
            rest = tuple(n for axis, n in enumerate(x.shape) if axis not in folded)
            result = graph.reshape(result, rest)
        return Tensor(result, device=x.device)


def _sum(x: Node, axes: Axes) -> Node:
    return compose.fold("sum", x, axes, keep=True)


def _prod(x: Node, axes: Axes) -> Node:
    return compose.fold("prod", x, axes, keep=True)


def _mean(x: Node, axes: Axes) -> Node:
    total = _sum(x, axes)
    count = prod(x.shape[axis] for axis in axes)
    if x.dtype.is_float:
        return graph.div(total, like(float(count), total))
    return divide(total, like(count, total))


def lowest(dtype: DType) -> float | int | bool:
    """What the maximum of no elements is."""
    if dtype is bool_:
        return False
    return float("-inf") if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> float | int | bool:
    """What the minimum of no elements is."""
    if dtype is bool_:
        return True
    return float("inf") if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def _extreme(kind: str) -> Fold:
    def fold(x: Node, axes: Axes) -> Node:
        if prod(x.shape[axis] for axis in axes) == 0:
            shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
            value = lowest(x.dtype) if kind == "max" else highest(x.dtype)
            return graph.filled(value, x.dtype, shape)
        return compose.fold(kind, x, axes, keep=True)

    return fold


def _sum_of_squares(x: Node, axes: Axes) -> Node:
    total = graph.reduce("sumprod", x, axes, x)
    return compose.keep_axes(total, axes, x.shape)


def _norm1(x: Node, axes: Axes) -> Node:
    return _sum(compose.absolute(x), axes)


def _norm2(x: Node, axes: Axes) -> Node:
    return graph.sqrt(_sum_of_squares(x, axes))


def _log_sum(x: Node, axes: Axes) -> Node:
    return _LOG(_sum(x, axes))


def _log_sum_exp(x: Node, axes: Axes) -> Node:
    """Shifted by the maximum, so that nothing overflows; the shift counts as a constant."""
    top = compose.detach(_extreme("max")(x, axes))
    finite = graph.cmp("lt", compose.absolute(top), like(float("inf"), top))
    shift = graph.where(finite, top, like(0.0, top))
    moved = compose.subtract(x, graph.expand(shift, x.shape))
    return graph.add(shift, _LOG(_sum(_EXP(moved), axes)))


def _widely(fold: Fold) -> Fold:
    def through(x: Node, axes: Axes) -> Node:
        wide = float64 if x.dtype is float64 else float32
        return graph.cast(fold(graph.cast(x, wide), axes), x.dtype)

    return through


_reduction("ReduceSum", _sum)
_reduction("ReduceProd", _prod)
_reduction("ReduceMean", _mean)
_reduction("ReduceMax", _extreme("max"))
_reduction("ReduceMin", _extreme("min"))
_reduction("ReduceSumSquare", _sum_of_squares)
_reduction("ReduceL1", _norm1)
_reduction("ReduceL2", _widely(_norm2))
_reduction("ReduceLogSum", _widely(_log_sum))
_reduction("ReduceLogSumExp", _widely(_log_sum_exp))
