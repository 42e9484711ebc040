"""Operators that read and write by index: the Gather and Scatter families, OneHot, Trilu, EyeLike.

Negative indices count from the end. Computed indices out of range are clamped by reads and dropped
by writes, as the engine has it; ONNX leaves both undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph, scattering
from flopmarket.engine.dtypes import DType, bool_, int32, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import Narrow
from flopmarket.engine.formats.onnx.ops.cast import element_type
from flopmarket.engine.formats.onnx.registry import Array, OpNode, Value, op, tensor
from flopmarket.engine.functional.cache import write_slots
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device

REDUCTIONS = {"none": "set", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX's names of what happens where writes meet, and the engine's."""


def _picked(
    node: OpNode,
    x: Value,
    index: Value,
    rule: Callable[[Node, Node], Node],
    host: Callable[[Array, Array], Any],
) -> Value:
    """``rule`` on a tensor or on the codes of a narrow format, ``host`` on an array of strings."""
    if isinstance(x, np.ndarray):
        return host(x, node.host(index, "the index into strings"))
    places = tensor(index)

    def move(data: Tensor) -> Tensor:
        return Tensor(rule(data.node, places.node), device=common_device(data, places))

    return x.map(move) if isinstance(x, Narrow) else move(tensor(x))


@op("Gather")
def gather(node: OpNode, x: Value, index: Value) -> Value:
    given = node.get("axis", 0)

    def rule(data: Node, places: Node) -> Node:
        axis = compose.axis_of(given, len(data.shape))
        return graph.gather(data, scattering.wrapped(places, data.shape[axis]), axis)

    return _picked(node, x, index, rule, lambda a, at: np.take(a, at, axis=given))


@op("GatherElements")
def gather_elements(node: OpNode, x: Value, index: Value) -> Value:
    given = node.get("axis", 0)

    def rule(data: Node, places: Node) -> Node:
        return scattering.gather(data, compose.axis_of(given, len(data.shape)), places)

    return _picked(
        node, x, index, rule, lambda a, at: np.take_along_axis(a, at % a.shape[given], given)
    )


@op("GatherND")
def gather_nd(node: OpNode, x: Value, index: Value) -> Value:
    batch = node.get("batch_dims", 0)

    def host(data: Array, places: Array) -> Array:
        order = np.arange(data.size).reshape(data.shape)
        found = scattering.gather_nd(Tensor(order).node, Tensor(places).node, batch)
        picked: Array = data.reshape(-1)[Tensor(found, device="reference").numpy()]
        return picked

    return _picked(node, x, index, lambda d, p: scattering.gather_nd(d, p, batch), host)


# ---------------------------------------------------------------- writing


@op("Scatter")
@op("ScatterElements", since=11)
def scatter_elements(node: OpNode, x: Value, index: Value, updates: Value) -> Value:
    kind = _reduction(node)
    given = node.get("axis", 0)

    def rule(data: Node, places: Node, values: Node) -> Node:
        axis = compose.axis_of(given, max(1, len(data.shape)))
        if kind == "set":
            return scattering.scatter("set", data, axis, places, values)
        return scattering.scatter_reduce(data, axis, places, values, kind)

    return _written(x, index, updates, rule)


@op("ScatterND")
def scatter_nd(node: OpNode, x: Value, index: Value, updates: Value) -> Value:
    kind = _reduction(node)
    return _written(
        x, index, updates, lambda data, at, values: scattering.scatter_nd(data, at, values, kind)
    )


def _reduction(node: OpNode) -> str:
    name = node.get("reduction", "none")
    if name not in REDUCTIONS:
        raise OnnxIllegal(f"no reduction {name!r}: {', '.join(REDUCTIONS)}")
    return REDUCTIONS[name]


def _written(
    x: Value, index: Value, updates: Value, rule: Callable[[Node, Node, Node], Node]
) -> Value:
    places = tensor(index)

    def write(data: Tensor, values: Tensor) -> Tensor:
        result = rule(data.node, places.node, values.node)
        return Tensor(result, device=common_device(data, places, values))

    if isinstance(x, Narrow) and isinstance(updates, Narrow):
        values = updates.codes
        return x.map(lambda codes: write(codes, values))
    data, values = tensor(x), tensor(updates)
    if data.dtype is not bool_:
        return write(data, values)
    return write(data.to(int32), values.to(int32)).bool()


@op("TensorScatter", since=24)
def tensor_scatter(node: OpNode, cache: Value, update: Value, position: Value = None) -> Value:
    """A key-value cache with the next rows in place, from ``position`` [batch] on."""
    circular = node.get("mode", "linear") == "circular"
    axis = node.get("axis", -2)

    def write(slots: Tensor, rows: Tensor) -> Tensor:
        start = (
            Tensor(compose.literal(0, int32, (slots.shape[0],)))
            if position is None
            else tensor(position)
        )
        return write_slots(slots, rows, start, circular=circular, dim=axis)

    if isinstance(cache, Narrow) and isinstance(update, Narrow):
        rows = update.codes
        return cache.map(lambda codes: write(codes, rows))
    return write(tensor(cache), tensor(update))


# ---------------------------------------------------------------- patterns of places


@op("OneHot", since=9)
def one_hot(node: OpNode, indices: Value, depth: Value, values: Value) -> Tensor:
    (classes,) = node.host_ints(depth, "the depth")
    index, pair = tensor(indices).to(int64), tensor(values)
    axis = compose.axis_of(node.get("axis", -1), index.ndim + 1)
    index = (index + classes).where(index < 0, index).unsqueeze(axis)
    shape = (*index.shape[:axis], classes, *index.shape[axis + 1 :])
    if not all(shape):
        return Tensor(compose.literal(0, pair.dtype, shape))
    hit = index == Tensor(graph.iota(axis, shape, int64))
    return pair[1].where(hit, pair[0])


@op("Trilu", since=14)
def trilu(node: OpNode, x: Value, k: Value = None) -> Value:
    offset = 0 if k is None else node.host_ints(k, "the diagonal")[0]

    def cut(data: Tensor) -> Tensor:
        return data.triu(offset) if node.get("upper", 1) else data.tril(offset)

    return x.map(cut) if isinstance(x, Narrow) else cut(tensor(x))


@op("EyeLike", since=9)
def eye_like(node: OpNode, x: Value) -> Tensor:
    if len(x.shape) != 2:
        raise OnnxIllegal(f"a tensor of {len(x.shape)} axes, not a matrix")
    code = node.get("dtype")
    dtype = tensor(x).dtype if code is None else element_type(code)
    if not isinstance(dtype, DType):
        raise OnnxUnsupported(f"no identity matrix of ONNX type {code}")
    if not all(x.shape):
        return Tensor(compose.literal(0, dtype, tuple(x.shape)))
    row, column = (graph.iota(axis, tuple(x.shape)) for axis in (0, 1))
    shifted = graph.add(row, compose.like(node.get("k", 0), row))
    return Tensor(graph.cmp("eq", shifted, column)).to(dtype)


@op("ReverseSequence", since=10)
def reverse_sequence(node: OpNode, x: Value, lengths: Value) -> Value:
    """Every batch entry's first ``lengths[b]`` steps backwards, the others as they are."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise OnnxIllegal(f"time_axis {time} and batch_axis {batch} are 0 and 1")
    given = tensor(lengths)

    def turn(data: Tensor) -> Tensor:
        if not data.numel():
            return data
        rows = data.transpose(0, 1) if time == 0 else data
        size, steps = rows.shape[:2]
        place = Tensor(graph.iota(1, (size, steps), int64))
        length = given.to(int64).unsqueeze(1)
        index = (length - 1 - place).where(place < length, place)
        flat = index + Tensor(graph.iota(0, (size, steps), int64)) * steps
        turned = rows.flatten(0, 1).gather_rows(flat)
        return turned.transpose(0, 1) if time == 0 else turned

    return x.map(turn) if isinstance(x, Narrow) else turn(tensor(x))
