"""Where the windows of a pooling lie, and what is folded or found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import DType, bool_, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import (
    Border,
    Lengths,
    Padding,
    borders,
    check_reach,
    pad_spatial,
    per_axis,
)
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.graph import Node, Shape

Array = np.ndarray[Any, Any]

NOWHERE = 2**31 - 1
"""Position that no element has: larger than every real one."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a pooling lie: per axis its size, step, spacing, border and count.

    ``amounts`` covers the last window, so it may pass the border that the caller asked for
    (``asked``) where ``ceil_mode`` keeps a window that hangs over the edge.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    asked: tuple[Border, ...]
    amounts: tuple[Border, ...]
    counts: tuple[int, ...]


def windows_of(
    lengths: Sequence[int],
    kernel_size: Lengths,
    stride: Lengths | None,
    padding: Padding,
    dilation: Lengths,
    ceil_mode: bool,
) -> Windows:
    """The windows over spatial ``lengths``; raises EngineError (SHAPE_MISMATCH).

    With ``ceil_mode`` a last window that begins inside the input or its front border counts too.
    """
    dims = len(lengths)
    size = per_axis(kernel_size, dims, "kernel_size")
    steps = size if stride is None else per_axis(stride, dims, "stride")
    spacing = per_axis(dilation, dims, "dilation")
    asked = borders(padding, dims, size, (1,) * dims, spacing)
    padded = [low + n + high for n, (low, high) in zip(lengths, asked, strict=True)]
    if not ceil_mode:
        check_reach(padded, size, spacing)
    amounts, counts = [], []
    for n, k, s, d, (low, high) in zip(lengths, size, steps, spacing, asked, strict=True):
        room = low + n + high - (k - 1) * d - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= n + low:
            count -= 1
        if count < 1 or n < 1:
            check_reach(padded, size, spacing)
        counts.append(count)
        amounts.append((low, max(high, (count - 1) * s + (k - 1) * d + 1 - low - n)))
    return Windows(size, steps, spacing, asked, tuple(amounts), tuple(counts))


def lowest(dtype: DType) -> float | int | bool:
    """The smallest value of a dtype."""
    if dtype.is_float:
        return float("-inf")
    return False if dtype is bool_ else int(np.iinfo(dtype.numpy).min)


def pad_with(x: Node, amounts: Sequence[Border], value: float | int | bool) -> Node:
    """[N, C, *S] with ``value`` around the spatial axes."""
    padded = pad_spatial(x, amounts)
    if padded is x or value == 0:
        return padded
    inside = pad_spatial(compose.literal(True, bool_, x.shape), amounts)
    return graph.where(inside, padded, compose.like(value, padded))


def fold_windows(kind: str, padded: Node, where: Windows) -> Node:
    """REDUCE ``kind`` of every window of the padded [N, C, *S] -> [N, C, *counts]."""
    dims = len(where.size)
    padded = _needed(padded, where)
    if where.stride == where.size and set(where.dilation) == {1}:
        pairs = [n for pair in zip(where.counts, where.size, strict=True) for n in pair]
        tiles = graph.reshape(padded, (*padded.shape[:2], *pairs))
        return graph.reduce(kind, tiles, range(3, 3 + 2 * dims, 2))
    return graph.reduce(kind, taps_of(padded, where), range(2 + dims, 2 + 2 * dims))


def _needed(padded: Node, where: Windows) -> Node:
    """Without what lies behind the last window."""
    for at, (k, s, d, count) in enumerate(
        zip(where.size, where.stride, where.dilation, where.counts, strict=True)
    ):
        padded = compose.part(padded, at + 2, 0, (count - 1) * s + (k - 1) * d + 1)
    return padded


def taps_of(padded: Node, where: Windows) -> Node:
    """[N, C, *padded] -> [N, C, *counts, *size]."""
    axes = range(2, 2 + len(where.size))
    windows = tuple(zip(axes, where.size, where.stride, where.dilation, strict=True))
    return graph.window(_needed(padded, where), windows)


def _tap_positions(where: Windows, axis: int) -> Array:
    """int64 [count, size]: the position that each tap reads along one axis, below 0 in front."""
    check_table(where.counts[axis] * where.size[axis])
    starts = np.arange(where.counts[axis]) * where.stride[axis] - where.asked[axis][0]
    taps = np.arange(where.size[axis]) * where.dilation[axis]
    return np.asarray(starts[:, None] + taps[None, :], dtype=np.int64)


def positions_of(lengths: Shape, where: Windows) -> Node:
    """int32 [*counts, *size]: the flat position that every tap reads, NOWHERE in the padding."""
    return flat_positions([_tap_positions(where, at) for at in range(len(lengths))], lengths)


def flat_positions(taps: Sequence[Array], lengths: Sequence[int]) -> Node:
    """int32 [O1, O2, .., L1, L2, ..] from one table [O, L] of positions an axis: the row-major
    position in ``lengths``, NOWHERE where a position is outside its axis."""
    dims = len(lengths)
    if prod(lengths) > NOWHERE:
        raise EngineError(
            f"{prod(lengths)} positions do not index in int32", code="SHAPE_TOO_LARGE"
        )
    shape = (*(table.shape[0] for table in taps), *(table.shape[1] for table in taps))
    flat: Node | None = None
    outside: Node | None = None
    for at, (table, n) in enumerate(zip(taps, lengths, strict=True)):
        own = tuple(m if axis % dims == at else 1 for axis, m in enumerate(shape))
        step = prod(lengths[at + 1 :])
        clipped = np.clip(table, 0, n - 1) * step
        part = graph.expand(graph.const(clipped.reshape(own), int32, own), shape)
        flat = part if flat is None else graph.add(flat, part)
        beyond = (table < 0) | (table >= n)
        if beyond.any():
            mask = graph.expand(graph.const(beyond.reshape(own), bool_, own), shape)
            outside = mask if outside is None else graph.bit("or", outside, mask)
    assert flat is not None  # there is at least one spatial axis
    return flat if outside is None else graph.where(outside, compose.like(NOWHERE, flat), flat)


def first_largest(values: Node, positions: Node, dims: int) -> tuple[Node, Node]:
    """Values [N, C, *O, *L] and positions [*O, *L] -> the largest of every window [N, C, *O] and
    the lowest position that holds it (int32)."""
    axes = tuple(range(2 + dims, 2 + 2 * dims))
    best = graph.reduce("max", values, axes)
    wide = graph.expand(compose.keep_axes(best, axes, values.shape), values.shape)
    hit = graph.cmp("eq", values, wide)
    if values.dtype.is_float:
        hit = graph.bit("or", hit, compose.invert(graph.cmp("eq", values, values)))
    at = compose.broadcast_to(positions, values.shape)
    index = graph.reduce("min", graph.where(hit, at, compose.like(NOWHERE, at)), axes)
    return best, index


def element_counts(lengths: Shape, where: Windows, include_padding: bool, total: Node) -> Node:
    """How many elements each window's sum is divided by, in the dtype and shape of ``total``."""
    uniform = 1
    result: Node | None = None
    for at, n in enumerate(lengths):
        taps = _tap_positions(where, at)
        low, high = where.asked[at] if include_padding else (0, 0)
        counts = ((taps >= -low) & (taps < n + high)).sum(axis=1)
        if len(set(counts.tolist())) == 1:
            uniform *= int(counts[0])
            continue
        own = tuple(m if axis == at + 2 else 1 for axis, m in enumerate(total.shape))
        part = graph.expand(graph.const(counts.reshape(own), total.dtype, own), total.shape)
        result = part if result is None else graph.mul(result, part)
    if result is None:
        return compose.like(float(uniform), total)
    return graph.mul(result, compose.like(float(uniform), total)) if uniform != 1 else result
