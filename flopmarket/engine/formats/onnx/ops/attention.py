"""Attention, FlexAttention and RotaryEmbedding as ONNX defines them."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.creation import cat
from flopmarket.engine.dtypes import DType, bool_, float64, int32
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.cast import element_type
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.attention import Modifier, attend, join_heads, split_heads
from flopmarket.engine.functional.positions import rotary_embedding
from flopmarket.engine.tensor import Tensor


@op("Attention", since=23)
def attention(
    node: OpNode,
    q: Value,
    k: Value,
    v: Value,
    mask: Value = None,
    past_key: Value = None,
    past_value: Value = None,
    valid: Value = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Y, present key and value [B, H, S, D], and the scores as qk_matmul_output_mode wants them.

    The softmax is float32's whatever softmax_precision says, for float64 too. Keys beyond the
    causal frontier and beyond ``valid`` [B] are skipped: what they hold has no influence.
    """
    query, key, value = tensor(q), tensor(k), tensor(v)
    kept = query.dtype
    packed = query.ndim == 3
    if packed:
        query = split_heads(query, node.attributes["q_num_heads"])
        key, value = (split_heads(x, node.attributes["kv_num_heads"]) for x in (key, value))
    if past_key is not None:
        key = cat([tensor(past_key), key], 2)
        value = cat([tensor(past_value), value], 2)
    shape = (query.shape[0], query.shape[2], key.shape[2])
    first = _first_position(shape, 0 if past_key is None else tensor(past_key).shape[2], valid)
    softcap = node.get("softcap", 0.0)
    result = attend(
        narrowed(query),
        narrowed(key),
        narrowed(value),
        _mask(node, mask, first, shape),
        scale=node.get("scale"),
        enable_gqa=True,
        key_length=_lengths(node, first, valid, shape),
        softcap=softcap,
    )
    mode = node.get("qk_matmul_output_mode", 0)
    if mode == 1 and softcap > 0:
        scores = (result.scores / softcap).tanh() * softcap
    elif mode in (0, 1, 2, 3):
        scores = (result.scores, result.scores, result.masked, result.weights)[mode]
    else:
        raise OnnxIllegal(f"no qk_matmul_output_mode {mode}")
    output = join_heads(result.output) if packed else result.output
    return output.to(kept), key, value, scores.to(kept)


def narrowed(x: Tensor) -> Tensor:
    """float64 as float32: the engine has no softmax in float64."""
    return x.float() if x.dtype is float64 else x


Sizes = tuple[int, int, int]
"""Batch, queries, keys."""


def _first_position(shape: Sizes, past: int, valid: Value) -> Tensor:
    """int32 [B, 1, 1]: where the first query stands among the keys."""
    batch, queries, _ = shape
    if valid is None or past:
        return Tensor(graph.filled(past, int32, (batch, 1, 1)))
    return (tensor(valid).to(int32) - queries).reshape(batch, 1, 1)


def _lengths(node: OpNode, first: Tensor, valid: Value, shape: Sizes) -> Tensor | None:
    """int32 [B, 1, L]: how many leading keys a query may see; None if all of them."""
    reach = node.get("right_window_size", -1)
    if node.get("is_causal", 0):
        reach = 0
    lengths = None
    if reach >= 0 and shape[1]:
        own = Tensor(graph.iota(2, (1, 1, shape[1])))
        lengths = first + own + (1 + reach)
    if valid is not None:
        limit = tensor(valid).to(int32).reshape(-1, 1, 1)
        lengths = limit if lengths is None else lengths.minimum(limit)
    return lengths


def _mask(node: OpNode, given: Value, first: Tensor, shape: Sizes) -> Tensor | None:
    """The attention mask as wide as the keys, and the left window as a part of it."""
    _, queries, keys = shape
    mask = None if given is None else tensor(given)
    if mask is not None and mask.shape[-1] < keys:
        beyond = False if mask.dtype is bool_ else float("-inf")
        mask = mask.pad((0, keys - mask.shape[-1]), beyond)
    back = node.get("left_window_size", -1)
    if back < 0 or not queries or not keys:
        return mask
    own = Tensor(graph.iota(2, (1, 1, queries, 1))) + first.unsqueeze(-1)
    near: Tensor = (own - back) <= Tensor(graph.iota(3, (1, 1, 1, keys)))
    if mask is None:
        return near
    return mask & near if mask.dtype is bool_ else mask.where(near, float("-inf"))


@op("RotaryEmbedding", since=23)
def rotary(node: OpNode, x: Value, cos: Value, sin: Value, positions: Value = None) -> Tensor:
    data = tensor(x)
    packed = data.ndim == 3
    if packed:
        heads = node.get("num_heads", 0)
        if not heads:
            raise OnnxIllegal("num_heads is needed for a tensor of three axes")
        data = split_heads(data, heads)
    width = node.get("rotary_embedding_dim", 0) or data.shape[-1]
    tables = [tensor(table) for table in (cos, sin)]
    if positions is not None:
        tables = [table.gather_rows(tensor(positions)) for table in tables]
    if tables[0].shape[-1] * 2 != width:
        raise OnnxIllegal(f"tables of {tables[0].shape[-1]} for {width} turned features")
    wide = [table.unsqueeze(1) for table in tables]
    turned = rotary_embedding(data, wide[0], wide[1], interleaved=bool(node.get("interleaved", 0)))
    return join_heads(turned) if packed else turned


@op("FlexAttention", domain="ai.onnx.preview")
def flex_attention(node: OpNode, q: Value, k: Value, v: Value) -> Tensor:
    """Attention with graphs that change the scores and what comes out of the softmax."""
    precision = element_type(node.get("softmax_precision", 0) or 1)
    if not isinstance(precision, DType):
        raise OnnxIllegal(f"no softmax_precision {node.get('softmax_precision')}")

    def modifier(name: str) -> Modifier | None:
        if node.get(name) is None:
            return None
        change, dtype = node.graph(name), precision
        return lambda x: tensor(change(x.to(dtype))[0]).float()

    result = attend(
        *(narrowed(tensor(x)) for x in (q, k, v)),
        scale=node.get("scale"),
        enable_gqa=True,
        score_mod=modifier("score_mod"),
        weight_mod=modifier("prob_mod"),
    )
    return result.output.to(tensor(q).dtype)
