"""Packing of a product's operands: windows in tables, ragged panels, few texts; bits as ever."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, views
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.schedule.fuse import is_packed_dot
from flopmarket.engine.schedule.plan import make_plan

from .conftest import Array, Check

F32 = dtypes.float32


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution: batch, channels, side, filters, stride, and what is fused before it."""

    batch: int
    channels: int
    side: int
    filters: int
    stride: int
    rectified: bool


CASES = (
    Case(3, 3, 12, 19, 2, False),  # K = 27, no multiple of anything; 19 columns
    Case(2, 8, 10, 32, 1, True),
    Case(5, 16, 7, 24, 2, True),  # odd side: the last tap hangs over
    Case(9, 64, 4, 16, 1, False),  # K = 576: several chunks, several k blocks
    Case(1, 4, 16, 32, 1, True),  # a row of the image is whole panels
)


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, F32, shape)


def convolution(case: Case) -> tuple[list[Node], list[Node]]:
    """The product over windows and the one for the weights' gradient; and the leaves."""
    n, c, side = case.batch, case.channels, case.side
    x, bias = leaf("x", n, c, side, side), leaf("bias", 1, c, 1, 1)
    given = x
    if case.rectified:
        moved = graph.add(x, graph.expand(bias, x.shape))
        given = graph.max_(moved, graph.filled(0.0, F32, x.shape))
    padded = graph.pad(given, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = graph.window(padded, ((2, 3, case.stride, 1), (3, 3, case.stride, 1)))
    out = taps.shape[2]
    rows = graph.permute(taps, (0, 2, 3, 1, 4, 5))
    a = graph.reshape(rows, (1, n * out * out, c * 9))
    w, g = leaf("w", 1, case.filters, c * 9), leaf("g", 1, n * out * out, case.filters)
    forward = graph.dot(a, graph.permute(w, (0, 2, 1)))
    backward = graph.dot(graph.permute(a, (0, 2, 1)), g)
    return [forward, backward], [x, bias, w, g]


@pytest.mark.parametrize("size", [(9, 8), (6, 16), (3, 64)], ids=str)
def test_panels_of_whole_rows_and_rows_of_whole_panels(size: tuple[int, int], check: Check) -> None:
    """Pixels as columns of the product, so that a panel takes several short rows of the image."""
    height, width = size
    x, w = leaf("x", 1, 5, height, width), leaf("w", 1, 24, 45)
    padded = graph.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = graph.window(padded, ((2, 3, 1, 1), (3, 3, 1, 1)))
    columns = graph.permute(taps, (0, 1, 4, 5, 2, 3))
    product = graph.dot(w, graph.reshape(columns, (1, 45, height * width)))
    assert is_packed_dot(product)
    (call,) = (
        step.call
        for step in make_plan(canonicalise([product]), Target(vector_floats=16)).steps
        if step.call.family == "pack" and x in step.call.arguments
    )
    assert "line" in call.text and "table" not in call.text
    rng = np.random.default_rng(width)
    check([product], {n: rng.standard_normal(n.shape).astype(np.float32) for n in (x, w)})


def test_matrices_of_all_sizes_are_packed_by_one_kernel(check: Check) -> None:
    """Weights transposed or not, batched, sliced, and of another type."""
    outputs: list[Node] = []
    values: dict[Node, Array] = {}
    rng = np.random.default_rng(3)
    for at, (m, n, k) in enumerate(((33, 65, 100), (128, 16, 70), (9, 200, 48))):
        a, b = leaf(f"a{at}", 2, m, k), leaf(f"b{at}", 2, n + 3, k)
        weights = graph.slice_(b, ((0, 1, 2), (3, 1, n), (0, 1, k)))
        outputs.append(graph.dot(a, graph.permute(weights, (0, 2, 1))))
        values |= {x: rng.standard_normal(x.shape).astype(np.float32) for x in (a, b)}
    plan = make_plan(canonicalise(outputs), Target(), tile=GemmTile(6, 2, 8))
    assert len({step.name for step in plan.steps if step.call.family == "pack"}) == 2
    check(outputs, values)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.channels}to{case.filters}")
def test_windows_equal_the_reference(case: Case, check: Check) -> None:
    outputs, leaves = convolution(case)
    assert all(is_packed_dot(node) for node in outputs)
    rng = np.random.default_rng(case.filters)
    values: dict[Node, Array] = {}
    for node in leaves:
        array = rng.standard_normal(node.shape).astype(np.float32)
        array.reshape(-1)[:: max(7, array.size // 5)] = np.resize(
            np.array([np.inf, -0.0, np.nan, 1e-40], np.float32),
            array.reshape(-1)[:: max(7, array.size // 5)].shape,
        )
        values[node] = dtypes.canonical(array)
    check(outputs, values)


def test_the_inner_loop_of_a_window_divides_nothing() -> None:
    outputs, _ = convolution(CASES[1])
    for step in make_plan(canonicalise(outputs), Target()).steps:
        if step.call.family == "pack":
            inner = step.call.text.rpartition("for (int lane")[2]
            of_lane = re.findall(r"\(x [/%]|\(\(x /", inner)
            assert not of_lane, inner


def test_products_of_all_sizes_are_one_kernel() -> None:
    outputs = [
        graph.dot(leaf(f"a{m}", 2, m, k), leaf(f"b{m}", 2, k, n))
        for m, n, k in ((64, 64, 64), (33, 65, 100), (128, 16, 520), (7, 200, 48))
    ]
    plan = make_plan(canonicalise(outputs), Target(), tile=GemmTile(6, 2, 8))
    names = {step.name for step in plan.steps if step.call.family == "gemm"}
    assert len(names) == 1
    sizes = {step.call.sizes for step in plan.steps if step.call.family == "gemm"}
    assert len(sizes) == len(outputs)


def test_products_of_one_kernel_equal_the_reference(check: Check) -> None:
    rng = np.random.default_rng(5)
    outputs, values = [], {}
    for m, n, k in ((64, 64, 64), (33, 65, 100), (128, 16, 520), (7, 200, 48)):
        a, b = leaf(f"a{m}", 2, m, k), leaf(f"b{m}", 1, k, n)
        values[a], values[b] = (rng.standard_normal(x.shape).astype(np.float32) for x in (a, b))
        outputs.append(graph.dot(a, graph.expand(b, (2, k, n))))
    check(outputs, values)


def test_a_guard_narrows_what_it_guards() -> None:
    """A padded image read as one axis: inside the guard no quotient is left of the reshape."""
    x = leaf("x", 4, 8, 8)
    flat = graph.reshape(x, (4, 8, 8, 1))
    padded = graph.pad(flat, ((0, 0), (1, 1), (1, 1), (0, 0)))
    index = views.space_index("i", padded.shape, [0] * 4)
    inner, guards = views.through(padded, index)
    assert len(guards) == 2
    inner, _ = views.through(flat, inner)
    place = views.unbound(views.flatten(inner, x.shape))
    assert all(atom.kind == "var" for atom, _ in place.terms)
    assert place.constant == -9
