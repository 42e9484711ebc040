"""com.microsoft: operators that ONNX Runtime's graph optimiser writes into the models it saves.

Each is a standard operator with the next one, or a transposition, folded into it.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine.formats.onnx.errors import OnnxUnsupported
from flopmarket.engine.formats.onnx.registry import OpNode, Value, find, op, tensor
from flopmarket.engine.tensor import Tensor

_MICROSOFT = "com.microsoft"
_OPSET = 13
"""The opset of the standard operators that are called here."""

_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "Relu": lambda x, a, b: x.relu(),
    "Tanh": lambda x, a, b: x.tanh(),
    "Sigmoid": lambda x, a, b: x.sigmoid(),
    "LeakyRelu": lambda x, a, b: x.where(x >= 0.0, x * a),
    "Clip": lambda x, a, b: x.clamp(a, b),
    "HardSigmoid": lambda x, a, b: (x * a + b).clamp(0.0, 1.0),
}


def _activated(x: Tensor, name: str, numbers: list[float]) -> Tensor:
    if not name:
        return x
    if name not in _FUNCTIONS:
        raise OnnxUnsupported(f"an activation {name!r} inside a fused operator")
    first, second = [*numbers, 0.0, 0.0][:2]
    return _FUNCTIONS[name](x, first, second)


def _standard(op_type: str, node: OpNode, *inputs: Value) -> Tensor:
    handler = find(op_type, "", _OPSET)
    if handler is None:
        raise OnnxUnsupported(f"the operator {op_type}")
    result = handler(node, *inputs)
    return tensor(result[0] if isinstance(result, tuple) else result)


@op("FusedConv", domain=_MICROSOFT)
def fused_conv(
    node: OpNode, x: Value, w: Value, b: Value | None = None, z: Value | None = None
) -> Tensor:
    """A convolution, plus ``z`` where there is one, through an activation."""
    found = _standard("Conv", node, x, w, b)
    found = found if z is None else found + tensor(z)
    return _activated(found, node.get("activation", ""), list(node.get("activation_params", ())))


@op("FusedGemm", domain=_MICROSOFT)
def fused_gemm(node: OpNode, a: Value, b: Value, c: Value | None = None) -> Tensor:
    """Gemm through an activation."""
    numbers = [float(node.get(f"activation_{name}", 0.0)) for name in ("alpha", "beta")]
    return _activated(_standard("Gemm", node, a, b, c), node.get("activation", ""), numbers)


@op("FusedMatMulActivation", domain=_MICROSOFT)
def fused_matmul_activation(node: OpNode, a: Value, b: Value) -> Tensor:
    """FusedMatMul through an activation."""
    numbers = [float(node.get(f"activation_{name}", 0.0)) for name in ("alpha", "beta")]
    product = find("FusedMatMul", _MICROSOFT, 1)
    assert product is not None
    return _activated(tensor(product(node, a, b)), node.get("activation", ""), numbers)


@op("TransposeMatMul", domain=_MICROSOFT)
def transpose_matmul(node: OpNode, a: Value, b: Value) -> Tensor:
    """FusedMatMul by its older name."""
    product = find("FusedMatMul", _MICROSOFT, 1)
    assert product is not None
    return tensor(product(node, a, b))


@op("NhwcConv", domain=_MICROSOFT)
def nhwc_conv(node: OpNode, x: Value, w: Value, b: Value | None = None) -> Tensor:
    """A convolution of channels-last x by channels-last weights."""
    first, filters = (_channels_first(tensor(value)) for value in (x, w))
    return _channels_last(_standard("Conv", node, first, filters, b))


@op("NhwcFusedConv", domain=_MICROSOFT)
def nhwc_fused_conv(
    node: OpNode, x: Value, w: Value, b: Value | None = None, z: Value | None = None
) -> Tensor:
    """FusedConv of channels-last x; weights are channels first."""
    found = _channels_last(_standard("Conv", node, _channels_first(tensor(x)), w, b))
    found = found if z is None else found + tensor(z)
    return _activated(found, node.get("activation", ""), list(node.get("activation_params", ())))


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


@op("GroupNorm", domain=_MICROSOFT)
def group_norm(node: OpNode, x: Value, gamma: Value, beta: Value) -> Tensor:
    """Normalised groups of channels, through x * sigmoid(x) where ``activation`` is 1."""
    return _grouped(node, tensor(x), gamma, beta)


@op("SkipGroupNorm", domain=_MICROSOFT)
def skip_group_norm(
    node: OpNode, x: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None
) -> tuple[Tensor, Tensor]:
    """(GroupNorm of the sum of x, skip [N, H, W, C] or [N, (1, 1,) C] and bias [C]; that sum)."""
    given, other = tensor(x), tensor(skip)
    if other.ndim == 2:
        other = other.reshape(other.shape[0], 1, 1, other.shape[1])
    total = given + other if bias is None else given + other + tensor(bias)
    return _grouped(node, total, gamma, beta), total


def _grouped(node: OpNode, x: Tensor, gamma: Value, beta: Value) -> Tensor:
    last = bool(node.get("channels_last", 1))
    data = _channels_first(x) if last else x
    batch, channels = data.shape[:2]
    rows = data.float().reshape(batch, int(node.get("groups")), -1)
    mean = rows.mean(2, keepdim=True)
    spread = ((rows - mean) * (rows - mean)).mean(2, keepdim=True)
    normal = (rows - mean) / (spread + float(node.get("epsilon", 1e-5))).sqrt()
    shape = (1, channels) + (1,) * (data.ndim - 2)
    scale, shift = (tensor(value).float().reshape(*shape) for value in (gamma, beta))
    found = normal.reshape(*data.shape) * scale + shift
    if node.get("activation", 0):
        found = found * found.sigmoid()
    return (_channels_last(found) if last else found).to(x.dtype)


@op("BiasAdd", domain=_MICROSOFT)
def bias_add(node: OpNode, x: Value, bias: Value, skip: Value) -> Tensor:
    """x + bias + skip."""
    return tensor(x) + tensor(bias) + tensor(skip)


@op("BiasSplitGelu", domain=_MICROSOFT)
def bias_split_gelu(node: OpNode, x: Value, bias: Value) -> Tensor:
    """The first half of x + bias, times gelu of the second."""
    left, right = (tensor(x) + tensor(bias)).chunk(2, -1)
    gelu = find("Gelu", _MICROSOFT, 1)
    assert gelu is not None
    return left * tensor(gelu(node, right))
