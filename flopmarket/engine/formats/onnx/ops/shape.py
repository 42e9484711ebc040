"""Constants, shapes and ranges: values that are known while the graph is built."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, graph
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.formats.onnx.values import as_value, check_host, engine_dtype
from flopmarket.engine.tensor import Tensor


@op("Constant")
def constant(node: OpNode) -> Value:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return as_value(np.asarray(node.attributes[name], dtype=dtype))
    for name in ("value", "sparse_value"):
        if name in node.attributes:
            return as_value(node.attributes[name])
    for name in ("value_string", "value_strings"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype=object)
    raise OnnxIllegal("it has no value")


@op("ConstantOfShape", since=9)
def constant_of_shape(node: OpNode, shape: Value) -> Value:
    lengths = node.host_ints(shape, "the shape")
    value = np.asarray(node.get("value", np.zeros(1, np.float32)))
    if value.size != 1 or min(lengths, default=0) < 0:
        raise OnnxIllegal(f"one value for a shape of lengths >= 0, not {lengths}")
    dtype = engine_dtype(value.dtype)
    if dtype is not None:
        return Tensor(graph.filled(value.reshape(())[()], dtype, lengths))
    check_host(prod(lengths))
    return np.full(lengths, value.reshape(())[()], dtype=value.dtype)


@op("Shape")
def shape(node: OpNode, x: Value) -> Value:
    return Tensor(np.asarray(x.shape, dtype=np.int64))


@op("Shape", since=15)
def shape_part(node: OpNode, x: Value) -> Value:
    part = x.shape[slice(node.get("start", 0), node.get("end"))]
    return Tensor(np.asarray(part, dtype=np.int64))


@op("Size")
def size(node: OpNode, x: Value) -> Value:
    return Tensor(np.asarray(prod(x.shape), dtype=np.int64))


@op("Range", since=11)
def range_(node: OpNode, start: Value, limit: Value, delta: Value) -> Value:
    first, last, step = (
        _number(node, value, f"the {word}")
        for value, word in ((start, "start"), (limit, "limit"), (delta, "step"))
    )
    if step == 0:
        raise OnnxIllegal("the step is 0")
    dtype = dtypes.from_numpy(first.dtype)
    if dtype.is_integer:
        count = max(0, -((int(first) - int(last)) // int(step)))
    else:
        count = max(0, ceil((float(last) - float(first)) / float(step)))
    ramp = Tensor(graph.iota(0, (count,), dtypes.int64)).to(dtype)
    return (ramp * Tensor(step) + Tensor(first)).to(dtype)


def _number(node: OpNode, value: Value, why: str) -> np.ndarray[Any, Any]:
    array = node.host(value, why)
    if array.size != 1 or not np.isfinite(array.astype(np.float64)).all():
        raise OnnxIllegal(f"{why} is one finite number")
    return array.reshape(())
