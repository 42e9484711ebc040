"""Sequences (Python lists) and optionals (a value or None)."""

from __future__ import annotations

import numpy as np

from flopmarket.engine.compose import axis_of
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.ops.movement import cut, joined, reshaped
from flopmarket.engine.formats.onnx.parsed import ValueType
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.tensor import Tensor


def _items(sequence: Value) -> list[Value]:
    if not isinstance(sequence, list):
        raise OnnxIllegal("its input is no sequence")
    return sequence


def _element(value: Value) -> Value:
    """``value``, which is no sequence: those of sequences would grow without bound."""
    if isinstance(value, list):
        raise OnnxUnsupported("a sequence of sequences")
    return value


def _position(node: OpNode, position: Value, count: int, last: int) -> int:
    at = node.host_ints(position, "the position")
    if len(at) != 1 or not -count <= at[0] <= last:
        raise OnnxIllegal(f"position {list(at)} in a sequence of {count}")
    return at[0] + count if at[0] < 0 else at[0]


@op("SequenceConstruct", since=11)
def sequence_construct(node: OpNode, *values: Value) -> Value:
    return [_element(value) for value in values]


@op("SequenceEmpty", since=11)
def sequence_empty(node: OpNode) -> Value:
    return []


@op("SequenceAt", since=11)
def sequence_at(node: OpNode, sequence: Value, position: Value) -> Value:
    items = _items(sequence)
    return items[_position(node, position, len(items), len(items) - 1)]


@op("SequenceInsert", since=11)
def sequence_insert(node: OpNode, sequence: Value, value: Value, position: Value = None) -> Value:
    items = list(_items(sequence))
    if len(items) >= limits.MAX_SEQUENCE_LENGTH:
        raise OnnxIllegal(
            f"a sequence of more than {limits.MAX_SEQUENCE_LENGTH}", code="ONNX_LIMIT"
        )
    at = len(items)
    if position is not None:
        at = _position(node, position, len(items), len(items))
    items.insert(at, _element(value))
    return items


@op("SequenceErase", since=11)
def sequence_erase(node: OpNode, sequence: Value, position: Value = None) -> Value:
    items = list(_items(sequence))
    at = -1
    if position is not None:
        at = _position(node, position, len(items), len(items) - 1)
    if not items:
        raise OnnxIllegal("an empty sequence has nothing to erase")
    del items[at]
    return items


@op("SequenceLength", since=11)
def sequence_length(node: OpNode, sequence: Value) -> Value:
    return Tensor(np.asarray(len(_items(sequence)), dtype=np.int64))


@op("ConcatFromSequence", since=11)
def concat_from_sequence(node: OpNode, sequence: Value) -> Value:
    items = _items(sequence)
    if not items:
        raise OnnxIllegal("an empty sequence has nothing to join")
    axis = node.get("axis", 0)
    if not node.get("new_axis", 0):
        return joined(items, axis)
    at = axis_of(axis, len(items[0].shape) + 1)
    return joined([reshaped(x, (*x.shape[:at], 1, *x.shape[at:])) for x in items], at)


@op("SplitToSequence", since=11)
def split_to_sequence(node: OpNode, x: Value, sizes: Value = None) -> Value:
    axis = axis_of(node.get("axis", 0), len(x.shape))
    total = x.shape[axis]
    if sizes is None:
        given = [1] * total
    else:
        lengths = node.host(sizes, "the sizes")
        given = [int(n) for n in lengths.reshape(-1)]
        if lengths.ndim == 0:
            size = given[0]
            if size < 1:
                raise OnnxIllegal(f"parts of {size}")
            given = [min(size, total - at) for at in range(0, total, size)]
    if len(given) > limits.MAX_SEQUENCE_LENGTH:
        raise OnnxIllegal(
            f"a sequence of more than {limits.MAX_SEQUENCE_LENGTH}", code="ONNX_LIMIT"
        )
    parts = list(cut(x, axis, given))
    if sizes is None and not node.get("keepdims", 1):
        return [reshaped(p, (*p.shape[:axis], *p.shape[axis + 1 :])) for p in parts]
    return parts


@op("SequenceMap", since=17)
def sequence_map(node: OpNode, sequence: Value, *others: Value) -> Value:
    body = node.graph("body")
    items = _items(sequence)
    columns: list[list[Value]] = [[] for _ in node.outputs]
    for at in range(len(items)):
        given = [
            other[at] if isinstance(other, list) and len(other) == len(items) else other
            for other in others
        ]
        for column, value in zip(columns, body(items[at], *given), strict=True):
            column.append(_element(value))
    return tuple(columns)


# ---------------------------------------------------------------- optionals


@op("Optional", since=15)
def optional(node: OpNode, value: Value = None) -> Value:
    if value is None and not isinstance(node.get("type"), ValueType):
        raise OnnxIllegal("neither a value nor a type")
    return value


@op("OptionalGetElement", since=15)
def optional_get_element(node: OpNode, value: Value = None) -> Value:
    if value is None:
        raise OnnxIllegal("the optional is empty")
    return value


@op("OptionalHasElement", since=15)
def optional_has_element(node: OpNode, value: Value = None) -> Value:
    return Tensor(np.asarray(value is not None))
