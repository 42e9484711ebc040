"""What tells an attention where a token stands: rotary embeddings and linear biases (ALiBi)."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.creation import cat
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor


def rotary_tables(positions: Tensor, width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """(cos, sin) [.., width / 2] of positions [..] times base^(-2 i / width), in float32.

    J. Su et al., "RoFormer: Enhanced transformer with rotary position embedding", 2021.
    """
    if width % 2:
        raise EngineError(f"a rotary embedding of {width} features", code="SHAPE_MISMATCH")
    steps = [base ** (-2.0 * at / width) for at in range(width // 2)]
    frequencies = Tensor(graph.const(steps, float32, (width // 2,)))
    angles = positions.float().unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """x [.., L, D] with its first 2 W features turned by tables [.., L, W]; the rest stays.

    Feature i pairs with i + W, or with ``interleaved`` 2 i with 2 i + 1.
    """
    pairs = cos.shape[-1]
    if 2 * pairs > x.shape[-1] or cos.shape != sin.shape:
        raise EngineError(
            f"tables {list(cos.shape)} and {list(sin.shape)} for {list(x.shape)}",
            code="SHAPE_MISMATCH",
        )
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        split = turned.unflatten(-1, (pairs, 2))
        a, b = split[..., 0], split[..., 1]
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
    first, second = a * cos - b * sin, b * cos + a * sin
    if interleaved:
        joined = cat([first.unsqueeze(-1), second.unsqueeze(-1)], -1).flatten(-2)
    else:
        joined = cat([first, second], -1)
    joined = joined.to(x.dtype)
    return cat([joined, rest], -1) if rest.shape[-1] else joined


def alibi_bias(num_heads: int, queries: int, keys: int) -> Tensor:
    """float32 [num_heads, queries, keys] to add to scores: minus slope times the distance back.

    The last query stands at the last key. Slopes are those of O. Press et al., "Train short, test
    long", 2022, for numbers of heads that are no power of two as well.
    """
    whole = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (at + 1) / whole) for at in range(whole)]
    slopes += [2.0 ** (-4.0 * (at + 1) / whole) for at in range(0, 2 * (num_heads - whole), 2)]
    place = Tensor(graph.iota(1, (queries, keys)))
    own = Tensor(graph.iota(0, (queries, keys))) + (keys - queries)
    distance = (place - own).float()
    return Tensor(graph.const(slopes, float32, (num_heads,))).reshape(-1, 1, 1) * distance
