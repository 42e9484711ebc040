"""com.microsoft: fused operators that ONNX Runtime's transformer optimiser and exporters write."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.compose import literal
from flopmarket.engine.creation import cat, stack, zeros
from flopmarket.engine.dtypes import float32, int32, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional import layer_norm, linear
from flopmarket.engine.functional.attention import attend, join_heads, split_heads
from flopmarket.engine.functional.cache import write_slots
from flopmarket.engine.functional.positions import rotary_embedding
from flopmarket.engine.tensor import Tensor

_MICROSOFT = "com.microsoft"

Attended = tuple[Tensor, ...]


# ---------------------------------------------------------------- products and embeddings


@op("FusedMatMul", domain=_MICROSOFT)
def fused_matmul(node: OpNode, a: Value, b: Value) -> Tensor:
    left = _turned(tensor(a), node.get("transA", 0), node.get("transBatchA", 0))
    right = _turned(tensor(b), node.get("transB", 0), node.get("transBatchB", 0))
    product: Tensor = left.matmul(right) * node.get("alpha", 1.0)
    return product


def _turned(x: Tensor, matrix: int, batch: int) -> Tensor:
    """The last two axes exchanged, or the first of a batch moved before the last."""
    if batch:
        x = x.movedim(0, -2)
    return x.mT if matrix and x.ndim > 1 else x


@op("EmbedLayerNormalization", domain=_MICROSOFT)
def embed_layer_norm(
    node: OpNode,
    ids: Value,
    segments: Value,
    words: Value,
    places: Value,
    kinds: Value = None,
    gamma: Value = None,
    beta: Value = None,
    mask: Value = None,
    position_ids: Value = None,
) -> tuple[Tensor, ...]:
    """BERT's embedding: (normalised sum [B, S, H], number of tokens per row [B], the sum)."""
    index = tensor(ids)
    rows = tensor(words).gather_rows(index)
    if position_ids is None:
        rows = rows + tensor(places)[: index.shape[1]]
    else:
        rows = rows + tensor(places).gather_rows(tensor(position_ids))
    if segments is not None and kinds is not None:
        rows = rows + tensor(kinds).gather_rows(tensor(segments))
    scale, shift = (tensor(value).float() for value in (gamma, beta))
    result = layer_norm(rows.float(), rows.shape[-1:], scale, shift, node.get("epsilon", 1e-12))
    if mask is None:
        count = zeros(index.shape[0], dtype=int32)
    else:
        count = tensor(mask).to(int32).sum(1).to(int32)
    return result.to(rows.dtype), count, rows


# ---------------------------------------------------------------- attention


def _key_mask(mask: Tensor, keys: int, lowest: float) -> tuple[Tensor | None, Tensor | None]:
    """(what is added to scores, int32 [B, 1, 1] number of keys) of a com.microsoft mask.

    A mask is [B] (numbers of keys), or of 0 and 1: [B, keys], [B, queries, keys], [B, 1, .., ..].
    """
    if mask.ndim == 1:
        return None, mask.to(int32).reshape(-1, 1, 1)
    if mask.ndim == 2:
        kept = mask.bool().reshape(mask.shape[0], 1, 1, mask.shape[1])
    else:
        kept = mask.bool().unsqueeze(1) if mask.ndim == 3 else mask.bool()
    if kept.shape[-1] < keys:
        raise OnnxIllegal(f"a mask of {kept.shape[-1]} keys, there are {keys}")
    added = Tensor(literal(0.0, float32, kept.shape)).masked_fill(~kept[..., :keys], lowest)
    return added[..., :keys], None


def _causal_lengths(batch: int, queries: int, keys: int) -> Tensor:
    """int32 [B, 1, L]: the last query sees all keys, the others as many fewer as they precede."""
    return Tensor(graph.iota(2, (batch, 1, queries))) + (keys - queries + 1)


def _attended(
    node: OpNode,
    heads: tuple[Tensor, Tensor, Tensor],
    mask: Value,
    bias: Value,
) -> tuple[Tensor, Tensor]:
    """(output [B, L, H * D], weights) of queries, keys and values split into heads."""
    q, k, v = heads
    batch, _, queries, _ = q.shape
    keys = k.shape[2]
    added, lengths = None, None
    if mask is not None:
        lowest = node.get("mask_filter_value", -10000.0)
        added, lengths = _key_mask(tensor(mask), keys, lowest)
    if bias is not None:
        added = tensor(bias).float() if added is None else added + tensor(bias).float()
    if node.get("unidirectional", 0):
        causal = _causal_lengths(batch, queries, keys)
        lengths = causal if lengths is None else causal.minimum(lengths)
    scale = node.get("scale", 0.0) or None
    result = attend(q, k, v, added, scale=scale, key_length=lengths)
    return join_heads(result.output), result.masked


@op("Attention", domain=_MICROSOFT)
def attention(
    node: OpNode,
    x: Value,
    weights: Value,
    bias: Value = None,
    mask: Value = None,
    past: Value = None,
    attention_bias: Value = None,
    past_length: Value = None,
) -> Attended:
    """Self-attention with one joint projection: (output, keys and values [2, B, H, S, D])."""
    if past_length is not None:
        raise OnnxUnsupported("a past in a shared buffer")
    projection = tensor(weights)
    joint = linear(tensor(x), projection.T, None if bias is None else tensor(bias))
    return self_attention(node, joint, mask, past, attention_bias)


def self_attention(
    node: OpNode, joint: Tensor, mask: Value, past: Value, attention_bias: Value = None
) -> Attended:
    """:func:`attention` of queries, keys and values that are projected and joined already."""
    if node.get("do_rotary", 0):
        raise OnnxUnsupported("rotary embedding inside Attention")
    heads = node.attributes["num_heads"]
    width = joint.shape[-1] // 3
    sizes = node.ints("qkv_hidden_sizes") or (width, width, width)
    q, k, v = (split_heads(part, heads) for part in joint.split(sizes, -1))
    if past is not None:
        before = tensor(past)
        k, v = cat([before[0], k], 2), cat([before[1], v], 2)
    output, _ = _attended(node, (q, k, v), mask, attention_bias)
    present = stack([k, v], 0) if sizes[1] == sizes[2] else k
    return output, present


@op("MultiHeadAttention", domain=_MICROSOFT)
def multi_head_attention(
    node: OpNode,
    query: Value,
    key: Value = None,
    value: Value = None,
    bias: Value = None,
    padding: Value = None,
    attention_bias: Value = None,
    past_key: Value = None,
    past_value: Value = None,
) -> Attended:
    """(output, present keys, present values, scores); query, key, value are projected already.

    They are [B, S, H * D]; or the query is [B, S, H, 3, D] with all three; or key is [B, S, H, 2,
    D] with both; or key and value are [B, H, S, D].
    """
    heads = node.attributes["num_heads"]
    biases: tuple[Tensor | None, ...] = (None, None, None)
    packed = tensor(query)
    if packed.ndim == 5:
        q, k, v = (packed[:, :, :, at].flatten(2) for at in range(3))
    elif value is None:
        q, joint = packed, tensor(key)
        k, v = (joint[:, :, :, at].flatten(2) for at in range(2))
    else:
        q, k, v = packed, tensor(key), tensor(value)
    if bias is not None:
        width = q.shape[-1]
        joined = tensor(bias)
        biases = joined.split([width, width, joined.shape[0] - 2 * width])
    q, k, v = (
        part if part.ndim == 4 else split_heads(part if b is None else part + b, heads)
        for part, b in zip((q, k, v), biases, strict=True)
    )
    if past_key is not None:
        k, v = cat([tensor(past_key), k], 2), cat([tensor(past_value), v], 2)
    output, scores = _attended(node, (q, k, v), padding, attention_bias)
    return output, k, v, scores.to(q.dtype)


@op("GroupQueryAttention", domain=_MICROSOFT)
def group_query_attention(
    node: OpNode,
    query: Value,
    key: Value = None,
    value: Value = None,
    past_key: Value = None,
    past_value: Value = None,
    last_positions: Value = None,
    total_length: Value = None,
    cos: Value = None,
    sin: Value = None,
    position_ids: Value = None,
    attention_bias: Value = None,
    *rest: Value,
) -> Attended:
    """(output, present keys, present values) of causal attention over a cache.

    ``last_positions`` [B] is the number of keys of each sequence less one; ``total_length`` the
    longest of them. A past is [B, Hk, P, D]; the present is as long as the longer of both.
    """
    if any(value is not None for value in rest) or node.get("smooth_softmax", 0):
        raise OnnxUnsupported("attention sinks and quantised caches in GroupQueryAttention")
    heads, groups = node.attributes["num_heads"], node.attributes["kv_num_heads"]
    if key is None:
        joint = tensor(query)
        width = joint.shape[-1] // (heads + 2 * groups)
        parts = joint.split([heads * width, groups * width, groups * width], -1)
    else:
        parts = (tensor(query), tensor(key), tensor(value))
    q, k, v = (split_heads(x, n) for x, n in zip(parts, (heads, groups, groups), strict=True))
    batch, _, queries, _ = q.shape
    (longest,) = node.host_ints(total_length, "the length of the cache")
    known = tensor(last_positions).to(int32).reshape(-1).expand(batch) + 1
    # A first run may pad its shorter sequences behind; later runs append to the known lengths.
    start = (known - queries).clamp(min=0)
    if node.get("do_rotary", 0):
        q, k = (_rotated(node, x, start, cos, sin, position_ids) for x in (q, k))
    k, v = (_extended(new, past, longest, start) for new, past in ((k, past_key), (v, past_value)))
    place = Tensor(graph.iota(2, (batch, 1, queries))) + start.reshape(-1, 1, 1)
    added = None if attention_bias is None else tensor(attention_bias).float()
    result = attend(
        q,
        k,
        v,
        _local(node, added, place, k.shape[2]),
        scale=node.get("scale", 0.0) or None,
        enable_gqa=True,
        key_length=place + 1,
        softcap=node.get("softcap", 0.0),
    )
    return join_heads(result.output), k, v


def _rotated(
    node: OpNode, x: Tensor, start: Tensor, cos: Value, sin: Value, position_ids: Value
) -> Tensor:
    """x [B, H, S, D] turned by the tables' rows at its positions."""
    steps = x.shape[2]
    if position_ids is None:
        ramp = Tensor(graph.iota(1, (x.shape[0], steps)))
        places = start.unsqueeze(1) + ramp
    else:
        places = tensor(position_ids)
    tables = [tensor(table).gather_rows(places).unsqueeze(1) for table in (cos, sin)]
    return rotary_embedding(
        x, tables[0], tables[1], interleaved=bool(node.get("rotary_interleaved", 0))
    )


def _extended(new: Tensor, past: Value, longest: int, start: Tensor) -> Tensor:
    """The past made ``longest`` slots long, with ``new`` in its slots from ``start`` [B] on."""
    if past is None:
        if new.shape[2] > longest:
            raise OnnxIllegal(f"{new.shape[2]} keys in a cache of {longest}")
        slots = zeros(*new.shape[:2], longest, new.shape[3], dtype=new.dtype)
    else:
        slots = tensor(past)
        if slots.shape[2] < longest:
            slots = slots.pad((0, 0, 0, longest - slots.shape[2]))
    return write_slots(slots, new, start, dim=2)


def _local(node: OpNode, added: Tensor | None, place: Tensor, keys: int) -> Tensor | None:
    """The bias, with -inf on keys that local_window_size leaves behind."""
    if added is not None:
        added = added[..., :keys]
    window = node.get("local_window_size", -1)
    if window < 0:
        return added
    near: Tensor = (place.unsqueeze(-1) - window) < Tensor(graph.iota(3, (1, 1, 1, keys)))
    return near if added is None else added.where(near, float("-inf"))


@op("RotaryEmbedding", domain=_MICROSOFT)
def rotary(node: OpNode, x: Value, positions: Value, cos: Value, sin: Value) -> Tensor:
    """x [B, S, H * D] or [B, H, S, D]; ``positions`` [B, S], or one number to start from."""
    data, places = tensor(x), tensor(positions).to(int64)
    packed = data.ndim == 3
    width = node.get("rotary_embedding_dim", 0)
    if packed:
        heads = node.get("num_heads", 0)
        if not heads and not width:
            heads = data.shape[2] // (2 * tensor(cos).shape[1])
        data = split_heads(data, heads or data.shape[2] // width)
    if places.ndim == 1:
        ramp = Tensor(graph.iota(1, (data.shape[0], data.shape[2]), int64))
        places = places.reshape(-1, 1) + ramp
    tables = [tensor(table).gather_rows(places).unsqueeze(1) for table in (cos, sin)]
    turned = rotary_embedding(
        data, tables[0], tables[1], interleaved=bool(node.get("interleaved", 0))
    )
    return join_heads(turned) if packed else turned
