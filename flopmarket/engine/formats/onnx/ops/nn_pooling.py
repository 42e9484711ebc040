"""Pooling over windows, over everything, over regions of interest; and unpooling."""

from __future__ import annotations

from math import prod

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import int32, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.nn_attributes import analytic, window_options
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.pooling import avg_pool, lp_pool, max_pool
from flopmarket.engine.functional.powers import magnitude_power, root
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor


@op("MaxPool")
def maximum(node: OpNode, x: Value) -> Tensor | tuple[Tensor, Tensor]:
    """The largest of every window, and its position in the whole flattened tensor."""
    data = tensor(x)
    dims = data.ndim - 2
    options = window_options(node, data.shape[2:])
    ceil = bool(node.get("ceil_mode", 0))
    arguments = (options.kernel, options.strides, options.borders, options.dilations, ceil)
    if len(node.outputs) < 2 or not node.outputs[1]:
        result: Tensor = max_pool(data, *arguments, False, dims=dims)
        return result
    values, index = max_pool(data, *arguments, True, dims=dims)
    if node.get("storage_order", 0):
        index = _column_major(index, data.shape[2:])
    rows = Tensor(graph.iota(0, (prod(data.shape[:2]),), int64), device=data.device)
    first = (rows * prod(data.shape[2:])).reshape(*data.shape[:2], *(1,) * dims)
    return values, index + first


def _column_major(index: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Row-major positions as column-major ones: the last two axes exchanged."""
    if len(lengths) < 2:
        return index
    rows, columns = lengths[-2:]
    image, inside = index // (rows * columns), index % (rows * columns)
    return image * (rows * columns) + (inside % columns) * rows + inside // columns


@op("AveragePool")
def average(node: OpNode, x: Value) -> Tensor:
    """The mean of every window."""
    data = tensor(x)
    options = window_options(node, data.shape[2:])
    return avg_pool(
        *(data, options.kernel, options.strides, options.borders, options.dilations),
        *(bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0)), None),
        dims=data.ndim - 2,
    )


@op("LpPool")
def norm(node: OpNode, x: Value) -> Tensor:
    """The p-norm of every window."""
    p, ceil = float(node.get("p", 2)), bool(node.get("ceil_mode", 0))

    def pooled(data: Tensor) -> Tensor:
        options = window_options(node, data.shape[2:])
        return lp_pool(
            *(data, p, options.kernel, options.strides, options.borders, options.dilations, ceil),
            dims=data.ndim - 2,
        )

    return analytic(pooled, x)


def _spatial(x: Tensor) -> tuple[int, ...]:
    if x.ndim < 3:
        raise OnnxIllegal(f"global pooling wants [N, C, ..], not {list(x.shape)}")
    return tuple(range(2, x.ndim))


@op("GlobalAveragePool")
def global_average(node: OpNode, x: Value) -> Tensor:
    """The mean of every channel."""
    data = tensor(x)
    return data.mean(_spatial(data), keepdim=True).to(data.dtype)


@op("GlobalMaxPool")
def global_maximum(node: OpNode, x: Value) -> Tensor:
    """The largest of every channel."""
    data = tensor(x)
    return data.amax(_spatial(data), keepdim=True)


@op("GlobalLpPool")
def global_norm(node: OpNode, x: Value) -> Tensor:
    """The p-norm of every channel."""
    p = float(node.get("p", 2))

    def pooled(data: Tensor) -> Tensor:
        total = magnitude_power(data.float(), p).sum(_spatial(data), keepdim=True)
        return root(total, p).to(data.dtype)

    return analytic(pooled, x)


@op("MaxUnpool")
def unpool(node: OpNode, x: Value, indices: Value, output_shape: Value | None = None) -> Tensor:
    """Values at their positions in the whole flattened tensor that they were pooled from.

    A larger ``output_shape`` adds zeros behind: positions count in the shape that the attributes
    infer.
    """
    data, index = tensor(x), tensor(indices)
    options = window_options(node, data.shape[2:])
    inferred = [
        (n - 1) * s + k - low - high
        for n, k, s, (low, high) in zip(
            data.shape[2:], options.kernel, options.strides, options.borders, strict=True
        )
    ]
    shape = (*data.shape[:2], *inferred)
    zeros = compose.literal(0, data.dtype, (prod(shape),))
    flat = graph.reshape(index.node, (data.numel(),))
    placed = graph.scatter("set", zeros, flat, graph.reshape(data.node, (data.numel(),)))
    result = graph.reshape(placed, shape)
    if output_shape is not None:
        wanted = node.host_ints(output_shape, "the output shape")
        if len(wanted) != len(shape) or any(w < n for w, n in zip(wanted, shape, strict=True)):
            raise OnnxIllegal(f"an output shape {list(wanted)} for {list(shape)}")
        result = graph.pad(result, [(0, w - n) for w, n in zip(wanted, shape, strict=True)])
    return Tensor(result, device=data.device)


@op("MaxRoiPool")
def regions(node: OpNode, x: Value, rois: Value) -> Tensor:
    """The largest element in every cell of a grid laid over regions of images.

    rois [R, 5] hold (image, x1, y1, x2, y2); cells are computed, so axis by axis every cell takes
    the maximum under a mask. An empty cell gives 0.
    """
    data, boxes = tensor(x), tensor(rois)
    rows, columns = node.ints("pooled_shape") or (0, 0)
    scale = float(node.get("spatial_scale", 1.0))
    if data.ndim != 4 or boxes.shape[1:] != (5,) or min(rows, columns) < 1:
        raise OnnxIllegal(f"MaxRoiPool of {list(data.shape)} over {list(boxes.shape)}")
    images = data.gather_rows(boxes[:, 0].to(int32))
    corners = ((boxes[:, 1:].float() * scale) + 0.5).floor()
    across = _cell_mask(corners[:, 0], corners[:, 2], columns, data.shape[3])
    down = _cell_mask(corners[:, 1], corners[:, 3], rows, data.shape[2])
    lowest = float("-inf")
    # [R, C, H, 1, W] under [R, 1, 1, PW, W], then [R, C, 1, PW, H] under [R, 1, PH, 1, H].
    mask = across.reshape(across.shape[0], 1, 1, columns, data.shape[3])
    wide = images.unsqueeze(3).expand(*images.shape[:3], columns, data.shape[3])
    narrow = wide.where(mask, lowest).amax(4).transpose(2, 3)
    mask = down.reshape(down.shape[0], 1, rows, 1, data.shape[2])
    tall = narrow.unsqueeze(2).expand(*images.shape[:2], rows, columns, data.shape[2])
    result = tall.where(mask, lowest).amax(4)
    return result.masked_fill(result == lowest, 0.0)


def _cell_mask(first: Tensor, last: Tensor, cells: int, length: int) -> Tensor:
    """bool [R, cells, length]: which elements of an axis belong to which cell."""
    size = (last - first + 1.0).clamp(min=1.0) / float(cells)
    at = Tensor(_ramp(cells)).float().reshape(1, cells)
    start = (at * size.unsqueeze(1)).floor() + first.unsqueeze(1)
    end = -((-((at + 1.0) * size.unsqueeze(1))).floor()) + first.unsqueeze(1)
    place = Tensor(_ramp(length)).float().reshape(1, 1, length)
    return (place >= start.unsqueeze(2)) & (place < end.unsqueeze(2))


def _ramp(count: int) -> Node:
    return graph.iota(0, (count,))
