"""Convolutions and transposed convolutions of one, two and three spatial axes, fold and unfold.

Every convolution is one DOT over windows, the sum running over (channel in its group, kernel taps
in row-major order); the taps in the padding count as zeros times the weight. Inputs may come
without a batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from flopmarket.engine import compose, convolution, graph
from flopmarket.engine.convolution import Axis
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import (
    Lengths,
    Padding,
    batched,
    borders,
    check_reach,
    pad_spatial,
    per_axis,
    unbatched,
)
from flopmarket.engine.grad_views import sum_windows
from flopmarket.engine.tensor import Tensor, common_device


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    dilation: Lengths = 1,
    groups: int = 1,
) -> Tensor:
    """x [N, C, L] with weight [O, C/groups, K] and bias [O] -> [N, O, OL]. See :func:`conv`."""
    return conv(x, weight, bias, stride, padding, dilation, groups, dims=1)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    dilation: Lengths = 1,
    groups: int = 1,
) -> Tensor:
    """x [N, C, H, W] with weight [O, C/groups, KH, KW], bias [O] -> [N, O, OH, OW]. See
    :func:`conv`."""
    return conv(x, weight, bias, stride, padding, dilation, groups, dims=2)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    dilation: Lengths = 1,
    groups: int = 1,
) -> Tensor:
    """x [N, C, D, H, W] with weight [O, C/groups, KD, KH, KW], bias [O] -> [N, O, OD, OH, OW]. See
    :func:`conv`."""
    return conv(x, weight, bias, stride, padding, dilation, groups, dims=3)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Lengths,
    padding: Padding,
    dilation: Lengths,
    groups: int,
    *,
    dims: int,
) -> Tensor:
    """[N, C, *S] with weight [O, C/groups, *K] and bias [O] -> [N, O, *R], ``dims`` spatial axes.

    ``padding``: numbers, (before, after) pairs, 'valid' or 'same'. Floats give their promoted
    dtype; integers of 8 and 16 bits, mixed or not, an exact integer sum. Raises EngineError
    (SHAPE_MISMATCH).
    """
    image = batched(x, dims, f"conv{dims}d")
    kernel = weight.shape[2:]
    if len(kernel) != dims or groups < 1 or image.shape[1] != weight.shape[1] * groups:
        raise EngineError(
            f"conv{dims}d of {list(x.shape)} with weight {list(weight.shape)} in {groups} groups",
            code="SHAPE_MISMATCH",
            hint=f"x is [N, C, ..], weight is [O, C/groups, ..] with {dims} spatial axes",
        )
    if weight.shape[0] % groups:
        raise EngineError(
            f"{weight.shape[0]} output channels do not divide into {groups} groups",
            code="SHAPE_MISMATCH",
        )
    strides, dilations = per_axis(stride, dims, "stride"), per_axis(dilation, dims, "dilation")
    amounts = borders(padding, dims, kernel, strides, dilations)
    image, weight, dtype = _operands(image, weight)
    padded = pad_spatial(image.node, amounts)
    check_reach(padded.shape[2:], kernel, dilations)
    node = convolution.forward(padded, weight.node, strides, dilations, groups)
    result = Tensor(node, dtype, device=common_device(image, weight))
    return unbatched(_biased(result, bias), x)


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    output_padding: Lengths = 0,
    groups: int = 1,
    dilation: Lengths = 1,
) -> Tensor:
    """x [N, C, L] with weight [C, O/groups, K] -> [N, O, OL]. See :func:`conv_transpose`."""
    return conv_transpose(
        x, weight, bias, stride, padding, output_padding, groups, dilation, dims=1
    )


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    output_padding: Lengths = 0,
    groups: int = 1,
    dilation: Lengths = 1,
) -> Tensor:
    """x [N, C, H, W] with weight [C, O/groups, KH, KW] -> [N, O, OH, OW]. See
    :func:`conv_transpose`."""
    return conv_transpose(
        x, weight, bias, stride, padding, output_padding, groups, dilation, dims=2
    )


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Padding = 0,
    output_padding: Lengths = 0,
    groups: int = 1,
    dilation: Lengths = 1,
) -> Tensor:
    """x [N, C, D, H, W] with weight [C, O/groups, KD, KH, KW] -> [N, O, OD, OH, OW]. See
    :func:`conv_transpose`."""
    return conv_transpose(
        x, weight, bias, stride, padding, output_padding, groups, dilation, dims=3
    )


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Lengths,
    padding: Padding,
    output_padding: Lengths,
    groups: int,
    dilation: Lengths,
    *,
    dims: int,
) -> Tensor:
    """[N, C, *S] with weight [C, O/groups, *K] and bias [O] -> [N, O, *R].

    R = (S - 1) * stride - borders + dilation * (K - 1) + output_padding + 1 on every axis. One DOT
    per stride phase, or one in all where the taps do not overlap; no product with an inserted zero.
    ``output_padding`` may be any number; torch wants it below stride or dilation. Raises
    EngineError (SHAPE_MISMATCH).
    """
    image = batched(x, dims, f"conv_transpose{dims}d")
    kernel = weight.shape[2:]
    channels = image.shape[1]
    fits = len(kernel) == dims and groups >= 1 and channels % groups == 0
    if not fits or channels != weight.shape[0] or min(kernel) < 1:
        raise EngineError(
            f"conv_transpose{dims}d of {list(x.shape)} with weight {list(weight.shape)} in "
            f"{groups} groups",
            code="SHAPE_MISMATCH",
            hint=f"x is [N, C, ..], weight is [C, O/groups, ..] with {dims} spatial axes",
        )
    strides, dilations = per_axis(stride, dims, "stride"), per_axis(dilation, dims, "dilation")
    extra = per_axis(output_padding, dims, "output_padding", least=0)
    amounts = borders(padding, dims, kernel, (1,) * dims, dilations)
    axes = []
    for n, k, s, d, more in zip(image.shape[2:], kernel, strides, dilations, extra, strict=True):
        if n < 1:
            raise EngineError(
                f"conv_transpose{dims}d of an empty image {list(x.shape)}", code="SHAPE_MISMATCH"
            )
        axes.append(Axis((n - 1) * s + (k - 1) * d + 1 + more, k, s, d, n))
    image, weight, dtype = _operands(image, weight)
    node = convolution.transposed(image.node, weight.node, axes, groups)
    for at, (low, high) in enumerate(amounts):
        count = node.shape[at + 2] - low - high
        if count < 1:
            raise EngineError(
                f"padding {list(amounts)} leaves nothing of {list(node.shape[2:])}",
                code="SHAPE_MISMATCH",
            )
        node = compose.part(node, at + 2, low, count)
    result = Tensor(node, dtype, device=common_device(image, weight))
    return unbatched(_biased(result, bias), x)


def unfold(
    x: Tensor,
    kernel_size: Lengths,
    dilation: Lengths = 1,
    padding: Padding = 0,
    stride: Lengths = 1,
) -> Tensor:
    """Windows of [N, C, *S] as columns [N, C * taps, positions] (im2col), any number of axes."""
    dims = x.ndim - 2 if isinstance(kernel_size, int) else len(kernel_size)
    image = batched(x, dims, "unfold")
    kernel, strides = per_axis(kernel_size, dims, "kernel_size"), per_axis(stride, dims, "stride")
    dilations = per_axis(dilation, dims, "dilation")
    padded = pad_spatial(image.node, borders(padding, dims, kernel, strides, dilations))
    check_reach(padded.shape[2:], kernel, dilations)
    windows = tuple(zip(range(2, dims + 2), kernel, strides, dilations, strict=True))
    taps = graph.window(padded, windows)
    ordered = graph.permute(taps, (0, 1, *range(dims + 2, 2 * dims + 2), *range(2, dims + 2)))
    batch, channels, *places = taps.shape[: dims + 2]
    columns = graph.reshape(ordered, (batch, channels * prod(kernel), prod(places)))
    return unbatched(Tensor(columns, device=x.device), x)


def fold(
    x: Tensor,
    output_size: Lengths,
    kernel_size: Sequence[int] | int,
    dilation: Lengths = 1,
    padding: Padding = 0,
    stride: Lengths = 1,
) -> Tensor:
    """Columns [N, C * taps, positions] summed into [N, C, *output_size] (col2im).

    Overlapping taps are added in ascending row-major order of the taps.
    """
    given = (len(v) for v in (output_size, kernel_size) if not isinstance(v, int))
    dims = next(given, 2)
    size, kernel = per_axis(output_size, dims, "output_size"), per_axis(kernel_size, dims, "kernel")
    strides, dilations = per_axis(stride, dims, "stride"), per_axis(dilation, dims, "dilation")
    amounts = borders(padding, dims, kernel, strides, dilations)
    lengths = [low + n + high for n, (low, high) in zip(size, amounts, strict=True)]
    check_reach(lengths, kernel, dilations)
    places = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(lengths, kernel, strides, dilations, strict=True)
    ]
    columns = x if x.ndim == 3 else x.unsqueeze(0)
    if columns.ndim != 3 or columns.shape[1] % prod(kernel) or columns.shape[2] != prod(places):
        raise EngineError(
            f"fold of {list(x.shape)} into {list(size)} with kernel {list(kernel)}",
            code="SHAPE_MISMATCH",
            hint=f"columns are [N, C * {prod(kernel)}, {prod(places)}]",
        )
    batch, channels = columns.shape[0], columns.shape[1] // prod(kernel)
    taps = graph.reshape(columns.node, (batch, channels, *kernel, *places))
    taps = graph.permute(taps, (0, 1, *range(dims + 2, 2 * dims + 2), *range(2, dims + 2)))
    windows = tuple(zip(range(2, dims + 2), kernel, strides, dilations, strict=True))
    node = sum_windows(taps, (batch, channels, *lengths), windows)
    for at, (low, _) in enumerate(amounts):
        node = compose.part(node, at + 2, low, size[at])
    result = Tensor(node, device=x.device)
    return result if x.ndim == 3 else result.reshape(*result.shape[1:])


def _operands(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, DType | None]:
    """Both in one float dtype, which the result has too; integers stay what they are."""
    if image.dtype.is_integer and weight.dtype.is_integer:
        return image, weight, None
    dtype = compose.promote(image.dtype, weight.dtype)
    return image.to(dtype), weight.to(dtype), dtype


def _biased(result: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return result
    if bias.shape != (result.shape[1],):
        raise EngineError(
            f"a bias {list(bias.shape)} for {result.shape[1]} channels", code="SHAPE_MISMATCH"
        )
    return result + bias.reshape(1, -1, *(1,) * (result.ndim - 2))
