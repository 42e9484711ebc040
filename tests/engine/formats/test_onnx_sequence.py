"""Recurrent, attention and order operators of ONNX against recorded results of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx.model import load

Array = np.ndarray[Any, Any]
VECTORS = Path(__file__).parents[2] / "vectors" / "onnx" / "sequence.npz"


@cache
def golden() -> Mapping[str, Array]:
    with np.load(VECTORS) as file:
        return dict(file)


def part(name: str, kind: str) -> dict[str, Array]:
    prefix = f"{name}/{kind}/"
    return {k[len(prefix) :]: v for k, v in golden().items() if k.startswith(prefix)}


NAMES = sorted({key.split("/")[0] for key in golden()})


@pytest.mark.parametrize("name", NAMES)
def test_as_onnx_runtime(name: str) -> None:
    model = load(golden()[f"{name}/model"].tobytes())
    found = model.run(part(name, "in"), device="reference")
    for output, wanted in part(name, "out").items():
        assert found[output].dtype == wanted.dtype
        np.testing.assert_allclose(found[output], wanted, rtol=2e-5, atol=2e-6)


def one(
    op_type: str, inputs: dict[str, Array], outputs: int = 1, domain: str = "", **attributes: Any
) -> Any:
    """A loaded model of one operator."""
    names = [f"out{at}" for at in range(outputs)]
    node = helper.make_node(op_type, list(inputs), names, domain=domain, **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
    graph = helper.make_graph([node], "one", given, results)
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    return load(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def test_packed_heads_are_the_same_attention() -> None:
    random = np.random.default_rng(1)
    packed = random.normal(size=(2, 3, 2, 3, 4)).astype(np.float32)
    apart = {name: packed[:, :, :, at].reshape(2, 3, 8) for at, name in enumerate("qkv")}
    options: dict[str, Any] = {"domain": "com.microsoft", "num_heads": 2}
    first = one("MultiHeadAttention", {"q": packed}, **options).run({"q": packed}, "reference")
    second = one("MultiHeadAttention", apart, **options).run(apart, "reference")
    assert first["out0"].tobytes() == second["out0"].tobytes()


def test_a_cache_of_attention_has_the_bits_of_one_run() -> None:
    random = np.random.default_rng(2)
    q, k, v = (random.normal(size=(1, 2, 6, 4)).astype(np.float32) for _ in range(3))
    names = ("q", "k", "v", "mask", "past_key", "past_value")
    whole = one("Attention", dict(zip("qkv", (q, k, v), strict=True)), 3, is_causal=1)
    wanted = whole.run({"q": q, "k": k, "v": v}, "reference")["out0"]
    past = [k[:, :, :0], v[:, :, :0]]
    for at in range(6):
        now = [x[:, :, at : at + 1] for x in (q, k, v)]
        mask = np.ones((1, at + 1), bool)
        inputs = dict(zip(names, (*now, mask, *past), strict=True))
        found = one("Attention", inputs, 3, is_causal=1).run(inputs, "reference")
        assert found["out0"].tobytes() == np.ascontiguousarray(wanted[:, :, at : at + 1]).tobytes()
        past = [found["out1"], found["out2"]]


def test_what_depends_on_data_is_refused_in_a_program() -> None:
    x = np.zeros((2, 3), np.float32)
    model = one("NonZero", {"x": x})
    assert model.run({"x": x + 1}, "reference")["out0"].shape == (2, 6)
    with pytest.raises(EngineError, match="ONNX_DATA_DEPENDENT"):
        model.program()


@pytest.mark.parametrize("kind", ["add", "mul", "max", "min"])
def test_scatter_reductions_on_integers(kind: str) -> None:
    x = np.arange(1, 9, dtype=np.int64).reshape(2, 4)
    index = np.array([[0, -1, 0], [2, 2, 2]])
    updates = np.array([[5, -7, 3], [2, 9, 4]])
    inputs = {"x": x, "i": index, "u": updates}
    model = one("ScatterElements", inputs, axis=1, reduction=kind)
    rule = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[kind]
    wanted = x.copy()
    for row in range(2):
        rule.at(wanted[row], index[row], updates[row])
    np.testing.assert_array_equal(model.run(inputs, "reference")["out0"], wanted)
