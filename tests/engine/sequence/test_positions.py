"""Rotary embeddings and linear biases against their formulas; elementwise edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine.dtypes import DType, bfloat16, float16, float64
from flopmarket.engine.functional import alibi_bias, rotary_embedding, rotary_tables
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding_turns_pairs_by_their_angles(interleaved: bool) -> None:
    x = np.random.default_rng(1).normal(size=(2, 5, 10)).astype(np.float32)
    positions = np.array([0, 1, 7, 30, 1000])
    cos, sin = rotary_tables(tensor(positions), 8)
    found = rotary_embedding(tensor(x), cos, sin, interleaved=interleaved).numpy()
    angle = positions[:, None] * 10000.0 ** (-np.arange(4) / 4)
    turn = np.exp(1j * angle)
    first, second = (x[..., 0:8:2], x[..., 1:8:2]) if interleaved else (x[..., :4], x[..., 4:8])
    wanted = (first + 1j * second) * turn
    at = (slice(0, 8, 2), slice(1, 8, 2)) if interleaved else (slice(0, 4), slice(4, 8))
    np.testing.assert_allclose(found[..., at[0]], wanted.real, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(found[..., at[1]], wanted.imag, rtol=1e-4, atol=2e-4)
    np.testing.assert_array_equal(found[..., 8:], x[..., 8:])


def test_alibi_slopes_are_those_of_the_paper() -> None:
    bias = alibi_bias(8, 2, 3).numpy()
    assert bias.shape == (8, 2, 3)
    np.testing.assert_array_equal(bias[0], [[-0.5, 0.0, 0.5], [-1.0, -0.5, 0.0]])
    np.testing.assert_array_equal(bias[:, 1, 1], [-(2.0**-n) for n in range(1, 9)])
    twelve = -alibi_bias(12, 1, 2).numpy()[:, 0, 0]
    np.testing.assert_array_equal(
        twelve[8:], np.float32(2.0) ** -(np.arange(4, dtype=np.float32) + 0.5)
    )


def test_remainders_are_exact() -> None:
    random = np.random.default_rng(3)
    for dtype, spread in ((np.float32, 20), (np.float64, 45)):
        a = (random.normal(size=400) * 2.0 ** random.uniform(-spread, spread, 400)).astype(dtype)
        b = (random.normal(size=400) * 2.0 ** random.uniform(-spread, spread, 400)).astype(dtype)
        a[:4], b[:4] = [3, -3, 0, -0.0], [np.inf, -np.inf, 2, 2]
        np.testing.assert_array_equal(tensor(a).fmod(tensor(b)).numpy(), np.fmod(a, b))
        finite = slice(2, None)  # numpy's remainder by an infinity is C's fmod or the infinity
        found = (tensor(a) % tensor(b)).numpy()
        np.testing.assert_array_equal(found[finite], np.remainder(a, b)[finite])


@pytest.mark.parametrize("dtype", [float16, bfloat16, float64])
def test_rounding_of_every_float(dtype: DType) -> None:
    values = np.array([-2.5, -1.5, -0.4, -0.0, 0.5, 1.5, 2.6, 3e4, np.inf, -np.inf], np.float64)
    x = Tensor(values, dtype, device="reference")
    held = x.numpy().astype(np.float64)
    for found, wanted in (
        (x.round(), np.rint(held)),
        (x.floor(), np.floor(held)),
        (x.ceil(), np.ceil(held)),
        (x.trunc(), np.trunc(held)),
    ):
        result = found.numpy().astype(np.float64)
        np.testing.assert_array_equal(result, wanted)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(wanted))
