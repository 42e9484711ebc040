"""Narrow number formats: every code, and float32 values at every border between two codes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flopmarket.engine.formats.onnx import narrow
from flopmarket.engine.formats.onnx.errors import OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import FORMATS, Format, Narrow
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]

FLOATS = [f for f in FORMATS.values() if f.is_float and not f.is_scale]
SCALE = next(f for f in FORMATS.values() if f.is_scale)
INTEGERS = [f for f in FORMATS.values() if not f.is_float]


def computed(tensor: Tensor) -> Array:
    return Tensor(tensor.node, device="reference").numpy()


def codes_of(format: Format) -> Array:
    return np.arange(2**format.bits, dtype=np.uint8)


def values_of(format: Format) -> Array:
    with np.errstate(invalid="ignore"):
        return codes_of(format).view(format.numpy).astype(np.float32)


def encoded(values: Array, format: Format, **how: Any) -> Array:
    return computed(narrow.encode(Tensor(values), format, **how).codes)


def hard_values(format: Format) -> Array:
    """Every value, every midpoint, their float32 neighbours, and what lies beyond all of them."""
    values = values_of(format)
    values = np.unique(values[np.isfinite(values)])
    middles = (values[1:].astype(np.float64) + values[:-1]) / 2
    points = np.concatenate([values, middles.astype(np.float32)])
    infinity = np.float32(np.inf)
    points = np.concatenate(
        [points, np.nextafter(points, infinity), np.nextafter(points, -infinity)]
    )
    beyond = [1e-45, 1e-38, 3.4e38, 2.0**127, 1e10, format.largest * 1.06, format.largest * 1.5]
    special = np.array([*beyond, 0.0, np.inf], np.float32)
    return np.concatenate([points, special, -special, np.array([np.nan], np.float32)])


@pytest.mark.parametrize("format", [*FLOATS, SCALE], ids=lambda f: f.name)
def test_every_code_decodes_to_its_value(format: Format) -> None:
    host = codes_of(format).view(format.numpy)
    found = computed(narrow.from_host(host).decode())
    np.testing.assert_array_equal(found, values_of(format))
    np.testing.assert_array_equal(
        np.signbit(found), np.signbit(values_of(format)) & ~np.isnan(found)
    )


@pytest.mark.parametrize("format", FLOATS, ids=lambda f: f.name)
def test_float32_rounds_once_as_ml_dtypes_does(format: Format) -> None:
    values = hard_values(format)
    with np.errstate(all="ignore"):
        wanted = values.astype(format.numpy).view(np.uint8)
    np.testing.assert_array_equal(encoded(values, format, saturate=False), wanted)


@pytest.mark.parametrize("format", FLOATS, ids=lambda f: f.name)
def test_saturation_gives_the_largest_value_of_the_sign(format: Format) -> None:
    values = hard_values(format)
    with np.errstate(all="ignore"):
        plain = values.astype(format.numpy).view(np.uint8)
        lost = ~np.isfinite(plain.view(format.numpy).astype(np.float32)) & ~np.isnan(values)
    sign = np.where(np.signbit(values), 1 << (format.bits - 1), 0)
    wanted = np.where(lost, format.highest | sign, plain)
    np.testing.assert_array_equal(encoded(values, format), wanted)


@pytest.mark.parametrize("format", FLOATS, ids=lambda f: f.name)
def test_float64_does_not_round_twice(format: Format) -> None:
    values = values_of(format)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2
    hard = np.concatenate([middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])
    distance = np.abs(hard[:, None] - values[None, :])
    nearest = values[distance.argmin(axis=1)]
    tie = np.isin(hard, middles)
    found = narrow.to_host(encoded(hard, format), format).astype(np.float64)
    np.testing.assert_array_equal(found[~tie], nearest[~tie])


def test_powers_of_two_round_up_down_and_to_nearest() -> None:
    values = np.array(
        [2.0**-127, 2.0**-126 * 0.8, 1e-45, 1.0, 1.1, 1.5, 1.9, 2.0**127, 3.3e38], np.float32
    )
    up = [0, 1, 0, 127, 128, 128, 128, 254, 254]
    down = [0, 0, 0, 127, 127, 127, 127, 254, 254]
    nearest = [0, 1, 0, 127, 127, 128, 128, 254, 254]
    assert encoded(values, SCALE, round_mode="up").tolist() == up
    assert encoded(values, SCALE, round_mode="down").tolist() == down
    assert encoded(values, SCALE, round_mode="nearest").tolist() == nearest
    special = np.array([np.nan, np.inf, 0.0], np.float32)
    assert encoded(special, SCALE).tolist() == [255, 254, 0]
    assert encoded(special, SCALE, saturate=False, round_mode="nearest").tolist() == [255, 255, 255]
    with pytest.raises(OnnxUnsupported, match="sideways"):
        narrow.encode(Tensor(values), SCALE, round_mode="sideways")


@pytest.mark.parametrize("format", INTEGERS, ids=lambda f: f.name)
def test_integers_keep_their_low_bits(format: Format) -> None:
    values = np.arange(-300, 300, dtype=np.int32)
    found = narrow.to_host(encoded(values, format), format)
    low = values & (2**format.bits - 1)
    wrapped = np.where(low > format.highest, low - 2**format.bits, low)
    np.testing.assert_array_equal(found.astype(np.int32), wrapped if format.signed else low)


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_the_border_is_crossed_unchanged(format: Format) -> None:
    host = (
        codes_of(format).view(format.numpy)
        if format.is_float
        else np.array(
            range(-format.highest - 1 if format.signed else 0, format.highest + 1)
        ).astype(format.numpy)
    )
    held = narrow.from_host(host)
    back = narrow.to_host(computed(held.codes), held.format)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back.view(np.uint8), host.view(np.uint8))


def test_movement_keeps_the_format() -> None:
    host = np.arange(6).astype(ml_dtypes.int4)
    moved = narrow.from_host(host).map(lambda codes: codes.reshape(2, 3).T)
    assert isinstance(moved, Narrow)
    assert (moved.shape, moved.format.name) == ((3, 2), "int4")
    assert computed(moved.decode()).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_other_types_are_not_narrow() -> None:
    assert not narrow.is_narrow(np.zeros(2, np.float32))
    with pytest.raises(OnnxUnsupported, match="float32"):
        narrow.from_host(np.zeros(2, np.float32))
