"""Sorting and running folds against numpy: every length, dtype, direction, ties and NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import ordering
from flopmarket.engine.dtypes import (
    DTYPES,
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int64,
    uint64,
)
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor

Array = np.ndarray[Any, Any]


def sample(dtype: DType, shape: tuple[int, ...], seed: int = 5) -> Array:
    """Values with many ties, and every special one that a dtype has."""
    random = np.random.default_rng(seed)
    if dtype is bool_:
        return random.random(shape) < 0.5
    if dtype.is_float:
        special = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -1.5, 2.0**-20]
        return random.choice(special, shape).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    special = [info.min, info.max, info.max // 2, 3, 0, 7]
    return random.choice(np.array(special, dtype.numpy), shape)


def stable_order(x: Array, descending: bool) -> Array:
    """Positions by (value, place), NaN largest; the rows of the last axis."""
    wide = x.astype(np.float64) if x.dtype.name in ("float16", "bfloat16") else x

    def key(row: Array) -> list[int]:
        ranks = np.unique(row, return_inverse=True)[1].astype(np.int64)
        return list(np.lexsort([np.arange(len(row)), -ranks if descending else ranks]))

    return np.array([key(row) for row in wide.reshape(-1, x.shape[-1])]).reshape(x.shape)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sort_of_every_dtype(dtype: DType, descending: bool) -> None:
    for length in (1, 9, 300):
        x = sample(dtype, (2, length))
        values, indices = Tensor(x, dtype, device="reference").sort(-1, descending)
        wanted = stable_order(x, descending)
        np.testing.assert_array_equal(indices.numpy(), wanted)
        np.testing.assert_array_equal(
            values.numpy().astype(np.float64),
            np.take_along_axis(x, wanted, -1).astype(np.float64),
        )


@pytest.mark.parametrize("length", [2, 3, 4, 5, 7, 8, 31, 33, 64, 65])
def test_network_of_every_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(ordering, "MAX_RANKED", 0)
    x = sample(float32, (length, 2), length)
    found = tensor(x).argsort(0).numpy()
    np.testing.assert_array_equal(found, stable_order(x.T, False).T)


def test_long_rows_of_wide_words() -> None:
    random = np.random.default_rng(3)
    for dtype in (int64, uint64, float64):
        x = random.integers(0, 2**62, 700).astype(dtype.numpy)
        x[::7] = x[0]
        np.testing.assert_array_equal(
            Tensor(x, dtype, device="reference").argsort().numpy(), np.argsort(x, kind="stable")
        )


def test_topk_of_nothing_and_too_much() -> None:
    x = tensor(np.arange(6, dtype=np.float32))
    assert x.topk(0).values.shape == (0,)
    assert tensor(np.float32(3)).sort().values.item() == 3
    with pytest.raises(EngineError, match="SHAPE_MISMATCH"):
        x.topk(7)


@pytest.mark.parametrize("dtype", [bool_, int8, float16, bfloat16, float32, float64])
def test_first_and_last_extreme(dtype: DType) -> None:
    x = sample(dtype, (4, 13))
    found = Tensor(x, dtype, device="reference")
    wide = x.astype(np.float64)
    np.testing.assert_array_equal(found.argmax(1).numpy(), np.argmax(wide, 1))
    np.testing.assert_array_equal(found.argmin(1).numpy(), np.argmin(wide, 1))
    last = ordering.extreme_position(found.node, (1,), largest=True, last=True)
    flipped = 12 - np.argmax(wide[:, ::-1], 1)
    if not np.isnan(wide).any():
        np.testing.assert_array_equal(Tensor(last, device="reference").numpy()[:, 0], flipped)


# ---------------------------------------------------------------- running folds


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 64, 100])
def test_integer_sums_are_exact(length: int, exclusive: bool, reverse: bool) -> None:
    x = sample(int64, (length, 2))
    with np.errstate(over="ignore"):
        turned = x[::-1] if reverse else x
        wanted = np.cumsum(turned, 0)
        if exclusive:
            wanted = wanted - turned
        wanted = wanted[::-1] if reverse else wanted
    found = tensor(x).cumsum(0, exclusive=exclusive, reverse=reverse)
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_running_sums_do_not_look_ahead() -> None:
    x = np.random.default_rng(1).normal(size=200).astype(np.float32)
    whole = tensor(x).cumsum(0).numpy()
    for length in (1, 17, 64, 130):
        assert tensor(x[:length]).cumsum(0).numpy().tobytes() == whole[:length].tobytes()
    x[130:] = np.nan
    assert tensor(x).cumsum(0).numpy()[:130].tobytes() == whole[:130].tobytes()


def test_long_running_sums_are_accurate() -> None:
    x = np.random.default_rng(2).random(20000).astype(np.float32)
    wanted = np.cumsum(x.astype(np.float64))
    error = np.abs(tensor(x).cumsum(0).numpy() - wanted) / wanted
    assert error.max() < 4 * 2**-24


def test_the_sign_of_a_single_zero_stays() -> None:
    x = tensor(np.array([-0.0, -0.0, 1.0], np.float32))
    assert np.signbit(x.cumsum(0).numpy()).tolist() == [True, True, False]


def test_what_has_no_static_shape_is_refused() -> None:
    x = tensor([1.0, 2.0])
    for call in (x.nonzero, x.unique, lambda: x.masked_select(x > 1)):
        with pytest.raises(EngineError, match="DATA_DEPENDENT"):
            call()


def test_bincount_of_a_given_length() -> None:
    x = tensor(np.array([1, 1, 5, 0, 9]))
    assert x.bincount(6).numpy().tolist() == [1, 2, 0, 0, 0, 1]
    weights = tensor(np.array([1, 2, 3, 4, 5], np.float32))
    assert x.bincount(4, weights).numpy().tolist() == [4, 3, 0, 0]
