"""Optimizers around optimizers: clipping of gradients, accumulation over micro-steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.engine.creation import where
from flopmarket.engine.errors import EngineError
from flopmarket.engine.optim.protocol import Array, Optimizer, State, Tensors, check, zeros
from flopmarket.engine.tensor import Tensor

_COUNT = "accumulate.count"


def clip(
    optimizer: Optimizer, max_norm: float | None = None, max_value: float | None = None
) -> Clipped:
    """``optimizer`` fed with limited gradients: each element within +-``max_value``, then all
    together scaled down to a 2-norm of ``max_norm``."""
    return Clipped(optimizer, max_norm, max_value)


def accumulate(optimizer: Optimizer, steps: int) -> Accumulated:
    """``optimizer`` fed once in ``steps`` steps, with the mean of their gradients."""
    return Accumulated(optimizer, steps)


def gradient_norm(grads: Tensors) -> Tensor:
    """The 2-norm of all gradients together (float32 scalar); squares are summed in their order."""
    total: Tensor | None = None
    for gradient in grads.values():
        square = gradient.float().square().sum()
        total = square if total is None else total + square
    if total is None:
        raise EngineError("no gradients have no norm", code="OPTIMIZER_OPTION")
    return total.sqrt()


@dataclass(frozen=True, slots=True)
class Clipped:
    """See :func:`clip`. State: that of the optimizer inside."""

    optimizer: Optimizer
    max_norm: float | None = None
    max_value: float | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.max_norm, self.max_value) if limit is not None]
        check(bool(given), "clip wants a max_norm or a max_value")
        check(all(limit > 0 for limit in given), f"limits {given} are not positive")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """The first state of the optimizer inside."""
        return self.optimizer.init(params)

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """Limit, then update."""
        limited = dict(grads)
        if self.max_value is not None:
            bound = self.max_value
            limited = {name: g.clamp(-bound, bound) for name, g in limited.items()}
        if self.max_norm is not None:
            scale = (self.max_norm / (gradient_norm(limited) + 1e-6)).clamp(max=1.0)
            limited = {name: (g * scale).to(g.dtype) for name, g in limited.items()}
        return self.optimizer.update(params, limited, state)


@dataclass(frozen=True, slots=True)
class Accumulated:
    """See :func:`accumulate`.

    State: that of the optimizer inside, "accumulate.NAME", the sum of the gradients since the last
    update, and "accumulate.count" (int32), how many they are. A micro-step that updates nothing
    keeps every bit of parameters and state.
    """

    optimizer: Optimizer
    steps: int

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"accumulation over {self.steps} steps")
        check(not isinstance(self.optimizer, Accumulated), "accumulate once, over all the steps")

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """The first state of the optimizer inside, sums of zero."""
        sums = {f"accumulate.{name}": zeros(value) for name, value in params.items()}
        count = {_COUNT: np.zeros((), dtype=np.int32)}
        return self.optimizer.init(params) | sums | count

    def update(self, params: Tensors, grads: Tensors, state: Tensors) -> tuple[State, State]:
        """Add the gradients; with the last of ``steps``, update by their mean and begin anew."""
        count = state[_COUNT] + 1
        due = count == self.steps
        sums = {name: state[f"accumulate.{name}"] + grads[name] for name in params}
        means = {name: (sums[name] / float(self.steps)).to(grads[name].dtype) for name in params}
        own = {_COUNT, *(f"accumulate.{name}" for name in params)}
        inner = {name: value for name, value in state.items() if name not in own}
        moved, memory = self.optimizer.update(params, means, inner)
        kept = {name: where(due, value, inner[name]) for name, value in memory.items()}
        kept |= {f"accumulate.{name}": where(due, 0.0, value) for name, value in sums.items()}
        kept[_COUNT] = where(due, 0, count)
        return {name: where(due, value, params[name]) for name, value in moved.items()}, kept
