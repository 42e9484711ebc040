"""What the spatial functions share: one number or one per axis, borders, and optional batches."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine import dtypes, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Lengths = int | Sequence[int]
"""One number for every spatial axis, or one for each."""

Border = tuple[int, int]
"""Elements added before and after an axis."""

Padding = int | str | Sequence[int] | Sequence[Border]
"""A border for all axes, one per axis, a (before, after) pair per axis, 'same' or 'valid'."""


def per_axis(value: Lengths, dims: int, name: str, least: int = 1) -> tuple[int, ...]:
    """``value`` for each of ``dims`` axes, none below ``least``; raises EngineError."""
    given = (value,) * dims if isinstance(value, int) else tuple(int(v) for v in value)
    if len(given) == 1:
        given *= dims
    if len(given) != dims or min(given, default=least) < least:
        raise EngineError(
            f"{name} {value} for {dims} axes: one number or {dims}, at least {least}",
            code="SHAPE_MISMATCH",
        )
    return given


def borders(
    padding: Padding,
    dims: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[Border, ...]:
    """(before, after) of every spatial axis; raises EngineError (SHAPE_MISMATCH).

    'same' keeps the lengths of a stride of 1, the odd element behind, as in torch.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * dims
        if padding != "same" or any(stride != 1 for stride in strides):
            raise EngineError(
                f"padding {padding!r} with strides {list(strides)}",
                code="SHAPE_MISMATCH",
                hint="numbers, 'valid', or 'same' with a stride of 1",
            )
        totals = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if not isinstance(padding, int) and any(not isinstance(p, int) for p in padding):
        pairs = tuple((int(p[0]), int(p[1])) for p in padding if not isinstance(p, int))
        if len(pairs) != dims or len(padding) != dims or min(map(min, pairs), default=0) < 0:
            raise EngineError(
                f"padding {list(padding)}: {dims} pairs (before, after), none negative",
                code="SHAPE_MISMATCH",
            )
        return pairs
    numbers = padding if isinstance(padding, int) else [p for p in padding if isinstance(p, int)]
    return tuple((p, p) for p in per_axis(numbers, dims, "padding", least=0))


def batched(x: Tensor, dims: int, function: str) -> Tensor:
    """[N, C, *S] as it is, [C, *S] with a batch of 1; raises EngineError (SHAPE_MISMATCH)."""
    if x.ndim == dims + 1:
        return x.unsqueeze(0)
    if x.ndim != dims + 2:
        raise EngineError(
            f"{function} wants [N, C] and {dims} spatial axes, not {list(x.shape)}",
            code="SHAPE_MISMATCH",
        )
    return x


def unbatched(result: Tensor, x: Tensor) -> Tensor:
    """``result`` without its first axis if ``x`` came without one."""
    return result.reshape(*result.shape[1:]) if result.ndim == x.ndim + 1 else result


def pad_spatial(x: Node, amounts: Sequence[Border]) -> Node:
    """[N, C, *S] with zeros around the spatial axes."""
    return graph.pad(x, [(0, 0), (0, 0), *amounts])


def check_reach(lengths: Sequence[int], kernel: Sequence[int], dilations: Sequence[int]) -> None:
    """Raise EngineError unless a kernel fits into padded ``lengths``."""
    for n, k, d in zip(lengths, kernel, dilations, strict=True):
        if k < 1 or (k - 1) * d + 1 > n:
            raise EngineError(
                f"a kernel of {list(kernel)} (dilation {list(dilations)}) does not fit in the "
                f"padded lengths {list(lengths)}",
                code="SHAPE_MISMATCH",
            )


def working_dtype(x: DType) -> DType:
    """What sums and functions over values of dtype ``x`` are computed in: float64 stays, all other
    dtypes go to float32."""
    return x if x is dtypes.float64 else dtypes.float32


def result_dtype(x: DType) -> DType:
    """What a function of analysis gives back for ``x``: floats keep their dtype."""
    return x if x.is_float else dtypes.float32
