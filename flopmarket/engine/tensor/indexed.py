"""Reading and writing by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from flopmarket.engine import arithmetic, compose, dtypes, graph, indexing, prefix, scattering
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor.base import Operand, TensorBase, without
from flopmarket.engine.tensor.products import ProductMethods


class IndexMethods(ProductMethods):
    """``tensor[...]`` and gathers."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Self]:
        return (self[at] for at in range(len(self)))

    def __getitem__(self, index: Any) -> Self:
        given = index if isinstance(index, tuple) else (index,)
        return self._wrap(indexing.take(self._node, [_index_item(item) for item in given]))

    def gather_rows(self, index: TensorBase, dim: int = 0) -> Self:
        """``index_select`` for an index of any shape: computed indices are clamped into range."""
        axis = compose.axis_of(dim, self.ndim)
        return self._wrap(graph.gather(self._node, graph.cast(index.node, int32), axis))

    # ------------------------------------------------------------ torch's index functions

    def gather(self, dim: int, index: TensorBase) -> Self:
        """result[.., i, ..] = self[.., index[.., i, ..], ..] along ``dim``; index's shape."""
        axis = compose.axis_of(dim, max(1, self.ndim))
        return self._wrap(scattering.gather(self._node, axis, index.node), index)

    def take_along_dim(self, index: TensorBase, dim: int | None = None) -> Self:
        """:meth:`gather` after broadcasting the other axes; None means the flat tensor."""
        if dim is None:
            return self.flatten().gather(
                0, index._wrap(graph.reshape(index.node, (index.numel(),)))
            )
        axis = compose.axis_of(dim, self.ndim)
        others = compose.broadcast_shapes(
            without(self.shape, (axis,)), without(index.shape, (axis,))
        )

        def under(node: Node) -> Node:
            return compose.broadcast_to(node, (*others[:axis], node.shape[axis], *others[axis:]))

        picked = scattering.gather(under(self._node), axis, under(index.node))
        return self._wrap(picked, index)

    def take(self, index: TensorBase) -> Self:
        """Elements of the flat tensor; the shape of ``index``."""
        flat = graph.reshape(index.node, (index.numel(),))
        return self._wrap(
            graph.reshape(scattering.gather(self.flatten().node, 0, flat), index.shape), index
        )

    def index_select(self, dim: int, index: TensorBase) -> Self:
        """Slices ``index`` [U] of ``dim``."""
        axis = compose.axis_of(dim, self.ndim)
        places = scattering.wrapped(index.node, self.shape[axis])
        if len(places.shape) > 1:
            raise EngineError(f"an index {list(places.shape)} is not flat", code="SHAPE_MISMATCH")
        return self._wrap(
            graph.gather(self._node, graph.reshape(places, (places.elements,)), axis), index
        )

    def scatter(self, dim: int, index: TensorBase, src: Operand) -> Self:
        """With self[.., index[.., i, ..], ..] = src[.., i, ..] along ``dim``; the last one wins."""
        return self._written("set", dim, index, src)

    def scatter_add(self, dim: int, index: TensorBase, src: Operand) -> Self:
        """With src[.., i, ..] added at self[.., index[.., i, ..], ..], in row-major order."""
        return self._written("add", dim, index, src)

    def _written(self, kind: str, dim: int, index: TensorBase, src: Operand) -> Self:
        axis = compose.axis_of(dim, max(1, self.ndim))
        node = scattering.scatter(
            kind, self._node, axis, index.node, self._source(src, index.shape)
        )
        return self._wrap(node, index)

    def _source(self, src: Operand, shape: tuple[int, ...]) -> Node:
        if isinstance(src, TensorBase):
            return graph.cast(src.node, self.dtype)
        return compose.literal(src, self.dtype, shape)

    def scatter_reduce(
        self,
        dim: int,
        index: TensorBase,
        src: TensorBase,
        reduce: str,
        *,
        include_self: bool = True,
    ) -> Self:
        """:meth:`scatter` with "sum", "prod", "mean", "amax" or "amin" of what meets.

        Without ``include_self`` an element that something meets does not count itself.
        """
        axis = compose.axis_of(dim, max(1, self.ndim))
        source = self._source(src, index.shape)
        return self._wrap(
            scattering.scatter_reduce(self._node, axis, index.node, source, reduce, include_self),
            index,
        )

    def index_add(self, dim: int, index: TensorBase, source: TensorBase, alpha: Scalar = 1) -> Self:
        """With slices ``index`` [U] of ``dim`` increased by ``alpha`` times those of ``source``."""
        scaled = source if alpha == 1 else source._binary(alpha, arithmetic.mul)
        return self._rows("add", dim, index, scaled)

    def index_copy(self, dim: int, index: TensorBase, source: TensorBase) -> Self:
        """With slices ``index`` [U] of ``dim`` exchanged for those of ``source``."""
        return self._rows("set", dim, index, source)

    def _rows(self, kind: str, dim: int, index: TensorBase, source: TensorBase) -> Self:
        axis = compose.axis_of(dim, self.ndim)
        rows = graph.cast(source.node, self.dtype)
        return self._wrap(
            scattering.index_write(kind, self._node, axis, index.node, rows), index, source
        )

    def masked_scatter(self, mask: TensorBase, source: TensorBase) -> Self:
        """With the elements of ``source``, in row-major order, where ``mask`` holds."""
        chosen = compose.broadcast_to(mask.node, self.shape)
        flat = graph.cast(graph.reshape(chosen, (self.numel(),)), int32)
        order = prefix.scan(graph.add, flat, 0, 0, True, False)
        taken = graph.gather(
            graph.reshape(graph.cast(source.node, self.dtype), (source.numel(),)), order, 0
        )
        picked = graph.where(chosen, graph.reshape(taken, self.shape), self._node)
        return self._wrap(picked, mask, source)

    def bincount(self, length: int, weights: TensorBase | None = None) -> Self:
        """How often each of 0..length-1 occurs in these integers [N], or the sum of its weights.

        torch finds the length in the data; here it is given, and what lies beyond is not counted.
        """
        if self.ndim != 1 or not self.dtype.is_integer:
            raise EngineError(f"bincount of {self!r}", code="INDEX_KIND", hint="integers [N]")
        amounts = compose.literal(1, int64, self.shape) if weights is None else weights.node
        zeros = compose.literal(0, amounts.dtype, (length,))
        index = self._node if self.dtype.size_bytes >= 4 else graph.cast(self._node, int32)
        return self._wrap(graph.scatter("add", zeros, index, amounts), *_given(weights))

    def masked_select(self, mask: TensorBase) -> Self:
        """Refused: how many elements there are is known only when the program runs."""
        raise _dynamic("masked_select", "use where, or masked sums")

    def nonzero(self) -> Self:
        """Refused, as :meth:`masked_select`."""
        raise _dynamic("nonzero", "use where, or topk of the mask")

    def unique(self) -> Self:
        """Refused, as :meth:`masked_select`."""
        raise _dynamic("unique", "sort, and compare neighbours")


def _given(tensor: TensorBase | None) -> tuple[TensorBase, ...]:
    return () if tensor is None else (tensor,)


def _dynamic(what: str, hint: str) -> EngineError:
    return EngineError(f"the shape of {what} depends on the data", code="DATA_DEPENDENT", hint=hint)


def _index_item(item: Any) -> indexing.Item:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, TensorBase):
        return item.node
    if isinstance(item, bool):
        raise EngineError("a bool is not an index here", code="INDEX_KIND")
    if isinstance(item, int | np.integer):
        return int(item)
    array = compose.as_array(item, None)
    if array.size == 0:
        array = array.astype(np.int64)
    return graph.const(array, dtypes.from_numpy(array.dtype), array.shape)
