"""com.microsoft: quantised operators that ONNX Runtime's quantiser writes.

Elementwise ones decode, compute in float32 and encode once. Products are integer DOTs of the stored
bytes; MatMulNBits decodes its packed weights and is a float DOT.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import float32, uint8
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.ops import integers, recurrent
from flopmarket.engine.formats.onnx.ops.quantisation import (
    dequantised,
    dynamic_range,
    quantised,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value, find, op, tensor
from flopmarket.engine.tensor import Tensor, common_device

_MICROSOFT = "com.microsoft"
_AVERAGE_POOL_OPSET = 19
"""The opset whose attributes QLinearAveragePool has."""


def _decoded(x: Value, scale: Value, zero_point: Value | None) -> Tensor:
    """float32 values of a tensor with one scale."""
    codes = tensor(x)
    step = tensor(scale).reshape(()).to(float32).expand(*codes.shape)
    zero = None if zero_point is None else tensor(zero_point).reshape(()).expand(*codes.shape)
    return dequantised(codes, step, zero, float32)


def _encoded(x: Tensor, scale: Value, zero_point: Value | None, example: Value) -> Tensor:
    """Codes of the zero point's dtype, or of an operand's."""
    zero = None if zero_point is None else tensor(zero_point).reshape(()).expand(*x.shape)
    target = tensor(example).dtype if zero is None else zero.dtype
    step = tensor(scale).reshape(()).to(float32).expand(*x.shape)
    result = quantised(x, step, zero, target)
    assert isinstance(result, Tensor)
    return result


def _pair(op_type: str, rule: Callable[[Tensor, Tensor], Tensor]) -> None:
    @op(op_type, domain=_MICROSOFT)
    def handler(
        node: OpNode,
        a: Value,
        a_scale: Value,
        a_zero: Value | None,
        b: Value,
        b_scale: Value,
        b_zero: Value | None,
        y_scale: Value,
        y_zero: Value | None = None,
    ) -> Tensor:
        result = rule(_decoded(a, a_scale, a_zero), _decoded(b, b_scale, b_zero))
        return _encoded(result, y_scale, y_zero, a)


def _single(op_type: str, rule: Callable[[OpNode, Tensor], Tensor]) -> None:
    @op(op_type, domain=_MICROSOFT)
    def handler(
        node: OpNode,
        x: Value,
        x_scale: Value,
        x_zero: Value | None,
        y_scale: Value,
        y_zero: Value | None = None,
    ) -> Tensor:
        return _encoded(rule(node, _decoded(x, x_scale, x_zero)), y_scale, y_zero, x)


def _leaky(node: OpNode, x: Tensor) -> Tensor:
    return x.where(x >= 0.0, x * float(node.get("alpha", 0.01)))


def _global_average(node: OpNode, x: Tensor) -> Tensor:
    last = bool(node.get("channels_last", 0))
    return x.mean(tuple(range(1, x.ndim - 1) if last else range(2, x.ndim)), keepdim=True)


def _average(node: OpNode, x: Tensor) -> Tensor:
    """The float operator on channels first; its handler reads the same attributes."""
    pooling = find("AveragePool", "", _AVERAGE_POOL_OPSET)
    if pooling is None:
        raise OnnxUnsupported("average pooling")
    last = bool(node.get("channels_last", 0))
    order = tuple(range(x.ndim))
    first = (0, x.ndim - 1, *order[1:-1]) if last else order
    pooled = tensor(pooling(node, x.permute(*first)))
    return pooled.permute(*(first.index(axis) for axis in order))


_pair("QLinearAdd", lambda a, b: a + b)
_pair("QLinearMul", lambda a, b: a * b)
_single("QLinearSigmoid", lambda node, x: x.sigmoid())
_single("QLinearLeakyRelu", _leaky)
_single("QLinearAveragePool", _average)
_single("QLinearGlobalAveragePool", _global_average)
_single("QLinearSoftmax", lambda node, x: x.softmax(int(node.get("axis", -1))))


@op("QLinearConcat", domain=_MICROSOFT)
def qlinear_concat(node: OpNode, y_scale: Value, y_zero: Value, *values: Value) -> Tensor:
    """Tensors with scales of their own joined under one scale."""
    if not values or len(values) % 3:
        raise OnnxIllegal("inputs come as tensor, scale, zero point")
    parts = [
        _encoded(_decoded(*values[at : at + 3]), y_scale, y_zero, values[at])
        for at in range(0, len(values), 3)
    ]
    axis = compose.axis_of(int(node.get("axis", 1)), parts[0].ndim)
    return Tensor(graph.concat([part.node for part in parts], axis), device=common_device(*parts))


@op("QLinearWhere", domain=_MICROSOFT)
def qlinear_where(
    node: OpNode,
    condition: Value,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Tensor:
    """a where the condition holds, else b, under one scale."""
    chosen = _decoded(a, a_scale, a_zero).where(tensor(condition), _decoded(b, b_scale, b_zero))
    return _encoded(chosen, y_scale, y_zero, a)


# ---------------------------------------------------------------- products


def _scaled_product(
    a: Tensor, b: Tensor, scale: Tensor, zeros: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """float32 (a - a_zero) @ (b - b_zero) * scale."""
    total = integers.matmul(a.node, b.node, *(None if z is None else z.node for z in zeros))
    return Tensor(total, device=common_device(a, b)).to(float32) * scale


def _flat(value: Value | None) -> Tensor | None:
    """A zero point: of one element a scalar, else as it is."""
    if value is None:
        return None
    x = tensor(value)
    return x.reshape(()) if x.numel() == 1 else x


def _rows_of(value: Value | None) -> Tensor | None:
    """The left operand's zero point; a vector has one per row."""
    x = _flat(value)
    return x.unsqueeze(-1) if x is not None and x.ndim == 1 else x


def _plus_bias(x: Tensor, bias: Value | None) -> Tensor:
    return x if bias is None else x + tensor(bias).to(float32)


@op("MatMulIntegerToFloat", domain=_MICROSOFT)
def matmul_integer_to_float(
    node: OpNode,
    a: Value,
    b: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero: Value | None = None,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Tensor:
    """The product of quantised matrices as floats."""
    left = tensor(a_scale)
    left = left.unsqueeze(-1) if left.ndim == 1 and left.numel() > 1 else left.reshape(-1)
    scale = left.to(float32) * tensor(b_scale).to(float32)
    product = _scaled_product(tensor(a), tensor(b), scale, (_rows_of(a_zero), _flat(b_zero)))
    return _plus_bias(product, bias).to(tensor(a_scale).dtype)


@op("DynamicQuantizeMatMul", domain=_MICROSOFT)
def dynamic_quantize_matmul(
    node: OpNode,
    a: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Tensor:
    """A float matrix, quantised to uint8 over its own range, by a quantised one."""
    return _plus_bias(_by_codes(tensor(a), tensor(b), tensor(b_scale), _flat(b_zero)), bias)


def _by_codes(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """float32 product of floats, quantised over their own range, and a quantised matrix."""
    x = x.to(float32)
    step, x_zero = dynamic_range(x)
    x_codes = quantised(x, step.expand(*x.shape), x_zero.expand(*x.shape), uint8)
    return _scaled_product(x_codes, codes, step * scale.to(float32), (x_zero, zero))


@op("DynamicQuantizeLSTM", domain=_MICROSOFT)
def dynamic_quantize_lstm(
    node: OpNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value,
    lengths: Value,
    initial: Value,
    initial_cell: Value,
    peepholes: Value,
    w_scale: Value,
    w_zero: Value,
    r_scale: Value,
    r_zero: Value,
) -> tuple[Tensor, ...]:
    """LSTM whose weights [directions, K, 4 H] are bytes, with scales [directions] or per column.

    All inputs are quantised together, the states of a batch anew in every step.
    """

    def product(scales: Value, zeros: Value) -> recurrent.Product:
        def apply(x: Tensor, codes: Tensor, bias: Tensor | None, at: int) -> Tensor:
            found = _by_codes(x, codes.T, tensor(scales)[at], _flat(tensor(zeros)[at]))
            return found if bias is None else found + bias

        return apply

    products = recurrent.Products(product(w_scale, w_zero), product(r_scale, r_zero))
    weights = (tensor(w).mT, tensor(r).mT, b)
    return recurrent.lstm_with(
        node, x, weights, lengths, (initial, initial_cell), peepholes, products
    )


@op("QGemm", domain=_MICROSOFT)
def qgemm(
    node: OpNode,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    c: Value | None = None,
    y_scale: Value | None = None,
    y_zero: Value | None = None,
) -> Tensor:
    """alpha * a @ b + c in integers, then floats, or codes where there is an output scale."""
    left, right = tensor(a), tensor(b)
    left = left.T if node.get("transA", 0) else left
    right = right.T if node.get("transB", 0) else right
    zeros = (_flat(a_zero), _flat(b_zero))
    total = integers.matmul(
        left.node, right.node, *(None if zero is None else zero.node for zero in zeros)
    )
    sums = Tensor(total, device=common_device(left, right))
    sums = sums if c is None else sums + tensor(c)
    alpha = float(node.get("alpha", 1.0))
    factor = tensor(a_scale).reshape(()) * tensor(b_scale).reshape(-1) * alpha
    if y_scale is None:
        return sums.to(float32) * factor
    if y_zero is None:
        raise OnnxIllegal("an output scale wants an output zero point")
    step = factor / tensor(y_scale).reshape(())
    return integers.requantised(sums, step, tensor(y_zero).reshape(()))
