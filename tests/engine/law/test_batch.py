"""A row of a batch has the bits that it has alone, whatever stands beside it."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes, functional, graph
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.tensor import Tensor
from tests.engine.backend.random_graphs import values
from tests.engine.law.checking import Array, assert_bits, expected_of, law

SIZES = (2, 3, 31, 33, 64, 65)
FEATURES = 24
"""Of a row: an image of 6 channels, 2 by 2, or a matrix of 4 by 6, or a vector."""


class Model:
    """A random function of rows [n, 24], the same nodes for every n."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.leaves: dict[Node, Array] = {}

    def __call__(self, x: Node) -> Node:
        random, rng = Random(self.seed), np.random.default_rng(self.seed)
        for number in range(5):
            x = getattr(self, f"_{random.choice(STEPS)}")(x, random, rng, f"w{number}")
        return x

    def _weight(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Node:
        node = graph.input_("buffer", name, dtypes.float32, shape)
        self.leaves[node] = rng.standard_normal(shape).astype(np.float32)
        return node

    def _linear(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        weight = self._weight(name, (FEATURES, FEATURES), rng)
        return (Tensor(x) @ Tensor(weight)).node

    def _products(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        rows = graph.reshape(x, (x.shape[0], 4, 6))
        gram = graph.dot(rows, graph.permute(rows, (0, 2, 1)))
        return graph.reshape(graph.dot(gram, rows), x.shape)

    def _convolution(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        kernel = self._weight(name, (6, 6, 2, 2), rng)
        image = Tensor(graph.reshape(x, (x.shape[0], 6, 2, 2)))
        wide = functional.conv2d(image, Tensor(kernel), padding=1).node
        middle = [(0, 1, x.shape[0]), (0, 1, 6), (0, 1, 2), (1, 1, 2)]
        return graph.reshape(graph.slice_(wide, middle), x.shape)

    def _softmax(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        return functional.softmax(Tensor(x), 1).node

    def _normalised(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        return functional.layer_norm(Tensor(x), (FEATURES,)).node

    def _spread(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        total = graph.reduce(random.choice(["sum", "max", "min"]), x, (1,))
        wide = graph.expand(graph.reshape(total, (x.shape[0], 1)), x.shape)
        return graph.fma(x, wide, x)

    def _function(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        function = random.choice([functional.tanh, functional.sigmoid, functional.gelu])
        return function(Tensor(x)).node

    def _narrow(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        narrow = graph.cast(x, random.choice([dtypes.float16, dtypes.bfloat16, dtypes.float64]))
        return graph.cast(graph.mul(narrow, narrow), dtypes.float32)

    def _looked_up(self, x: Node, random: Random, rng: np.random.Generator, name: str) -> Node:
        table = self._weight(name, (40,), rng)
        return graph.add(x, graph.gather(table, graph.cast(x, dtypes.int32), 0))


STEPS = [name[1:] for name in vars(Model) if name.startswith("_") and name[1:2].isalpha()]
STEPS.remove("weight")


@law(quick=5, deep=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_row_of_a_batch_is_that_row_alone(device: Realiser, seed: int) -> None:
    model = Model(seed)
    rng = np.random.default_rng(seed)
    count = Random(seed).choice(SIZES)
    rows = values(dtypes.float32, (count, FEATURES), rng)
    batch = graph.input_("buffer", "batch", dtypes.float32, rows.shape)
    single = graph.input_("buffer", "single", dtypes.float32, (1, FEATURES))
    many, one = model(batch), model(single)
    (together,) = device.realise([many], model.leaves | {batch: rows})
    (expected,) = expected_of([many], model.leaves | {batch: rows})
    assert_bits(expected, together, "reference and device")
    for row in {0, count // 2, count - 1}:
        (alone,) = device.realise([one], model.leaves | {single: rows[row : row + 1]})
        assert_bits(alone[0], together[row], f"row {row} of {count}")
    order = rng.permutation(count)
    (shuffled,) = device.realise([many], model.leaves | {batch: rows[order]})
    assert_bits(together[order], shuffled, "rows in another order")


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_random_models_computes(step: str) -> None:
    model = Model(5)
    x = graph.input_("buffer", "x", dtypes.float32, (3, FEATURES))
    y = getattr(model, f"_{step}")(x, Random(5), np.random.default_rng(5), "w")
    assert y.shape == x.shape and y.dtype is dtypes.float32
    (result,) = expected_of([y], model.leaves | {x: np.ones(x.shape, np.float32)})
    assert np.isfinite(result).all()
