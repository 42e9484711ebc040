"""Fake quantisation: values rounded to what integer codes hold, with a straight-through gradient.

Training with these in the forward pass makes a model that loses little when ``fm.quantize`` makes
its products integer. Scales and zero points get no gradient.
"""

from __future__ import annotations

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor


def fake_quantize_per_tensor_affine(
    x: Tensor, scale: Tensor | float, zero_point: Tensor | int, quant_min: int, quant_max: int
) -> Tensor:
    """(clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale.

    ``x`` float32; ``scale`` and ``zero_point`` have one element. The derivative is 1 where the code
    was not clamped and 0 elsewhere. Raises EngineError (QUANTIZE_OPTION, SHAPE_MISMATCH).
    """
    step, zero = _node(scale), _node(zero_point)
    if step.elements != 1 or zero.elements != 1:
        raise EngineError("one scale and one zero point for a tensor", code="SHAPE_MISMATCH")
    step, zero = (_spread(graph.reshape(part, ()), x.node) for part in (step, zero))
    return Tensor(_fake(x.node, step, zero, quant_min, quant_max), device=x.device)


def fake_quantize_per_channel_affine(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """The same with ``scale`` and ``zero_point`` [n] for the n entries along ``axis``."""
    at = compose.axis_of(axis, x.ndim)
    if scale.shape != (x.shape[at],) or zero_point.shape != scale.shape:
        raise EngineError(
            f"scales {list(scale.shape)} and zero points {list(zero_point.shape)} for axis {at} "
            f"of {list(x.shape)}",
            code="SHAPE_MISMATCH",
        )
    shape = tuple(n if a == at else 1 for a, n in enumerate(x.shape))
    step, zero = (
        _spread(graph.reshape(_node(part), shape), x.node) for part in (scale, zero_point)
    )
    return Tensor(_fake(x.node, step, zero, quant_min, quant_max), device=x.device)


def _node(value: Tensor | float) -> Node:
    tensor = value if isinstance(value, Tensor) else Tensor(float(value))
    return compose.detach(graph.cast(tensor.node, float32))


def _spread(part: Node, x: Node) -> Node:
    return compose.broadcast_to(part, x.shape)


def _fake(x: Node, scale: Node, zero: Node, low: int, high: int) -> Node:
    if x.dtype is not float32:
        raise EngineError(f"fake quantisation is of float32, not {x.dtype}", code="DTYPE_MISMATCH")
    if low >= high:
        raise EngineError(f"no codes from {low} to {high}", code="QUANTIZE_OPTION")
    codes = graph.add(rounding.half_even(compose.detach(graph.div(x, scale))), zero)
    clamped = graph.max_(compose.at_most(codes, like(high, x)), like(low, x))
    value = graph.mul(compose.subtract(clamped, zero), scale)
    # x - x is 0 with derivative 1: the value stays to the bit, the derivative goes through.
    held = graph.where(graph.cmp("eq", clamped, codes), x, compose.detach(x))
    through = compose.subtract(held, compose.detach(x))
    return graph.add(compose.detach(value), through)
