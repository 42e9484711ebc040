"""Linear maps, convolution, pooling, lookup and dropout, with torch's shapes and arguments."""

from __future__ import annotations

from flopmarket.engine import compose, convolution, graph, random
from flopmarket.engine.dtypes import DType, float32, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device

Pair = int | tuple[int, int]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [.., in] times weight [out, in] transposed, plus bias [out] -> [.., out]."""
    result = x.matmul(weight.T)
    return result if bias is None else result + bias


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """x [N, C, H, W] with weight [O, C/groups, KH, KW] and bias [O] -> [N, O, OH, OW].

    Taps in the padding count as zeros times the weight. The sum runs over (channel, kernel row,
    kernel column). Raises EngineError (SHAPE_MISMATCH).
    """
    if x.ndim != 4 or weight.ndim != 4 or groups < 1 or x.shape[1] != weight.shape[1] * groups:
        raise EngineError(
            f"conv2d of {list(x.shape)} with weight {list(weight.shape)} in {groups} groups",
            code="SHAPE_MISMATCH",
            hint="x is [N, C, H, W], weight is [O, C/groups, KH, KW]",
        )
    if weight.shape[0] % groups:
        raise EngineError(
            f"{weight.shape[0]} output channels do not divide into {groups} groups",
            code="SHAPE_MISMATCH",
        )
    padded = _pad_image(x.node, _pair(padding))
    steps, spacing = _pair(stride), _pair(dilation)
    _check_reach(padded, (weight.shape[2], weight.shape[3]), spacing)
    device = common_device(x, weight)
    result = Tensor(convolution.forward(padded, weight.node, steps, spacing, groups), device=device)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


def max_pool2d(
    x: Tensor, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Tensor:
    """Largest of every window of [N, C, H, W]; padding counts as -inf. Only whole windows.

    The derivative goes to the first largest element of a window.
    """
    return _pool("max", x, kernel_size, stride, padding, float("-inf"))


def avg_pool2d(
    x: Tensor, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Tensor:
    """Mean of every window of [N, C, H, W]; padding counts as zeros. Only whole windows."""
    size = _pair(kernel_size)
    return _pool("sum", x, size, stride, padding, 0.0) / float(size[0] * size[1])


def _pool(
    kind: str, x: Tensor, kernel_size: Pair, stride: Pair | None, padding: Pair, fill: float
) -> Tensor:
    if x.ndim != 4:
        raise EngineError(f"pooling wants [N, C, H, W], not {list(x.shape)}", code="SHAPE_MISMATCH")
    size, border = _pair(kernel_size), _pair(padding)
    steps = size if stride is None else _pair(stride)
    filled = x.pad((border[1], border[1], border[0], border[0]), fill).node
    _check_reach(filled, size, (1, 1))
    if steps == size:  # windows that tile are a reshape, whose derivative is one too
        batch, channels, height, width = filled.shape
        down, across = height // size[0], width // size[1]
        whole = compose.part(filled, 2, 0, down * size[0])
        whole = compose.part(whole, 3, 0, across * size[1])
        tiles = graph.reshape(whole, (batch, channels, down, size[0], across, size[1]))
        return Tensor(graph.reduce(kind, tiles, (3, 5)), device=x.device)
    taps = graph.window(filled, [(2, size[0], steps[0], 1), (3, size[1], steps[1], 1)])
    return Tensor(graph.reduce(kind, taps, (4, 5)), device=x.device)


def embedding(index: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, D] by an integer index of any shape -> [.., D].

    Computed indices are clamped into 0..V-1.
    """
    if weight.ndim != 2 or not index.dtype.is_integer:
        raise EngineError(
            f"embedding of {index.dtype}{list(index.shape)} in {list(weight.shape)}",
            code="SHAPE_MISMATCH",
            hint="an integer index and a weight [V, D]",
        )
    return weight.gather_rows(index)


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


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeros with probability ``p``, the rest scaled by 1 / (1 - p); the identity in evaluation.

    Draws from the running random scope (a trace has one). Raises EngineError (RANDOM_SCOPE,
    DROPOUT_RANGE).
    """
    if not 0.0 <= p <= 1.0:
        raise EngineError(f"dropout probability {p} is not in 0..1", code="DROPOUT_RANGE")
    if not training or p == 0.0:
        return x
    seed, step, ordinal = random.draw()
    if p == 1.0:
        return x * 0.0
    mask = random.keep_mask(seed, step, ordinal, x.shape, 1.0 - p)
    scaled = graph.mul(graph.cast(x.node, float32), compose.literal(1 / (1 - p), float32, x.shape))
    return Tensor(graph.where(mask, scaled, compose.like(0.0, scaled)), device=x.device)


def _pad_image(x: Node, border: tuple[int, int]) -> Node:
    (rows, columns) = border
    if rows < 0 or columns < 0:
        raise EngineError(f"padding {border} is negative", code="SHAPE_MISMATCH")
    return graph.pad(x, [(0, 0), (0, 0), (rows, rows), (columns, columns)])


def _check_reach(x: Node, size: tuple[int, int], dilation: tuple[int, int]) -> None:
    for n, k, d in zip(x.shape[2:], size, dilation, strict=True):
        if k < 1 or (k - 1) * d + 1 > n:
            raise EngineError(
                f"a kernel of {list(size)} (dilation {list(dilation)}) does not fit in the padded "
                f"image {list(x.shape)}",
                code="SHAPE_MISMATCH",
            )


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
