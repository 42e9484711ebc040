"""Codes of weights and of activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes
from flopmarket.engine.errors import EngineError
from flopmarket.engine.quantize.ranges import Observer, coding_of
from flopmarket.engine.quantize.weights import by_channel, by_group

RANDOM = np.random.default_rng(3)


def test_eight_bits_are_within_half_a_step_of_every_weight() -> None:
    weight = RANDOM.normal(0, [[1], [1e-3], [1e3]], (3, 40)).astype(np.float32)
    found = by_channel(weight, "w")
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes).max() == 127
    assert (np.abs(found.restored() - weight) <= 0.5001 * found.scales[:, None]).all()


@pytest.mark.parametrize("terms", [1, 2, 31, 32, 33, 95])
def test_four_bits_hold_groups_that_do_not_divide_the_row(terms: int) -> None:
    weight = RANDOM.normal(0, 1, (2, 5, terms)).astype(np.float32)
    found = by_group(weight, 32, "w")
    assert found.packed.dtype == np.uint8
    assert found.packed.nbytes * 2 == found.codes().size
    assert found.restored().shape == weight.shape
    error = np.abs(found.restored() - weight)
    top = np.abs(weight).max()
    assert error.max() <= 0.2 * top
    padding = found.codes().reshape(2, 5, -1)[..., terms:]
    assert not padding.any()


def test_two_codes_share_a_byte_the_first_half_of_a_group_low() -> None:
    weight = np.array([[-8, 1, 2, 3, 4, 5, 6, 7]], np.float32)
    found = by_group(weight, 8, "w")
    assert found.scales.tolist() == [[1.0]]
    assert found.codes().tolist() == [[[-8, 1, 2, 3, 4, 5, 6, 7]]]
    assert (found.packed & 15).tolist() == [[[0, 9, 10, 11]]]


def test_a_searched_scale_is_no_worse_than_the_full_range() -> None:
    weight = RANDOM.standard_t(3, (64, 32)).astype(np.float32)
    full = np.abs(weight).max(1, keepdims=True) / 7
    naive = np.square(weight - np.clip(np.rint(weight / full), -8, 7) * full).sum()
    found = np.square(weight - by_group(weight, 32, "w").restored()).sum()
    assert found < naive


@pytest.mark.parametrize("quantise", [by_channel, lambda w, n: by_group(w, 32, n)])
def test_weights_of_zero_and_of_no_number(quantise: Any) -> None:
    zero = np.zeros((2, 8), np.float32)
    assert not quantise(zero, "w").restored().any()
    tiny = np.full((1, 8), 1e-42, np.float32)
    assert np.isfinite(quantise(tiny, "w").restored()).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(EngineError, match=r"layer\.weight") as caught:
            quantise(np.array([[1, bad]], np.float32), "layer.weight")
        assert caught.value.code == "QUANTIZE_VALUES"


@pytest.mark.parametrize(
    ("low", "high", "dtype", "has_zero_point"),
    [
        (0, 4, dtypes.uint8, False),
        (-3, 4, dtypes.int8, False),
        (-0.2, 6, dtypes.uint8, True),
        (-6, 0.2, dtypes.uint8, True),
        (0, 0, dtypes.uint8, False),
        (-1e-45, 1e-45, dtypes.int8, False),
    ],
)
def test_a_range_finds_its_codes_and_zero_stays_exact(
    low: float, high: float, dtype: dtypes.DType, has_zero_point: bool
) -> None:
    coding = coding_of(low, high)
    assert coding.dtype is dtype
    assert (coding.zero_point != 0) is has_zero_point
    assert coding.rounded(np.zeros(1))[0] == 0
    values = np.linspace(low, high, 101)
    assert (np.abs(coding.rounded(values) - values) <= 0.51 * coding.scale).all()
    assert coding_of(low, high, symmetric=True).zero_point == 0


def test_an_outlier_is_clipped_where_that_costs_less() -> None:
    values = RANDOM.normal(0, 1, 20_000).astype(np.float32)
    values[7] = 60
    observer = Observer("x")
    observer.see(values)

    def error(method: Any) -> float:
        return float(np.square(values - observer.coding(method).rounded(values)).mean())

    assert observer.coding("minmax").scale == pytest.approx(60 / 255, rel=0.2)
    assert error("percentile") < 1.0
    assert error("mse") <= error("minmax")


def test_activations_that_are_no_numbers_are_refused_by_name() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(EngineError, match=r"layer\.weight") as caught:
            Observer("layer.weight").see(np.array([0, bad], np.float32))
        assert caught.value.code == "QUANTIZE_VALUES"
