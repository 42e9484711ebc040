"""Linear and bilinear maps, and rows of a table looked up by index, with torch's arguments."""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.creation import where
from flopmarket.engine.dtypes import DType, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [.., in] times weight [out, in] transposed, plus bias [out] -> [.., out]."""
    result = x.matmul(weight.T)
    return result if bias is None else result + bias


def bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """a [.., I], b [.., J], weight [O, I, J], bias [O] -> [.., O]: sum of a_i * w_oij * b_j."""
    out, first, second = weight.shape if weight.ndim == 3 else (0, 0, 0)
    if weight.ndim != 3 or a.shape[-1:] != (first,) or b.shape != (*a.shape[:-1], second):
        raise EngineError(
            f"bilinear of {list(a.shape)} and {list(b.shape)} with weight {list(weight.shape)}",
            code="SHAPE_MISMATCH",
            hint="a is [.., I], b is [.., J], weight is [O, I, J]",
        )
    middle = a.matmul(weight.permute(1, 0, 2).reshape(first, out * second))
    middle = middle.reshape(*a.shape[:-1], out, second)
    result = middle.matmul(b.unsqueeze(-1)).squeeze(-1)
    return result if bias is None else result + bias


def embedding(index: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of weight [V, D] by an integer index of any shape -> [.., D].

    Computed indices are clamped into 0..V-1. Row ``padding_idx`` gets no derivative.
    """
    if weight.ndim != 2 or not index.dtype.is_integer:
        raise EngineError(
            f"embedding of {index.dtype}{list(index.shape)} in {list(weight.shape)}",
            code="SHAPE_MISMATCH",
            hint="an integer index and a weight [V, D]",
        )
    rows = weight.gather_rows(index)
    if padding_idx is None:
        return rows
    kept = (index == padding_idx % weight.shape[0]).unsqueeze(-1)
    return where(kept, rows.detach(), rows)


def embedding_bag(
    index: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    padding_idx: int | None = None,
) -> Tensor:
    """Rows of weight [V, D] folded bag by bag -> [B, D]; ``mode`` is 'sum', 'mean' or 'max'.

    ``index`` is [B, L], a bag a row, or [N] with ``offsets`` [B], where each bag begins, ascending
    from 0. Entries equal to ``padding_idx`` do not count. ``per_sample_weights``, of the index's
    shape, multiply the rows of a 'sum'. An empty bag gives zeros. Raises EngineError.
    """
    if mode not in ("sum", "mean", "max") or (per_sample_weights is not None and mode != "sum"):
        raise EngineError(
            f"embedding_bag mode {mode!r}: sum, mean or max, weights with sum only",
            code="REDUCTION_UNKNOWN",
        )
    if index.ndim != (2 if offsets is None else 1):
        raise EngineError(
            f"embedding_bag of {list(index.shape)}: [B, L], or [N] with offsets",
            code="SHAPE_MISMATCH",
        )
    if offsets is None:
        count = index.shape[0]
        bag = Tensor(graph.iota(0, index.shape), device=index.device).reshape(-1)
    else:
        count = offsets.shape[0]
        places = Tensor(graph.iota(0, index.shape), device=index.device)
        begun = offsets.to(int32).reshape(1, -1) <= places.reshape(-1, 1)
        bag = begun.to(int32).sum(1).to(int32) - 1
    flat = index.reshape(-1)
    rows = embedding(flat, weight, padding_idx)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    counted = flat == flat if padding_idx is None else flat != padding_idx % weight.shape[0]
    members = (bag.reshape(1, -1) == Tensor(graph.iota(0, (count, 1)))) & counted.reshape(1, -1)
    if mode == "max":
        spread = rows.unsqueeze(0).expand(count, *rows.shape)
        kept = spread.masked_fill(~members.unsqueeze(-1), float("-inf")).amax(1)
        return kept.masked_fill(~members.any(1, keepdim=True), 0.0)
    # A row of no bag goes to no bag: scatter drops what is out of range.
    place = where(counted, bag, -1)
    zeros = compose.literal(0, rows.dtype, (count, rows.shape[1]))
    total = Tensor(
        graph.scatter("add", zeros, place.node, rows.node), device=common_device(index, weight)
    )
    if mode == "sum":
        return total
    sizes = members.to(int32).sum(1, keepdim=True).to(total.dtype)
    return total / sizes.clamp(min=1.0)


def one_hot(index: Tensor, num_classes: int, dtype: DType = int64) -> Tensor:
    """Integers [..] -> [.., num_classes], 1 at the index; all 0 where it is out of range."""
    return Tensor(one_hot_mask(index.node, num_classes), device=index.device).to(dtype)


def one_hot_mask(index: Node, classes: int) -> Node:
    """bool [.., classes], true at the index."""
    if not index.dtype.is_integer:
        raise EngineError(f"labels are integers, not {index.dtype}", code="DTYPE_MISMATCH")
    shape = (*index.shape, classes)
    wide = graph.expand(graph.reshape(index, (*index.shape, 1)), shape)
    known = index.dtype if index.dtype.size_bytes >= 4 else int32
    return graph.cmp("eq", graph.cast(wide, known), graph.iota(len(shape) - 1, shape, known))
