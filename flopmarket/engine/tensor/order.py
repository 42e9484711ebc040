"""Sorting, running folds and places in sorted data."""

from __future__ import annotations

from typing import Self

from flopmarket.engine import compose, graph, ordering, prefix
from flopmarket.engine.dtypes import DType, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.scattering import gather
from flopmarket.engine.tensor.base import TensorBase
from flopmarket.engine.tensor.folds import Extreme
from flopmarket.engine.tensor.indexed import IndexMethods


class OrderMethods(IndexMethods):
    """NaN counts as the largest value, equal values keep their order, positions are int64."""

    __slots__ = ()

    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Self:
        """Positions along ``dim`` that sort it; always stable."""
        return self._wrap(graph.cast(self._order(dim, descending), int64))

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Extreme[Self]:
        """Values along ``dim`` in order, and the positions they come from; always stable."""
        return self._picked(dim, self._order(dim, descending))

    def topk(
        self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
    ) -> Extreme[Self]:
        """The ``k`` largest (or smallest) along ``dim``, in order; of equal ones the first."""
        axis = compose.axis_of(dim, max(1, self.ndim))
        if not 0 <= k <= (self.shape[axis] if self.shape else 1):
            raise EngineError(
                f"{k} elements of an axis of a tensor {list(self.shape)}", code="SHAPE_MISMATCH"
            )
        order = self._order(dim, largest)
        return self._picked(dim, compose.part(order, axis, 0, k) if self.shape else order)

    def kthvalue(self, k: int, dim: int = -1, keepdim: bool = False) -> Extreme[Self]:
        """The ``k``-th smallest along ``dim``, counted from 1, and where it is."""
        values, indices = self.sort(dim)
        axis = compose.axis_of(dim, self.ndim)
        if not 1 <= k <= self.shape[axis]:
            raise EngineError(
                f"no value {k} in an axis of {self.shape[axis]}", code="SHAPE_MISMATCH"
            )
        picked = (t._wrap(compose.part(t.node, axis, k - 1, 1)) for t in (values, indices))
        return Extreme(*(t if keepdim else t.squeeze(axis) for t in picked))

    def median(self, dim: int = -1, keepdim: bool = False) -> Extreme[Self]:
        """The middle value along ``dim`` (the lower of two) and where it is; NaN sorts last."""
        axis = compose.axis_of(dim, self.ndim)
        return self.kthvalue((self.shape[axis] + 1) // 2, dim, keepdim)

    def _order(self, dim: int, descending: bool) -> Node:
        if not self.shape:
            return compose.literal(0, int32, ())
        return ordering.argsort(self._node, compose.axis_of(dim, self.ndim), descending)

    def _picked(self, dim: int, order: Node) -> Extreme[Self]:
        values = self._node
        if self.shape:
            values = gather(values, compose.axis_of(dim, self.ndim), order)
        return Extreme(self._wrap(values), self._wrap(graph.cast(order, int64)))

    # ------------------------------------------------------------ running folds

    def cumsum(
        self,
        dim: int,
        dtype: DType | None = None,
        *,
        exclusive: bool = False,
        reverse: bool = False,
    ) -> Self:
        """Running sum along ``dim`` in the order of ``prefix.py``; bool and integers give int64."""
        x = self._summable(dtype)
        return self._scanned(graph.add, x, dim, 0, exclusive, reverse)

    def cumprod(
        self,
        dim: int,
        dtype: DType | None = None,
        *,
        exclusive: bool = False,
        reverse: bool = False,
    ) -> Self:
        """Running product along ``dim``, as :meth:`cumsum`."""
        x = self._summable(dtype)
        return self._scanned(graph.mul, x, dim, 1, exclusive, reverse)

    def logcumsumexp(self, dim: int) -> Self:
        """log of the running sum of e**x along ``dim``, in float32 (float64 stays)."""
        if not self.shape:
            return self
        axis = compose.axis_of(dim, self.ndim)
        return self._narrowed(prefix.log_sum_exp(self._wide(), axis))

    def cummax(self, dim: int) -> Extreme[Self]:
        """The largest so far along ``dim`` and where it last was; NaN stays."""
        return self._running(dim, largest=True)

    def cummin(self, dim: int) -> Extreme[Self]:
        """The smallest so far along ``dim`` and where it last was; NaN stays."""
        return self._running(dim, largest=False)

    def _running(self, dim: int, largest: bool) -> Extreme[Self]:
        if not self.shape:
            return self._picked(dim, compose.literal(0, int32, ()))
        axis = compose.axis_of(dim, self.ndim)
        return self._picked(dim, ordering.running_extreme(self._node, axis, largest))

    def _summable(self, dtype: DType | None) -> Node:
        return graph.cast(self._node, dtype or (self.dtype if self.dtype.is_float else int64))

    def _scanned(
        self,
        operator: prefix.Operator,
        x: Node,
        dim: int,
        neutral: int,
        exclusive: bool,
        reverse: bool,
    ) -> Self:
        shape = x.shape
        if not shape:
            x = graph.reshape(x, (1,))
        axis = compose.axis_of(dim, len(x.shape))
        result = prefix.scan(operator, x, axis, neutral, exclusive, reverse)
        return self._wrap(graph.reshape(result, shape))

    # ------------------------------------------------------------ places

    def searchsorted(self, values: TensorBase, right: bool = False) -> Self:
        """For ``values`` [.., m]: how many elements of this sorted tensor [.., n] (or [n], for
        values of any shape) are below each, or with ``right`` not above it; int64.

        NaN belongs after everything.
        """
        dtype = compose.promote(self.dtype, values.dtype)
        edges, wanted = graph.cast(self._node, dtype), graph.cast(values.node, dtype)
        shape = wanted.shape
        if len(edges.shape) == 1:
            wanted = graph.reshape(wanted, (wanted.elements,))
        if not edges.shape or edges.shape[:-1] != wanted.shape[:-1]:
            raise EngineError(
                f"searching {list(self.shape)} for {list(shape)}", code="SHAPE_MISMATCH"
            )
        found = ordering.count_below(edges, wanted, right)
        return self._wrap(graph.cast(graph.reshape(found, shape), int64), values)
