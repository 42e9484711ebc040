"""Images made larger or smaller: nearest, linear and cubic interpolation, means over areas.

Resampling is separable: one table of positions and weights an axis (:class:`Taps`), computed while
the graph is built, applied axis by axis. Importers with other rules for coordinates build their own
tables from :func:`nearest_taps` and :func:`kernel_taps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np

from flopmarket.engine import graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.adaptive import adaptive_avg_pool
from flopmarket.engine.functional.arguments import working_dtype
from flopmarket.engine.functional.tables import check_table, positions, take, weigh
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Kernel = Callable[[Array], Array]

MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "trilinear": (3,),
    "bicubic": (2,),
}
"""Modes of :func:`interpolate` with the numbers of spatial axes that they are for."""

CUBIC = -0.75
"""The cubic kernel's parameter (Keys, "Cubic convolution interpolation", 1981) without
anti-aliasing; with it torch and Pillow take -0.5."""


@dataclass(frozen=True, slots=True)
class Taps:
    """What every element of a resampled axis is made of: positions [O, T] and weights [O, T], or
    positions alone (T = 1)."""

    index: Array
    weight: Array | None

    def apply(self, x: Node, axis: int) -> Node:
        """``x`` with ``axis`` resampled; weighted sums want a float."""
        if self.weight is None:
            return take(x, axis, self.index[:, 0])
        return weigh(x, axis, self.index, self.weight)


def interpolate(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """[N, C, *S] resampled to spatial ``size``, or to floor(S * scale_factor).

    ``mode``: nearest, nearest-exact, area (one to three spatial axes), linear, bilinear, trilinear,
    bicubic (as many as the name says). ``align_corners`` maps corner elements onto each other
    (default: corners of their squares). ``recompute_scale_factor`` derives coordinates from the two
    sizes instead of ``scale_factor``. ``antialias`` widens the kernel when shrinking (bilinear,
    bicubic). Raises EngineError (RESIZE_OPTION).
    """
    dims = x.ndim - 2
    _check_options(dims, mode, align_corners, antialias)
    targets, scales = _targets(x.shape[2:], size, scale_factor)
    if recompute_scale_factor:
        scales = None
    if mode == "area":
        return adaptive_avg_pool(x, targets, dims=dims)
    smooth = not mode.startswith("nearest")
    node = graph.cast(x.node, working_dtype(x.dtype)) if smooth else x.node
    for at, (n, o) in enumerate(zip(x.shape[2:], targets, strict=True)):
        given = None if scales is None else scales[at]
        if not smooth:
            taps = _nearest(n, o, given, exact=mode == "nearest-exact")
        else:
            taps = _smooth(n, o, given, mode, bool(align_corners), antialias)
        node = taps.apply(node, at + 2)
    dtype = x.dtype if x.dtype.is_float else node.dtype
    return Tensor(node, dtype, device=x.device)


def upsample(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """:func:`interpolate` under its older name."""
    return interpolate(x, size, scale_factor, mode, align_corners)


def nearest_taps(positions: Array, length: int) -> Taps:
    """One element each, at whole positions that are clipped into the axis."""
    return Taps(np.clip(positions, 0, length - 1).astype(np.int64)[:, None], None)


def kernel_taps(
    centres: Array,
    length: int,
    kernel: Kernel,
    support: float,
    *,
    shrink: float = 1.0,
    drop_outside: bool = False,
) -> Taps:
    """Weighted neighbours of float positions ``centres`` [O] on an axis of ``length``.

    A neighbour at distance d weighs ``kernel``(d / shrink), for |d| up to support * shrink; the
    weights of one result add up to 1. Neighbours outside stand for the edge, or with
    ``drop_outside`` count for nothing.
    """
    reach = support * shrink
    check_table(len(centres) * 2 * ceil(reach))
    first = np.floor(centres - reach).astype(np.int64) + 1
    index = first[:, None] + np.arange(2 * ceil(reach))[None, :]
    weight = kernel((index - centres[:, None]) / shrink)
    if drop_outside:
        weight = np.where((index < 0) | (index >= length), 0.0, weight)
    total = weight.sum(axis=1, keepdims=True)
    weight = np.divide(weight, total, out=np.zeros_like(weight), where=total != 0)
    return Taps(np.clip(index, 0, length - 1), weight)


def triangle(distance: Array) -> Array:
    """1 - |d|, not below 0: linear interpolation; support 1."""
    return np.maximum(0.0, 1.0 - np.abs(distance))


def cubic(a: float) -> Kernel:
    """Keys' cubic kernel with parameter ``a``; support 2."""

    def kernel(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return kernel


# ---------------------------------------------------------------- torch's coordinates


def _check_options(dims: int, mode: str, align_corners: bool | None, antialias: bool) -> None:
    if dims not in MODES.get(mode, ()):
        raise EngineError(
            f"no mode {mode!r} for {dims} spatial axes",
            code="RESIZE_OPTION",
            hint=", ".join(name for name, fits in MODES.items() if dims in fits),
        )
    if align_corners is not None and (mode.startswith("nearest") or mode == "area"):
        raise EngineError(f"align_corners means nothing to {mode!r}", code="RESIZE_OPTION")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise EngineError(f"no antialias in {mode!r}", code="RESIZE_OPTION")


def _targets(
    lengths: Sequence[int],
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Spatial lengths of the result, and the scales if they were given."""
    dims = len(lengths)
    if (size is None) == (scale_factor is None):
        raise EngineError("give size or scale_factor, one of them", code="RESIZE_OPTION")
    scales: tuple[float, ...] | None = None
    if scale_factor is not None:
        scales = (
            (float(scale_factor),) * dims
            if isinstance(scale_factor, int | float)
            else tuple(float(scale) for scale in scale_factor)
        )
        targets = tuple(floor(n * scale) for n, scale in zip(lengths, scales, strict=False))
    else:
        targets = (size,) * dims if isinstance(size, int) else tuple(size or ())
    if len(targets) != dims or min(targets) < 1 or min(lengths) < 1:
        raise EngineError(
            f"a resize of {list(lengths)} to {list(targets)}: one positive number an axis",
            code="RESIZE_OPTION",
        )
    return targets, scales


def _nearest(length: int, count: int, scale: float | None, *, exact: bool) -> Taps:
    """torch's choice, in float32 as torch computes it: which element is nearest may turn on it."""
    step = np.float32(1.0 / scale) if scale else np.float32(length) / np.float32(count)
    at = positions(0, count).astype(np.float32) + np.float32(0.5 if exact else 0.0)
    return nearest_taps(np.floor(at * step), length)


def _smooth(
    length: int, count: int, scale: float | None, mode: str, align_corners: bool, antialias: bool
) -> Taps:
    at = positions(0, count).astype(np.float64)
    if align_corners:
        step = (length - 1) / (count - 1) if count > 1 else 0.0
    else:
        step = 1.0 / scale if scale else length / count
    kernel, support = (cubic(CUBIC), 2.0) if mode == "bicubic" else (triangle, 1.0)
    centred = step * (at + 0.5) - 0.5
    if antialias:
        kernel = cubic(-0.5) if mode == "bicubic" else triangle
        return kernel_taps(
            centred, length, kernel, support, shrink=max(1.0, step), drop_outside=True
        )
    return kernel_taps(step * at if align_corners else centred, length, kernel, support)
