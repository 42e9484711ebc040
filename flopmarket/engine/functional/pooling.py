"""Pooling over windows of one, two or three spatial axes: largest, mean and p-norm, and unpooling.

Inputs are [N, C, *S] or [C, *S]. Windows are views of the padded input; where they tile it they are
a reshape, whose derivative is one too (``windows.py``). Adaptive pooling is in ``adaptive.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import (
    Lengths,
    Padding,
    batched,
    pad_spatial,
    per_axis,
    unbatched,
    working_dtype,
)
from flopmarket.engine.functional.powers import magnitude_power, root
from flopmarket.engine.functional.windows import (
    NOWHERE,
    element_counts,
    first_largest,
    fold_windows,
    lowest,
    pad_with,
    positions_of,
    taps_of,
    windows_of,
)
from flopmarket.engine.tensor import Tensor, common_device


def max_pool1d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    dilation: Lengths = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest of every window of [N, C, L]. See :func:`max_pool`."""
    return max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, dims=1)


def max_pool2d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    dilation: Lengths = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest of every window of [N, C, H, W]. See :func:`max_pool`."""
    return max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, dims=2)


def max_pool3d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    dilation: Lengths = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest of every window of [N, C, D, H, W]. See :func:`max_pool`."""
    return max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, dims=3)


def max_pool(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None,
    padding: Padding,
    dilation: Lengths,
    ceil_mode: bool,
    return_indices: bool,
    *,
    dims: int,
) -> Any:
    """The largest of every window over ``dims`` spatial axes: a Tensor, or with ``return_indices``
    (values, int64 positions in the flattened spatial axes).

    The padding counts as smaller than everything. NaN wins. Value, position and derivative are
    those of the first largest element of a window.
    """
    image = batched(x, dims, f"max_pool{dims}d")
    where = windows_of(image.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    filled = pad_with(image.node, where.amounts, lowest(image.dtype))
    if not return_indices:
        return unbatched(Tensor(fold_windows("max", filled, where), device=x.device), x)
    values = taps_of(filled, where)
    positions = positions_of(image.shape[2:], where)
    best, index = first_largest(values, positions, dims)
    pair = (Tensor(best, device=x.device), Tensor(index, int64, device=x.device))
    return unbatched(pair[0], x), unbatched(pair[1], x)


def avg_pool1d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of every window of [N, C, L]. See :func:`avg_pool`."""
    return avg_pool(x, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, None, dims=1)


def avg_pool2d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of every window of [N, C, H, W]. See :func:`avg_pool`."""
    return avg_pool(
        x, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override, dims=2
    )


def avg_pool3d(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of every window of [N, C, D, H, W]. See :func:`avg_pool`."""
    return avg_pool(
        x, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override, dims=3
    )


def avg_pool(
    x: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None,
    padding: Padding,
    dilation: Lengths,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    *,
    dims: int,
) -> Tensor:
    """The sum of every window over ``dims`` spatial axes, divided by its number of elements.

    The padding counts as zeros, and among the elements if ``count_include_pad``; what ``ceil_mode``
    lets hang over the padding counts as neither. ``divisor_override`` divides by itself instead.
    """
    image = batched(x, dims, f"avg_pool{dims}d")
    where = windows_of(image.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    node = graph.cast(image.node, working_dtype(image.dtype))
    total = fold_windows("sum", pad_spatial(node, where.amounts), where)
    if divisor_override is not None:
        counts = compose.like(divisor_override, total)
    else:
        counts = element_counts(image.shape[2:], where, count_include_pad, total)
    dtype = x.dtype if x.dtype.is_float else total.dtype
    return unbatched(Tensor(graph.div(total, counts), dtype, device=x.device), x)


def lp_pool1d(
    x: Tensor,
    norm_type: float,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of every window of [N, C, L]. See :func:`lp_pool`."""
    return lp_pool(x, norm_type, kernel_size, stride, 0, 1, ceil_mode, dims=1)


def lp_pool2d(
    x: Tensor,
    norm_type: float,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of every window of [N, C, H, W]. See :func:`lp_pool`."""
    return lp_pool(x, norm_type, kernel_size, stride, 0, 1, ceil_mode, dims=2)


def lp_pool3d(
    x: Tensor,
    norm_type: float,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of every window of [N, C, D, H, W]. See :func:`lp_pool`."""
    return lp_pool(x, norm_type, kernel_size, stride, 0, 1, ceil_mode, dims=3)


def lp_pool(
    x: Tensor,
    norm_type: float,
    kernel_size: Lengths,
    stride: Lengths | None,
    padding: Padding,
    dilation: Lengths,
    ceil_mode: bool,
    *,
    dims: int,
) -> Tensor:
    """(sum of |x|^p over every window)^(1/p), ``norm_type`` being p > 0.

    Magnitudes are summed for odd p too, where torch sums signed powers.
    """
    image = batched(x, dims, f"lp_pool{dims}d")
    where = windows_of(image.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    powers = magnitude_power(image, norm_type).node
    total = fold_windows("sum", pad_spatial(powers, where.amounts), where)
    return unbatched(root(Tensor(total, device=x.device), norm_type), x)


def max_unpool1d(
    x: Tensor,
    indices: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Lengths = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What ``max_pool1d`` took, back at its positions. See :func:`max_unpool`."""
    return max_unpool(x, indices, kernel_size, stride, padding, output_size, dims=1)


def max_unpool2d(
    x: Tensor,
    indices: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Lengths = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What ``max_pool2d`` took, back at its positions. See :func:`max_unpool`."""
    return max_unpool(x, indices, kernel_size, stride, padding, output_size, dims=2)


def max_unpool3d(
    x: Tensor,
    indices: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Lengths = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What ``max_pool3d`` took, back at its positions. See :func:`max_unpool`."""
    return max_unpool(x, indices, kernel_size, stride, padding, output_size, dims=3)


def max_unpool(
    x: Tensor,
    indices: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None,
    padding: Lengths,
    output_size: Sequence[int] | None,
    *,
    dims: int,
) -> Tensor:
    """Zeros [N, C, *output] with the values of ``x`` at their positions in the flattened axes.

    ``output_size`` is the spatial shape, or the whole one; without it the smallest input that the
    pooling takes. Positions out of range are dropped; of two values at one position the last stays.
    """
    image, places = batched(x, dims, "max_unpool"), batched(indices, dims, "max_unpool")
    if image.shape != places.shape:
        raise EngineError(
            f"max_unpool of {list(x.shape)} with positions {list(indices.shape)}",
            code="SHAPE_MISMATCH",
        )
    size = per_axis(kernel_size, dims, "kernel_size")
    steps = size if stride is None else per_axis(stride, dims, "stride")
    border = per_axis(padding, dims, "padding", least=0)
    if output_size is None:
        lengths = tuple(
            (n - 1) * s - 2 * p + k
            for n, k, s, p in zip(image.shape[2:], size, steps, border, strict=True)
        )
    else:
        lengths = tuple(output_size)[-dims:]
    batch, channels = image.shape[:2]
    rows, count, positions = batch * channels, prod(image.shape[2:]), prod(lengths)
    if rows * positions > NOWHERE:
        raise EngineError(
            f"{rows * positions} elements do not index in int32", code="SHAPE_TOO_LARGE"
        )
    index = graph.reshape(graph.cast(places.node, int32), (rows, count))
    low = graph.cmp("lt", index, compose.like(0, index))
    outside = graph.bit(
        "or", low, compose.invert(graph.cmp("lt", index, compose.like(positions, index)))
    )
    first = graph.mul(graph.iota(0, index.shape), compose.like(positions, index))
    flat = graph.where(outside, compose.like(-1, index), graph.add(first, index))
    zeros = compose.literal(0, image.dtype, (rows * positions,))
    updates = graph.reshape(image.node, (rows * count,))
    placed = graph.scatter("set", zeros, graph.reshape(flat, (rows * count,)), updates)
    node = graph.reshape(placed, (batch, channels, *lengths))
    return unbatched(Tensor(node, device=common_device(x, indices)), x)
