"""Operators that ONNX defines by other operators, and what opsets before 7 wrote differently.

onnx's schemas hold function bodies for many operators (SwiGLU, LinearAttention, ...). Where no
handler is registered, the body is evaluated instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.parsed import Function, Graph, Step
from flopmarket.engine.formats.onnx.read import read_function
from flopmarket.engine.formats.onnx.registry import OpNode, Value
from flopmarket.engine.formats.onnx.signatures import schema_of
from flopmarket.engine.formats.onnx.values import as_tensor
from flopmarket.engine.tensor import Tensor

BROADCAST_OPSET = 7
"""From here on arithmetic broadcasts as numpy does."""

_OLD_BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", "PRelu"}
)


def broadcast_of_old(node: OpNode, inputs: list[Value]) -> list[Value]:
    """Inputs of an operator of opset 6 or older, the second one shaped as numpy would want it."""
    if node.op_type not in _OLD_BROADCAST or len(inputs) != 2:
        return inputs
    first, second = as_tensor(inputs[0]), as_tensor(inputs[1])
    if node.op_type == "PRelu":
        axis = 1 if second.ndim == 1 and first.ndim > 1 and second.numel() > 1 else None
    elif not node.get("broadcast", 0):
        return inputs
    else:
        axis = node.get("axis")
    if axis is None:
        return [first, second]
    if not -first.ndim <= axis < max(1, first.ndim):
        raise OnnxIllegal(f"axis {axis} for a tensor of shape {list(first.shape)}")
    behind = first.ndim - axis % max(1, first.ndim) - second.ndim
    return [first, second.reshape(*second.shape, *([1] * max(0, behind)))]


def function_of(step: Step, opset: int, inputs: Sequence[Value]) -> Function | None:
    """The body that onnx gives for an operator at an opset version, or None."""
    schema = schema_of(step.op_type, step.domain, opset)
    if schema is None:
        return None
    versions = [v for v in schema.function_opset_versions if v <= opset]
    if versions:
        return _with_defaults(_plain(step.op_type, step.domain, opset, max(versions)), schema)
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if not versions:
        return None
    data = schema.get_context_dependent_function_with_opset_version(
        max(versions), _node_bytes(step, schema), [_type_bytes(value) for value in inputs]
    )
    return _with_defaults(_parse(data), schema)


@lru_cache(maxsize=1024)
def _plain(op_type: str, domain: str, opset: int, version: int) -> Function:
    schema = schema_of(op_type, domain, opset)
    assert schema is not None
    return _parse(schema.get_function_with_opset_version(version))


def _parse(data: bytes) -> Function:
    import onnx

    proto = onnx.FunctionProto()
    proto.ParseFromString(data)
    return read_function(proto)


def _with_defaults(function: Function, schema: Any) -> Function:
    """The body with the operator's default attributes."""
    import onnx

    defaults = {
        name: onnx.helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
    decoded = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in defaults.items()
    }
    return Function(
        function.key,
        function.inputs,
        function.outputs,
        decoded | function.attributes,
        function.opsets,
        function.steps,
    )


def _node_bytes(step: Step, schema: Any) -> bytes:
    import onnx

    attributes: dict[str, Any] = {
        name: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in step.attributes.items()
        if not isinstance(value, Graph)
    }
    domain = "" if step.domain == "ai.onnx" else step.domain
    node = onnx.helper.make_node(
        step.op_type, step.inputs, step.outputs, name=step.name, domain=domain, **attributes
    )
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    data: bytes = node.SerializeToString()
    return data


def _type_bytes(value: Value) -> bytes:
    import onnx

    if value is None:
        return b""
    if isinstance(value, list):
        inner = onnx.TypeProto()
        inner.ParseFromString(_type_bytes(value[0]) if value else b"")
        proto = onnx.helper.make_sequence_type_proto(inner)
    else:
        dtype = value.dtype.numpy if isinstance(value, Tensor) else np.asarray(value).dtype
        elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        proto = onnx.helper.make_tensor_type_proto(elem, value.shape)
    data: bytes = proto.SerializeToString()
    return data
