"""Scaled dot-product attention, its masks and heads; exact for any split into prefill and decode.

A row of queries sees a number of leading keys, its *length*. Scores beyond it become -inf, which
adds +0 to the sum of exponentials, and the product with the values skips those terms, whatever they
hold. So an output depends on the keys it may see and on nothing else: not on how long the key
tensor is, what lies in its unused part, or which other queries are computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from flopmarket.engine import compose, graph
from flopmarket.engine.analytic import apply
from flopmarket.engine.compose import like, literal
from flopmarket.engine.dtypes import bool_, float32, float64, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.dropouts import dropout
from flopmarket.engine.functional.layers import linear
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.tensor import Tensor, common_device

Modifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Attended:
    """What an attention gives: ``output`` [.., H, L, Ev], and ``weights``, ``scores`` (before
    masks and softcap), ``masked`` (what the softmax sees), each [.., H, L, S], float32 or
    float64."""

    output: Tensor
    weights: Tensor
    scores: Tensor
    masked: Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    key_length: Tensor | None = None,
) -> Tensor:
    """softmax(query key^T scale + mask) value.

    query [.., H, L, E], key [.., H, S, E], value [.., H, S, Ev] -> [.., H, L, Ev] in the query's
    dtype. ``attn_mask`` broadcasts to [.., H, L, S]: bool (True takes part) or float (added).
    ``is_causal``: query i sees the first i + 1 keys. ``key_length``, integers that broadcast to
    [.., H, L]: query i sees that many keys; with ``is_causal`` too, the fewer. ``scale`` is
    1 / sqrt(E). ``enable_gqa``: key and value have fewer heads, each shared by as many neighbouring
    query heads. A query that sees nothing gives zeros. float64 goes with float64 alone.
    """
    return attend(
        query,
        key,
        value,
        attn_mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        key_length=key_length,
    ).output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    key_length: Tensor | None = None,
    softcap: float = 0.0,
    score_mod: Modifier | None = None,
    weight_mod: Modifier | None = None,
) -> Attended:
    """:func:`scaled_dot_product_attention` with everything on the way to its result.

    ``softcap`` c > 0 bounds the scores: c * tanh(score / c), before the mask. ``score_mod`` changes
    the scores [.., H, L, S] before the mask, ``weight_mod`` what comes out of the softmax.
    """
    _check(query, key, value)
    device = common_device(query, key, value)
    heads = _Heads.of(query.shape, key.shape, enable_gqa)
    q, k, v = heads.queries(query.node), heads.keys(key.node), heads.keys(value.node)
    shape = (*heads.outer, query.shape[-2], key.shape[-2])
    lengths = _lengths(shape, is_causal, key_length)
    raw = graph.dot(q, compose.swap(k, 1, 2))
    factor = query.shape[-1] ** -0.5 if scale is None and query.shape[-1] else scale or 1.0
    scores = graph.mul(graph.reshape(raw, shape), literal(factor, raw.dtype, shape))
    capped = scores
    if softcap > 0:
        cap = like(softcap, scores)
        capped = graph.mul(apply("tanh", graph.div(scores, cap)), cap)
    if score_mod is not None:
        capped = graph.cast(score_mod(Tensor(capped, device=device)).node, raw.dtype)
    masked = _masked(capped, attn_mask, lengths)
    weights = Tensor(_safe_softmax(masked), device=device)
    if weight_mod is not None:
        weights = weight_mod(weights).to(raw.dtype)
    kept = dropout(weights, dropout_p) if dropout_p else weights
    left = graph.reshape(kept.node, raw.shape)
    valid = None if lengths is None else graph.reshape(lengths, raw.shape[:2])
    mixed = graph.reshape(graph.dot(left, v, valid), (*shape[:-1], value.shape[-1]))
    return Attended(
        Tensor(graph.cast(mixed, query.dtype), device=device),
        weights,
        Tensor(scores, device=device),
        Tensor(masked, device=device),
    )


@dataclass(frozen=True, slots=True)
class _Heads:
    """How query and key heads meet: ``outer`` are the axes before [L, E] of the result; ``batch``
    of them, flattened, are the batch of the DOTs, and ``group`` query heads share a key head."""

    outer: Shape
    batch: Shape
    group: int

    @staticmethod
    def of(query: Shape, key: Shape, grouped: bool) -> _Heads:
        if not grouped:
            outer = compose.broadcast_shapes(query[:-2], key[:-2])
            return _Heads(outer, outer, 1)
        if len(query) < 3 or len(key) < 3 or not key[-3] or query[-3] % key[-3]:
            raise EngineError(
                f"query heads {list(query)} do not divide among key heads {list(key)}",
                code="SHAPE_MISMATCH",
            )
        batch = compose.broadcast_shapes(query[:-3], key[:-3])
        return _Heads((*batch, query[-3]), (*batch, key[-3]), query[-3] // key[-3])

    def queries(self, x: Node) -> Node:
        """[.., H, L, E] as [B, group * L, E]."""
        rows, width = x.shape[-2:]
        wide = compose.broadcast_to(x, (*self.outer, rows, width))
        return graph.reshape(wide, (prod(self.batch), self.group * rows, width))

    def keys(self, x: Node) -> Node:
        """[.., Hk, S, E] as [B, S, E]."""
        rows, width = x.shape[-2:]
        wide = compose.broadcast_to(x, (*self.batch, rows, width))
        return graph.reshape(wide, (prod(self.batch), rows, width))


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = [list(t.shape) for t in (query, key, value)]
    if (
        min(map(len, shapes)) < 2
        or shapes[0][-1] != shapes[1][-1]
        or key.shape[:-1] != value.shape[:-1]
    ):
        raise EngineError(
            "attention of a query {}, keys {}, values {}".format(*shapes),
            code="SHAPE_MISMATCH",
            hint="[.., L, E], [.., S, E], [.., S, Ev]",
        )
    types = {t.dtype for t in (query, key, value)}
    if not all(dtype.is_float for dtype in types) or (float64 in types and len(types) > 1):
        raise EngineError(
            f"attention in {query.dtype}, {key.dtype}, {value.dtype}",
            code="DTYPE_UNSUPPORTED",
            hint="floats of at most 32 bits, or float64 throughout",
        )


def _lengths(shape: Shape, is_causal: bool, given: Tensor | None) -> Node | None:
    """int32 [.., H, L]: how many keys each query sees; None if all of them."""
    lengths: Node | None = None
    if given is not None:
        lengths = compose.broadcast_to(graph.cast(given.node, int32), shape[:-1])
    if is_causal and all(shape[:-1]):
        ramp = graph.iota(len(shape) - 2, shape[:-1])
        causal = graph.add(ramp, like(1, ramp))
        lengths = causal if lengths is None else compose.minimum(causal, lengths)
    return lengths


def _masked(scores: Node, mask: Tensor | None, lengths: Node | None) -> Node:
    """Scores with the float mask added, and -inf where a query does not look."""
    lowest = like(float("-inf"), scores)
    if mask is not None:
        wide = compose.broadcast_to(mask.node, scores.shape)
        if mask.dtype is bool_:
            scores = graph.where(wide, scores, lowest)
        else:
            scores = graph.add(scores, graph.cast(wide, scores.dtype))
    if lengths is None or not scores.elements:
        return scores
    place = graph.iota(len(scores.shape) - 1, scores.shape)
    wide = graph.expand(graph.reshape(lengths, (*lengths.shape, 1)), scores.shape)
    return graph.where(graph.cmp("lt", place, wide), scores, lowest)


def _safe_softmax(scores: Node) -> Node:
    """Softmax over the last axis; zeros for a row of -inf throughout."""
    if not scores.elements:
        return scores
    axes = (len(scores.shape) - 1,)
    top = compose.detach(compose.fold("max", scores, axes, keep=True))
    empty = graph.cmp("eq", top, like(float("-inf"), top))
    shift = graph.where(empty, like(0.0, top), top)
    grown = apply("exp", compose.subtract(scores, graph.expand(shift, scores.shape)))
    total = compose.fold("sum", grown, axes, keep=True)
    share = graph.div(like(1.0, total), graph.where(empty, like(1.0, total), total))
    return graph.mul(grown, graph.expand(share, grown.shape))


# ---------------------------------------------------------------- many heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[.., L, heads * E] -> [.., heads, L, E]."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """[.., heads, L, E] -> [.., L, heads * E]."""
    return x.transpose(-2, -3).flatten(-2)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    projections: tuple[Tensor, Tensor, Tensor],
    projection_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """torch's multi-head attention, batch first: (output [N, L, E], weights [N, heads, L, S]).

    query [N, L, E], key [N, S, Ek], value [N, S, Ev]; ``projections`` [E, E], [E, Ek], [E, Ev] and
    ``projection_bias`` [3 E] make queries, keys and values. Masks as in torch's module: bool True
    keeps a key OUT; ``attn_mask`` [L, S] or [N * heads, L, S], ``key_padding_mask`` [N, S]; floats
    are added.
    """
    width = query.shape[-1]
    if width % num_heads:
        raise EngineError(
            f"{width} features do not divide into {num_heads} heads", code="SHAPE_MISMATCH"
        )
    biases: tuple[Tensor | None, ...] = (None, None, None)
    if projection_bias is not None:
        biases = projection_bias.chunk(3)
    q, k, v = (
        split_heads(linear(x, weight, bias), num_heads)
        for x, weight, bias in zip((query, key, value), projections, biases, strict=True)
    )
    batch, length = q.shape[0], k.shape[-2]
    mask = None
    if attn_mask is not None:
        mask = _added(attn_mask)
        if mask.ndim == 3:
            mask = mask.reshape(batch, num_heads, *mask.shape[1:])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask).reshape(batch, 1, 1, length)
        mask = padding if mask is None else mask + padding
    attended = attend(q, k, v, mask, dropout_p=dropout_p, is_causal=is_causal)
    return linear(join_heads(attended.output), out_weight, out_bias), attended.weights


def _added(mask: Tensor) -> Tensor:
    """A mask as numbers to add: -inf where a bool one is True."""
    if mask.dtype is not bool_:
        return mask
    zeros = Tensor(literal(0.0, float32, mask.shape), device=mask.device)
    return zeros.masked_fill(mask, float("-inf"))
