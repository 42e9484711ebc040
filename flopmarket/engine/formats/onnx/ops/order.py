"""Operators of order and running folds: TopK, ArgMax, CumSum and their relatives."""

from __future__ import annotations

from flopmarket.engine import compose, graph, ordering
from flopmarket.engine.dtypes import int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.tensor import Tensor


def _top(x: Tensor, count: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    place = compose.axis_of(axis, x.ndim)
    if not 0 <= count <= x.shape[place]:
        raise OnnxIllegal(f"{count} elements of an axis of {x.shape[place]}")
    values, indices = x.topk(count, place, largest)
    return values, indices


@op("TopK")
def top_k_of_attribute(node: OpNode, x: Value) -> tuple[Tensor, Tensor]:
    return _top(tensor(x), node.attributes["k"], node.get("axis", -1), largest=True)


@op("TopK", since=10)
def top_k(node: OpNode, x: Value, k: Value) -> tuple[Tensor, Tensor]:
    (count,) = node.host_ints(k, "the number of elements")
    return _top(tensor(x), count, node.get("axis", -1), bool(node.get("largest", 1)))


def _extreme(node: OpNode, x: Value, largest: bool) -> Tensor:
    data = tensor(x)
    if not data.shape:
        return Tensor(compose.literal(0, int64, ()))
    axis = compose.axis_of(node.get("axis", 0), data.ndim)
    last = bool(node.get("select_last_index", 0))
    index = ordering.extreme_position(data.node, (axis,), largest, last)
    if not node.get("keepdims", 1):
        index = graph.reshape(index, (*data.shape[:axis], *data.shape[axis + 1 :]))
    return Tensor(graph.cast(index, int64), device=data.device)


@op("ArgMax")
def arg_max(node: OpNode, x: Value) -> Tensor:
    return _extreme(node, x, largest=True)


@op("ArgMin")
def arg_min(node: OpNode, x: Value) -> Tensor:
    return _extreme(node, x, largest=False)


def _running(node: OpNode, x: Value, axis: Value, product: bool) -> Tensor:
    (place,) = node.host_ints(axis, "the axis")
    data = tensor(x)
    fold = data.cumprod if product else data.cumsum
    exclusive, reverse = bool(node.get("exclusive", 0)), bool(node.get("reverse", 0))
    return fold(place, data.dtype, exclusive=exclusive, reverse=reverse)


@op("CumSum", since=11)
def cumulative_sum(node: OpNode, x: Value, axis: Value) -> Tensor:
    return _running(node, x, axis, product=False)


@op("CumProd", since=26)
def cumulative_product(node: OpNode, x: Value, axis: Value) -> Tensor:
    return _running(node, x, axis, product=True)
