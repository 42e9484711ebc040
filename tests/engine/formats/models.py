"""Small ONNX models that tests build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Spec = tuple[str, int, Sequence[int | str] | None]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    initialisers: Mapping[str, Array] | None = None,
    name: str = "g",
) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(array, n) for n, array in (initialisers or {}).items()],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    initialisers: Mapping[str, Array] | None = None,
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 21,
) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(
        graph(nodes, inputs, outputs, initialisers),
        functions=list(functions),
        opset_imports=imports,
    )


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **rest: Any) -> Any:
    return helper.make_node(op_type, list(inputs), list(outputs), **rest)


def digits_cnn(seed: int = 0) -> onnx.ModelProto:
    """8x8 images [batch, 1, 8, 8] -> scores [batch, 10]: two convolutions and a linear head."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        bound = 1 / np.sqrt(np.prod(shape[1:]))
        return random.uniform(-bound, bound, shape).astype(np.float32)

    initialisers = {
        "conv1.weight": weights(8, 1, 3, 3),
        "conv1.bias": np.zeros(8, np.float32),
        "conv2.weight": weights(16, 8, 3, 3),
        "conv2.bias": np.zeros(16, np.float32),
        "head.weight": weights(10, 64),
        "head.bias": np.zeros(10, np.float32),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["a"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c"], ["d"]),
        node("Reshape", ["d", "flat"], ["e"]),
        node("Gemm", ["e", "head.weight", "head.bias"], ["scores"], transB=1),
    ]
    image: Spec = ("image", FLOAT, ["batch", 1, 8, 8])
    return model(nodes, [image], [("scores", FLOAT, ["batch", 10])], initialisers)
