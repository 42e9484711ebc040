"""Index, order and contraction: torch's module functions over the tensor methods of that name."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine import compose, contraction, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.scattering import gather_nd as _gather_nd
from flopmarket.engine.scattering import scatter_nd as _scatter_nd
from flopmarket.engine.tensor import Tensor, common_device

gather = Tensor.gather
scatter = Tensor.scatter
scatter_add = Tensor.scatter_add
scatter_reduce = Tensor.scatter_reduce
index_select = Tensor.index_select
index_add = Tensor.index_add
index_copy = Tensor.index_copy
take_along_dim = Tensor.take_along_dim
take = Tensor.take
masked_fill = Tensor.masked_fill
masked_scatter = Tensor.masked_scatter
masked_select = Tensor.masked_select
bincount = Tensor.bincount

sort = Tensor.sort
argsort = Tensor.argsort
topk = Tensor.topk
kthvalue = Tensor.kthvalue
cumsum = Tensor.cumsum
cumprod = Tensor.cumprod
cummax = Tensor.cummax
cummin = Tensor.cummin
logcumsumexp = Tensor.logcumsumexp
argmax = Tensor.argmax
argmin = Tensor.argmin
searchsorted = Tensor.searchsorted

matmul = Tensor.matmul
tensordot = Tensor.tensordot
outer = Tensor.outer
kron = Tensor.kron
cross = Tensor.cross

roll = Tensor.roll
rot90 = Tensor.rot90
tril = Tensor.tril
triu = Tensor.triu
diag = Tensor.diag
diagonal = Tensor.diagonal
repeat_interleave = Tensor.repeat_interleave
tile = Tensor.tile
movedim = Tensor.movedim


def bucketize(x: Tensor, boundaries: Tensor, right: bool = False) -> Tensor:
    """int64: how many of the sorted ``boundaries`` [n] are below each x, or not above it."""
    return boundaries.searchsorted(x, right)


def gather_nd(x: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """x at index tuples [.., D] -> [.., *x.shape[D:]], after ``batch_dims`` shared leading axes."""
    node = _gather_nd(x.node, index.node, batch_dims)
    return Tensor(node, device=common_device(x, index))


def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, reduce: str = "set") -> Tensor:
    """``x`` with the slices at index tuples [.., D] written by ``updates`` [.., *x.shape[D:]].

    ``reduce``: "set" (the last one wins), "sum", "prod", "amax" or "amin".
    """
    values = graph.cast(updates.node, x.dtype)
    node = _scatter_nd(x.node, index.node, values, reduce)
    return Tensor(node, device=common_device(x, index, updates))


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Einstein summation: "ij,jk->ik", with "...", repeated labels and an implicit result.

    Operands are contracted from left to right, in their promoted dtype.
    """
    if not operands:
        raise EngineError("einsum of nothing", code="EINSUM_EQUATION")
    dtype = operands[0].dtype
    for operand in operands[1:]:
        dtype = compose.promote(dtype, operand.dtype)
    nodes = [graph.cast(operand.node, dtype) for operand in operands]
    return Tensor(contraction.einsum(equation, nodes), device=common_device(*operands))


def meshgrid(*tensors: Tensor, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Vectors [N], [M], .. as grids [N, M, ..]; with "xy" the first two axes are exchanged."""
    shape = tuple(tensor.numel() for tensor in tensors)
    grids = [
        tensor.reshape(*(n if at == axis else 1 for at, n in enumerate(shape))).expand(shape)
        for axis, tensor in enumerate(tensors)
    ]
    if indexing == "xy" and len(grids) > 1:
        return tuple(grid.transpose(0, 1) for grid in grids)
    return tuple(grids)


def addmm(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * (a @ b)."""
    return x.addmm(a, b, beta, alpha)


baddbmm = addmm


def norm(
    x: Tensor,
    p: float | str = 2.0,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Tensor:
    """Vector norm, see ``Tensor.norm``."""
    return x.norm(p, dim, keepdim)
