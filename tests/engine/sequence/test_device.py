"""The same bits on the first OpenCL device as on the reference, one case of every mechanism."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional
from flopmarket.engine.functional import CellWeights
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor
from tests.engine.sequence.cases import CASES
from tests.engine.sequence.test_goldens import namespace

Run = Callable[[str | None], list[Tensor]]

NAMES = [
    *("gather", "scatter_add", "scatter_reduce_amax_False", "masked_scatter", "sort_ties"),
    *("cumsum", "cummin_ties", "logcumsumexp", "einsum_12", "matmul_integers", "fmod", "pow"),
    *("atan2_special", "round", "bitwise", "attention_grouped"),
]


def same_bits(run: Run) -> None:
    for wanted, found in zip(run("reference"), run(None), strict=True):
        assert found.numpy().tobytes() == wanted.numpy().tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_same_bits(name: str) -> None:
    def run(device: str | None) -> list[Tensor]:
        inputs = [Tensor(array, device=device) for array in CASES[name].arrays]
        result = CASES[name].call(namespace(), *inputs)
        return list(result) if isinstance(result, tuple | list) else [result]

    same_bits(run)


def test_same_bits_of_a_sorting_network() -> None:
    x = np.random.default_rng(1).integers(-9, 9, (2, 300)).astype(np.float32)

    def run(device: str | None) -> list[Tensor]:
        values, indices = Tensor(x, device=device).sort(descending=True)
        return [values, indices]

    same_bits(run)


def test_same_bits_of_an_lstm_and_its_derivative() -> None:
    random = np.random.default_rng(2)
    start = random.bit_generator.state

    def run(device: str | None) -> list[Tensor]:
        def draw(*shape: int) -> Any:
            return Tensor(random.normal(size=shape).astype(np.float32), device=device)

        random.bit_generator.state = start
        x, hidden, cell = draw(4, 2, 3), draw(1, 2, 5), draw(1, 2, 5)
        weights = CellWeights(draw(20, 3), draw(20, 5), draw(20), draw(20))
        output, state = functional.lstm(x, (hidden, cell), [weights])
        found = grad((output * output).sum(), [x, weights.hidden])
        return [output, *state, *found]

    same_bits(run)


def test_same_bits_of_causal_attention_beside_rubbish() -> None:
    random = np.random.default_rng(3)
    q, k, v = (random.normal(size=(1, 2, 40, 8)).astype(np.float32) for _ in range(3))
    k[:, :, 30:], v[:, :, 30:] = np.nan, np.inf

    def run(device: str | None) -> list[Tensor]:
        given = [Tensor(x, device=device) for x in (q, k, v)]
        return [functional.scaled_dot_product_attention(*given, is_causal=True)]

    same_bits(run)
