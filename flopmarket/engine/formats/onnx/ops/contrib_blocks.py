"""com.microsoft: weights of few bits in blocks with a scale each, and quantised transformers.

Packed codes are unpacked and decoded on the device; products of them are float DOTs.
"""

from __future__ import annotations

from flopmarket.engine import compose, contraction, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float32, int32, int64, uint8
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import is_narrow, narrow_of
from flopmarket.engine.formats.onnx.ops.contrib_quantised import matmul_integer_to_float
from flopmarket.engine.formats.onnx.ops.contrib_transformers import (
    Attended,
    embed_layer_norm,
    self_attention,
)
from flopmarket.engine.formats.onnx.ops.quantisation import dequantised, spread
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

_MICROSOFT = "com.microsoft"

_NORMAL_FLOAT = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""NF4: Dettmers, Pagnoni, Holtzman and Zettlemoyer, "QLoRA", 2023, appendix E."""

_SMALL_FLOAT = (0.0, 0.0625 / 12, 8 / 12, 12 / 12, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
"""FP4 as bitsandbytes numbers it, a sign bit above; the largest magnitude is 1."""


@op("MatMulNBits", domain=_MICROSOFT)
def matmul_n_bits(
    node: OpNode,
    a: Value,
    packed: Value,
    scales: Value,
    zero_points: Value | None = None,
    group_index: Value | None = None,
    bias: Value | None = None,
) -> Tensor:
    """a [.., K] by weights [N, K] of 2, 4 or 8 bits, each block of K with its own scale."""
    terms, columns = int(node.get("K")), int(node.get("N"))
    bits, block = int(node.get("bits", 4)), int(node.get("block_size"))
    if bits not in (2, 4, 8):
        raise OnnxUnsupported(f"weights of {bits} bits")
    x, blocks = tensor(a), -(-terms // block)
    codes = _unpacked(tensor(packed).reshape(columns, -1).node, bits, columns, blocks * block)
    step = tensor(scales).reshape(columns, blocks).to(float32)
    zero = _zero_points(zero_points, bits, columns, blocks)
    if group_index is None:
        shape = (columns, blocks, block)
        spread = [t.unsqueeze(-1).expand(*shape).reshape(columns, -1) for t in (step, zero)]
    else:  # reordered columns say which block they belong to
        index = tensor(group_index).to(int32)
        spread = [t.gather_rows(index, 1) for t in (step, zero)]
        codes = compose.part(codes, 1, 0, terms)
    values = graph.mul(compose.subtract(graph.cast(codes, float32), spread[1].node), spread[0].node)
    weights = graph.permute(compose.part(values, 1, 0, terms), (1, 0))
    product = Tensor(contraction.matmul(x.to(float32).node, weights), device=x.device)
    product = product if bias is None else product + tensor(bias).to(float32)
    return product.to(x.dtype)


def _unpacked(packed: Node, bits: int, rows: int, count: int, high_first: bool = False) -> Node:
    """uint8 codes [rows, count] of bytes that hold 8 / bits of them, the lowest bits first."""
    each = 8 // bits
    parts = []
    for at in reversed(range(each)) if high_first else range(each):
        shifted = graph.bit("shr", packed, like(at * bits, packed))
        parts.append(graph.bit("and", shifted, like(2**bits - 1, packed)))
    stacked = graph.concat([graph.reshape(p, (*p.shape, 1)) for p in parts], 2)
    flat = graph.reshape(stacked, (rows, packed.shape[1] * each))
    if flat.shape[1] < count:
        raise OnnxIllegal(f"{flat.shape[1]} packed values in a row, wants {count}")
    return compose.part(flat, 1, 0, count)


def _zero_points(given: Value | None, bits: int, columns: int, blocks: int) -> Tensor:
    """float32 [columns, blocks]; the middle of the range where none are given."""
    if given is None:
        return Tensor(graph.filled(float(2 ** (bits - 1)), float32, (columns, blocks)))
    zero = tensor(given)
    if zero.dtype.is_float:
        return zero.reshape(columns, blocks).to(float32)
    codes = _unpacked(zero.reshape(columns, -1).node, bits, columns, blocks)
    return Tensor(codes, device=zero.device).to(float32)


@op("MatMulBnb4", domain=_MICROSOFT)
def matmul_bnb4(node: OpNode, a: Value, packed: Value, largest: Value) -> Tensor:
    """a [.., K] by weights [N, K] of 4-bit codes; each block of them has its largest magnitude."""
    terms, columns = int(node.get("K")), int(node.get("N"))
    block, x = int(node.get("block_size")), tensor(a)
    count = terms * columns
    blocks = -(-count // block)
    codes = _unpacked(tensor(packed).reshape(1, -1).node, 4, 1, count, high_first=True)
    normal = bool(node.get("quant_type", 1))
    table = _NORMAL_FLOAT if normal else (*_SMALL_FLOAT, *(-value for value in _SMALL_FLOAT))
    values = Tensor(graph.const(table, float32, (16,)))
    chosen = values.gather_rows(Tensor(graph.cast(graph.reshape(codes, (count,)), int32)))
    scale = tensor(largest).to(float32).reshape(blocks, 1).expand(blocks, block).reshape(-1)
    weights = (chosen * scale[:count]).reshape(columns, terms)
    turned = weights.T if node.get("transB", 1) else weights.reshape(terms, columns)
    return x.to(float32).matmul(turned).to(x.dtype)


@op("GatherBlockQuantized", domain=_MICROSOFT)
def gather_block_quantized(
    node: OpNode, data: Value, indices: Value, scales: Value, zero_points: Value | None = None
) -> Tensor:
    """Rows of quantised data, decoded. uint8 data hold 8 / ``bits`` codes a byte."""
    step = tensor(scales)
    codes, zeros = _codes(node, data), None
    shape = codes.shape
    gathered, quantised = (
        int(node.get(name, default)) % len(shape)
        for name, default in (("gather_axis", 0), ("quantize_axis", 1))
    )
    block = int(node.get("block_size", 128))
    if zero_points is not None:
        zeros = _codes(node, zero_points, step.shape[-1])
    elif not is_narrow(data):
        middle = 2 ** (int(node.get("bits", 4)) - 1)
        zeros = Tensor(graph.filled(middle, uint8, step.shape))
    scale = spread(step, shape, quantised, block)
    zero = None if zeros is None else spread(zeros, shape, quantised, block)
    rows = tensor(indices).to(int64)
    rows = rows.where(rows >= 0, rows + shape[gathered])
    parts = [None if x is None else x.gather_rows(rows, gathered) for x in (codes, scale, zero)]
    assert parts[0] is not None and parts[1] is not None
    return dequantised(parts[0], parts[1], parts[2], step.dtype)


def _codes(node: OpNode, value: Value, columns: int | None = None) -> Tensor:
    """int8 or uint8 codes, those of uint8 unpacked along the last axis (``columns`` of them)."""
    if is_narrow(value):
        return narrow_of(value).decode()
    packed, bits = tensor(value), int(node.get("bits", 4))
    if bits == 8:
        return packed
    flat = packed.reshape(-1, packed.shape[-1])
    count = flat.shape[1] * (8 // bits) if columns is None else columns
    codes = _unpacked(flat.node, bits, flat.shape[0], count)
    return Tensor(codes, device=packed.device).reshape(*packed.shape[:-1], count)


# ---------------------------------------------------------------- transformers


@op("QAttention", domain=_MICROSOFT)
def q_attention(
    node: OpNode,
    x: Value,
    weights: Value,
    bias: Value,
    x_scale: Value,
    weight_scale: Value,
    mask: Value | None = None,
    x_zero: Value | None = None,
    weight_zero: Value | None = None,
    past: Value | None = None,
) -> Attended:
    """Attention whose projection is a product of bytes."""
    if node.get("past_present_share_buffer", 0):
        raise OnnxUnsupported("a past in a shared buffer")
    joint = matmul_integer_to_float(
        node, x, weights, x_scale, weight_scale, x_zero, weight_zero, bias
    )
    return self_attention(node, joint, mask, past)


@op("QEmbedLayerNormalization", domain=_MICROSOFT)
def q_embed_layer_norm(
    node: OpNode,
    ids: Value,
    segments: Value,
    words: Value,
    places: Value,
    kinds: Value,
    gamma: Value,
    beta: Value,
    mask: Value,
    *parameters: Value,
) -> Attended:
    """EmbedLayerNormalization of quantised tables; then five scales and five zero points."""
    if len(parameters) != 10:
        raise OnnxIllegal(f"{len(parameters)} scales and zero points, not 10")
    tables = [
        None if table is None else _decoded(table, scale, zero)
        for table, scale, zero in zip(
            (words, places, kinds, gamma, beta), parameters[:5], parameters[5:], strict=True
        )
    ]
    found: Attended = embed_layer_norm(node, ids, segments, *tables, mask)
    return found


def _decoded(table: Value, scale: Value, zero: Value) -> Tensor:
    codes = tensor(table)
    factor, middle = (tensor(value).reshape(()).expand(*codes.shape) for value in (scale, zero))
    return dequantised(codes, factor, middle, float32)
