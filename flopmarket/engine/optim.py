"""Optimizers as pure transforms: (parameters, gradients, state) to (parameters, state).

``init`` gives the first state as arrays, ``update`` one step as lazy tensors; ``trace.py`` puts
both into a step program. Updates follow torch's formulas; options are constants of the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Tensor]


class Optimizer(Protocol):
    """What a training step needs of an optimizer."""

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """The first state, by name; depends on the shapes of ``params`` only."""
        ...

    def update(
        self, params: Tensors, grads: Tensors, state: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parameters and the state after one step; the names stay the same."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with (Nesterov) momentum and L2 weight decay.

    State: "momentum.NAME" for every parameter if ``momentum`` is not 0. It begins at zero, which
    is torch's first step too.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"learning rate {self.lr} is not positive")
        _check(self.momentum >= 0, f"momentum {self.momentum} is negative")
        _check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")
        _check(not self.nesterov or self.momentum > 0, "Nesterov's step wants a momentum")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zeros of every parameter's shape, or nothing."""
        if not self.momentum:
            return {}
        return {f"momentum.{name}": _zeros(value) for name, value in params.items()}

    def update(
        self, params: Tensors, grads: Tensors, state: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """v = momentum * v + g; p = p - lr * v."""
        moved: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, value in params.items():
            gradient = _decayed(grads[name], value, self.weight_decay)
            if self.momentum:
                velocity = state[f"momentum.{name}"] * self.momentum + gradient
                kept[f"momentum.{name}"] = velocity
                gradient = velocity * self.momentum + gradient if self.nesterov else velocity
            moved[name] = value - gradient * self.lr
        return moved, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with torch's defaults and L2 weight decay.

    State: "first.NAME" and "second.NAME" moments, and the running products "beta1_power" and
    "beta2_power" of the bias correction (float32 scalars), which spare a power function.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"learning rate {self.lr} is not positive")
        _check(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} are not in [0, 1)")
        _check(self.eps > 0, f"eps {self.eps} is not positive")
        _check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zero moments, powers of one."""
        state: dict[str, Array] = {}
        for name, value in params.items():
            state[f"first.{name}"] = _zeros(value)
            state[f"second.{name}"] = _zeros(value)
        for name in ("beta1_power", "beta2_power"):
            state[name] = np.ones((), dtype=np.float32)
        return state

    def update(
        self, params: Tensors, grads: Tensors, state: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)."""
        first_beta, second_beta = self.betas
        powers = (state["beta1_power"] * first_beta, state["beta2_power"] * second_beta)
        step_size = self.lr / (1.0 - powers[0])
        correction = 1.0 / (1.0 - powers[1]).sqrt()
        moved: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, value in params.items():
            gradient = _decayed(grads[name], value, self.weight_decay)
            first = state[f"first.{name}"] * first_beta + gradient * (1 - first_beta)
            scaled = gradient * (1 - second_beta)
            second = state[f"second.{name}"] * second_beta + scaled * gradient
            moved[name] = value - step_size * (first / (second.sqrt() * correction + self.eps))
            kept[f"first.{name}"], kept[f"second.{name}"] = first, second
        kept["beta1_power"], kept["beta2_power"] = powers
        return moved, kept


def _decayed(gradient: Tensor, value: Tensor, weight_decay: float) -> Tensor:
    return gradient + value * weight_decay if weight_decay else gradient


def _zeros(value: Array | Tensor) -> Array:
    return np.zeros(value.shape, dtype=np.float32)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise EngineError(message, code="OPTIMIZER_OPTION")
