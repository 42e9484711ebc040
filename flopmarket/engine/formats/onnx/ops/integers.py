"""Products of quantised matrices and convolutions: the sums are integer DOTs of the stored bytes.

With zero points z the product of (a - z_a) and (b - z_b) is DOT(a, b) less the corrections
z_a * (column sums of b) and z_b * (row sums of a), plus K z_a z_b. All of it wraps in int32, where
the true value fits, so the 8-bit operands stay 8-bit operands of the DOT.
"""

from __future__ import annotations

from math import prod

from flopmarket.engine import compose, contraction, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import bool_, float32, int32
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.operands import elementwise
from flopmarket.engine.formats.onnx.ops.quantisation import saturated
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device


def _is_zero(zero_point: Node | None) -> bool:
    return zero_point is None or graph.const_scalar(zero_point) == 0


def _sum(x: Node, axis: int) -> Node:
    """int32 sum along one axis, which stays with length 1."""
    return compose.fold("sum", graph.cast(x, int32), (axis % len(x.shape),), keep=True)


def _plus(total: Node, term: Node) -> Node:
    return graph.add(total, compose.broadcast_to(term, total.shape))


def _times(a: Node, b: Node) -> Node:
    left, right = compose.broadcast(a, b)
    return graph.mul(left, right)


def matmul(a: Node, b: Node, a_zero: Node | None, b_zero: Node | None) -> Node:
    """int32 (a - a_zero) @ (b - b_zero) as numpy's matmul.

    Zero points broadcast against what they belong to: of a scalar's shape, or [.., M, 1] for a and
    [.., 1, N] for b.
    """
    product = graph.cast(contraction.matmul(a, b), int32)
    if _is_zero(a_zero) and _is_zero(b_zero):
        return product
    if len(a.shape) == 1:
        a = graph.reshape(a, (1, *a.shape))
    if len(b.shape) == 1:
        b = graph.reshape(b, (*b.shape, 1))
    shape = product.shape
    batch = compose.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = graph.reshape(product, (*batch, a.shape[-2], b.shape[-1]))
    minus_a = None if _is_zero(a_zero) else compose.negative(graph.cast(_node(a_zero), int32))
    minus_b = None if _is_zero(b_zero) else compose.negative(graph.cast(_node(b_zero), int32))
    if minus_a is not None:
        total = _plus(total, _times(minus_a, _sum(b, -2)))
    if minus_b is not None:
        total = _plus(total, _times(minus_b, _sum(a, -1)))
    if minus_a is not None and minus_b is not None:
        both = _times(minus_a, minus_b)
        total = _plus(total, graph.mul(both, like(a.shape[-1], both)))
    return graph.reshape(total, shape)


def _node(x: Node | None) -> Node:
    assert x is not None
    return x


def _rows(zero_point: Value | None) -> Node | None:
    """The left operand's zero points: a vector is one per row."""
    if zero_point is None:
        return None
    x = tensor(zero_point).node
    return graph.reshape(x, (*x.shape, 1)) if len(x.shape) == 1 else x


def _columns(zero_point: Value | None) -> Node | None:
    """The right operand's zero points: a vector is one per column."""
    return None if zero_point is None else tensor(zero_point).node


@op("MatMulInteger")
def matmul_integer(
    node: OpNode,
    a: Value,
    b: Value,
    a_zero: Value | None = None,
    b_zero: Value | None = None,
) -> Tensor:
    """int32 product of 8-bit matrices less their zero points."""
    left, right = tensor(a), tensor(b)
    product = matmul(left.node, right.node, _rows(a_zero), _columns(b_zero))
    return Tensor(product, device=common_device(left, right))


def requantised(total: Tensor, factor: Tensor, zero_point: Tensor) -> Tensor:
    """round(total * factor) + zero point, clamped to the zero point's dtype; shapes broadcast."""

    def rule(sums: Node, scale: Node, zero: Node) -> Node:
        scaled = graph.mul(graph.cast(sums, float32), scale)
        return saturated(scaled, zero, zero_point.dtype)

    return elementwise(rule, total, factor, zero_point.to(int32))


@op("QLinearMatMul")
def qlinear_matmul(
    node: OpNode,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Tensor:
    """Quantised matrices in, a quantised product out; scales per tensor, row or column."""
    total = matmul_integer(node, a, b, a_zero, b_zero)
    rows = tensor(a_scale)
    if rows.ndim == 1 and rows.numel() > 1:
        rows = rows.unsqueeze(-1)
    factor = rows.to(float32) * tensor(b_scale).to(float32) / tensor(y_scale).to(float32)
    out = total.shape
    while factor.ndim > len(out) and factor.shape[0] == 1:
        factor = factor.reshape(*factor.shape[1:])
    return requantised(total, factor, tensor(y_zero).reshape(()))


# ---------------------------------------------------------------- convolution


def _padding(
    node: OpNode, lengths: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[list[tuple[int, int]], tuple[int, ...], tuple[int, ...]]:
    """((before, after) per axis, strides, dilations) from a convolution's attributes."""
    rank = len(lengths)
    strides = node.ints("strides") or (1,) * rank
    dilations = node.ints("dilations") or (1,) * rank
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = node.ints("pads") or (0,) * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True)), strides, dilations
    if mode == "VALID":
        return [(0, 0)] * rank, strides, dilations
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise OnnxIllegal(f"no padding called {mode!r}")
    rows = []
    for n, k, s, d in zip(lengths, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        small = missing // 2
        rows.append((small, missing - small) if mode == "SAME_UPPER" else (missing - small, small))
    return rows, strides, dilations


def convolution(
    node: OpNode, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None
) -> Tensor:
    """int32 [N, O, positions...] of x [N, C, lengths...] and w [O, C / groups, taps...].

    ``x_zero`` is a scalar, ``w_zero`` a scalar or one per output channel. Padding stands for 0,
    which the bytes spell as the zero point.
    """
    groups, rank = int(node.get("group", 1)), x.ndim - 2
    batch, channels = x.shape[:2]
    out, taps = w.shape[0], w.shape[2:]
    if rank < 1 or channels != w.shape[1] * groups or out % groups:
        raise OnnxIllegal(f"a convolution of {list(x.shape)} by {list(w.shape)} in {groups} groups")
    pads, strides, dilations = _padding(node, x.shape[2:], taps)
    padded = _padded(x, [(0, 0), (0, 0), *pads], x_zero).node
    windows = graph.window(
        padded, [(2 + i, taps[i], strides[i], dilations[i]) for i in range(rank)]
    )
    places = windows.shape[2 : 2 + rank]
    terms = w.shape[1] * prod(taps)
    split = graph.reshape(windows, (batch, groups, w.shape[1], *places, *taps))
    order = (0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    left = graph.reshape(graph.permute(split, order), (batch, groups, prod(places), terms))
    right = graph.reshape(w.node, (groups, out // groups, terms))
    right = graph.reshape(graph.permute(right, (0, 2, 1)), (1, groups, terms, out // groups))
    a_zero = None if x_zero is None else graph.reshape(x_zero.node, ())
    b_zero = None
    if w_zero is not None:
        per_channel = w_zero.numel() > 1
        shape = (1, groups, 1, out // groups) if per_channel else ()
        b_zero = graph.reshape(w_zero.node, shape)
    total = matmul(left, right, a_zero, b_zero)
    result = graph.reshape(graph.permute(total, (0, 1, 3, 2)), (batch, out, *places))
    return Tensor(result, device=common_device(x, w))


def _padded(x: Tensor, pads: list[tuple[int, int]], zero_point: Tensor | None) -> Tensor:
    padded = graph.pad(x.node, pads)
    if padded is x.node or zero_point is None or _is_zero(zero_point.node):
        return Tensor(padded, device=x.device)
    inside = graph.pad(graph.filled(True, bool_, x.shape), pads)
    border = compose.broadcast_to(graph.reshape(zero_point.node, ()), padded.shape)
    return Tensor(graph.where(inside, padded, border), device=x.device)


def _optional(value: Value | None) -> Tensor | None:
    return None if value is None else tensor(value)


@op("ConvInteger")
def conv_integer(
    node: OpNode, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None
) -> Tensor:
    """int32 convolution of 8-bit values less their zero points."""
    return convolution(node, tensor(x), tensor(w), _optional(x_zero), _optional(w_zero))


@op("QLinearConv")
def qlinear_conv(
    node: OpNode,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None = None,
) -> Tensor:
    """Quantised convolution; the int32 bias has the scale x_scale * w_scale."""
    total = convolution(node, tensor(x), tensor(w), tensor(x_zero), tensor(w_zero))
    channel = (1, -1) + (1,) * (total.ndim - 2)
    if bias is not None:
        total = total + tensor(bias).reshape(*channel)
    factor = tensor(x_scale).reshape(()) * tensor(w_scale).reshape(-1) / tensor(y_scale).reshape(())
    shape = (1, factor.numel()) + (1,) * (total.ndim - 2)
    return requantised(total, factor.reshape(*shape), tensor(y_zero).reshape(()))
