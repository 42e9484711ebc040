"""Folds over axes: sums, moments, extremes and where they are."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Self, TypeVar

from flopmarket.engine import compose, graph, ordering
from flopmarket.engine.dtypes import int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor.base import Axes, TensorBase, without
from flopmarket.engine.tensor.elementary import ElementaryMethods

T = TypeVar("T", bound=TensorBase)


class Extreme(NamedTuple, Generic[T]):
    """What ``max`` and ``min`` along one axis give: values and int64 positions of the first."""

    values: T
    indices: T


class FoldMethods(ElementaryMethods):
    """What takes axes away."""

    __slots__ = ()

    def sum(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Sum over ``dim``; bool and integers give int64."""
        x = self._node if self.dtype.is_float else graph.cast(self._node, int64)
        return self._wrap(compose.fold("sum", x, compose.axes_of(dim, self.ndim), keepdim))

    def prod(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Product over ``dim``; bool and integers give int64."""
        x = self._node if self.dtype.is_float else graph.cast(self._node, int64)
        return self._wrap(compose.fold("prod", x, compose.axes_of(dim, self.ndim), keepdim))

    def mean(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Mean over ``dim`` (float)."""
        return self._narrowed(compose.mean(self._wide(), compose.axes_of(dim, self.ndim), keepdim))

    def var(self, dim: Axes = None, correction: int = 1, keepdim: bool = False) -> Self:
        """Variance over ``dim``, by count - ``correction`` (1: unbiased, torch's default)."""
        axes = compose.axes_of(dim, self.ndim)
        return self._narrowed(compose.spread(self._wide(), axes, correction, keepdim))

    def std(self, dim: Axes = None, correction: int = 1, keepdim: bool = False) -> Self:
        """Square root of :meth:`var`."""
        return self.var(dim, correction, keepdim).sqrt()

    def var_mean(
        self, dim: Axes = None, correction: int = 1, keepdim: bool = False
    ) -> tuple[Self, Self]:
        """:meth:`var` and :meth:`mean`."""
        return self.var(dim, correction, keepdim), self.mean(dim, keepdim)

    def std_mean(
        self, dim: Axes = None, correction: int = 1, keepdim: bool = False
    ) -> tuple[Self, Self]:
        """:meth:`std` and :meth:`mean`."""
        return self.std(dim, correction, keepdim), self.mean(dim, keepdim)

    def norm(self, p: float | str = 2.0, dim: Axes = None, keepdim: bool = False) -> Self:
        """Vector norm over ``dim``: ``p`` is any number or "fro" (2); its derivative is 0
        where a 2-norm is 0. Raises EngineError (NORM_ORDER)."""
        size = self.float().abs() if not self.dtype.is_float else self.abs()
        if p in (2, "fro"):
            x, axes = self._wide(), compose.axes_of(dim, self.ndim)
            total = graph.reduce("sumprod", x, axes, x)
            zero = graph.cmp("eq", total, compose.like(0.0, total))
            root = graph.sqrt(graph.where(zero, compose.like(1.0, total), total))
            root = graph.where(zero, compose.like(0.0, total), root)
            return self._narrowed(compose.keep_axes(root, axes, self.shape) if keepdim else root)
        if p == 1:
            return size.sum(dim, keepdim)
        if p == 0:
            return self._wrap(graph.cast(self.bool().node, size.dtype)).sum(dim, keepdim)
        if p in (float("inf"), float("-inf")):
            return size.amax(dim, keepdim) if p == float("inf") else size.amin(dim, keepdim)
        if isinstance(p, str):
            raise EngineError(f"no norm of order {p!r}", code="NORM_ORDER")
        return (size**p).sum(dim, keepdim) ** (1.0 / p)

    def count_nonzero(self, dim: Axes = None) -> Self:
        """int64 number of elements that are not zero."""
        return self.bool().sum(dim)

    def amax(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Largest value over ``dim``; the derivative goes to the first largest element."""
        return self._wrap(compose.fold("max", self._node, compose.axes_of(dim, self.ndim), keepdim))

    def amin(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Smallest value over ``dim``; the derivative goes to the first smallest element."""
        return self._wrap(compose.fold("min", self._node, compose.axes_of(dim, self.ndim), keepdim))

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Largest of all as a Tensor, or along ``dim`` an :class:`Extreme` (values, indices)."""
        if dim is None:
            return self.amax()
        return Extreme(self.amax(dim, keepdim), self.argmax(dim, keepdim))

    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Smallest of all as a Tensor, or along ``dim`` an :class:`Extreme` (values, indices)."""
        if dim is None:
            return self.amin()
        return Extreme(self.amin(dim, keepdim), self.argmin(dim, keepdim))

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Self:
        """int64 position of the first largest element (or NaN) along ``dim``, or of all."""
        return self._position("max", dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Self:
        """int64 position of the first smallest element (or NaN) along ``dim``, or of all."""
        return self._position("min", dim, keepdim)

    def _position(self, kind: str, dim: int | None, keep: bool) -> Self:
        axes = compose.axes_of(dim, self.ndim)
        if not axes:
            return self._wrap(compose.literal(0, int64, ()))
        index = ordering.extreme_position(self._node, axes, largest=kind == "max")
        shape = index.shape if keep else without(self.shape, axes)
        return self._wrap(graph.cast(graph.reshape(index, shape), int64))

    def aminmax(self, dim: Axes = None, keepdim: bool = False) -> tuple[Self, Self]:
        """Smallest and largest over ``dim``."""
        return self.amin(dim, keepdim), self.amax(dim, keepdim)

    def any(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Whether any element is not zero."""
        return self.bool().amax(dim, keepdim)

    def all(self, dim: Axes = None, keepdim: bool = False) -> Self:
        """Whether no element is zero."""
        return self.bool().amin(dim, keepdim)
