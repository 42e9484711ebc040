"""Sampling of images at computed places, shuffles of space and depth, padding and cropping."""

from __future__ import annotations

import numpy as np

from flopmarket.engine import functional
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.nn_attributes import optional, pairs
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.spatial import pad_node
from flopmarket.engine.tensor import Tensor

_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}
_PADDING = {
    "constant": "constant",
    "reflect": "reflect",
    "edge": "replicate",
    "wrap": "circular",
}


@op("GridSample", since=16)
def grid_sample(node: OpNode, x: Value, grid: Value) -> Tensor:
    """x [N, C, *S] read at grid [N, *O, d]."""
    mode = str(node.get("mode", "linear"))
    return functional.grid_sample(
        tensor(x),
        tensor(grid),
        _SAMPLING.get(mode, mode),
        str(node.get("padding_mode", "zeros")),
        bool(node.get("align_corners", 0)),
    )


@op("AffineGrid", since=20)
def affine_grid(node: OpNode, theta: Value, size: Value) -> Tensor:
    """The grid of an affine map, for GridSample."""
    shape = node.host_ints(size, "the size")
    return functional.affine_grid(tensor(theta), shape, bool(node.get("align_corners", 0)))


@op("DepthToSpace")
def depth_to_space(node: OpNode, x: Value) -> Tensor:
    """[N, C * b * b, H, W] -> [N, C, H * b, W * b]; DCR has the blocks first in depth, CRD last."""
    data, block = tensor(x), int(node.get("blocksize", 1))
    if data.ndim != 4 or block < 1 or data.shape[1] % (block * block):
        raise OnnxIllegal(f"DepthToSpace of {list(data.shape)} by {block}")
    batch, channels, height, width = data.shape
    rest = channels // (block * block)
    if node.get("mode", "DCR") == "CRD":
        split = data.reshape(batch, rest, block, block, height, width)
        woven = split.permute(0, 1, 4, 2, 5, 3)
    else:
        split = data.reshape(batch, block, block, rest, height, width)
        woven = split.permute(0, 3, 4, 1, 5, 2)
    return woven.reshape(batch, rest, height * block, width * block)


@op("SpaceToDepth")
def space_to_depth(node: OpNode, x: Value) -> Tensor:
    """[N, C, H * b, W * b] -> [N, b * b * C, H, W]; from opset 28 on ``mode`` as DepthToSpace."""
    data, block = tensor(x), int(node.get("blocksize", 1))
    if data.ndim != 4 or block < 1 or data.shape[2] % block or data.shape[3] % block:
        raise OnnxIllegal(f"SpaceToDepth of {list(data.shape)} by {block}")
    batch, channels, height, width = data.shape
    split = data.reshape(batch, channels, height // block, block, width // block, block)
    order = (0, 1, 3, 5, 2, 4) if node.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    moved = split.permute(*order)
    return moved.reshape(batch, channels * block * block, height // block, width // block)


# ---------------------------------------------------------------- padding


def _padded(node: OpNode, x: Tensor, pads: list[tuple[int, int]], value: float | int) -> Tensor:
    mode = str(node.get("mode", "constant"))
    if mode not in _PADDING:
        raise OnnxIllegal(f"no padding mode {mode!r}")
    if mode != "constant":
        for n, (low, high) in zip(x.shape, pads, strict=True):
            if n == 0 and (low > 0 or high > 0):
                raise OnnxIllegal(f"{mode} padding of the empty {list(x.shape)}")
    return Tensor(pad_node(x.node, pads, _PADDING[mode], value), device=x.device)


@op("Pad", since=11)
def pad(
    node: OpNode, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None
) -> Tensor:
    """Elements around axes, all of them or those named; negative numbers crop."""
    data = tensor(x)
    amounts = node.host_ints(pads, "the padding")
    named = None if axes is None else node.host_ints(axes, "the axes")
    rows = [(0, 0)] * data.ndim
    chosen = range(data.ndim) if named is None else [axis % data.ndim for axis in named]
    for axis, pair in zip(chosen, pairs(amounts, len(chosen)), strict=True):
        rows[axis] = pair
    fill = optional(value)
    if fill is None:
        return _padded(node, data, rows, 0)
    number = np.asarray(node.host(fill, "the padding's value")).reshape(-1)
    if number.size != 1:
        raise OnnxIllegal(f"a padding value of {number.size} elements")
    return _padded(node, data, rows, number[0].item())


@op("Pad")
def pad_attribute(node: OpNode, x: Value) -> Tensor:
    """Before opset 11 the padding and its value are attributes."""
    data = tensor(x)
    rows = list(pairs(node.ints("pads"), data.ndim))
    return _padded(node, data, rows, float(node.get("value", 0.0)))


@op("CenterCropPad", since=18)
def center_crop_pad(node: OpNode, x: Value, shape: Value) -> Tensor:
    """Cropped or padded with zeros around the middle, the odd element at the end."""
    data = tensor(x)
    wanted = node.host_ints(shape, "the shape")
    given = node.ints("axes")
    axes = range(data.ndim) if given is None else [axis % data.ndim for axis in given]
    rows = [(0, 0)] * data.ndim
    for axis, length in zip(axes, wanted, strict=True):
        missing = length - data.shape[axis]
        small = abs(missing) // 2
        large = abs(missing) - small
        rows[axis] = (small, large) if missing >= 0 else (-small, -large)
    return Tensor(pad_node(data.node, rows, "constant"), device=data.device)
