"""The integer products against the same integers in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import compose, convolution, dtypes, graph, reference
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.quantize import lower
from flopmarket.engine.quantize.ranges import Coding, coding_of
from flopmarket.engine.quantize.weights import by_channel, by_group

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(4)


def leaf(name: str, array: Array) -> Node:
    return graph.input_("input", name, dtypes.from_numpy(array.dtype), array.shape)


def value(node: Node, **arrays: Array) -> Array:
    (found,) = reference.evaluate([node], {leaf(name, a): a for name, a in arrays.items()})
    return found


def codes_of(x: Array, coding: Coding) -> Array:
    """The codes by definition: the product with the float32 reciprocal, rounded once."""
    steps = x.astype(np.float64) * np.float64(np.float32(1 / coding.scale))
    info = np.iinfo(coding.dtype.numpy)
    return np.clip(np.rint(steps) + coding.zero_point, info.min, info.max).astype(np.int64)


@pytest.mark.parametrize("coding", [coding_of(0, 3), coding_of(-3, 3), coding_of(-0.4, 3)])
def test_codes_round_to_even_and_clamp(coding: Coding) -> None:
    ties = (np.arange(-300, 600) + 0.5) * np.float32(coding.scale)
    far = np.array([0, -0.0, 1e30, -1e30, np.inf, -np.inf, 5e6, -5e6, 1e-45])
    x = np.concatenate([ties, far, RANDOM.normal(0, 2, 500)]).astype(np.float32)
    assert (value(lower.coded(leaf("x", x), coding), x=x) == codes_of(x, coding)).all()


def test_no_number_becomes_the_code_zero() -> None:
    x = np.array([np.nan], np.float32)
    assert value(lower.coded(leaf("x", x), coding_of(-1, 1)), x=x).tolist() == [0]


@pytest.mark.parametrize("coding", [coding_of(0, 3), coding_of(-3, 3), coding_of(-0.4, 3)])
def test_an_eight_bit_product_is_the_integer_sum_scaled_once(coding: Coding) -> None:
    x = RANDOM.normal(1, 1, (2, 5, 19)).astype(np.float32)
    weights = by_channel(RANDOM.normal(0, 1, (2, 7, 19)).astype(np.float32), "w")
    factor = weights.scales * np.float32(coding.scale)
    correction = -coding.zero_point * weights.codes.sum(-1, dtype=np.int32)
    arrays = {"x": x, "w": weights.codes, "f": factor, "c": correction}
    nodes = {name: leaf(name, array) for name, array in arrays.items()}
    product = lower.int8_product(
        lower.coded(nodes["x"], coding), nodes["w"], nodes["f"], nodes["c"]
    )
    whole = (codes_of(x, coding) - coding.zero_point) @ weights.codes.swapaxes(1, 2).astype(int)
    expected = whole.astype(np.float32) * factor[:, None, :]
    assert value(product, **arrays).tobytes() == expected.tobytes()
    dots = [node for node in graph.topological([product]) if node.op is Op.DOT]
    assert [dot.dtype for dot in dots] == [dtypes.int32]


@pytest.mark.parametrize("terms", [8, 19, 64])
def test_a_four_bit_product_sums_its_groups_in_floats(terms: int) -> None:
    coding = coding_of(-0.4, 3)
    x = RANDOM.normal(1, 1, (1, 5, terms)).astype(np.float32)
    weights = by_group(RANDOM.normal(0, 1, (1, 7, terms)).astype(np.float32), 8, "w")
    factor = weights.scales * np.float32(coding.scale)
    correction = -coding.zero_point * weights.codes().sum(-1, dtype=np.int32)
    arrays = {"x": x, "w": weights.packed, "f": factor, "c": correction}
    nodes = {name: leaf(name, array) for name, array in arrays.items()}
    product = lower.int4_product(
        lower.coded(nodes["x"], coding), nodes["w"], nodes["f"], nodes["c"]
    )
    decoded = (codes_of(x, coding) - coding.zero_point) * coding.scale
    expected = decoded @ weights.restored().swapaxes(1, 2).astype(np.float64)
    assert np.abs(value(product, **arrays) - expected).max() < 1e-5
    kinds = [node.dtype for node in graph.topological([product]) if node.op is Op.DOT]
    assert kinds == ([dtypes.int32] if terms == 8 else [dtypes.int32, dtypes.float32])


def test_rows_have_scales_of_their_own() -> None:
    x = np.array([[[1, -2, 0.5], [100, 0, 3], [0, 0, 0], [np.nan, 1, 2]]], np.float32)
    codes, scales = lower.coded_rows(leaf("x", x))
    assert value(codes, x=x)[0, :3].tolist() == [[64, -127, 32], [127, 0, 4], [0, 0, 0]]
    assert np.abs(value(scales, x=x)[0, :3, 0] - [2 / 127, 100 / 127, 0]).max() < 1e-6
    assert np.isnan(value(scales, x=x)[0, 3, 0])


def test_padding_stands_for_the_code_of_zero() -> None:
    coding = coding_of(-0.4, 3)
    x = RANDOM.normal(1, 1, (2, 3, 5, 5)).astype(np.float32)
    w = leaf("w", np.zeros((4, 3, 3, 3), np.float32))
    padded = graph.pad(leaf("x", x), [(0, 0), (0, 0), (1, 1), (2, 0)])
    image = convolution.forward(padded, w, (1, 1), (1, 1), 1)
    (dot,) = [node for node in graph.topological([image]) if node.op is Op.DOT]
    assert lower.site(dot.src[0]) is leaf("x", x)
    codes = lower.coded(dot.src[0], coding)
    assert codes.dtype is dtypes.uint8
    windows = value(dot.src[0], x=x)
    assert (value(codes, x=x) == codes_of(windows, coding)).all()


def test_a_slice_is_coded_after_it_is_taken() -> None:
    x = np.zeros((1, 6, 4), np.float32)
    first = compose.part(leaf("x", x), 1, 0, 2)
    assert lower.site(graph.reshape(first, (1, 1, 8))) is not leaf("x", x)
    assert lower.site(graph.permute(first, (0, 2, 1))).elements == 8
