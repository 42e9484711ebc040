"""Quantising, integer products and convolutions, and what ONNX Runtime's quantiser writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine.errors import EngineError
from tests.engine.formats.single import RANDOM, Array, integers, run


def test_quantising_rounds_half_to_even_and_saturates_every_type() -> None:
    x = np.array([-1e30, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 300.0, np.inf], np.float32)
    for dtype in (np.int8, np.uint8, np.int16, np.uint16):
        info = np.iinfo(dtype)
        zero = np.array(3, dtype)
        wanted = np.clip(np.rint(np.clip(x, -1e6, 1e6)) + 3, info.min, info.max)
        found = run("QuantizeLinear", x, np.array(1.0, np.float32), zero)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted)


def test_blocks_share_their_scale_and_a_last_block_may_be_short() -> None:
    x = integers(-128, 128, (2, 5), np.int8)
    scale = np.array([[0.5, 2.0, 1.0], [0.25, 3.0, 4.0]], np.float32)
    found = run("DequantizeLinear", x, scale, axis=1, block_size=2)
    spread = np.repeat(scale, 2, axis=1)[:, :5]
    np.testing.assert_array_equal(found, x * spread)
    with pytest.raises(EngineError, match="blocks of 3"):
        run("DequantizeLinear", x, scale, axis=1, block_size=3)
    with pytest.raises(EngineError, match="for axis 1"):
        run("DequantizeLinear", x, scale[0], axis=1)


def test_integer_products_subtract_zero_points_of_rows_and_columns() -> None:
    a = integers(0, 256, (2, 3, 4), np.uint8)
    b = integers(-128, 128, (2, 4, 5), np.int8)
    a_zero = integers(0, 256, (3,), np.uint8)
    b_zero = integers(-128, 128, (5,), np.int8)
    wide = (a.astype(int) - a_zero[:, None]) @ (b.astype(int) - b_zero)
    np.testing.assert_array_equal(run("MatMulInteger", a, b, a_zero, b_zero), wide)
    vector = run("MatMulInteger", a[0, 0], b[0], None, b_zero)
    np.testing.assert_array_equal(vector, a[0, 0].astype(int) @ (b[0].astype(int) - b_zero))


def test_integer_convolution_pads_with_the_zero_point() -> None:
    x = integers(0, 256, (2, 4, 6), np.uint8)
    w = integers(-128, 128, (6, 2, 3), np.int8)
    x_zero, w_zero = np.array(7, np.uint8), np.arange(-3, 3).astype(np.int8)
    found = run(
        "ConvInteger", x, w, x_zero, w_zero, group=2, pads=[2, 1], strides=[2], dilations=[2]
    )
    wide = np.pad(x.astype(int) - 7, ((0, 0), (0, 0), (2, 1)))
    taps = w.astype(int) - w_zero.astype(int)[:, None, None]
    wanted = np.zeros((2, 6, 3), int)
    for out in range(6):
        for place in range(3):
            part = wide[:, 2 * (out // 3) : 2 * (out // 3) + 2, 2 * place : 2 * place + 5 : 2]
            wanted[:, out, place] = (part * taps[out]).sum((1, 2))
    np.testing.assert_array_equal(found, wanted)


def test_packed_weights_of_few_bits_are_unpacked_block_by_block() -> None:
    terms, columns, block = 40, 3, 16
    blocks = -(-terms // block)
    x = RANDOM.normal(size=(2, terms)).astype(np.float32)
    codes = RANDOM.integers(0, 16, (columns, blocks * block))
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)
    scales = RANDOM.random(columns * blocks).astype(np.float32)
    found = run(
        "MatMulNBits", x, packed.reshape(columns, blocks, block // 2), scales,
        domain="com.microsoft", K=terms, N=columns, bits=4, block_size=block,
    )  # fmt: skip
    weights = (codes - 8) * np.repeat(scales.reshape(columns, blocks), block, axis=1)
    np.testing.assert_allclose(found, x @ weights[:, :terms].T, rtol=1e-4, atol=1e-4)


def parameters(scale: float, zero: int, dtype: type) -> tuple[Array, Array]:
    return np.array(scale, np.float32), np.array(zero, dtype)


def decoded(codes: Array, scale: Array, zero: Array) -> Array:
    return (codes.astype(np.float64) - zero) * scale


def nearly_encoded(found: Array, values: Array, scale: Array, zero: Array) -> bool:
    """Whether codes are those of ``values``, up to one where a quotient is half-way."""
    info = np.iinfo(found.dtype)
    exact = np.clip(values / scale + zero, info.min, info.max)
    return bool((np.abs(found - exact) <= 0.5001).all())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_elementwise_operators_are_the_float_ones(dtype: type) -> None:
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    a, b = (integers(low, high, (3, 4), dtype) for _ in range(2))
    first, second, out = (
        parameters(scale, zero, dtype) for scale, zero in ((0.03, 12), (0.02, 3), (0.05, 9))
    )
    x, y = decoded(a, *first), decoded(b, *second)
    microsoft: dict[str, Any] = {"domain": "com.microsoft"}
    for op_type, wanted in (("QLinearAdd", x + y), ("QLinearMul", x * y)):
        found = run(op_type, a, *first, b, *second, *out, **microsoft)
        assert found.dtype == dtype
        assert nearly_encoded(found, wanted, *out)
    chosen = run("QLinearWhere", a > b, a, *first, b, *second, *out, **microsoft)
    assert nearly_encoded(chosen, np.where(a > b, x, y), *out)
    smooth = run("QLinearSigmoid", a, *first, *out, **microsoft)
    assert nearly_encoded(smooth, 1 / (1 + np.exp(-x)), *out)
    leaky = run("QLinearLeakyRelu", a, *first, *out, **microsoft)
    assert nearly_encoded(leaky, np.where(x < 0, 0.01 * x, x), *out)
    image = integers(low, high, (1, 2, 4, 4), dtype)
    mean = run("QLinearGlobalAveragePool", image, *first, *out, **microsoft)
    assert nearly_encoded(mean, decoded(image, *first).mean((2, 3), keepdims=True), *out)
    pooled = run("QLinearAveragePool", image, *first, *out, kernel_shape=[2, 2], **microsoft)
    windows = np.lib.stride_tricks.sliding_window_view(decoded(image, *first), (2, 2), (2, 3))
    assert nearly_encoded(pooled, windows.mean((4, 5)), *out)


def test_dynamic_quantisation_of_a_product_loses_little() -> None:
    x = RANDOM.normal(size=(5, 16)).astype(np.float32)
    weights = integers(-128, 128, (16, 3), np.int8)
    scale, zero = np.array([0.01, 0.02, 0.03], np.float32), np.array([1, -2, 3], np.int8)
    bias = np.array([1.0, 2.0, 3.0], np.float32)
    found = run("DynamicQuantizeMatMul", x, weights, scale, zero, bias, domain="com.microsoft")
    matrix = decoded(weights, scale, zero)
    step = (x.max() - x.min()) / 255
    limit = step / 2 * np.abs(matrix).sum(0) + 1e-4
    assert (np.abs(found - (x @ matrix + bias)) <= limit).all()


def quantised_product(x: Array, codes: Array, scale: Array, zero: Array) -> Array:
    """x, rounded to uint8 over its own range, by a quantised matrix."""
    top, bottom = max(x.max(), 0), min(x.min(), 0)
    step = np.float32((top - bottom) / np.float32(255))
    middle = np.rint(-bottom / step)
    return step * (np.rint(x / step).clip(-middle, 255 - middle) @ decoded(codes, scale, zero))


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_lstm_with_quantised_weights_quantises_its_state_in_every_step(
    per_channel: bool,
) -> None:
    steps, batch, size, hidden = 5, 2, 6, 4
    x = RANDOM.normal(size=(steps, batch, size)).astype(np.float32)
    w = integers(-128, 128, (2, size, 4 * hidden), np.int8)
    r = integers(-128, 128, (2, hidden, 4 * hidden), np.int8)
    bias = RANDOM.normal(size=(2, 8 * hidden)).astype(np.float32)
    shape = (2, 4 * hidden) if per_channel else (2,)
    scales = [RANDOM.uniform(0.002, 0.01, shape).astype(np.float32) for _ in range(2)]
    zeros = [integers(-9, 9, shape, np.int8) for _ in range(2)]
    found, last, last_cell = run(
        "DynamicQuantizeLSTM", x, w, r, bias, None, None, None, None,
        scales[0], zeros[0], scales[1], zeros[1],
        outputs=3, domain="com.microsoft", hidden_size=hidden, direction="bidirectional",
    )  # fmt: skip
    for at, order in enumerate((range(steps), reversed(range(steps)))):
        projected = quantised_product(x, w[at], scales[0][at], zeros[0][at])
        h = c = np.zeros((batch, hidden))
        for step in order:
            gates = projected[step] + bias[at, : 4 * hidden] + bias[at, 4 * hidden :]
            if h.any():
                gates = gates + quantised_product(
                    h.astype(np.float32), r[at], scales[1][at], zeros[1][at]
                )
            i, o, f, g = np.split(gates, 4, -1)
            i, o, f = (1 / (1 + np.exp(-gate)) for gate in (i, o, f))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            np.testing.assert_allclose(found[step, at], h, atol=1e-5)
        np.testing.assert_allclose(last[at], h, atol=1e-5)
        np.testing.assert_allclose(last_cell[at], c, atol=1e-5)
