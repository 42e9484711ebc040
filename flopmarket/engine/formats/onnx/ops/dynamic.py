"""Operators whose result has as many elements as the data says: computed on the host.

In a local run their inputs are computed on the spot; in a traced program they are refused
(OnnxDataDependent), unless their inputs are known.
"""

from __future__ import annotations

import numpy as np

from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.narrow import Narrow, is_narrow, narrow_of
from flopmarket.engine.formats.onnx.registry import Array, OpNode, Value, op, tensor
from flopmarket.engine.formats.onnx.values import as_value


@op("NonZero", since=9)
def non_zero(node: OpNode, x: Value) -> Value:
    """int64 [rank, count]: the places of the elements that are not 0, in row-major order."""
    array = node.host(x, "how many elements are not 0")
    rows = np.nonzero(array.reshape(1) if not array.shape else array)
    found = np.stack(rows).astype(np.int64)
    return as_value(found if array.shape else found[:0])


@op("Compress", since=9)
def compress(node: OpNode, x: Value, condition: Value) -> Value:
    """The slices of an axis (or the elements of the flat tensor) where ``condition`` holds."""
    chosen = np.flatnonzero(node.host(condition, "which slices are kept"))
    axis = node.get("axis")
    if isinstance(x, np.ndarray) and not is_narrow(x):
        return np.take(x.reshape(-1) if axis is None else x, chosen, axis or 0)
    index = tensor(chosen.astype(np.int64))
    if is_narrow(x):
        data: Narrow = narrow_of(x)
        return data.map(lambda codes: _kept(codes, index, axis))
    return _kept(tensor(x), index, axis)


def _kept(x: Value, index: Value, axis: int | None) -> Value:
    if axis is None:
        return x.flatten().index_select(0, index)
    return x.index_select(axis, index)


@op("Unique", since=11)
def unique(node: OpNode, x: Value) -> tuple[Value, ...]:
    """Distinct elements or slices, where each is first met, which one each is, how often it is."""
    array = node.host(x, "the distinct values")
    axis = node.get("axis")
    values, first, inverse, counts = np.unique(
        array, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not node.get("sorted", 1):
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        values = np.take(values, order, axis=axis or 0)
        first, inverse, counts = first[order], rank[inverse], counts[order]
    return (as_value(values), *(as_value(a.astype(np.int64)) for a in (first, inverse, counts)))


@op("NonMaxSuppression", since=10)
def non_max_suppression(
    node: OpNode,
    boxes: Value,
    scores: Value,
    limit: Value = None,
    overlap: Value = None,
    threshold: Value = None,
) -> Value:
    """int64 [count, 3]: (batch, class, box) of the boxes that no better one of theirs overlaps."""
    why = "which boxes are kept"
    corners, points = node.host(boxes, why), node.host(scores, why)
    if corners.ndim != 3 or points.ndim != 3 or corners.shape[1] != points.shape[2]:
        raise OnnxIllegal(f"boxes {list(corners.shape)} and scores {list(points.shape)}")
    most = 0 if limit is None else int(node.host(limit, why).reshape(-1)[0])
    allowed = 0.0 if overlap is None else float(node.host(overlap, why).reshape(-1)[0])
    least = None if threshold is None else node.host(threshold, why).reshape(-1)[0]
    centred = bool(node.get("center_point_box", 0))
    found = [
        (batch, kind, box)
        for batch in range(points.shape[0])
        for kind in range(points.shape[1])
        for box in _kept_boxes(
            _corners(corners[batch], centred), points[batch, kind], most, allowed, least
        )
    ]
    return as_value(np.array(found, np.int64).reshape(-1, 3))


def _corners(boxes: Array, centred: bool) -> Array:
    """float32 [boxes, 4] as (low y, low x, high y, high x)."""
    if centred:
        x, y, width, height = boxes.T
        return np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)


def _kept_boxes(
    boxes: Array, scores: Array, most: int, allowed: float, least: float | None
) -> list[int]:
    """Places of boxes in descending order of score, each overlapping none before it too much."""
    order = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for at in order:
        if len(kept) >= most:
            break
        if least is not None and not scores[at] > least:
            continue
        others = np.array(kept, int)
        low = np.maximum(boxes[others, :2], boxes[at, :2])
        high = np.minimum(boxes[others, 2:], boxes[at, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        total = area[others] + area[at] - shared
        if not np.any((total > 0) & (shared > allowed * total)):
            kept.append(int(at))
    return kept
