"""QuantizeLinear and its relatives: per tensor, per axis and by blocks, to every quantised type.

The quotient is rounded half to even, then the zero point is added and the sum clamped, in int32:
exact for every type. Dequantised values are one float32 product, rounded once more where the
result is 16 bits wide.
"""

from __future__ import annotations

import numpy as np

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType, float32, int8, int32, uint8
from flopmarket.engine.formats.onnx import narrow
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.narrow import Format, Narrow, is_narrow, narrow_of
from flopmarket.engine.formats.onnx.ops.cast import element_type
from flopmarket.engine.formats.onnx.ops.operands import elementwise
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.tensor import Tensor

_FAR = 2.0**20
"""Quotients are clamped to this before they become integers: beyond every range, with every zero
point, and far from int32's own ends."""


def decoded(value: Value) -> Tensor:
    """A tensor, narrow formats as the numbers they stand for."""
    return narrow_of(value).decode() if is_narrow(value) else tensor(value)


def spread(parameter: Tensor, shape: Shape, axis: int, block_size: int) -> Tensor:
    """A scale or zero point under the shape of what it belongs to.

    One element counts for all, a vector along ``axis``; with ``block_size`` every entry along
    ``axis`` counts for that many neighbours. Raises OnnxIllegal for a shape that does not fit.
    """
    if parameter.numel() == 1 and not block_size:
        return parameter.reshape(()).expand(*shape)
    axis = compose.axis_of(axis, len(shape))
    if not block_size:
        if parameter.shape != (shape[axis],):
            raise OnnxIllegal(
                f"a scale of shape {list(parameter.shape)} for axis {axis} of {list(shape)}"
            )
        inner = tuple(n if a == axis else 1 for a, n in enumerate(shape))
        return parameter.reshape(*inner).expand(*shape)
    blocks = -(-shape[axis] // block_size)
    before, after = shape[:axis], shape[axis + 1 :]
    if parameter.shape != (*before, blocks, *after):
        raise OnnxIllegal(
            f"scales of shape {list(parameter.shape)} for blocks of {block_size} along axis "
            f"{axis} of {list(shape)}"
        )
    repeated = parameter.reshape(*before, blocks, 1, *after)
    repeated = repeated.expand(*before, blocks, block_size, *after)
    flat = repeated.reshape(*before, blocks * block_size, *after).node
    return Tensor(compose.part(flat, axis, 0, shape[axis]), device=parameter.device)


def saturated(quotient: Node, zero_point: Node, target: DType | Format) -> Node:
    """round(quotient) + zero_point (int32), clamped to an integer type, as that type's codes."""
    wide = graph.cast(quotient, float32)
    far = like(_FAR, wide)
    bounded = graph.max_(compose.at_most(rounding.half_even(wide), far), compose.negative(far))
    whole = graph.add(graph.cast(bounded, int32), zero_point)
    if isinstance(target, Format):
        low, high = -target.highest - 1 if target.signed else 0, target.highest
        codes = int8 if target.signed else uint8
    else:
        info = np.iinfo(target.numpy)
        low, high, codes = int(info.min), int(info.max), target
    clamped = compose.minimum(graph.max_(whole, like(low, whole)), like(high, whole))
    return graph.cast(clamped, codes)


def quantised(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    target: DType | Format,
    saturate: bool = True,
) -> Value:
    """``x`` / ``scale`` in ``target``; parameters have the shape of ``x``."""
    quotient = elementwise(graph.div, x, scale)
    if isinstance(target, Format) and target.is_float:
        if zero_point is not None and target.bits < 8:
            quotient = quotient + zero_point.to(quotient.dtype)
        return narrow.encode(quotient, target, saturate)
    shift = Tensor(graph.filled(0, int32, x.shape)) if zero_point is None else zero_point.to(int32)
    codes = elementwise(lambda q, z: saturated(q, z, target), quotient, shift)
    return Narrow(codes, target) if isinstance(target, Format) else codes


def dequantised(x: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: DType) -> Tensor:
    """(x - zero point) * scale in ``dtype``; parameters have the shape of ``x``."""
    if x.dtype.is_integer:
        whole = x.to(int32)
        difference = whole if zero_point is None else whole - zero_point.to(int32)
    else:
        difference = x if zero_point is None else x - zero_point
    return (difference.to(float32) * scale.to(float32)).to(dtype)


@op("QuantizeLinear")
@op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(node: OpNode, x: Value, scale: Value, zero_point: Value | None = None) -> Value:
    """saturate(round(x / scale) + zero point)."""
    target: DType | Format | None = uint8
    if zero_point is not None:
        zero = is_narrow(zero_point)
        target = narrow_of(zero_point).format if zero else tensor(zero_point).dtype
    elif node.get("output_dtype", 0):
        target = element_type(int(node.get("output_dtype")))
    if target is None or (isinstance(target, DType) and not target.is_integer):
        raise OnnxIllegal(f"{target} is no quantised type")
    value, step = tensor(x), decoded(scale)
    precision = element_type(int(node.get("precision", 0))) if node.get("precision", 0) else None
    if not isinstance(precision, DType):
        precision = value.dtype if is_narrow(scale) else step.dtype
    if not precision.is_float:
        precision = float32
    axis, block = _granularity(node)
    spread_zero = None if zero_point is None else decoded(zero_point)
    if spread_zero is not None:
        spread_zero = spread(spread_zero, value.shape, axis, block)
    return quantised(
        value.to(precision),
        spread(step, value.shape, axis, block).to(precision),
        spread_zero,
        target,
        bool(node.get("saturate", 1)),
    )


@op("DequantizeLinear")
@op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    node: OpNode, x: Value, scale: Value, zero_point: Value | None = None
) -> Tensor:
    """(x - zero point) * scale."""
    value, step = decoded(x), decoded(scale)
    dtype: DType | Format | None = step.dtype
    if node.get("output_dtype", 0):
        dtype = element_type(int(node.get("output_dtype")))
    if not isinstance(dtype, DType) or not dtype.is_float:
        raise OnnxIllegal(f"dequantised values are floats, not {dtype}")
    axis, block = _granularity(node)
    zero = None if zero_point is None else decoded(zero_point)
    if zero is not None:
        zero = spread(zero, value.shape, axis, block)
    return dequantised(value, spread(step, value.shape, axis, block), zero, dtype)


def _granularity(node: OpNode) -> tuple[int, int]:
    return int(node.get("axis", 1)), int(node.get("block_size", 0))


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: OpNode, x: Value) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 over the range that the data has, 0 included: (codes, scale, zero point)."""
    value = tensor(x)
    scale, zero_point = dynamic_range(value)
    codes = quantised(value, scale.expand(*value.shape), zero_point.expand(*value.shape), uint8)
    return codes, scale, zero_point


def dynamic_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 scale, uint8 zero point), scalars, that map the range of ``x`` onto 0..255.

    The scale of nothing but zeros is 1.
    """
    top, bottom = x.amax().maximum(0.0), x.amin().minimum(0.0)
    width = top - bottom
    scale = (width / 255.0).where(width != 0.0, 1.0)
    zero = Tensor(graph.filled(0, int32, ()), device=x.device)
    zero_point = elementwise(lambda q, z: saturated(q, z, uint8), -bottom / scale, zero)
    return scale, zero_point
