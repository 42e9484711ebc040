"""Gradient descent, plain and with momentum, and Lion's descent by signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.engine.optim.protocol import (
    Array,
    Rate,
    State,
    Tensors,
    check,
    check_rate,
    decayed,
    rate_now,
    rate_state,
    shrunk,
    zeros,
)
from flopmarket.engine.tensor import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with (Nesterov) momentum and L2 weight decay.

    State: "momentum.NAME" for every parameter if ``momentum`` is not 0. It begins at zero, which
    is torch's first step too.
    """

    lr: Rate
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check(self.momentum >= 0, f"momentum {self.momentum} is negative")
        check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")
        check(not self.nesterov or self.momentum > 0, "Nesterov's step wants a momentum")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zeros of every parameter's shape, or nothing."""
        state = rate_state(self.lr)
        if self.momentum:
            state |= {f"momentum.{name}": zeros(value) for name, value in params.items()}
        return state

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """v = momentum * v + g; p = p - lr * v."""
        rate, kept = rate_now(self.lr, state)
        moved: State = {}
        for name, value in params.items():
            gradient = decayed(grads[name], value, self.weight_decay)
            if self.momentum:
                velocity = state[f"momentum.{name}"] * self.momentum + gradient
                kept[f"momentum.{name}"] = velocity
                gradient = velocity * self.momentum + gradient if self.nesterov else velocity
            moved[name] = (value - gradient * rate).to(value.dtype)
        return moved, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Lion:
    """Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023), with decoupled
    weight decay.

    State: "momentum.NAME".
    """

    lr: Rate = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} are not in [0, 1)")
        check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zeros of every parameter's shape."""
        state = rate_state(self.lr)
        return state | {f"momentum.{name}": zeros(value) for name, value in params.items()}

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """p = p - lr * sign(b1 * m + (1 - b1) * g); m = b2 * m + (1 - b2) * g."""
        rate, kept = rate_now(self.lr, state)
        moved: State = {}
        first, second = self.betas
        for name, value in params.items():
            gradient, momentum = grads[name], state[f"momentum.{name}"]
            direction = (momentum * first + gradient * (1 - first)).sign()
            base = shrunk(value, rate, self.weight_decay)
            moved[name] = (base - direction * rate).to(value.dtype)
            kept[f"momentum.{name}"] = momentum * second + gradient * (1 - second)
        return moved, kept
