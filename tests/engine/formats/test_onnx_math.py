"""Arithmetic, reduction and signal operators against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from flopmarket.engine import graph as engine_graph
from flopmarket.engine import reference
from flopmarket.engine.dtypes import float32, float64
from flopmarket.engine.formats.onnx import fourier
from flopmarket.engine.rewrite import canonicalise
from tests.engine.formats.single import RANDOM, Array, run

# ---------------------------------------------------------------- arithmetic


def signed(dtype: type) -> tuple[Array, Array]:
    info = np.iinfo(dtype)
    edges: Array = np.array([info.min, info.min + 1, -7, -1, 0, 1, 2, 7, info.max], dtype=dtype)
    a, b = np.meshgrid(edges, edges)
    return a.reshape(-1).copy(), b.reshape(-1).copy()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_integer_division_truncates_and_wraps(dtype: type) -> None:
    a, b = signed(dtype)
    bits = 8 * np.dtype(dtype).itemsize
    wanted = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        quotient = 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        wanted.append((quotient + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1))
    assert run("Div", a, b).tolist() == wanted


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_remainders_have_the_sign_asked_for(fmod: int, dtype: type) -> None:
    a, b = signed(np.int32)
    a, b = a[b != 0].astype(dtype), b[b != 0].astype(dtype)
    rule = np.fmod if fmod else np.mod
    np.testing.assert_array_equal(run("Mod", a, b, fmod=fmod), rule(a, b))


def test_remainders_of_special_floats() -> None:
    infinity = np.inf
    a = np.array([5.0, -5.0, infinity, 1.0, 0.0, -0.0, 3.0], np.float32)
    b = np.array([infinity, infinity, 2.0, 0.0, -2.0, 2.0, -infinity], np.float32)
    floored = run("Mod", a, b)
    np.testing.assert_array_equal(
        floored, np.array([5, infinity, np.nan, np.nan, -0.0, 0.0, -infinity], np.float32)
    )
    assert np.signbit(floored[4]) and not np.signbit(floored[5])
    np.testing.assert_array_equal(
        run("Mod", a, b, fmod=1), np.array([5, -5, np.nan, np.nan, 0, 0, 3], np.float32)
    )


def test_powers_of_every_pair_of_types() -> None:
    base = np.array([1, 2, 3, -2, 5])
    exponent = np.array([4, 5, 6, 3, 0])
    for left in (np.float32, np.int32, np.int64, np.float16):
        for right in (np.float32, np.int32, np.int64):
            found = run("Pow", base.astype(left), exponent.astype(right))
            assert found.dtype == left
            assert found.tolist() == [1, 32, 729, -8, 1]
    halves = run("Pow", np.array([9, 16], np.int32), np.array([0.5, 0.5], np.float32))
    assert halves.tolist() == [3, 4]


def test_a_constant_power_is_exact_and_has_pows_special_cases() -> None:
    x = np.array([-np.inf, -0.0, 2.25, 4.0], np.float32)
    half = np.array(0.5, np.float32)
    found = run("Pow", x, half)
    assert found.tolist() == [np.inf, 0.0, 1.5, 2.0]
    np.testing.assert_array_equal(run("Pow", x[2:], np.array(3, np.int64)), x[2:] ** 3)


def test_the_upper_bound_of_clip_wins_and_nan_stays() -> None:
    x = np.array([-2, 0, 2, np.nan], np.float32)
    low, high = np.array(1, np.float32), np.array(-1, np.float32)
    np.testing.assert_array_equal(run("Clip", x, low, high), [-1, -1, -1, np.nan])
    np.testing.assert_array_equal(run("Clip", x, None, high), [-2, -1, -1, np.nan])


def test_signed_shifts_beyond_the_width_leave_the_sign() -> None:
    x = np.array([-5, -5, 5, 5, -128], np.int8)
    by = np.array([1, 9, 1, -1, 7], np.int8)
    assert run("BitShift", x, by, direction="RIGHT").tolist() == [-3, -1, 2, 0, -1]
    assert run("BitShift", x, by, direction="LEFT").tolist() == [-10, 0, 10, 0, 0]


# ---------------------------------------------------------------- reductions


def test_reductions_of_nothing_have_their_identities() -> None:
    empty = np.zeros((2, 0, 3), np.float32)
    axes = np.array([1], np.int64)
    wanted = {
        "ReduceSum": 0.0,
        "ReduceProd": 1.0,
        "ReduceMax": -np.inf,
        "ReduceMin": np.inf,
        "ReduceLogSum": -np.inf,
        "ReduceLogSumExp": -np.inf,
        "ReduceL2": 0.0,
    }
    for op_type, value in wanted.items():
        np.testing.assert_array_equal(run(op_type, empty, axes), np.full((2, 1, 3), value))
    assert run("ReduceMax", np.zeros((0,), np.int8), np.array([0])).tolist() == [-128]


def test_no_axes_is_all_of_them_or_none() -> None:
    x = np.array([[1.0, -2.0], [3.0, -4.0]], np.float32)
    none = np.array([], np.int64)
    assert run("ReduceSum", x, none).tolist() == [[-2.0]]
    np.testing.assert_array_equal(run("ReduceSum", x, none, noop_with_empty_axes=1), x)
    np.testing.assert_array_equal(run("ReduceL1", x, noop_with_empty_axes=1), np.abs(x))


def test_log_sum_exp_neither_overflows_nor_loses_infinities() -> None:
    x = np.array([[1000.0, 1001.0], [-np.inf, -np.inf], [np.inf, 0.0]], np.float32)
    found = run("ReduceLogSumExp", x, np.array([1]), keepdims=0)
    np.testing.assert_allclose(found, [1001.3132617, -np.inf, np.inf], rtol=1e-6)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 120, 257, 263, 1009, 1024])
def test_transforms_of_any_length(length: int) -> None:
    dtype = float64 if length < 100 else float32
    given = RANDOM.normal(size=(2, 2, length)).astype(dtype.numpy)
    real, imaginary = (
        engine_graph.input_("input", name, dtype, (2, length)) for name in ("real", "imaginary")
    )
    leaves = {real: given[0], imaginary: given[1]}
    signal = given[0].astype(np.float64) + 1j * given[1]
    spectrum = fourier.Complex(real, imaginary)
    for found, wanted in (
        (fourier.transform(spectrum), np.fft.fft(signal)),
        (fourier.inverse(spectrum), np.fft.ifft(signal)),
    ):
        parts = reference.evaluate(canonicalise([found.real, found.imaginary]), leaves)
        error = np.abs(parts[0] + 1j * parts[1].astype(np.float64) - wanted).max()
        assert error <= (1e-14 if dtype is float64 else 1e-6) * np.abs(wanted).max()


@pytest.mark.parametrize("points", [5, 8, 9])
def test_one_sided_transforms_invert_each_other(points: int) -> None:
    x = RANDOM.normal(size=(2, points, 3, 1)).astype(np.float32)
    axis = np.array(1)
    half = run("DFT", x, None, axis, onesided=1)
    assert half.shape == (2, points // 2 + 1, 3, 2)
    back = run("DFT", half, np.array(points), axis, onesided=1, inverse=1)
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_short_signals_are_padded_and_long_ones_cut() -> None:
    x = RANDOM.normal(size=(1, 6, 1)).astype(np.float32)
    for points in (4, 9):
        found = run("DFT", x, np.array(points), np.array(1))
        wanted = np.fft.fft(x[0, :, 0], points)
        np.testing.assert_allclose(found[0, :, 0] + 1j * found[0, :, 1], wanted, atol=1e-5)


def test_windows_are_periodic_or_symmetric() -> None:
    size = np.array(8)
    np.testing.assert_allclose(
        run("HannWindow", size, periodic=0), np.hanning(8).astype(np.float32), atol=1e-7
    )
    np.testing.assert_allclose(
        run("BlackmanWindow", size), np.blackman(9)[:8].astype(np.float32), atol=1e-7
    )
    assert run("HammingWindow", size, output_datatype=TensorProto.DOUBLE).dtype == np.float64
