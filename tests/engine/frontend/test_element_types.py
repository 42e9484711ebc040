"""Tensors of 16-bit floats, float64 and narrow integers: results, conversions, derivatives."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flopmarket as fm
from flopmarket.engine import creation, dtypes, floats
from flopmarket.engine.dtypes import DType, bfloat16, float16, float32, float64
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
NARROW_FLOATS = (float16, bfloat16)


def tensor(data: Any, dtype: DType | None = None) -> Tensor:
    return Tensor(data, dtype, device="reference")


def some(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def same(found: Tensor, want: Array, dtype: DType) -> None:
    assert found.dtype is dtype
    have, wanted = found.numpy(), floats.convert(np.asarray(want), dtype)
    words = dtypes.unsigned_of(dtype).numpy
    np.testing.assert_array_equal(have.view(words), dtypes.canonical(wanted).view(words))


def test_data_keeps_its_dtype_and_rounds_once_where_one_is_given() -> None:
    for dtype in (float16, bfloat16, float64, dtypes.int16, dtypes.uint16):
        assert tensor(np.ones(3, dtype=dtype.numpy)).dtype is dtype
    above_a_tie = 1 + 2.0**-8 + 2.0**-40
    same(tensor([above_a_tie], bfloat16), np.array([1 + 2.0**-7]), bfloat16)
    same(creation.full((1,), above_a_tie, bfloat16), np.array([1 + 2.0**-7]), bfloat16)
    assert np.isinf(creation.full((), 1e9, float16).numpy())


def test_conversions() -> None:
    x = tensor([1.5, -0.1, 70000.0])
    assert [y.dtype for y in (x.half(), x.bfloat16(), x.double())] == [float16, bfloat16, float64]
    same(x.half(), x.numpy(), float16)
    same(x.bfloat16().float(), x.numpy().astype(ml_dtypes.bfloat16), float32)
    assert x.half().bitcast(dtypes.int16).numpy().tolist() == [0x3E00, 0xAE66 - 2**16, 0x7C00]


@pytest.mark.parametrize("dtype", NARROW_FLOATS, ids=str)
def test_elementary_functions_are_those_of_float32_rounded(dtype: DType) -> None:
    x = tensor(some(300), dtype)
    wide = x.float()
    for name in ("exp", "exp2", "log", "log2", "tanh", "sigmoid", "erf"):
        same(getattr(x, name)(), getattr(wide, name)().numpy(), dtype)
    rows, wide_rows = x.reshape(3, 100), wide.reshape(3, 100)
    for name in ("softmax", "log_softmax", "logsumexp"):
        same(getattr(rows, name)(1), getattr(wide_rows, name)(1).numpy(), dtype)


def test_elementary_functions_of_float64_are_float64() -> None:
    values = some(4).astype(np.float64)
    x = tensor(values)
    shifted = np.exp(values - values.max())
    for result, wanted in (
        (x.exp(), np.exp(values)),
        (x.tanh(), np.tanh(values)),
        (x.softmax(0), shifted / shifted.sum()),
        (x.exp().pow(x), np.exp(values) ** values),
    ):
        assert result.dtype is float64
        np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-14)


def test_float64_arithmetic_is_ieee() -> None:
    a, b = some(50, seed=1), some(50, seed=2)
    x, y = tensor(a), tensor(b)
    same(x + y, a + b, float64)
    same(x * y, a * b, float64)
    same(x / y, a / b, float64)
    same(abs(x).sqrt(), np.sqrt(np.abs(a)), float64)
    same(x.floor(), np.floor(a), float64)
    assert x.mean().dtype is x.var().dtype is float64
    np.testing.assert_allclose(x.var().numpy(), a.var(ddof=1), rtol=1e-14)


@pytest.mark.parametrize("dtype", [*NARROW_FLOATS, float64], ids=str)
def test_floor(dtype: DType) -> None:
    values = np.array([0.5, -0.5, -1.0, 2.0**-30, -(2.0**-30), 1023.5, -1023.5, 2.0**52 - 0.5])
    x = floats.convert(np.concatenate([values, [60000, -60000, np.inf, -np.inf]]), dtype)
    found = tensor(x).floor().numpy().astype(np.float64)
    np.testing.assert_array_equal(found, np.floor(x.astype(np.float64)))


def test_moments_of_16_bit_floats_do_not_overflow_on_the_way() -> None:
    x = tensor(np.full(70_000, 3.0), float16)
    assert x.mean().dtype is float16
    assert float(x.mean()) == 3.0
    assert float(x.var()) == 0.0
    assert np.isinf(x.sum().numpy())  # 210000 is none of float16's


@pytest.mark.parametrize("dtype", NARROW_FLOATS, ids=str)
def test_matmul_of_16_bit_floats_accumulates_in_float32(dtype: DType) -> None:
    a, b = tensor(some(5, 700), dtype), tensor(some(700, 3), dtype)
    same(a @ b, (a.float() @ b.float()).numpy(), dtype)
    mixed = a @ b.float()
    same(mixed, (a.float() @ b.float()).numpy(), float32)


def test_matmul_of_narrow_integers() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(-128, 128, (3, 40)).astype(np.int8)
    b = rng.integers(0, 256, (40, 2)).astype(np.uint8)
    product = tensor(a) @ tensor(b)
    assert product.dtype is dtypes.int32
    np.testing.assert_array_equal(product.numpy(), a.astype(np.int64) @ b.astype(np.int64))
    wide = tensor(a.astype(np.int16)) @ tensor(b.astype(np.uint16))
    assert wide.dtype is dtypes.int64


@pytest.mark.parametrize("dtype", [float16, bfloat16, float64], ids=str)
def test_gradients_have_the_dtype_of_what_they_are_for(dtype: DType) -> None:
    x, w = tensor(some(4, 5), dtype), tensor(some(5, 3), dtype)
    loss = ((x @ w) * 2.0).relu().float().sum()
    found = grad(loss, [x, w])
    assert [g.dtype for g in found] == [dtype, dtype]
    wide_x, wide_w = x.double(), w.double()
    wide = grad(((wide_x @ wide_w) * 2.0).relu().sum(), [wide_x, wide_w])
    tolerance = {float16: 1e-2, bfloat16: 6e-2, float64: 1e-14}[dtype]
    for have, want in zip(found, wide, strict=True):
        difference = have.double().numpy() - want.numpy()
        assert np.abs(difference).max() <= tolerance * np.abs(want.numpy()).max()


def test_a_cast_passes_its_derivative_on_and_a_bitcast_stops_it() -> None:
    x = tensor([3.0, 4.0])
    through = (x.half() * x.half()).float().sum()
    same(grad(through, [x])[0], np.array([6.0, 8.0]), float32)
    assert grad(x.detach().sum(), [x])[0].tolist() == [0.0, 0.0]
    half = tensor([3.0], float16)
    assert grad(half.detach().sum(), [half])[0].tolist() == [0.0]


def test_random_tensors_in_other_dtypes() -> None:
    wide = creation.randn(1000, seed=7).numpy()
    same(creation.randn(1000, seed=7, dtype=bfloat16), wide, bfloat16)
    assert creation.rand(10, seed=1, dtype=float64).dtype is float64
    assert creation.zeros(3, dtype=float16).dtype is float16
    assert creation.arange(5, dtype=dtypes.int16).dtype is dtypes.int16


def test_the_facade_names_every_dtype() -> None:
    for dtype in dtypes.DTYPES:
        assert getattr(fm, "bool_" if dtype.name == "bool" else dtype.name) is dtype
