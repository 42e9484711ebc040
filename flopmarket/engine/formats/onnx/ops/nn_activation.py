"""Activations, and the softmaxes in their old and new meaning."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from flopmarket.engine import compose, functional, graph
from flopmarket.engine.compose import like
from flopmarket.engine.creation import where
from flopmarket.engine.formats.onnx.ops.nn_attributes import analytic
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

MICROSOFT = "com.microsoft"

_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


def _register(op_type: str, rule: Callable[[Tensor], Tensor]) -> None:
    @op(op_type)
    def handler(node: OpNode, x: Value) -> Tensor:
        return analytic(rule, x)


_register("HardSwish", lambda x: x * (x * (1 / 6) + 0.5).clamp(0.0, 1.0))
_register("Mish", functional.mish)
_register("Softplus", functional.softplus)
_register("Softsign", functional.softsign)


@op("Relu")
def relu(node: OpNode, x: Value) -> Tensor:
    """max(0, x)."""
    return tensor(x).relu()


@op("LeakyRelu")
def leaky_relu(node: OpNode, x: Value) -> Tensor:
    """x, times alpha below 0."""
    return functional.leaky_relu(tensor(x), float(node.get("alpha", 0.01)))


@op("PRelu")
def prelu(node: OpNode, x: Value, slope: Value) -> Tensor:
    """x, times a slope below 0 that broadcasts; before opset 7 one slope for each channel."""
    data, factor = tensor(x), tensor(slope)
    if node.opset < 7 and factor.ndim == 1 and factor.numel() > 1 and data.ndim > 2:
        factor = factor.reshape(-1, *(1,) * (data.ndim - 2))
    return where(data < 0, data * factor, data)


@op("ThresholdedRelu")
def thresholded_relu(node: OpNode, x: Value) -> Tensor:
    """x above alpha, else 0."""
    return functional.threshold(tensor(x), float(node.get("alpha", 1.0)), 0.0)


@op("Elu")
def elu(node: OpNode, x: Value) -> Tensor:
    """x, alpha * (e**x - 1) below 0."""
    alpha = float(node.get("alpha", 1.0))
    return analytic(lambda data: functional.elu(data, alpha), x)


@op("Selu")
def selu(node: OpNode, x: Value) -> Tensor:
    """gamma times x, or times alpha * (e**x - 1) below 0."""
    alpha = float(node.get("alpha", _SELU_ALPHA))
    gamma = float(node.get("gamma", _SELU_GAMMA))
    return analytic(lambda data: functional.elu(data, alpha) * gamma, x)


@op("Celu")
def celu(node: OpNode, x: Value) -> Tensor:
    """x, alpha * (e**(x / alpha) - 1) below 0."""
    alpha = float(node.get("alpha", 1.0))
    return analytic(lambda data: functional.celu(data, alpha), x)


@op("HardSigmoid")
def hard_sigmoid(node: OpNode, x: Value) -> Tensor:
    """alpha * x + beta limited to [0, 1]."""
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return (tensor(x) * alpha + beta).clamp(0.0, 1.0)


@op("Shrink")
def shrink(node: OpNode, x: Value) -> Tensor:
    """x moved toward 0 by bias outside [-lambd, lambd], 0 inside; integers too."""
    data = tensor(x)
    lambd, bias = float(node.get("lambd", 0.5)), float(node.get("bias", 0.0))
    wide = data if data.dtype.is_float else data.float()
    zero = wide * 0.0
    moved = where(wide < -lambd, wide + bias, where(wide > lambd, wide - bias, zero))
    return moved.to(data.dtype)


@op("Swish")
def swish(node: OpNode, x: Value) -> Tensor:
    """x * sigmoid(alpha * x)."""
    alpha = float(node.get("alpha", 1.0))
    return analytic(lambda data: data * (data * alpha).sigmoid(), x)


@op("Gelu")
def gelu(node: OpNode, x: Value) -> Tensor:
    """x times the normal distribution at x, or its approximation by tanh."""
    kind = str(node.get("approximate", "none"))
    return analytic(lambda data: functional.gelu(data, kind), x)


@op("Gelu", domain=MICROSOFT)
def contrib_gelu(node: OpNode, x: Value) -> Tensor:
    """The exact form."""
    return analytic(functional.gelu, x)


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(node: OpNode, x: Value, bias: Value) -> Tensor:
    """The exact form of x + bias."""
    return analytic(functional.gelu, tensor(x) + tensor(bias))


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(node: OpNode, x: Value, bias: Value | None = None) -> Tensor:
    """The approximation by tanh, of x + bias."""
    data = tensor(x) if bias is None else tensor(x) + tensor(bias)
    return analytic(lambda shifted: functional.gelu(shifted, "tanh"), data)


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: OpNode, x: Value) -> Tensor:
    """x * sigmoid(alpha * x)."""
    alpha = float(node.get("alpha", 1.702))
    return analytic(lambda data: data * (data * alpha).sigmoid(), x)


# ---------------------------------------------------------------- along an axis


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first largest element along an axis, else 0."""
    axes = (axis % x.ndim,)
    best = compose.fold("max", x.node, axes, keep=True)
    first = compose.first_extreme(x.node, axes, best)
    ramp = compose.ramp(x.shape, axes)
    hit = graph.cmp("eq", ramp, graph.expand(first, x.shape))
    one, zero = like(1, x.node), like(0, x.node)
    node: Node = graph.where(hit, one, zero)
    return Tensor(node, device=x.device)


def _along_axis(op_type: str, rule: Callable[[Tensor, int], Tensor]) -> None:
    @op(op_type, since=13)
    def along(node: OpNode, x: Value) -> Tensor:
        axis = int(node.get("axis", -1))
        return analytic(lambda data: rule(data, axis), x)

    @op(op_type)
    def flattened(node: OpNode, x: Value) -> Tensor:
        """Before opset 13: over all axes from ``axis`` on, as one."""
        data = tensor(x)
        axis = int(node.get("axis", 1))
        axis += data.ndim if axis < 0 else 0
        flat = data.reshape(prod(data.shape[:axis]), prod(data.shape[axis:]))
        return analytic(lambda rows: rule(rows, 1), flat).reshape(data.shape)


_along_axis("Softmax", functional.softmax)
_along_axis("LogSoftmax", functional.log_softmax)
_along_axis("Hardmax", _hardmax)
