"""Images read at computed positions: grid sampling and the affine grids that feed it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.creation import where
from flopmarket.engine.dtypes import DType, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import working_dtype
from flopmarket.engine.functional.resample import CUBIC
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.tensor import Tensor

SAMPLING_MODES = ("bilinear", "nearest", "bicubic")
BORDER_MODES = ("zeros", "border", "reflection")


def grid_sample(
    x: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
    *,
    cubic: float = CUBIC,
) -> Tensor:
    """x [N, C, *S] read at grid [N, *O, d] -> [N, C, *O], for any number d of spatial axes.

    The last axis of ``grid`` holds coordinates in -1..1 from the last spatial axis of x to the
    first (x, y, z); -1 and 1 are the middles of the corner elements if ``align_corners``, else
    their outer edges. ``mode``: bilinear (linear in every axis), nearest (half to even), bicubic.
    ``padding_mode`` says what is read outside. Differentiable by x, and by the grid but for
    nearest. Raises EngineError (SHAPE_MISMATCH, SAMPLING_OPTION).
    """
    dims = x.ndim - 2
    if dims < 1 or grid.ndim != x.ndim or grid.shape[-1] != dims or grid.shape[0] != x.shape[0]:
        raise EngineError(
            f"grid_sample of {list(x.shape)} at {list(grid.shape)}",
            code="SHAPE_MISMATCH",
            hint="x is [N, C, *S], grid is [N, *O, number of spatial axes]",
        )
    if mode not in SAMPLING_MODES or padding_mode not in BORDER_MODES:
        raise EngineError(
            f"grid_sample mode {mode!r} and padding {padding_mode!r}",
            code="SAMPLING_OPTION",
            hint=f"{', '.join(SAMPLING_MODES)}; {', '.join(BORDER_MODES)}",
        )
    wide = grid.to(working_dtype(grid.dtype))
    at = [
        _unnormalised(wide[..., dims - 1 - axis], n, bool(align_corners))
        for axis, n in enumerate(x.shape[2:])
    ]
    return sample(x, at, mode, padding_mode, bool(align_corners), cubic=cubic)


def sample(
    x: Tensor,
    at: Sequence[Tensor],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    *,
    cubic: float = CUBIC,
) -> Tensor:
    """x [N, C, *S] read at float positions, a tensor [N, *O] for each spatial axis -> [N, C, *O].

    Position i is the middle of element i. ``align_corners`` decides where a reflection turns: at
    the middles of the corner elements, or at their outer edges.
    """
    dims = len(at)
    reader = _Reader(x, at[0].shape[1:], padding_mode, align_corners)
    if mode != "bicubic":
        at = [reader.moved_inside(value, axis) for axis, value in enumerate(at)]
    if mode == "nearest":
        return reader.read([_rounded(value) for value in at])
    bases = [value.floor() for value in at]
    rests = [value - base for value, base in zip(at, bases, strict=True)]
    weights = [_cubic(rest, cubic) if mode == "bicubic" else [1.0 - rest, rest] for rest in rests]
    first = -1 if mode == "bicubic" else 0
    result: Tensor | None = None
    for taps in product(range(len(weights[0])), repeat=dims):
        places = [base + float(first + tap) for base, tap in zip(bases, taps, strict=True)]
        if mode == "bicubic":
            places = [reader.moved_inside(place, axis) for axis, place in enumerate(places)]
        weight = weights[0][taps[0]]
        for axis in range(1, dims):
            weight = weight * weights[axis][taps[axis]]
        part = reader.read(places) * weight.unsqueeze(1)
        result = part if result is None else result + part
    assert result is not None  # there is at least one tap
    return result.to(x.dtype) if x.dtype.is_float else result


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """theta [N, d, d + 1] and size [N, C, *S] with d = 2 or 3 -> the grid [N, *S, d] of positions
    theta * (x, y, .., 1), for :func:`grid_sample`."""
    dims = len(size) - 2
    if dims not in (2, 3) or theta.shape != (size[0], dims, dims + 1):
        raise EngineError(
            f"affine_grid of {list(theta.shape)} for {list(size)}",
            code="SHAPE_MISMATCH",
            hint="theta is [N, 2, 3] for [N, C, H, W], [N, 3, 4] for [N, C, D, H, W]",
        )
    lengths = tuple(size[2:])
    dtype = theta.dtype
    columns = [_ramp(n, at, lengths, bool(align_corners), dtype) for at, n in enumerate(lengths)]
    ones = Tensor(compose.literal(1, dtype, (prod(lengths), 1)))
    from_last = [*reversed(columns), ones]
    base = Tensor(graph.concat([column.node for column in from_last], 1), device=theta.device)
    return base.matmul(theta.mT).reshape(size[0], *lengths, dims)


class _Reader:
    """Reads elements of x [N, C, *S] at float positions of a grid [N, *O]."""

    def __init__(
        self, x: Tensor, places: Sequence[int], padding_mode: str, align_corners: bool
    ) -> None:
        self._lengths = x.shape[2:]
        self._padding, self._align = padding_mode, align_corners
        self._total = prod(self._lengths)
        self._channels = x.shape[1]
        self._batch, self._places = x.shape[0], tuple(places)
        rows = x.permute(0, *range(2, x.ndim), 1)
        self._rows = rows.reshape(self._batch * self._total, self._channels)
        self._index: DType = int64 if self._batch * self._total > 2**31 - 1 else int32

    def moved_inside(self, at: Tensor, axis: int) -> Tensor:
        """Positions outside the axis moved to where they are read, as the padding mode says."""
        n = self._lengths[axis]
        if self._padding == "zeros":
            return at
        if self._padding == "reflection":
            at = _reflected(at, n, self._align)
        return at.clamp(0.0, float(n - 1))

    def read(self, places: Sequence[Tensor]) -> Tensor:
        """The elements [N, C, *O] at whole positions; 0 outside."""
        shape = (self._batch, *self._places)
        own = (self._batch, *(1,) * len(self._places))
        batch = Tensor(graph.iota(0, own, self._index)).expand(shape)
        flat, inside = batch, None
        for n, place in zip(self._lengths, places, strict=True):
            whole = place.detach().to(self._index)
            flat = flat * n + whole.clamp(0, n - 1)
            within = (place >= 0.0) & (place <= float(n - 1))
            inside = within if inside is None else inside & within
        taken = self._rows.gather_rows(flat)
        moved = taken.permute(0, taken.ndim - 1, *range(1, taken.ndim - 1))
        if self._padding != "zeros" or inside is None:
            return moved
        return moved.where(inside.unsqueeze(1), 0)


def _unnormalised(at: Tensor, length: int, align_corners: bool) -> Tensor:
    """-1..1 to element positions."""
    if align_corners:
        return (at + 1.0) * ((length - 1) / 2)
    return ((at + 1.0) * float(length) - 1.0) * 0.5


def _reflected(at: Tensor, length: int, align_corners: bool) -> Tensor:
    """Positions mirrored at the middles of the corner elements, or at their outer edges."""
    low, high = (0.0, length - 1.0) if align_corners else (-0.5, length - 0.5)
    span = high - low
    if span <= 0:
        return at * 0.0
    distance = (at - low).abs()
    turns = (distance * (1.0 / span)).floor()
    rest = distance - turns * span
    odd = turns - (turns * 0.5).floor() * 2.0 == 1.0
    return where(odd, high - rest, rest + low)


def _rounded(at: Tensor) -> Tensor:
    """The nearest whole number, half to even."""
    low = at.floor()
    rest = at - low
    odd = low - (low * 0.5).floor() * 2.0 == 1.0
    return where((rest > 0.5) | ((rest == 0.5) & odd), low + 1.0, low)


def _cubic(rest: Tensor, a: float) -> list[Tensor]:
    """Weights of the four neighbours at distances 1 + t, t, 1 - t, 2 - t."""

    def near(d: Tensor) -> Tensor:
        return ((d * (a + 2)) - (a + 3)) * d * d + 1.0

    def far(d: Tensor) -> Tensor:
        return (((d - 5.0) * d + 8.0) * d - 4.0) * a

    return [far(rest + 1.0), near(rest), near(1.0 - rest), far(2.0 - rest)]


def _ramp(
    length: int, axis: int, lengths: Sequence[int], align_corners: bool, dtype: DType
) -> Tensor:
    """[prod(lengths), 1]: the coordinate in -1..1 of every element along one axis."""
    check_table(length)
    if align_corners:
        values = np.linspace(-1.0, 1.0, length) if length > 1 else np.zeros(1)
    else:
        values = (2.0 * np.arange(length) + 1.0) / length - 1.0
    own = tuple(length if at == axis else 1 for at in range(len(lengths)))
    ramp = graph.expand(graph.const(values.reshape(own), dtype, own), tuple(lengths))
    return Tensor(graph.reshape(ramp, (prod(lengths), 1)))
