"""DOT without packing: blocks inside rows of an image, overlapping blocks, taps as loops."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.schedule.fuse import is_packed_dot
from flopmarket.engine.schedule.plan import make_plan

from .conftest import Array, Check

F32 = dtypes.float32


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, F32, shape)


def depthwise(height: int, width: int, taps: int, stride: int) -> tuple[Node, list[Node]]:
    """Each of three channels with a window of its own, as [channel, 1, taps] x [.., pixels]."""
    x, w = leaf("x", 3, height, width), leaf("w", 3, 1, taps * taps)
    edge = (taps // 2, taps // 2)
    padded = graph.pad(x, ((0, 0), edge, edge))
    windows = graph.window(padded, ((1, taps, stride, 1), (2, taps, stride, 1)))
    pixels = windows.shape[1] * windows.shape[2]
    columns = graph.reshape(graph.permute(windows, (0, 3, 4, 1, 2)), (3, taps * taps, pixels))
    return graph.dot(w, columns), [x, w]


def numbers(node: Node, seed: int) -> Array:
    array = np.random.default_rng(seed).standard_normal(node.shape).astype(np.float32)
    some = array.reshape(-1)[:: max(5, array.size // 7)]
    some[:] = np.resize(np.array([np.inf, -0.0, np.nan, 1e-40], np.float32), some.shape)
    return dtypes.canonical(array)


@pytest.mark.parametrize(
    ("height", "width", "taps", "stride"),
    [(6, 20, 3, 1), (5, 70, 5, 1), (9, 130, 3, 2), (12, 8, 3, 1), (11, 7, 3, 1), (3, 64, 1, 1)],
)
def test_depthwise_windows_equal_the_reference(
    height: int, width: int, taps: int, stride: int, check: Check
) -> None:
    product, leaves = depthwise(height, width, taps, stride)
    assert not is_packed_dot(product)
    bias = leaf("bias", 3, 1, 1)
    shifted = graph.add(product, graph.expand(bias, product.shape))
    values = {node: numbers(node, at) for at, node in enumerate([*leaves, bias])}
    check([shifted], values)


def test_taps_and_pixels_are_loops_and_no_quotients() -> None:
    product, _ = depthwise(6, 70, 5, 1)
    (step,) = make_plan(canonicalise([product]), Target()).steps
    inner = step.call.text.partition("for (int k1")[2]
    assert inner and "/" not in inner and "%" not in inner


@pytest.mark.parametrize("shape", [(2, 3, 65, 700), (1, 100, 3, 5), (1, 1, 1, 300), (2, 2, 70, 0)])
def test_small_products_equal_the_reference(shape: tuple[int, ...], check: Check) -> None:
    batch, m, n, k = shape
    a, b = leaf("a", batch, m, k), leaf("b", batch, k, n)
    check([graph.dot(a, b)], {node: numbers(node, at) for at, node in enumerate((a, b))})


def test_terms_beyond_the_valid_length_are_skipped(check: Check) -> None:
    a, b = leaf("a", 2, 3, 300), leaf("b", 2, 300, 70)
    valid = graph.input_("buffer", "valid", dtypes.int32, (2, 3))
    values: dict[Node, Array] = {a: numbers(a, 1), b: numbers(b, 2)}
    values[valid] = np.array([[0, 300, 7], [299, 256, 257]], np.int32)
    check([graph.dot(a, b, valid)], values)
