"""Reading and writing along an axis by index tensors: gather, scatter and their relatives on nodes.

torch's ``gather``/``scatter`` and ONNX's ``GatherND``/``ScatterND`` become one GATHER or SCATTER on
flattened data, with positions computed from the index. Indices are integers; negative ones count
from the end. Known ones out of range are refused (INDEX_RANGE); computed ones are clamped by reads
and dropped by writes. Where several writes meet, sums add in row-major order of the index, and the
last one of a plain write wins. Called by the tensor methods.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like, literal
from flopmarket.engine.dtypes import DType, bool_, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op, Shape

REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


def wrapped(index: Node, length: int) -> Node:
    """``index`` as int32 or int64, negative values counted from the end of ``length``.

    Raises EngineError (INDEX_KIND, INDEX_RANGE).
    """
    if not index.dtype.is_integer:
        raise EngineError(
            f"an index of {index.dtype} is no integer",
            code="INDEX_KIND",
            hint="a mask has no static shape; use where" if index.dtype is bool_ else "cast it",
        )
    wide = int32 if index.dtype.size_bytes < 4 or index.dtype is int32 else int64
    index = graph.cast(index, wide)
    if index.op is Op.CONST:
        known = np.frombuffer(index.arg, index.dtype.numpy).reshape(index.shape)
        if known.size and not (-length <= known.min() and known.max() < length):
            raise EngineError(
                f"an index of {known.min()}..{known.max()} into an axis of {length}",
                code="INDEX_RANGE",
            )
        return graph.const(np.where(known < 0, known + length, known), wide, index.shape)
    below = graph.cmp("lt", index, like(0, index))
    return graph.where(below, graph.add(index, like(length, index)), index)


def _position_dtype(total: int) -> DType:
    return int64 if total > 2**31 - 1 else int32


def _flat(index: Node, axis: int, shape: Shape) -> Node:
    """Row-major positions in ``shape`` of ``index``'s elements, its values standing on ``axis``.

    An index out of range gives -1.
    """
    kind = _position_dtype(prod(shape))
    length, stride = shape[axis], prod(shape[axis + 1 :])
    inside = graph.bit(
        "and",
        graph.cmp("lt", like(-1, index), index),
        graph.cmp("lt", index, like(length, index)),
    )
    total = graph.mul(graph.cast(index, kind), literal(stride, kind, index.shape))
    for other, n in enumerate(index.shape):
        if other != axis and n > 1:
            ramp = graph.iota(other, index.shape, kind)
            total = graph.add(total, graph.mul(ramp, like(prod(shape[other + 1 :]), ramp)))
    return graph.where(inside, total, like(-1, total))


def _clamped(index: Node, length: int) -> Node:
    high = like(max(0, length - 1), index)
    return graph.max_(graph.where(graph.cmp("lt", high, index), high, index), like(0, index))


def _check(x: Node, index: Node, axis: int, what: str) -> None:
    fits = len(index.shape) == len(x.shape) and all(
        a == axis or n <= m for a, (n, m) in enumerate(zip(index.shape, x.shape, strict=False))
    )
    if not fits:
        raise EngineError(
            f"{what} of {list(x.shape)} by an index {list(index.shape)} along axis {axis}",
            code="SHAPE_MISMATCH",
            hint="the index has as many axes, none longer but the indexed one",
        )


def gather(x: Node, axis: int, index: Node) -> Node:
    """result[.., i, ..] = x[.., index[.., i, ..], ..]; the shape of ``index``."""
    if not x.shape and not index.shape:
        return x
    _check(x, index, axis, "gather")
    index = wrapped(index, x.shape[axis])
    if index.elements == 0:
        return graph.filled(0, x.dtype, index.shape)
    flat = _flat(_clamped(index, x.shape[axis]), axis, x.shape)
    return graph.gather(graph.reshape(x, (x.elements,)), flat, 0)


def scatter(kind: str, x: Node, axis: int, index: Node, source: Node) -> Node:
    """``x`` with x[.., index[.., i, ..], ..] 'set' to, or increased ('add') by, source[.., i, ..].

    ``source`` is as large as ``index`` or larger; its leading part is used.
    """
    if not x.shape:
        x, index, source = (graph.reshape(n, (1,)) for n in (x, index, source))
        return graph.reshape(scatter(kind, x, 0, index, source), ())
    _check(x, index, axis, "scatter")
    source = _leading(source, index.shape)
    positions = _flat(wrapped(index, x.shape[axis]), axis, x.shape)
    count = index.elements
    flat = graph.scatter(
        kind,
        graph.reshape(x, (x.elements,)),
        graph.reshape(positions, (count,)),
        graph.reshape(source, (count,)),
    )
    return graph.reshape(flat, x.shape)


def _leading(source: Node, shape: Shape) -> Node:
    if len(source.shape) != len(shape) or any(
        n < m for n, m in zip(source.shape, shape, strict=True)
    ):
        raise EngineError(
            f"a source {list(source.shape)} for an index {list(shape)}", code="SHAPE_MISMATCH"
        )
    return graph.slice_(source, [(0, 1, n) for n in shape])


def scatter_reduce(
    x: Node, axis: int, index: Node, source: Node, kind: str, include_self: bool = True
) -> Node:
    """torch's scatter_reduce; ``kind`` of :data:`REDUCTIONS`.

    Sums and means add in order; the others fold, for every element of ``x``, over all updates of
    its line, which costs elements times updates. Whole-number means are rounded down.
    """
    if kind not in REDUCTIONS:
        raise EngineError(
            f"no scatter reduction {kind!r}: {', '.join(REDUCTIONS)}", code="REDUCTION_UNKNOWN"
        )
    if not x.shape:
        x, index, source = (graph.reshape(n, (1,)) for n in (x, index, source))
        return graph.reshape(scatter_reduce(x, 0, index, source, kind, include_self), ())
    _check(x, index, axis, "scatter_reduce")
    source = _leading(source, index.shape)
    counts: Node | None = None
    if kind == "mean" or not include_self:
        zeros, ones = literal(0, int32, x.shape), literal(1, int32, index.shape)
        counts = scatter("add", zeros, axis, index, ones)
    if kind in ("sum", "mean"):
        start = x
        if counts is not None and not include_self:
            start = graph.where(_none(counts), x, like(0, x))
        total = scatter("add", start, axis, index, source)
        if kind == "sum" or counts is None:
            return total
        terms = graph.add(counts, like(1, counts)) if include_self else counts
        return graph.div(total, graph.cast(graph.max_(terms, like(1, terms)), x.dtype))
    folded = _fold_updates(x, axis, wrapped(index, x.shape[axis]), source, kind)
    if include_self or counts is None:
        return _COMBINE[kind](x, folded)
    return graph.where(_none(counts), x, folded)


def _none(counts: Node) -> Node:
    return graph.cmp("eq", counts, like(0, counts))


def identity(kind: str, dtype: DType) -> bool | int | float:
    """What a fold 'prod', 'amax' or 'amin' starts from, so that it changes nothing."""
    if kind == "prod":
        return 1
    if dtype.is_float:
        return float("-inf") if kind == "amax" else float("inf")
    if dtype is bool_:
        return kind == "amin"
    info = np.iinfo(dtype.numpy)
    return int(info.min if kind == "amax" else info.max)


_COMBINE: dict[str, Callable[[Node, Node], Node]] = {
    "prod": graph.mul,
    "amax": graph.max_,
    "amin": compose.minimum,
}


def _fold_updates(x: Node, axis: int, index: Node, source: Node, kind: str) -> Node:
    """For every element of ``x`` the fold of the updates that meet it, else the identity."""
    length, updates = x.shape[axis], index.shape[axis]
    # Lines that the index does not reach get only identities: pad them on afterwards.
    line = (*index.shape[:axis], length, *index.shape[axis + 1 :])
    wide = (*line[: axis + 1], updates, *line[axis + 1 :])

    def spread(node: Node) -> Node:
        shape = (*node.shape[:axis], 1, *node.shape[axis:])
        return graph.expand(graph.reshape(node, shape), wide)

    hit = graph.cmp("eq", spread(index), graph.iota(axis, wide, index.dtype))
    neutral = literal(identity(kind, x.dtype), x.dtype, wide)
    name = {"prod": "prod", "amax": "max", "amin": "min"}[kind]
    if updates:
        picked = graph.where(hit, spread(source), neutral)
        folded = graph.reduce(name, picked, (axis + 1,))
    else:
        folded = literal(identity(kind, x.dtype), x.dtype, line)
    amounts = [(0, n - m) for n, m in zip(x.shape, folded.shape, strict=True)]
    if not any(after for _, after in amounts):
        return folded
    reached = graph.pad(literal(True, bool_, folded.shape), amounts)
    padded = graph.pad(folded, amounts)
    return graph.where(reached, padded, literal(identity(kind, x.dtype), x.dtype, x.shape))


# ---------------------------------------------------------------- whole rows


def _rows(x: Node, axis: int) -> Node:
    return graph.permute(x, [axis, *(a for a in range(len(x.shape)) if a != axis)])


def index_write(kind: str, x: Node, axis: int, index: Node, source: Node) -> Node:
    """``x`` with slices ``index`` [U] of ``axis`` 'set' to those of ``source``, or 'add'ed to."""
    if len(index.shape) != 1 or source.shape != (
        *x.shape[:axis],
        index.elements,
        *x.shape[axis + 1 :],
    ):
        raise EngineError(
            f"slices {list(source.shape)} for {list(index.shape)} places of {list(x.shape)}",
            code="SHAPE_MISMATCH",
        )
    places = wrapped(index, x.shape[axis])
    written = graph.scatter(kind, _rows(x, axis), places, _rows(source, axis))
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(x.shape))]
    return graph.permute(written, order)


# ---------------------------------------------------------------- tuples of indices


def _tuple_positions(index: Node, lengths: Shape, drop: bool) -> Node:
    """Flat positions [..] of index tuples [.., len(lengths)].

    Out of range, a tuple is clamped, or with ``drop`` gives -1.
    """
    kind = _position_dtype(prod(lengths))
    shape = index.shape[:-1]
    total, valid = literal(0, kind, shape), literal(True, bool_, shape)
    for at, length in enumerate(lengths):
        column = graph.reshape(compose.part(index, len(index.shape) - 1, at, 1), shape)
        column = wrapped(column, length)
        inside = graph.bit(
            "and",
            graph.cmp("lt", like(-1, column), column),
            graph.cmp("lt", column, like(length, column)),
        )
        valid = graph.bit("and", valid, inside)
        scaled = graph.mul(total, like(length, total))
        total = graph.add(scaled, graph.cast(_clamped(column, length), kind))
    return graph.where(valid, total, like(-1, total)) if drop else total


def _batched(index: Node, batch: Shape) -> Node:
    """``index`` [*batch, .., D] with the batch positions put before its columns."""
    ramps = [
        graph.reshape(graph.iota(a, index.shape[:-1], index.dtype), (*index.shape[:-1], 1))
        for a in range(len(batch))
    ]
    return graph.concat([*ramps, index], len(index.shape) - 1) if ramps else index


def gather_nd(x: Node, index: Node, batch_dims: int = 0) -> Node:
    """ONNX GatherND: x at the tuples index[.., D], after ``batch_dims`` shared leading axes."""
    if not index.dtype.is_integer or not index.shape:
        raise EngineError(f"gather_nd by {index!r}", code="INDEX_KIND")
    index = _batched(index, index.shape[:batch_dims])
    depth = index.shape[-1]
    if depth > len(x.shape) or x.shape[:batch_dims] != index.shape[:batch_dims]:
        raise EngineError(
            f"gather_nd of {list(x.shape)} by tuples {list(index.shape)}", code="SHAPE_MISMATCH"
        )
    lengths, rest = x.shape[:depth], x.shape[depth:]
    if prod(index.shape[:-1]) == 0:
        return graph.filled(0, x.dtype, (*index.shape[:-1], *rest))
    flat = _tuple_positions(index, lengths, drop=False)
    return graph.gather(graph.reshape(x, (prod(lengths), *rest)), flat, 0)


def scatter_nd(x: Node, index: Node, updates: Node, kind: str = "set") -> Node:
    """ONNX ScatterND: ``x`` with the slices at index[.., D] written by ``updates`` [.., rest].

    ``kind``: 'set', 'sum', 'prod', 'amax' or 'amin'.
    """
    depth = index.shape[-1] if index.shape else 0
    lengths, rest = x.shape[:depth], x.shape[depth:]
    if depth > len(x.shape) or updates.shape != (*index.shape[:-1], *rest):
        raise EngineError(
            f"scatter_nd of {list(updates.shape)} into {list(x.shape)} at {list(index.shape)}",
            code="SHAPE_MISMATCH",
        )
    count = prod(index.shape[:-1])
    places = graph.reshape(_tuple_positions(index, lengths, drop=True), (count,))
    rows = graph.reshape(x, (prod(lengths), *rest))
    values = graph.reshape(updates, (count, *rest))
    if kind in ("set", "sum"):
        written = graph.scatter("set" if kind == "set" else "add", rows, places, values)
        return graph.reshape(written, x.shape)
    spread = graph.expand(graph.reshape(places, (count, *(1,) * len(rest))), values.shape)
    folded = _fold_updates(rows, 0, spread, values, kind)
    return graph.reshape(_COMBINE[kind](rows, folded), x.shape)
