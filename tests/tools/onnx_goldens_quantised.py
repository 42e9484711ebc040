"""Models that onnxruntime's own quantiser wrote, with what onnxruntime answers: tests/vectors/onnx.

A small network (two convolutions, pooling, a matrix product and a Gemm) with random weights is
quantised statically in both formats, with zero points and scales per tensor and per channel, and
dynamically. The answers are onnxruntime's, on fixed inputs. Run
``python -m tests.tools.onnx_goldens_quantised`` with onnxruntime installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

FOLDER = Path(__file__).parents[1] / "vectors" / "onnx" / "quantised"
ROWS = 6
UNSIGNED, SIGNED = QuantType.QUInt8, QuantType.QInt8
STATIC: dict[str, dict[str, Any]] = {
    "qdq_u8s8": {"activation_type": UNSIGNED, "weight_type": SIGNED},
    "qdq_u8s8_channels": {
        "activation_type": UNSIGNED,
        "weight_type": SIGNED,
        "per_channel": True,
    },
    "qdq_s8s8": {"activation_type": SIGNED, "weight_type": SIGNED},
    "qdq_u8u8": {"activation_type": UNSIGNED, "weight_type": UNSIGNED},
    "qoperator_u8s8": {"activation_type": UNSIGNED, "weight_type": SIGNED},
    "qoperator_u8s8_channels": {
        "activation_type": UNSIGNED,
        "weight_type": SIGNED,
        "per_channel": True,
    },
}


def network() -> onnx.ModelProto:
    """float32 [N, 2, 8, 8] to scores [N, 5]."""
    random = np.random.default_rng(7)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:] or (1,)))
        return numpy_helper.from_array(random.normal(0, scale, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("LeakyRelu", ["c1"], ["r1"], alpha=0.3, name="leaky"),
        helper.make_node(
            "Conv",
            ["r1", "w2", "b2"],
            ["c2"],
            pads=[1, 0, 1, 2],
            strides=[2, 2],
            group=2,
            name="conv2",
        ),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu"),
        helper.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w3"], ["m"], name="matmul"),
        helper.make_node("Add", ["m", "b3"], ["a"], name="add"),
        helper.make_node("Gemm", ["a", "w4", "b4"], ["y"], transB=1, name="gemm"),
    ]
    stored = [
        weights("w1", 8, 2, 3, 3),
        weights("b1", 8),
        weights("w2", 12, 4, 3, 3),
        weights("b2", 12),
        weights("w3", 48, 16),
        weights("b3", 16),
        weights("w4", 5, 16),
        weights("b4", 5),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, 5])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


class _Reader(CalibrationDataReader):
    """Four batches of inputs."""

    def __init__(self) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{"x": inputs(seed)} for seed in range(1, 5)]
        )

    def get_next(self) -> Any:
        return next(self._batches, None)


def inputs(seed: int) -> np.ndarray[Any, Any]:
    """One batch."""
    return np.random.default_rng(seed).normal(0.2, 1, (ROWS, 2, 8, 8)).astype(np.float32)


def main() -> None:
    """Write every model and its answers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    answers = {"x": inputs(99)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        onnx.save(network(), source)
        for name, options in STATIC.items():
            kind = QuantFormat.QDQ if name.startswith("qdq") else QuantFormat.QOperator
            quantize_static(
                source, FOLDER / f"{name}.onnx", _Reader(), quant_format=kind, **options
            )
        for name, weight_type in (("dynamic_s8", SIGNED), ("dynamic_u8", UNSIGNED)):
            quantize_dynamic(source, FOLDER / f"{name}.onnx", weight_type=weight_type)
    for path in sorted(FOLDER.glob("*.onnx")):
        # Without rewriting by onnxruntime's optimiser: the file's own operators answer.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (answers[path.stem],) = session.run(None, {"x": answers["x"]})
        fused = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (answers[f"{path.stem} optimised"],) = fused.run(None, {"x": answers["x"]})
    np.savez_compressed(FOLDER / "answers.npz", **answers)


if __name__ == "__main__":
    main()
