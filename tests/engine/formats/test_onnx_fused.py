"""What ONNX Runtime's optimiser and quantisers of weights write, against the plain operators."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import load
from tests.engine.formats import single
from tests.engine.formats.single import RANDOM, Array, integers


def run(op_type: str, *inputs: Array | None, **rest: Any) -> Any:
    return single.run(op_type, *inputs, domain="com.microsoft", **rest)


def normal(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


# ---------------------------------------------------------------- fused operators

ACTIVATIONS: dict[str, tuple[list[float], Any]] = {
    "": ([], lambda x: x),
    "Relu": ([], lambda x: np.maximum(x, 0)),
    "Tanh": ([], np.tanh),
    "Sigmoid": ([], sigmoid),
    "LeakyRelu": ([0.3], lambda x: np.where(x < 0, 0.3 * x, x)),
    "Clip": ([-0.5, 1.5], lambda x: x.clip(-0.5, 1.5)),
    "HardSigmoid": ([0.25, 0.4], lambda x: (0.25 * x + 0.4).clip(0, 1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_convolution_with_a_sum_and_an_activation_in_it(name: str) -> None:
    numbers, rule = ACTIVATIONS[name]
    x, w, b, z = normal(1, 4, 5, 6), normal(6, 2, 3, 3), normal(6), normal(1, 6, 5, 6)
    options: dict[str, Any] = {"pads": [1] * 4, "group": 2}
    named: dict[str, Any] = {"activation": name} if name else {}
    if numbers:
        named["activation_params"] = numbers
    plain = single.run("Conv", x, w, b, **options)
    found = run("FusedConv", x, w, b, **options, **named)
    np.testing.assert_allclose(found, rule(plain), rtol=1e-5, atol=1e-6)
    found = run("FusedConv", x, w, b, z, **options, **named)
    np.testing.assert_allclose(found, rule(plain + z), rtol=1e-5, atol=1e-6)


def test_an_activation_nobody_fuses_is_named() -> None:
    with pytest.raises(EngineError, match=r"FusedConv 'y0': an activation 'Mish'"):
        run("FusedConv", normal(1, 1, 3, 3), normal(1, 1, 2, 2), activation="Mish")


def test_a_product_with_an_activation_in_it() -> None:
    a, b, c = normal(3, 4), normal(5, 4), normal(5)
    found = run(
        "FusedGemm", a, b, c, transB=1, alpha=0.5, beta=2.0,
        activation="LeakyRelu", activation_alpha=0.1,
    )  # fmt: skip
    wanted = 0.5 * a @ b.T + 2 * c
    np.testing.assert_allclose(found, np.where(wanted < 0, 0.1 * wanted, wanted), 1e-4, 1e-6)
    np.testing.assert_allclose(run("TransposeMatMul", a, b, transB=1), a @ b.T, 1e-4, 1e-6)
    found = run("FusedMatMulActivation", a, b, transB=1, activation="Relu")
    np.testing.assert_allclose(found, np.maximum(a @ b.T, 0), 1e-4, 1e-6)


def test_convolutions_with_channels_last() -> None:
    x, w, b = normal(2, 5, 6, 4), normal(3, 2, 2, 4), normal(3)
    plain = single.run("Conv", x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2), b, strides=[2, 1])
    found = run("NhwcConv", x, w, b, strides=[2, 1])
    np.testing.assert_array_equal(found, plain.transpose(0, 2, 3, 1))
    z = normal(*found.shape)
    fused = run(
        "NhwcFusedConv", x, w.transpose(0, 3, 1, 2), b, z, strides=[2, 1], activation="Relu"
    )
    np.testing.assert_allclose(fused, np.maximum(found + z, 0), 1e-6)


@pytest.mark.parametrize("last", [0, 1])
def test_normalised_groups_of_a_sum(last: int) -> None:
    x, gamma, beta, skip, bias = normal(2, 3, 4, 6), normal(6), normal(6), normal(2, 6), normal(6)
    total = x + skip[:, None, None] + bias
    rows = total.astype(np.float64).transpose(0, 3, 1, 2).reshape(2, 3, -1)
    scaled = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-5)
    wanted = scaled.reshape(2, 6, 3, 4).transpose(0, 2, 3, 1) * gamma + beta
    wanted = wanted * sigmoid(wanted)
    if last:
        found, added = run(
            "SkipGroupNorm", x, gamma, beta, skip, bias, outputs=2, groups=3, activation=1
        )
        np.testing.assert_allclose(added, total, 1e-6)
    else:
        moved = total.transpose(0, 3, 1, 2).copy()
        found = run("GroupNorm", moved, gamma, beta, groups=3, activation=1, channels_last=0)
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_biases_of_diffusion_networks() -> None:
    x, bias, skip = normal(2, 3, 8), normal(8), normal(2, 3, 8)
    np.testing.assert_allclose(run("BiasAdd", x, bias, skip), x + bias + skip, 1e-5)
    left, right = np.split(x + bias, 2, -1)
    gelu = single.run("Gelu", right)
    np.testing.assert_allclose(run("BiasSplitGelu", x, bias), left * gelu, 1e-5)


# ---------------------------------------------------------------- weights in blocks

NF4 = [
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
]  # fmt: skip
FP4 = [0.0, 0.0052083333, 0.6666667, 1.0, 0.33333333, 0.5, 0.1666667, 0.25]
FP4 += [-value for value in FP4]


@pytest.mark.parametrize(("kind", "table"), [(0, FP4), (1, NF4)])
def test_weights_of_four_bits_are_looked_up(kind: int, table: list[float]) -> None:
    terms, columns, block = 12, 5, 16  # the last of four blocks is short
    codes = integers(0, 16, (terms * columns,), np.uint8)
    packed = codes[0::2] << 4 | codes[1::2]
    largest = RANDOM.uniform(0.5, 2, 4).astype(np.float32)
    weights = np.array(table, np.float32)[codes] * np.repeat(largest, block)[: codes.size]
    x = normal(2, 3, terms)
    found = run(
        "MatMulBnb4", x, packed, largest, K=terms, N=columns, block_size=block, quant_type=kind
    )
    np.testing.assert_allclose(found, x @ weights.reshape(columns, terms).T, 1e-4, 1e-5)


@pytest.mark.parametrize("given", [False, True])
def test_rows_of_a_quantised_table(given: bool) -> None:
    rows, width, block = 7, 40, 16
    codes = integers(0, 16, (rows, width), np.uint8)
    scales = RANDOM.uniform(0.1, 1, (rows, 3)).astype(np.float32)
    zeros = integers(0, 16, (rows, 4), np.uint8)
    middle = zeros[:, :3] if given else np.full((rows, 3), 8)
    shift = np.repeat(middle, block, 1)[:, :width].astype(np.float32)
    wanted = (codes - shift) * np.repeat(scales, block, 1)[:, :width]
    places = np.array([[6, 0], [-1, 2]], np.int64)
    packed, packed_zeros = (part[:, 0::2] | part[:, 1::2] << 4 for part in (codes, zeros))
    found = run(
        "GatherBlockQuantized", packed, places, scales, packed_zeros if given else None,
        block_size=block, bits=4,
    )  # fmt: skip
    np.testing.assert_array_equal(found, wanted[places])


def test_rows_of_a_table_of_int4_and_of_whole_bytes() -> None:
    places, scales = np.array([1, 0], np.int64), np.array([[0.5, 2.0], [1.0, 0.25]], np.float32)
    spread = np.repeat(scales, 16, 1)
    codes = integers(-8, 8, (2, 32), np.int8)
    found = run("GatherBlockQuantized", codes.astype(ml_dtypes.int4), places, scales, block_size=16)
    np.testing.assert_array_equal(found, (codes * spread)[places])
    whole = integers(0, 256, (2, 32), np.uint8)
    found = run("GatherBlockQuantized", whole, places, scales, block_size=16, bits=8)
    np.testing.assert_array_equal(found, ((whole.astype(np.float32) - 128) * spread)[places])


# ---------------------------------------------------------------- quantised transformers


def test_attention_with_a_quantised_projection_is_that_of_the_decoded_values() -> None:
    x, weights = integers(0, 256, (2, 5, 8), np.uint8), integers(-128, 128, (8, 24), np.int8)
    bias, scale = normal(24), np.array(0.02, np.float32)
    weight_scale = RANDOM.uniform(0.005, 0.01, 24).astype(np.float32)
    x_zero, weight_zero = np.array(130, np.uint8), np.zeros(24, np.int8)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    found = run(
        "QAttention", x, weights, bias, scale, weight_scale, mask, x_zero, weight_zero, num_heads=2
    )
    values = (x.astype(np.float32) - 130) * scale
    plain = run("Attention", values, weights * weight_scale, bias, mask, num_heads=2)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


def test_quantised_embedding_tables_are_decoded() -> None:
    ids, segments = integers(0, 9, (2, 4), np.int32), integers(0, 2, (2, 4), np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.int32)
    shapes = ((9, 6), (4, 6), (2, 6), (6,), (6,))
    tables = [integers(0, 256, shape, np.uint8) for shape in shapes]
    scales = [np.array(scale, np.float32) for scale in (0.01, 0.02, 0.03, 0.005, 0.004)]
    zeros = [np.array(zero, np.uint8) for zero in (120, 130, 128, 10, 100)]
    found, counts = run(
        "QEmbedLayerNormalization", ids, segments, *tables, mask, *scales, *zeros, outputs=2
    )
    plain = [
        ((table.astype(np.float32) - zero) * scale).astype(np.float32)
        for table, scale, zero in zip(tables, scales, zeros, strict=True)
    ]
    wanted, wanted_counts = run("EmbedLayerNormalization", ids, segments, *plain, mask, outputs=2)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(counts, wanted_counts)


# ---------------------------------------------------------------- models nobody wrote by hand


def test_a_model_laid_out_for_one_processor_says_how_to_save_it() -> None:
    x = normal(1, 4, 5, 5)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "x"], ["y"], "first", domain="com.microsoft.nchwc")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft.nchwc", 1)],
    )
    with pytest.raises(EngineError, match="Conv 'first'") as refusal:
        load(proto).run({"x": x}, device="reference")
    assert "ORT_ENABLE_EXTENDED" in refusal.value.hint


@pytest.mark.parametrize("name", ["?", "None"])
def test_axes_that_exporters_leave_without_a_name_are_independent(name: str) -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, name, name])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
    )
    found = load(proto).run({"x": normal(1, 2, 3)}, device="reference")
    assert found["y"].shape == (1, 2, 3)
