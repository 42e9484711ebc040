"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Self

from flopmarket.engine import compose, contraction, graph
from flopmarket.engine.compose import Scalar
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor.base import TensorBase
from flopmarket.engine.tensor.folds import FoldMethods


class ProductMethods(FoldMethods):
    """What contracts axes of two tensors."""

    __slots__ = ()

    def __matmul__(self, other: TensorBase) -> Self:
        return self.matmul(other)

    def matmul(self, other: TensorBase) -> Self:
        """torch's matmul: vectors, matrices, and batches that broadcast.

        Two 16-bit floats of one dtype give that dtype, accumulated in float32 and rounded once;
        narrow integers, mixed or not, give int32, or int64 where int32 could overflow; other
        integers wrap.
        """
        return self._wrap(contraction.matmul(self._node, other.node), other)

    def __rmatmul__(self, other: Any) -> Self:
        return type(self)(other).matmul(self)

    mm = bmm = mv = matmul

    def dot(self, other: TensorBase) -> Self:
        """Sum of products of two vectors [N]."""
        if self.ndim != 1 or other.ndim != 1:
            raise EngineError(
                f"dot of {list(self.shape)} and {list(other.shape)}", code="SHAPE_MISMATCH"
            )
        return self.matmul(other)

    def outer(self, other: TensorBase) -> Self:
        """[N], [M] -> [N, M]."""
        return self.reshape(-1, 1) * other._wrap(graph.reshape(other.node, (1, other.numel())))

    def tensordot(
        self, other: TensorBase, dims: int | tuple[Sequence[int], Sequence[int]] = 2
    ) -> Self:
        """Summed over the last ``dims`` axes of this and the first of ``other``, or over pairs."""
        if isinstance(dims, int):
            left, right = list(range(self.ndim - dims, self.ndim)), list(range(dims))
        else:
            left = [compose.axis_of(axis, self.ndim) for axis in dims[0]]
            right = [compose.axis_of(axis, other.ndim) for axis in dims[1]]
        rows = [axis for axis in range(self.ndim) if axis not in left]
        columns = [axis for axis in range(other.ndim) if axis not in right]
        if [self.shape[axis] for axis in left] != [other.shape[axis] for axis in right]:
            raise EngineError(
                f"tensordot of {list(self.shape)} and {list(other.shape)} over {dims}",
                code="SHAPE_MISMATCH",
            )
        outer = tuple(self.shape[axis] for axis in rows)
        inner = tuple(other.shape[axis] for axis in columns)
        terms = prod(self.shape[axis] for axis in left)
        a = graph.reshape(graph.permute(self._node, [*rows, *left]), (prod(outer), terms))
        b = graph.reshape(graph.permute(other.node, [*right, *columns]), (terms, prod(inner)))
        return self._wrap(graph.reshape(contraction.matmul(a, b), (*outer, *inner)), other)

    def addmm(self, a: TensorBase, b: TensorBase, beta: Scalar = 1, alpha: Scalar = 1) -> Self:
        """beta * self + alpha * (a @ b)."""
        product = self._wrap(contraction.matmul(a.node, b.node), a, b)
        scaled = product if alpha == 1 else product * alpha
        return scaled if beta == 0 else scaled + (self if beta == 1 else self * beta)

    baddbmm = addmv = addmm

    def kron(self, other: TensorBase) -> Self:
        """Every element of this times the whole of ``other``, as one tensor of blocks."""
        rank = max(self.ndim, other.ndim)
        a = (*(1,) * (rank - self.ndim), *self.shape)
        b = (*(1,) * (rank - other.ndim), *other.shape)
        left = self.reshape(*(n for length in a for n in (length, 1)))
        right = graph.reshape(other.node, tuple(n for length in b for n in (1, length)))
        blocks = left * other._wrap(right)
        return blocks.reshape(*(n * m for n, m in zip(a, b, strict=True)))

    def cross(self, other: TensorBase, dim: int = -1) -> Self:
        """Cross product along ``dim`` of length 3."""
        a, b, device = self._pair(other)
        axis = compose.axis_of(dim, len(a.shape))
        if a.shape[axis] != 3:
            raise EngineError(f"cross along an axis of {a.shape[axis]}", code="SHAPE_MISMATCH")
        x, y, z = (compose.part(a, axis, at, 1) for at in range(3))
        u, v, w = (compose.part(b, axis, at, 1) for at in range(3))
        parts = [
            compose.subtract(graph.mul(p, q), graph.mul(r, s))
            for p, q, r, s in ((y, w, z, v), (z, u, x, w), (x, v, y, u))
        ]
        return type(self)(graph.concat(parts, axis), device=device)
