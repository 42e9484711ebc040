"""Index algebra against NumPy: every element of random view chains."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph, reference, views
from flopmarket.engine.errors import GraphError
from flopmarket.engine.views import Atom, Linear

from .random_graphs import Builder


def evaluate(form: Linear, values: dict[str, int]) -> int:
    """The number a form stands for; also checks that its range holds."""
    total = form.constant
    for atom, coefficient in form.terms:
        total += coefficient * _atom(atom, values)
    assert form.low <= total <= form.high
    return total


def _atom(atom: Atom, values: dict[str, int]) -> int:
    if atom.of is None:
        return values[atom.key]
    inner = evaluate(atom.of, values)
    if atom.kind == "bound":  # a guard holds, or nobody asks
        assert atom.low <= inner <= atom.high
        return inner
    return inner // atom.by if atom.kind == "div" else inner % atom.by


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_chains_of_views_find_the_element_that_numpy_finds(seed: int) -> None:
    builder = Builder(Random(seed), seed)
    shape = builder.shape()
    leaf = graph.input_("buffer", "x", dtypes.int32, shape)
    data = np.arange(1, leaf.elements + 1, dtype=np.int32).reshape(shape)
    chain = leaf
    for _ in range(4):
        builder.nodes = [chain]
        builder.random.random = lambda: 0.5  # type: ignore[method-assign]
        try:
            step = builder._view()
        except GraphError:
            continue
        chain = step if step.elements <= 2000 else chain
    expected = reference.evaluate([chain], {leaf: data})[0]
    index = views.space_index("i", chain.shape, [0] * len(chain.shape))
    node = chain
    guards: list[views.Guard] = []
    while node.op is graph.Op.VIEW:
        index, more = views.through(node, index)
        guards += more
        node = node.src[0]
    flat = views.flatten(index, shape)
    for at in np.ndindex(chain.shape):
        values: dict[str, Any] = {f"i{axis}": int(v) for axis, v in enumerate(at)}
        inside = all(0 <= evaluate(g.form, values) < g.count for g in guards)
        found = data.reshape(-1)[evaluate(flat, values)] if inside else 0
        assert found == expected[at]


@pytest.mark.parametrize("by", [1, 2, 3, 4, 6, 12])
def test_quotient_and_remainder_rejoin(by: int) -> None:
    x = views.variable("x", 5, 0) * 12 + views.variable("y", 12, 0) + -3
    rejoined = views.floor_divide(x, by) * by + views.remainder(x, by)
    assert rejoined == x


def test_a_reshape_and_back_is_the_identity() -> None:
    leaf = graph.input_("buffer", "x", dtypes.int32, (6, 10))
    chain = graph.reshape(graph.reshape(leaf, (4, 15)), (6, 10))
    index = views.space_index("i", (6, 10), (0, 0))
    inner, _ = views.through(chain, index)
    back, _ = views.through(chain.src[0], inner)
    assert back == index


def test_an_image_to_columns_needs_no_division() -> None:
    image = graph.input_("buffer", "x", dtypes.float32, (2, 3, 8, 8))
    windows = graph.window(
        graph.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1))), ((2, 3, 1, 1), (3, 3, 1, 1))
    )
    index = views.space_index("i", windows.shape, [0] * 6)
    for node in (windows, windows.src[0]):
        index, _ = views.through(node, index)
    flat = views.flatten(index, image.shape)
    assert all(atom.kind == "var" for atom, _ in views.unbound(flat).terms)
