"""Fake quantisation: the values of codes, derivatives straight through where nothing clamps."""

from __future__ import annotations

import numpy as np
import pytest

import flopmarket as fm
from flopmarket.engine import functional

X = np.random.default_rng(0).normal(0, 3, (4, 5)).astype(np.float32)


def test_one_scale_for_a_tensor() -> None:
    x = fm.Tensor(X, device="reference")
    result = functional.fake_quantize_per_tensor_affine(x, 0.05, 3, -30, 40)
    codes = np.rint(X / np.float32(0.05)) + 3
    expected = (np.clip(codes, -30, 40) - 3) * np.float32(0.05)
    assert result.numpy().tobytes() == expected.tobytes()
    (gradient,) = fm.grad((result * result).sum(), [x])
    inside = (codes >= -30) & (codes <= 40)
    assert 0 < inside.mean() < 1
    assert (gradient.numpy() == np.where(inside, 2 * expected, 0)).all()


def test_a_scale_for_every_channel() -> None:
    scale = np.array([0.01, 0.02, 0.03, 0.04, 0.05], np.float32)
    zero = np.array([0, 5, -5, 100, 0], np.int32)
    x = fm.Tensor(X, device="reference")
    result = functional.fake_quantize_per_channel_affine(
        x, fm.Tensor(scale), fm.Tensor(zero), 1, -127, 127
    )
    codes = np.rint(X / scale) + zero.astype(np.float32)
    expected = (np.clip(codes, -127, 127) - zero.astype(np.float32)) * scale
    assert np.array_equal(result.numpy(), expected)
    (gradient,) = fm.grad(result.sum(), [x])
    assert np.array_equal(gradient.numpy(), (np.abs(codes) <= 127).astype(np.float32))


def test_scales_learn_nothing() -> None:
    x, scale = fm.Tensor(X, device="reference"), fm.Tensor(np.float32(0.05))
    result = functional.fake_quantize_per_tensor_affine(x, scale, 0, -30, 40)
    (gradient,) = fm.grad(result.sum(), [scale])
    assert not gradient.numpy().any()


def test_bad_arguments() -> None:
    x = fm.Tensor(X)
    with pytest.raises(fm.EngineError, match="no codes"):
        functional.fake_quantize_per_tensor_affine(x, 0.1, 0, 5, 5)
    with pytest.raises(fm.EngineError, match="one scale"):
        functional.fake_quantize_per_tensor_affine(x, fm.Tensor(X), 0, 0, 5)
    with pytest.raises(fm.EngineError, match="axis 1"):
        functional.fake_quantize_per_channel_affine(
            x, fm.Tensor(X[0, :4]), fm.Tensor(X[0, :4]), 1, 0, 5
        )
