"""Optimizers that scale every element's step by what its gradients were: Adam and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.engine.optim.protocol import (
    Array,
    Rate,
    State,
    Tensors,
    as_count,
    check,
    check_rate,
    decayed,
    rate_now,
    rate_state,
    shrunk,
    zeros,
)
from flopmarket.engine.tensor import Tensor

_POWERS = ("beta1_power", "beta2_power")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with torch's defaults and L2 weight decay.

    State: "first.NAME" and "second.NAME" moments, and the running products "beta1_power" and
    "beta2_power" of the bias correction (float32 scalars), which spare a power function.
    """

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} are not in [0, 1)")
        check(self.eps > 0, f"eps {self.eps} is not positive")
        check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zero moments, powers of one."""
        state = rate_state(self.lr)
        for name, value in params.items():
            state[f"first.{name}"] = zeros(value)
            state[f"second.{name}"] = zeros(value)
        for name in _POWERS:
            state[name] = np.ones((), dtype=np.float32)
        return state

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)."""
        penalised = {
            name: decayed(grads[name], value, self.weight_decay) for name, value in params.items()
        }
        return _moments_step(self, params, penalised, state, decoupled=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019); torch's defaults.

    State as Adam's.
    """

    weight_decay: float = 1e-2

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """p = p * (1 - lr * weight_decay), then Adam's step."""
        return _moments_step(self, params, grads, state, decoupled=self.weight_decay)


def _moments_step(
    options: Adam, params: Tensors, grads: Tensors, state: Tensors, *, decoupled: float
) -> tuple[State, State]:
    rate, kept = rate_now(options.lr, state)
    first_beta, second_beta = options.betas
    powers = (state[_POWERS[0]] * first_beta, state[_POWERS[1]] * second_beta)
    step_size = rate / (1.0 - powers[0])
    correction = 1.0 / (1.0 - powers[1]).sqrt()
    moved: State = {}
    for name, value in params.items():
        gradient = grads[name]
        first = state[f"first.{name}"] * first_beta + gradient * (1 - first_beta)
        scaled = gradient * (1 - second_beta)
        second = state[f"second.{name}"] * second_beta + scaled * gradient
        base = shrunk(value, rate, decoupled)
        step = step_size * (first / (second.sqrt() * correction + options.eps))
        moved[name] = (base - step).to(value.dtype)
        kept[f"first.{name}"], kept[f"second.{name}"] = first, second
    kept |= dict(zip(_POWERS, powers, strict=True))
    return moved, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton, 2012) as torch has it, with momentum and L2 weight decay.

    State: "square.NAME", "mean.NAME" if ``centered``, "momentum.NAME" if ``momentum`` is not 0.
    """

    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check(0 <= self.alpha < 1, f"alpha {self.alpha} is not in [0, 1)")
        check(self.eps > 0, f"eps {self.eps} is not positive")
        check(self.momentum >= 0, f"momentum {self.momentum} is negative")
        check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Zeros of every parameter's shape, for each average."""
        state = rate_state(self.lr)
        for name, value in params.items():
            state[f"square.{name}"] = zeros(value)
            if self.centered:
                state[f"mean.{name}"] = zeros(value)
            if self.momentum:
                state[f"momentum.{name}"] = zeros(value)
        return state

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """s = alpha * s + (1 - alpha) * g^2; p = p - lr * g / (sqrt(s) + eps)."""
        rate, kept = rate_now(self.lr, state)
        moved: State = {}
        for name, value in params.items():
            gradient = decayed(grads[name], value, self.weight_decay)
            square = state[f"square.{name}"] * self.alpha + gradient * (1 - self.alpha) * gradient
            kept[f"square.{name}"] = square
            if self.centered:
                mean = state[f"mean.{name}"] * self.alpha + gradient * (1 - self.alpha)
                kept[f"mean.{name}"] = mean
                square = square - mean * mean
            step = gradient / (square.sqrt() + self.eps)
            if self.momentum:
                step = state[f"momentum.{name}"] * self.momentum + step
                kept[f"momentum.{name}"] = step
            moved[name] = (value - step * rate).to(value.dtype)
        return moved, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Adagrad:
    """Adagrad (Duchi, Hazan and Singer, 2011) as torch has it, with L2 weight decay.

    ``lr_decay`` divides the rate by 1 + lr_decay * number of the update. State: "square.NAME", and
    the counter "step" if the rate changes.
    """

    lr: Rate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check(self.lr_decay >= 0, f"lr_decay {self.lr_decay} is negative")
        check(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")
        check(self.initial_accumulator_value >= 0, "the first sum of squares is negative")
        check(self.eps > 0, f"eps {self.eps} is not positive")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """The first sums of squares."""
        state = rate_state(self._rate())
        first = self.initial_accumulator_value
        return state | {f"square.{name}": zeros(value, first) for name, value in params.items()}

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """s = s + g^2; p = p - lr * g / (sqrt(s) + eps)."""
        rate, kept = rate_now(self._rate(), state)
        moved: State = {}
        for name, value in params.items():
            gradient = decayed(grads[name], value, self.weight_decay)
            square = state[f"square.{name}"] + gradient * gradient
            kept[f"square.{name}"] = square
            moved[name] = (value - rate * (gradient / (square.sqrt() + self.eps))).to(value.dtype)
        return moved, kept

    def _rate(self) -> Rate:
        if not self.lr_decay:
            return self.lr

        def slowed(step: Tensor) -> Tensor:
            rate = self.lr(step) if callable(self.lr) else self.lr
            return rate / (as_count(step) * self.lr_decay + 1.0)

        return slowed
