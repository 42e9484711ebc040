"""``tensor[...]`` as views and gathers: ints, slices, None, Ellipsis and integer index nodes.

Called by ``Tensor.__getitem__``. Masks are refused: their result would have no static shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import EllipsisType

from flopmarket.engine import graph
from flopmarket.engine.compose import broadcast, like, literal
from flopmarket.engine.dtypes import bool_, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node

Item = int | slice | None | EllipsisType | Node


def take(x: Node, items: Sequence[Item]) -> Node:
    """``x[items]`` as in numpy.

    Index nodes hold integers of any shape; negative ones count from the end, computed ones are
    clamped into range. Several must stand next to each other and broadcast. Raises EngineError
    (INDEX_RANGE, INDEX_KIND).
    """
    items = _without_ellipsis(x, items)
    ranges: list[tuple[int, int, int]] = []
    for item in items:
        if item is not None:
            ranges.append(_range(item, x.shape[len(ranges)], len(ranges)))
    x = graph.slice_(x, ranges)
    # One pass over the items gives the viewed shape and where the index nodes stand in it.
    shape: list[int] = []
    indices: list[tuple[int, Node]] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        if isinstance(item, Node):
            indices.append((len(shape), item))
        if not isinstance(item, int):
            shape.append(x.shape[axis])
        axis += 1
    x = graph.reshape(x, tuple(shape))
    return _gather(x, indices) if indices else x


def _without_ellipsis(x: Node, items: Sequence[Item]) -> list[Item]:
    """Items for every axis: the ellipsis (or the end) filled with whole slices."""
    given = list(items)
    places = [at for at, item in enumerate(given) if item is Ellipsis]
    if len(places) > 1:
        raise EngineError("an index has one ellipsis at most", code="INDEX_KIND")
    at = places[0] if places else len(given)
    del given[at : at + len(places)]
    missing = len(x.shape) - sum(item is not None for item in given)
    if missing < 0:
        raise EngineError(
            f"{len(x.shape) - missing} indices for a tensor of shape {list(x.shape)}",
            code="INDEX_RANGE",
        )
    return [*given[:at], *[slice(None)] * missing, *given[at:]]


def _range(item: Item, length: int, axis: int) -> tuple[int, int, int]:
    if isinstance(item, int):
        if not -length <= item < length:
            raise EngineError(
                f"index {item} is outside axis {axis} of length {length}", code="INDEX_RANGE"
            )
        return item % length, 1, 1
    if isinstance(item, slice):
        if item.step == 0:
            raise EngineError("a slice's step is not 0", code="INDEX_KIND")
        steps = range(*item.indices(length))
        return steps.start if steps else 0, steps.step, len(steps)
    return 0, 1, length


def _gather(x: Node, indices: list[tuple[int, Node]]) -> Node:
    first, count = indices[0][0], len(indices)
    if [axis for axis, _ in indices] != list(range(first, first + count)):
        raise EngineError(
            "index tensors stand on neighbouring axes", code="INDEX_KIND", hint="permute first"
        )
    lengths = x.shape[first : first + count]
    total = prod(lengths)
    wide = int64 if total > 2**31 - 1 else int32
    rows = broadcast(
        *(_nonnegative(n, index) for n, (_, index) in zip(lengths, indices, strict=True))
    )
    flat = graph.cast(rows[0], wide)
    for length, row in zip(lengths[1:], rows[1:], strict=True):
        flat = graph.add(graph.mul(flat, literal(length, wide, flat.shape)), graph.cast(row, wide))
    x = graph.reshape(x, (*x.shape[:first], total, *x.shape[first + count :]))
    return graph.gather(x, flat, first)


def _nonnegative(length: int, index: Node) -> Node:
    if not index.dtype.is_integer:
        why = "a mask has no static shape; use where" if index.dtype is bool_ else "cast it first"
        raise EngineError(f"an index of {index.dtype}: {why}", code="INDEX_KIND")
    if index.dtype.kind == "u":
        return index
    signed = index if index.dtype is int64 else graph.cast(index, int32)
    wrapped = graph.add(signed, like(length, signed))
    return graph.where(graph.cmp("lt", signed, like(0, signed)), wrapped, signed)
