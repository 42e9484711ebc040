"""Views: reshape, permute, expand, pad, flip and their relatives."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Self

from flopmarket.engine import compose, contraction, graph
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import bool_, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Shape
from flopmarket.engine.tensor.base import as_ints, without
from flopmarket.engine.tensor.conversion import ConversionMethods


class ShapeMethods(ConversionMethods):
    """Index maps that move no data."""

    __slots__ = ()

    def reshape(self, *shape: int | Sequence[int]) -> Self:
        """The same elements under another shape; one length may be -1."""
        return self._wrap(graph.reshape(self._node, _complete(as_ints(shape), self.shape)))

    view = reshape

    def permute(self, *dims: int | Sequence[int]) -> Self:
        """Axes in another order."""
        axes = tuple(compose.axis_of(axis, self.ndim) for axis in as_ints(dims))
        return self._wrap(graph.permute(self._node, axes))

    def transpose(self, dim0: int, dim1: int) -> Self:
        """Two axes exchanged."""
        first, second = (compose.axis_of(axis, self.ndim) for axis in (dim0, dim1))
        return self._wrap(compose.swap(self._node, first, second))

    @property
    def T(self) -> Self:  # noqa: N802 - torch's name
        """All axes reversed."""
        return self._wrap(graph.permute(self._node, tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> Self:  # noqa: N802 - torch's name
        """The last two axes exchanged."""
        return self.transpose(-1, -2)

    def expand(self, *shape: int | Sequence[int]) -> Self:
        """Axes of length 1 repeated; -1 keeps a length."""
        wanted = list(as_ints(shape))
        missing = len(wanted) - self.ndim
        for axis, n in enumerate(wanted):
            if n == -1 and axis >= missing:
                wanted[axis] = self.shape[axis - missing]
        return self._wrap(compose.broadcast_to(self._node, tuple(wanted)))

    def pad(self, amounts: Sequence[int], value: Scalar = 0) -> Self:
        """Surround with ``value``; ``amounts`` = (before, after) of the last axis, then of the one
        before it, and so on, as in torch's ``pad``. Negative amounts are refused."""
        if len(amounts) % 2 or len(amounts) > 2 * self.ndim or min(amounts, default=0) < 0:
            raise EngineError(
                f"padding {list(amounts)} for a tensor of shape {list(self.shape)}",
                code="SHAPE_MISMATCH",
            )
        pairs = [(0, 0)] * (self.ndim - len(amounts) // 2)
        pairs += reversed(list(zip(amounts[::2], amounts[1::2], strict=True)))
        padded = graph.pad(self._node, pairs)
        if value == 0 or padded is self._node:
            return self._wrap(padded)
        inside = graph.pad(compose.literal(True, bool_, self.shape), pairs)
        return self._wrap(graph.where(inside, padded, compose.like(value, padded)))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        """Axes from ``start_dim`` to ``end_dim`` as one."""
        if not self.shape:
            return self.reshape(1)
        start, end = (compose.axis_of(axis, self.ndim) for axis in (start_dim, end_dim))
        middle = prod(self.shape[start : end + 1])
        return self.reshape(*self.shape[:start], middle, *self.shape[end + 1 :])

    def squeeze(self, dim: int | None = None) -> Self:
        """Without the axes of length 1, or without ``dim`` if its length is 1."""
        if dim is None:
            return self.reshape(*(n for n in self.shape if n != 1))
        axis = compose.axis_of(dim, self.ndim)
        keep = self.shape[axis] != 1
        return self if keep else self.reshape(*without(self.shape, (axis,)))

    def unsqueeze(self, dim: int) -> Self:
        """With a new axis of length 1 at ``dim``."""
        axis = compose.axis_of(dim, self.ndim + 1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def flip(self, *dims: int | Sequence[int]) -> Self:
        """Axes reversed."""
        axes = compose.axes_of(as_ints(dims), self.ndim)
        ranges = [
            (n - 1, -1, n) if a in axes and n else (0, 1, n) for a, n in enumerate(self.shape)
        ]
        return self._wrap(graph.slice_(self._node, ranges))

    def unfold(self, dimension: int, size: int, step: int) -> Self:
        """Sliding windows along one axis, the taps as a new last axis."""
        axis = compose.axis_of(dimension, self.ndim)
        return self._wrap(graph.window(self._node, [(axis, size, step, 1)]))

    # ------------------------------------------------------------ axes

    def movedim(self, source: int | Sequence[int], destination: int | Sequence[int]) -> Self:
        """Axes ``source`` at the places ``destination``, the others in their order."""
        moved = [compose.axis_of(axis, self.ndim) for axis in _several(source)]
        places = [compose.axis_of(axis, self.ndim) for axis in _several(destination)]
        if len(set(moved)) != len(moved) or len(set(places)) != len(moved):
            raise EngineError(f"movedim of {source} to {destination}", code="AXIS_RANGE")
        rest = iter(axis for axis in range(self.ndim) if axis not in moved)
        by_place = dict(zip(places, moved, strict=True))
        order = [by_place[at] if at in by_place else next(rest) for at in range(self.ndim)]
        return self._wrap(graph.permute(self._node, order))

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Self:
        """One axis as several; one of ``sizes`` may be -1."""
        axis = compose.axis_of(dim, self.ndim)
        split = _complete(tuple(sizes), (self.shape[axis],))
        return self.reshape(*self.shape[:axis], *split, *self.shape[axis + 1 :])

    def narrow(self, dim: int, start: int, length: int) -> Self:
        """``length`` elements along ``dim`` from ``start``."""
        axis = compose.axis_of(dim, self.ndim)
        first = start + self.shape[axis] if start < 0 else start
        return self._wrap(compose.part(self._node, axis, first, length))

    def select(self, dim: int, index: int) -> Self:
        """One place of ``dim``, without the axis."""
        axis = compose.axis_of(dim, self.ndim)
        return self.narrow(axis, index, 1).reshape(without(self.shape, (axis,)))

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """Every place of ``dim``."""
        axis = compose.axis_of(dim, self.ndim)
        return tuple(self.select(axis, at) for at in range(self.shape[axis]))

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Parts of ``dim`` of one size (the last may be shorter), or of the given sizes."""
        axis = compose.axis_of(dim, self.ndim)
        length = self.shape[axis]
        if isinstance(sizes, int):
            step = max(1, sizes)
            sizes = [min(step, length - at) for at in range(0, length, step)] or [0]
        if sum(sizes) != length:
            raise EngineError(f"{list(sizes)} do not split {length}", code="SHAPE_MISMATCH")
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        return tuple(self.narrow(axis, a, n) for a, n in zip(starts, sizes, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        """At most ``chunks`` parts of ``dim``, equal but for the last."""
        length = self.shape[compose.axis_of(dim, self.ndim)]
        return self.split(-(-length // chunks), dim)

    # ------------------------------------------------------------ repeating and turning

    def repeat(self, *times: int | Sequence[int]) -> Self:
        """The whole tensor again and again along every axis; new axes come first."""
        counts = as_ints(times)
        if len(counts) < self.ndim or min(counts, default=0) < 0:
            raise EngineError(
                f"repeating {list(self.shape)} by {list(counts)}", code="SHAPE_MISMATCH"
            )
        shape = (*(1,) * (len(counts) - self.ndim), *self.shape)
        spread = self.reshape(*(n for length in shape for n in (1, length)))
        wide = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
        copies = self._wrap(graph.expand(spread.node, wide))
        return copies.reshape(*(k * n for k, n in zip(counts, shape, strict=True)))

    def tile(self, *times: int | Sequence[int]) -> Self:
        """:meth:`repeat` with leading counts of 1 left out."""
        counts = as_ints(times)
        return self.repeat((*(1,) * (self.ndim - len(counts)), *counts))

    def repeat_interleave(self, repeats: int | Sequence[int], dim: int | None = None) -> Self:
        """Every element ``repeats`` times in a row along ``dim``, or of the flat tensor."""
        if dim is None:
            return self.flatten().repeat_interleave(repeats, 0)
        axis = compose.axis_of(dim, self.ndim)
        counts = (repeats,) * self.shape[axis] if isinstance(repeats, int) else tuple(repeats)
        if len(counts) != self.shape[axis]:
            raise EngineError(
                f"{len(counts)} counts for an axis of {self.shape[axis]}", code="SHAPE_MISMATCH"
            )
        places = [at for at, count in enumerate(counts) for _ in range(count)]
        index = graph.const(places, int32, (len(places),))
        return self._wrap(graph.gather(self._node, index, axis))

    def roll(self, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Self:
        """Moved along ``dims`` (or the flat tensor), what leaves at the end coming in in front."""
        if dims is None:
            return self.flatten().roll(shifts, 0).reshape(self.shape)
        node = self._node
        for shift, dim in zip(_several(shifts), _several(dims), strict=True):
            axis = compose.axis_of(dim, self.ndim)
            n = self.shape[axis]
            if n and shift % n:
                start = n - shift % n
                parts = [
                    compose.part(node, axis, start, n - start),
                    compose.part(node, axis, 0, start),
                ]
                node = graph.concat(parts, axis)
        return self._wrap(node)

    def rot90(self, k: int = 1, dims: Sequence[int] = (0, 1)) -> Self:
        """Turned ``k`` times from the first of ``dims`` toward the second."""
        first, second = (compose.axis_of(axis, self.ndim) for axis in dims)
        turns = k % 4
        turned = self.transpose(first, second) if turns % 2 else self
        if turns == 1:
            return turned.flip(first)
        if turns == 3:
            return turned.flip(second)
        return turned.flip(first, second) if turns else self

    # ------------------------------------------------------------ triangles and diagonals

    def tril(self, diagonal: int = 0) -> Self:
        """Zeros above the ``diagonal`` of the last two axes."""
        return self._triangle(0, -diagonal - 1)

    def triu(self, diagonal: int = 0) -> Self:
        """Zeros below the ``diagonal`` of the last two axes."""
        return self._triangle(1, diagonal - 1)

    def _triangle(self, side: int, limit: int) -> Self:
        """Zeros but where row - column (side 0), or column - row (side 1), is over ``limit``."""
        if self.ndim < 2:
            raise EngineError(f"no triangle of {list(self.shape)}", code="SHAPE_MISMATCH")
        if not self.numel():
            return self
        row, column = (graph.iota(self.ndim - 2 + at, self.shape) for at in (side, 1 - side))
        kept = graph.cmp("lt", compose.like(limit, row), compose.subtract(row, column))
        return self._wrap(graph.where(kept, self._node, compose.like(0, self._node)))

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Self:
        """The diagonal of two axes as the last axis; a positive ``offset`` lies above it."""
        first, second = (compose.axis_of(axis, self.ndim) for axis in (dim1, dim2))
        return self._wrap(contraction.diagonal(self._node, first, second, offset))

    def diag(self, diagonal: int = 0) -> Self:
        """A vector on the diagonal of a matrix of zeros, or the diagonal of a matrix."""
        if self.ndim != 1:
            return self.diagonal(diagonal)
        return self.diag_embed(diagonal)

    def diag_embed(self, offset: int = 0) -> Self:
        """The last axis on the diagonal of two new last axes, zeros elsewhere."""
        n = self.shape[-1]
        square = graph.pad(
            graph.reshape(self._node, (*self.shape, 1)), [*((0, 0) for _ in self.shape), (0, n)]
        )
        # Rows of n + 1 cut at n put element i at place i of row i.
        flat = graph.reshape(square, (*self.shape[:-1], n * (n + 1)))
        whole = compose.part(flat, self.ndim - 1, 0, n * n)
        matrix = graph.reshape(whole, (*self.shape[:-1], n, n))
        below, right = max(0, -offset), max(0, offset)
        edges = [(0, 0)] * (self.ndim - 1)
        return self._wrap(graph.pad(matrix, [*edges, (below, right), (right, below)]))


def _complete(shape: tuple[int, ...], before: Shape) -> Shape:
    known = prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and prod(before) % known == 0:
        shape = tuple(prod(before) // known if n == -1 else n for n in shape)
    if min(shape, default=0) < 0 or prod(shape) != prod(before):
        raise EngineError(
            f"shape {list(before)} does not reshape to {list(shape)}", code="SHAPE_MISMATCH"
        )
    return shape


def _several(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
