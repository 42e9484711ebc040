"""Resize and Upsample: their coordinates and rounding, as tables for ``functional.resample``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import bool_, float32, float64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.resample import (
    Kernel,
    Taps,
    cubic,
    kernel_taps,
    nearest_taps,
    triangle,
)
from flopmarket.engine.functional.tables import positions
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Axis:
    """One resized axis: lengths before and after, the scale, and the part of it that is read."""

    source: int
    target: int
    scale: float
    low: float
    high: float

    @property
    def exact_target(self) -> float:
        """The length after, before it was rounded."""
        return self.scale * self.source


def _align_corners(axis: _Axis, at: Array) -> Array:
    if axis.exact_target == 1:
        return at * 0.0
    return at * (axis.source - 1) / (axis.exact_target - 1)


def _asymmetric(axis: _Axis, at: Array) -> Array:
    return at / axis.scale


def _half_pixel(axis: _Axis, at: Array) -> Array:
    return (at + 0.5) / axis.scale - 0.5


def _pytorch_half_pixel(axis: _Axis, at: Array) -> Array:
    return at * 0.0 - 0.5 if axis.exact_target == 1 else _half_pixel(axis, at)


def _half_pixel_symmetric(axis: _Axis, at: Array) -> Array:
    offset = axis.source / 2 * (1 - axis.target / axis.exact_target)
    return offset + _half_pixel(axis, at)


def _tf_crop_and_resize(axis: _Axis, at: Array) -> Array:
    size = (axis.high - axis.low) * (axis.source - 1)
    first = axis.low * (axis.source - 1)
    if axis.exact_target == 1:
        return at * 0.0 + size / 2 + first
    return at * size / (axis.exact_target - 1) + first


def _tf_half_pixel_for_nn(axis: _Axis, at: Array) -> Array:
    return (at + 0.5) / axis.scale


_COORDINATES: dict[str, Callable[[_Axis, Array], Array]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_crop_and_resize": _tf_crop_and_resize,
    "tf_half_pixel_for_nn": _tf_half_pixel_for_nn,
}

_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@op("Resize", since=11)
def resize(
    node: OpNode,
    x: Value,
    roi: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
) -> Tensor:
    """Resampled to ``sizes`` or by ``scales``, along ``axes`` if they are given."""
    data = tensor(x)
    axes = resized_axes(node, data.ndim)
    lengths = [data.shape[axis] for axis in axes]
    factors, targets = _targets(node, lengths, _floats(node, scales), _whole(node, sizes))
    transformation = str(node.get("coordinate_transformation_mode", "half_pixel"))
    region = _region(node, roi, axes, data.ndim, transformation)
    resized = [
        (at, _Axis(n, o, s, low, high))
        for at, n, o, s, (low, high) in zip(axes, lengths, targets, factors, region, strict=True)
        if (n, s, low, high) != (o, 1.0, 0.0, 1.0)
    ]
    return _resized(node, data, resized, transformation, str(node.get("nearest_mode", "")))


@op("Resize", since=10)
@op("Upsample", since=9)
def upsample(node: OpNode, x: Value, scales: Value) -> Tensor:
    """By ``scales``, elements counted from their corners."""
    data = tensor(x)
    return _by_scales(node, data, [float(s) for s in np.ravel(node.host(scales, "the scales"))])


@op("Upsample", since=7)
def upsample_attribute(node: OpNode, x: Value) -> Tensor:
    """By the attribute ``scales``, elements counted from their corners."""
    return _by_scales(node, tensor(x), [float(s) for s in node.get("scales", [])])


@op("Upsample")
def upsample_image(node: OpNode, x: Value) -> Tensor:
    """By the attributes of an image's two scales."""
    factors = [1.0, 1.0, float(node.get("height_scale")), float(node.get("width_scale"))]
    return _by_scales(node, tensor(x), factors)


def _by_scales(node: OpNode, x: Tensor, factors: Sequence[float]) -> Tensor:
    if len(factors) != x.ndim or not all(0 < factor < inf for factor in factors):
        raise OnnxIllegal(f"scales {factors} for {x.ndim} axes: one positive number each")
    resized = [
        (at, _Axis(n, floor(n * s), s, 0.0, 1.0))
        for at, (n, s) in enumerate(zip(x.shape, factors, strict=True))
        if s != 1.0
    ]
    return _resized(node, x, resized, "asymmetric", "floor")


def _resized(
    node: OpNode,
    x: Tensor,
    resized: Sequence[tuple[int, _Axis]],
    transformation: str,
    nearest_mode: str,
) -> Tensor:
    mode = str(node.get("mode", "nearest"))
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    rounding = _ROUNDING.get(nearest_mode or "round_prefer_floor")
    if transformation not in _COORDINATES or rounding is None:
        raise OnnxIllegal(f"no coordinates {transformation!r} with rounding {nearest_mode!r}")
    if any(axis.source < 1 for _, axis in resized):
        raise OnnxIllegal(f"a resize of the empty {list(x.shape)}")
    result = x.node
    if mode != "nearest" and x.dtype is not float64:
        result = graph.cast(result, float32)
    outside: Node | None = None
    for at, axis in resized:
        places = _COORDINATES[transformation](axis, positions(0, axis.target).astype(np.float64))
        result = _taps(node, mode, axis, places, rounding).apply(result, at)
        if transformation == "tf_crop_and_resize":
            beyond = (places < 0) | (places > axis.source - 1)
            outside = _or(outside, _mask(beyond, at, x.ndim))
    if outside is not None:
        value = float(node.get("extrapolation_value", 0.0))
        wide = compose.broadcast_to(outside, result.shape)
        result = graph.where(wide, compose.like(value, result), result)
    found = Tensor(result, device=x.device)
    if x.dtype.is_integer and mode != "nearest":
        info = np.iinfo(x.dtype.numpy)
        found = found.clamp(float(info.min), float(info.max))
    return found.to(x.dtype)


def _taps(
    node: OpNode, mode: str, axis: _Axis, places: Array, rounding: Callable[[Array], Array]
) -> Taps:
    if mode == "nearest":
        return nearest_taps(rounding(places), axis.source)
    if mode not in ("linear", "cubic"):
        raise OnnxIllegal(f"no resize mode {mode!r}")
    kernel: Kernel = triangle
    support = 1.0
    if mode == "cubic":
        kernel, support = cubic(float(node.get("cubic_coeff_a", -0.75))), 2.0
    shrink = max(1.0, 1.0 / axis.scale) if node.get("antialias", 0) and axis.scale else 1.0
    dropped = bool(node.get("exclude_outside", 0))
    return kernel_taps(places, axis.source, kernel, support, shrink=shrink, drop_outside=dropped)


def _mask(beyond: Array, axis: int, rank: int) -> Node:
    own = tuple(len(beyond) if at == axis else 1 for at in range(rank))
    return graph.const(beyond.reshape(own), bool_, own)


def _or(a: Node | None, b: Node) -> Node:
    if a is None:
        return b
    left, right = compose.broadcast(a, b)
    return graph.bit("or", left, right)


# ---------------------------------------------------------------- lengths


def resized_axes(node: OpNode, rank: int) -> tuple[int, ...]:
    """The attribute ``axes`` counted from the front, or all axes."""
    given = node.ints("axes")
    return tuple(range(rank)) if given is None else tuple(axis % rank for axis in given)


def _floats(node: OpNode, scales: Value | None) -> list[float]:
    if scales is None:
        return []
    return [float(s) for s in np.ravel(node.host(scales, "the scales"))]


def _whole(node: OpNode, sizes: Value | None) -> list[int]:
    return [] if sizes is None else list(node.host_ints(sizes, "the sizes"))


def _targets(
    node: OpNode, lengths: Sequence[int], scales: Sequence[float], sizes: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Scale and length of every resized axis."""
    if bool(scales) == bool(sizes) or len(scales or sizes) != len(lengths):
        raise OnnxIllegal(
            f"scales {list(scales)} and sizes {list(sizes)} for lengths {list(lengths)}"
        )
    if scales:
        if not all(0 < scale < inf for scale in scales):
            raise OnnxIllegal(f"scales {list(scales)} are not positive")
        return list(scales), [floor(n * s) for n, s in zip(lengths, scales, strict=True)]
    if min(sizes) < 0 or min(lengths) < 1:
        raise OnnxIllegal(f"a resize of {list(lengths)} to {list(sizes)}")
    factors = [o / n for n, o in zip(lengths, sizes, strict=True)]
    policy = str(node.get("keep_aspect_ratio_policy", "stretch"))
    if policy == "stretch":
        return factors, list(sizes)
    if policy not in ("not_larger", "not_smaller"):
        raise OnnxIllegal(f"no aspect ratio policy {policy!r}")
    scale = min(factors) if policy == "not_larger" else max(factors)
    return [scale] * len(lengths), [floor(n * scale + 0.5) for n in lengths]


def _region(
    node: OpNode, roi: Value | None, axes: Sequence[int], rank: int, transformation: str
) -> list[tuple[float, float]]:
    """The part of every resized axis that is read, as shares of its length."""
    if transformation != "tf_crop_and_resize":
        return [(0.0, 1.0)] * len(axes)
    shares = [] if roi is None else [float(r) for r in np.ravel(node.host(roi, "the region"))]
    half = len(shares) // 2
    if half == rank and half != len(axes):
        return [(shares[axis], shares[half + axis]) for axis in axes]
    if half != len(axes):
        raise OnnxIllegal(f"a region of {len(shares)} numbers for {len(axes)} axes")
    return list(zip(shares[:half], shares[half:], strict=True))
