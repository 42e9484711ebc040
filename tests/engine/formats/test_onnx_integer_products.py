"""Models of onnxruntime's quantiser: its answers, through integer products alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from flopmarket.engine.formats.onnx import Model, load
from flopmarket.engine.graph import Op
from flopmarket.engine.quantize import Ranking, quantize

Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).parents[2] / "vectors" / "onnx" / "quantised"
NAMES = sorted(path.stem for path in FOLDER.glob("*.onnx"))
RANDOM = np.random.default_rng(8)


def products(model: Model) -> list[str]:
    """What every DOT of the program accumulates in."""
    return [node.dtype.name for node in model.program().nodes if node.op is Op.DOT]


@pytest.mark.parametrize("name", NAMES)
def test_quantised_models_give_onnxruntimes_answers_in_integers(name: str) -> None:
    answers = np.load(FOLDER / "answers.npz")
    model = load(str(FOLDER / f"{name}.onnx"))
    found = model.run({"x": answers["x"]}, "reference")["y"]
    top = np.abs(answers[name]).max()
    # One rounding of a product's total is between us: 2^-23 of it, through four layers.
    assert np.abs(found - answers[name]).max() <= 2**-20 * top
    assert np.abs(found - answers[f"{name} optimised"]).max() <= 2**-20 * top
    assert products(model) == ["int32"] * 4


def test_there_are_models_of_every_format() -> None:
    assert {name.split("_")[0] for name in NAMES} == {"qdq", "qoperator", "dynamic"}
    assert len(NAMES) == 8


def qdq_product(
    weight: Array, scale: Array, zero: Array | None, axis: int = 1, **extra: Any
) -> Model:
    """x [4, K] in uint8 codes times a dequantised weight [K, N]."""
    stored = {
        "s": np.array(0.02, np.float32),
        "z": np.array(117, np.uint8),
        "w": weight,
        "ws": scale,
    }
    parts = ["w", "ws"]
    if zero is not None:
        stored["wz"] = zero
        parts.append("wz")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", parts, ["f"], axis=axis, **extra),
        helper.make_node("MatMul", ["d", "f"], ["y"]),
    ]
    rows, columns = weight.shape
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, columns])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))


def expected(x: Array, weight: Array) -> Array:
    codes = np.clip(np.rint(x / np.float32(0.02)) + 117, 0, 255) - 117
    return (codes * np.float32(0.02)).astype(np.float64) @ weight.astype(np.float64)


def inputs(terms: int) -> Array:
    return RANDOM.normal(0, 1, (4, terms)).astype(np.float32)


@pytest.mark.parametrize("shape", [(24, 10), (96, 64)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_scales_and_zero_points_of_columns(shape: tuple[int, int], dtype: Any) -> None:
    """Small weights are literals of the program, large ones frozen tensors."""
    info = np.iinfo(dtype)
    weight = RANDOM.integers(info.min, info.max + 1, shape).astype(dtype)
    scale = RANDOM.uniform(0.01, 0.05, shape[1]).astype(np.float32)
    zero = RANDOM.integers(-5 if dtype is np.int8 else 100, 120, shape[1]).astype(dtype)
    model = qdq_product(weight, scale, zero)
    x = inputs(shape[0])
    exact = expected(x, (weight.astype(int) - zero.astype(int)) * scale)
    assert np.abs(model.run({"x": x}, "reference")["y"] - exact).max() < 1e-5 * np.abs(exact).max()
    assert products(model) == ["int32"]


def test_scales_along_the_sum_stay_floats() -> None:
    weight = RANDOM.integers(-128, 128, (24, 10)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.05, 24).astype(np.float32)
    blocks = RANDOM.uniform(0.01, 0.05, (3, 10)).astype(np.float32)
    x = inputs(24)
    for model, steps in (
        (qdq_product(weight, scale, None, axis=0), scale[:, None]),
        (qdq_product(weight, blocks, None, axis=0, block_size=8), np.repeat(blocks, 8, 0)),
    ):
        exact = expected(x, weight * steps)
        found = model.run({"x": x}, "reference")["y"]
        assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
        assert products(model) == ["float32"]


def test_float_onnx_models_are_quantised_too() -> None:
    """A Gemm, a transposed MatMul and a Conv of one file."""
    stored = {
        "a": RANDOM.normal(0, 1, (6, 3, 3, 3)),
        "b": RANDOM.normal(0, 1, (20, 6 * 36)),
        "c": RANDOM.normal(0, 1, (20, 8)),
        "d": RANDOM.normal(0, 1, 20),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "b", "d"], ["g"], transB=1, alpha=0.5),
        helper.make_node("MatMul", ["g", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in stored.items()],
    )
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    x = RANDOM.normal(0, 1, (12, 3, 6, 6)).astype(np.float32)
    result = quantize(
        model, {"x": x}, evaluate=Ranking({"x": x}), max_loss=0.05, device="reference"
    )
    assert result.report.integer_share == 1.0
    names = {word for layer in result.report.layers for word in layer.name.split()}
    assert "b" in names
    found = result.run({"x": x}, "reference")
    exact = model.run({"x": x}, "reference")
    assert set(found) == {"y"}
    assert np.abs(found["y"] - exact["y"]).max() < 0.05 * np.abs(exact["y"]).max()
