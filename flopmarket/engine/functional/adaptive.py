"""Adaptive pooling: as many windows as the caller wants, as even as they get.

Window i of O over n elements covers floor(i * n / O) up to (but not with) ceil((i + 1) * n / O), as
in torch. Even windows are those of ``pooling.py``; uneven ones are gathered under a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import bool_, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional import pooling
from flopmarket.engine.functional.arguments import batched, unbatched, working_dtype
from flopmarket.engine.functional.windows import first_largest, flat_positions, lowest
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
OutputSize = int | None | Sequence[int | None]
"""Windows on every axis; None keeps an axis as long as it is."""


def adaptive_avg_pool1d(x: Tensor, output_size: OutputSize) -> Tensor:
    """[N, C, L] -> [N, C, output_size], means."""
    return adaptive_avg_pool(x, output_size, dims=1)


def adaptive_avg_pool2d(x: Tensor, output_size: OutputSize) -> Tensor:
    """[N, C, H, W] -> [N, C, *output_size], means."""
    return adaptive_avg_pool(x, output_size, dims=2)


def adaptive_avg_pool3d(x: Tensor, output_size: OutputSize) -> Tensor:
    """[N, C, D, H, W] -> [N, C, *output_size], means."""
    return adaptive_avg_pool(x, output_size, dims=3)


def adaptive_max_pool1d(x: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """[N, C, L] -> [N, C, output_size], largest. See :func:`adaptive_max_pool`."""
    return adaptive_max_pool(x, output_size, return_indices, dims=1)


def adaptive_max_pool2d(x: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """[N, C, H, W] -> [N, C, *output_size], largest. See :func:`adaptive_max_pool`."""
    return adaptive_max_pool(x, output_size, return_indices, dims=2)


def adaptive_max_pool3d(x: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """[N, C, D, H, W] -> [N, C, *output_size], largest. See :func:`adaptive_max_pool`."""
    return adaptive_max_pool(x, output_size, return_indices, dims=3)


def adaptive_avg_pool(x: Tensor, output_size: OutputSize, *, dims: int) -> Tensor:
    """The mean of every adaptive window over ``dims`` spatial axes."""
    image, counts = _checked(x, output_size, dims)
    lengths = image.shape[2:]
    if _even(lengths, counts):
        size = [n // o for n, o in zip(lengths, counts, strict=True)]
        found = pooling.avg_pool(image, size, size, 0, 1, False, True, None, dims=dims)
        return unbatched(found, x)
    node = graph.cast(image.node, working_dtype(image.dtype))
    tables = [_table(n, o) for n, o in zip(lengths, counts, strict=True)]
    taps = _gathered(node, tables)
    axes = tuple(range(2 + dims, 2 + 2 * dims))
    inside = compose.broadcast_to(_inside(tables), taps.shape)
    total = graph.reduce("sum", graph.where(inside, taps, compose.like(0.0, taps)), axes)
    sizes: Node | None = None
    for at, table in enumerate(tables):
        own = tuple(m if axis == at + 2 else 1 for axis, m in enumerate(total.shape))
        part = graph.const((table >= 0).sum(axis=1).reshape(own), total.dtype, own)
        part = graph.expand(part, total.shape)
        sizes = part if sizes is None else graph.mul(sizes, part)
    assert sizes is not None  # there is at least one spatial axis
    dtype = x.dtype if x.dtype.is_float else total.dtype
    return unbatched(Tensor(graph.div(total, sizes), dtype, device=x.device), x)


def adaptive_max_pool(
    x: Tensor, output_size: OutputSize, return_indices: bool = False, *, dims: int
) -> Any:
    """The largest of every adaptive window over ``dims`` spatial axes: a Tensor, or with
    ``return_indices`` (values, int64 positions in the flattened spatial axes)."""
    image, counts = _checked(x, output_size, dims)
    lengths = image.shape[2:]
    if _even(lengths, counts):
        size = [n // o for n, o in zip(lengths, counts, strict=True)]
        found = pooling.max_pool(image, size, size, 0, 1, False, return_indices, dims=dims)
        if return_indices:
            return tuple(unbatched(part, x) for part in found)
        return unbatched(found, x)
    tables = [_table(n, o) for n, o in zip(lengths, counts, strict=True)]
    taps = _gathered(image.node, tables)
    inside = compose.broadcast_to(_inside(tables), taps.shape)
    taps = graph.where(inside, taps, compose.like(lowest(image.dtype), taps))
    if not return_indices:
        best = graph.reduce("max", taps, range(2 + dims, 2 + 2 * dims))
        return unbatched(Tensor(best, device=x.device), x)
    best, index = first_largest(taps, flat_positions(tables, lengths), dims)
    pair = (Tensor(best, device=x.device), Tensor(index, int64, device=x.device))
    return unbatched(pair[0], x), unbatched(pair[1], x)


def _checked(x: Tensor, output_size: OutputSize, dims: int) -> tuple[Tensor, tuple[int, ...]]:
    """The batched input and the number of windows of every axis."""
    image = batched(x, dims, "adaptive pooling")
    if output_size is None or isinstance(output_size, int):
        wanted: tuple[int | None, ...] = (output_size,) * dims
    else:
        wanted = tuple(output_size)
    if len(wanted) != dims or any(o is not None and o < 1 for o in wanted) or not prod(image.shape):
        raise EngineError(
            f"adaptive pooling of {list(x.shape)} into {output_size}", code="SHAPE_MISMATCH"
        )
    lengths = image.shape[2:]
    return image, tuple(n if o is None else o for n, o in zip(lengths, wanted, strict=True))


def _even(lengths: Sequence[int], counts: Sequence[int]) -> bool:
    return all(n % o == 0 for n, o in zip(lengths, counts, strict=True))


def _table(length: int, count: int) -> Array:
    """int64 [count, longest window]: the positions of every window, -1 behind a shorter one."""
    starts = [at * length // count for at in range(count)]
    ends = [-(-(at + 1) * length // count) for at in range(count)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    rows = [
        [at if at < end else -1 for at in range(start, start + longest)]
        for start, end in zip(starts, ends, strict=True)
    ]
    return np.array(rows, dtype=np.int64)


def _gathered(x: Node, tables: Sequence[Array]) -> Node:
    """[N, C, *S] -> [N, C, *O, *L]: the elements that the tables name, anything for -1."""
    dims = len(tables)
    for at, table in enumerate(tables):
        index = graph.const(np.maximum(table, 0), int32, table.shape)
        x = graph.gather(x, index, 2 + 2 * at)
    pairs = range(2, 2 + 2 * dims, 2)
    return graph.permute(x, (0, 1, *pairs, *(axis + 1 for axis in pairs)))


def _inside(tables: Sequence[Array]) -> Node:
    """bool [*O, *L]: where every axis has a position."""
    dims = len(tables)
    shape = (*(table.shape[0] for table in tables), *(table.shape[1] for table in tables))
    result: Node | None = None
    for at, table in enumerate(tables):
        own = tuple(m if axis % dims == at else 1 for axis, m in enumerate(shape))
        part = graph.expand(graph.const((table >= 0).reshape(own), bool_, own), shape)
        result = part if result is None else graph.bit("and", result, part)
    assert result is not None  # there is at least one spatial axis
    return result
