"""Small models with values, and a realiser for each way of compiling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import nn
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, Any]


class Small(nn.Module):
    """A padded and a grouped strided convolution, activations of both kinds, two linear layers."""

    def __init__(self) -> None:
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=2, groups=2)
        self.third = nn.Linear(12 * 16, 20)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Any) -> Any:
        from flopmarket.engine import functional

        x = functional.gelu(self.norm(self.first(x)))
        x = functional.relu(self.second(x))
        return self.last(functional.gelu(self.third(x.reshape(x.shape[0], -1))))


def images(count: int, seed: int = 0) -> Array:
    """float32 [count, 2, 6, 6]."""
    return np.random.default_rng(seed).normal(0.3, 1, (count, 2, 6, 6)).astype(np.float32)


def agreement(model: nn.Module, inputs: Array) -> tuple[Array, Array]:
    """Data on which the float model is always right."""
    from flopmarket.engine.tensor import Tensor

    state = {name: Tensor(value) for name, value in model.state_dict().items()}
    result, _ = model.apply(state, Tensor(inputs, device="reference"), training=False)
    return inputs, result.numpy().argmax(1)


@pytest.fixture
def small() -> nn.Module:
    model = Small()
    return model.load_state_dict(model.init(5, "reference"))


@pytest.fixture(scope="session")
def realisers() -> Iterator[list[Realiser]]:
    """OpenCL with and without fusion, memory poisoned."""
    made = [Realiser(CompileOptions(fusion=f, poison=True), max_plans=2) for f in (True, False)]
    yield made
    for realiser in made:
        realiser.close()
