"""RoiAlign: regions of images read between elements and pooled on a grid of cells."""

from __future__ import annotations

from math import ceil

import numpy as np

from flopmarket.engine import graph
from flopmarket.engine.creation import where
from flopmarket.engine.dtypes import int32
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.tensor import Tensor


@op("RoiAlign", since=10)
def roi_align(node: OpNode, x: Value, rois: Value, batch: Value) -> Tensor:
    """x [N, C, H, W] and rois [R, 4] as (x1, y1, x2, y2) of image ``batch`` [R] -> [R, C, PH, PW].

    A cell is the mean (or with mode 'max' the largest weighted neighbour) of sampling_ratio^2
    places. A ratio of 0 takes as many places as a cell has elements, rounded up: the regions have
    to be known while the graph is built then. He et al., "Mask R-CNN", 2017.
    """
    data, boxes = tensor(x), tensor(rois)
    if data.ndim != 4 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise OnnxIllegal(f"RoiAlign of {list(data.shape)} over {list(boxes.shape)}")
    cells = (int(node.get("output_height", 1)), int(node.get("output_width", 1)))
    old = "output_half_pixel" if node.opset < 16 else "half_pixel"
    transformation = str(node.get("coordinate_transformation_mode", old))
    half = transformation == "half_pixel"
    scale = float(node.get("spatial_scale", 1.0))
    corners = boxes.float() * scale - (0.5 if half else 0.0)
    starts = [corners[:, 1], corners[:, 0]]
    sizes = [corners[:, 3] - corners[:, 1], corners[:, 2] - corners[:, 0]]
    if not half:
        sizes = [size.clamp(min=1.0) for size in sizes]
    counts = _places(node, sizes, cells)
    lines = [
        _line(starts[at], sizes[at], cells[at], counts[at], data.shape[2 + at]) for at in (0, 1)
    ]
    largest = str(node.get("mode", "avg")) == "max"
    return _pooled(data, tensor(batch), lines, counts, largest)


def _places(node: OpNode, sizes: list[Tensor], cells: tuple[int, int]) -> list[np.ndarray]:
    """How many places each region's cells have on each axis: int [R]."""
    ratio = int(node.get("sampling_ratio", 0))
    if ratio > 0:
        return [np.full(size.shape, ratio) for size in sizes]
    known = [np.asarray(node.host(size, "the regions")) for size in sizes]
    return [
        np.array([max(0, ceil(v / count)) for v in values.tolist()], dtype=np.int64)
        for values, count in zip(known, cells, strict=True)
    ]


class _Line:
    """Places along one axis, each [R, cells, places]: two neighbours, their weights, and whether
    the place counts."""

    def __init__(self, low: Tensor, high: Tensor, rest: Tensor, inside: Tensor) -> None:
        self.neighbours = (low, high)
        self.weights = (1.0 - rest, rest)
        self.inside = inside


def _line(start: Tensor, size: Tensor, cells: int, counts: np.ndarray, length: int) -> _Line:
    most = max(1, int(counts.max(initial=0)))
    check_table(most * len(counts))
    cell = (size / float(cells)).reshape(-1, 1, 1)
    ramp = Tensor(graph.iota(1, (1, cells, 1))).float()
    inner = np.arange(most) + 0.5
    share = inner[None, :] / np.maximum(counts, 1)[:, None]
    offsets = Tensor(share.astype(np.float32).reshape(-1, 1, most))
    place = start.reshape(-1, 1, 1) + ramp * cell + cell * offsets
    counted = np.arange(most)[None, :] < counts[:, None]
    exists = Tensor(counted.reshape(-1, 1, most))
    inside = (place >= -1.0) & (place <= float(length)) & exists
    at = place.clamp(min=0.0)
    low = at.floor()
    edge = low >= float(length - 1)
    low = where(edge, float(length - 1), low)
    rest = where(edge, 0.0, at - low)
    high = where(edge, low, low + 1.0)
    return _Line(low.to(int32), high.to(int32), rest, inside)


def _pooled(
    data: Tensor, batch: Tensor, lines: list[_Line], counts: list[np.ndarray], largest: bool
) -> Tensor:
    channels, height, width = data.shape[1:]
    rows = data.permute(0, 2, 3, 1).reshape(-1, channels)
    image = batch.to(int32).reshape(-1, 1, 1, 1, 1) * (height * width)

    def down(x: Tensor) -> Tensor:
        return x.unsqueeze(2).unsqueeze(4)

    def across(x: Tensor) -> Tensor:
        return x.unsqueeze(1).unsqueeze(3)

    vertical, horizontal = lines
    inside = (down(vertical.inside) & across(horizontal.inside)).unsqueeze(-1)
    terms = []
    for y, wy in zip(vertical.neighbours, vertical.weights, strict=True):
        for x, wx in zip(horizontal.neighbours, horizontal.weights, strict=True):
            index = image + down(y) * width + across(x)
            weight = (down(wy) * across(wx)).unsqueeze(-1)
            terms.append(rows.gather_rows(index) * weight)
    if largest:
        value = terms[0]
        for term in terms[1:]:
            value = value.maximum(term)
        exists = _exist(counts).unsqueeze(-1)
        value = value.where(inside, 0.0).where(exists, float("-inf"))
        folded = value.amax((3, 4))
        folded = folded.masked_fill(folded == float("-inf"), 0.0)
    else:
        value = terms[0]
        for term in terms[1:]:
            value = value + term
        number = np.maximum(counts[0] * counts[1], 1).astype(np.float32).reshape(-1, 1, 1, 1)
        folded = value.where(inside, 0.0).sum((3, 4)) / Tensor(number)
    return folded.permute(0, 3, 1, 2).to(data.dtype)


def _exist(counts: list[np.ndarray]) -> Tensor:
    """bool [R, 1, 1, PY, PX]: which places a region has."""
    most = [max(1, int(count.max(initial=0))) for count in counts]
    rows = np.arange(most[0])[None, :] < counts[0][:, None]
    columns = np.arange(most[1])[None, :] < counts[1][:, None]
    return Tensor(rows[:, None, None, :, None] & columns[:, None, None, None, :])
