"""Convolutions: plain, transposed, deformable; and columns summed into images."""

from __future__ import annotations

from math import prod

import numpy as np

from flopmarket.engine import graph
from flopmarket.engine.dtypes import DType, float32, float64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.nn_attributes import (
    halves,
    optional,
    pad_mode,
    pairs,
    window_options,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional import fold
from flopmarket.engine.functional.convolutions import conv, conv_transpose
from flopmarket.engine.functional.sampling import sample
from flopmarket.engine.tensor import Tensor


@op("Conv")
def convolution(node: OpNode, x: Value, w: Value, bias: Value | None = None) -> Tensor:
    """[N, C, *S] with weights [O, C/group, *K] -> [N, O, *R]."""
    data, weight = tensor(x), tensor(w)
    options = window_options(node, data.shape[2:], weight.shape[2:])
    return conv(
        *(data, weight, optional(bias), options.strides, options.borders),
        *(options.dilations, int(node.get("group", 1))),
        dims=data.ndim - 2,
    )


@op("ConvTranspose")
def transposed_convolution(node: OpNode, x: Value, w: Value, bias: Value | None = None) -> Tensor:
    """[N, C, *S] with weights [C, O/group, *K] -> [N, O, *R]; the result's lengths follow from the
    borders, or the borders from ``output_shape``."""
    data, weight = tensor(x), tensor(w)
    rank = data.ndim - 2
    options = window_options(node, data.shape[2:], weight.shape[2:])
    extra = node.ints("output_padding") or (0,) * rank
    borders = options.borders
    wanted, mode = node.ints("output_shape"), pad_mode(node)
    if wanted is not None or mode.startswith("SAME"):
        lengths = _wanted_lengths(wanted, data.shape[2:], options.strides)
        rows, more = [], []
        for n, k, s, d, o, length in zip(
            *(data.shape[2:], options.kernel, options.strides, options.dilations, extra, lengths),
            strict=True,
        ):
            total = s * (n - 1) + o + (k - 1) * d + 1 - length
            rows.append(halves(max(0, total), mode))
            more.append(o + max(0, -total))
        borders, extra = tuple(rows), tuple(more)
    return conv_transpose(
        *(data, weight, optional(bias), options.strides, borders, extra),
        *(int(node.get("group", 1)), options.dilations),
        dims=rank,
    )


def _wanted_lengths(
    wanted: tuple[int, ...] | None, lengths: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, ...]:
    if wanted is None:
        return tuple(n * s for n, s in zip(lengths, strides, strict=True))
    if len(wanted) not in (len(lengths), len(lengths) + 2):
        raise OnnxIllegal(f"an output shape {wanted} for {len(lengths)} spatial axes")
    return wanted[-len(lengths) :]


@op("DeformConv")
def deformable_convolution(
    node: OpNode,
    x: Value,
    w: Value,
    offset: Value,
    bias: Value | None = None,
    mask: Value | None = None,
) -> Tensor:
    """A convolution whose taps read between elements, moved by ``offset`` [N, groups * taps * d,
    *R] and multiplied by ``mask`` [N, groups * taps, *R]; outside there are zeros.

    Dai et al., "Deformable Convolutional Networks", 2017, and Zhu et al., 2019.
    """
    data, weight, moves = tensor(x), tensor(w), tensor(offset)
    rank = data.ndim - 2
    options = window_options(node, data.shape[2:], weight.shape[2:])
    groups, parts = int(node.get("group", 1)), int(node.get("offset_group", 1))
    batch, channels = data.shape[:2]
    taps, places = prod(options.kernel), moves.shape[2:]
    counts = tuple(
        (n + low + high - (k - 1) * d - 1) // s + 1
        for n, k, s, d, (low, high) in zip(
            *(data.shape[2:], options.kernel, options.strides),
            *(options.dilations, options.borders),
            strict=True,
        )
    )
    fits = channels == weight.shape[1] * groups and channels % parts == 0 and counts == places
    if not fits or weight.shape[0] % groups or moves.shape[1] != parts * taps * rank:
        raise OnnxIllegal(
            f"DeformConv of {list(data.shape)} with {list(weight.shape)} and offsets "
            f"{list(moves.shape)}"
        )
    dtype = float64 if moves.dtype is float64 else float32
    split = moves.to(dtype).reshape(batch * parts, taps, rank, *places)
    grid = np.stack(np.meshgrid(*map(np.arange, options.kernel), indexing="ij")).reshape(rank, taps)
    positions = []
    for axis in range(rank):
        low = options.borders[axis][0]
        starts = np.arange(places[axis]) * options.strides[axis] - low
        own = [1] * (rank + 1)
        own[axis + 1] = places[axis]
        first = grid[axis].reshape(taps, *(1,) * rank) * options.dilations[axis]
        base = first + starts.reshape(own)
        positions.append(split[:, :, axis] + _constant(base, dtype))
    image = data.reshape(batch * parts, channels // parts, *data.shape[2:])
    read = sample(image, positions, "bilinear", "zeros")
    if mask is not None:
        factor = tensor(mask).reshape(batch * parts, 1, taps, *places)
        read = read * factor.to(read.dtype)
    # [N * parts, C / parts, taps, *R] -> [groups, N * R, C / groups * taps]
    inner, out = channels // groups, weight.shape[0] // groups
    rows = read.reshape(batch, groups, inner, taps, prod(places)).permute(1, 0, 4, 2, 3)
    left = rows.reshape(groups, batch * prod(places), inner * taps)
    right = weight.reshape(groups, out, inner * taps).transpose(1, 2)
    product = left.matmul(right).reshape(groups, batch, prod(places), out)
    result = product.permute(1, 0, 3, 2).reshape(batch, groups * out, *places)
    if bias is not None:
        result = result + tensor(bias).reshape(1, -1, *(1,) * rank)
    return result.to(data.dtype)


def _constant(values: np.ndarray, dtype: DType) -> Tensor:
    return Tensor(graph.const(values, dtype, values.shape))


@op("Col2Im")
def columns_to_image(node: OpNode, x: Value, image_shape: Value, block_shape: Value) -> Tensor:
    """Columns [N, C * block, L] summed into [N, C, *image]."""
    size = node.host_ints(image_shape, "the image shape")
    block = node.host_ints(block_shape, "the block shape")
    rank = len(size)
    return fold(
        tensor(x),
        size,
        block,
        node.ints("dilations") or (1,) * rank,
        pairs(node.ints("pads"), rank),
        node.ints("strides") or (1,) * rank,
    )
