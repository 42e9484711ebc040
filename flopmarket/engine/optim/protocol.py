"""What a training step needs of an optimizer, and the learning rates that all of them take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from flopmarket.engine.dtypes import from_numpy, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import working_dtype
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Tensor]
State = dict[str, Tensor]

Schedule = Callable[[Tensor], Tensor]
"""The learning rate (float32 scalar) of the update with a given number (int32 scalar, 0 for the
first). See ``schedules``; any function of a tensor will do."""

Rate = float | Schedule
"""A learning rate: a constant of the program, or computed in it from the number of the update."""

STEP = "step"
"""State tensor (int32 scalar) that counts updates; kept only by who needs it."""


class Optimizer(Protocol):
    """What a training step needs of an optimizer."""

    def init(self, params: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """The first state, by name; depends on the shapes and dtypes of ``params`` only."""
        ...

    def update(
        self, params: Tensors, grads: Tensors, state: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parameters and the state after one step; the names stay the same."""
        ...


def rate_state(rate: Rate) -> dict[str, Array]:
    """The counter that a schedule needs; nothing for a constant."""
    return {STEP: np.zeros((), dtype=np.int32)} if callable(rate) else {}


def rate_now(rate: Rate, state: Tensors) -> tuple[float | Tensor, State]:
    """The rate of this update, and the state it leaves."""
    if not callable(rate):
        return rate, {}
    step = state[STEP]
    return rate(step), {STEP: step + 1}


def check_rate(rate: Rate) -> None:
    """Raise EngineError (OPTIMIZER_OPTION) for a constant rate that is not positive."""
    check(callable(rate) or rate > 0, f"learning rate {rate} is not positive")


def check(holds: bool, message: str) -> None:
    """Raise EngineError (OPTIMIZER_OPTION) with ``message`` unless ``holds``."""
    if not holds:
        raise EngineError(message, code="OPTIMIZER_OPTION")


def zeros(value: Array | Tensor, fill: float = 0.0) -> Array:
    """An average's first value for a parameter: float32, or float64 for a float64 parameter."""
    dtype = value.dtype if isinstance(value, Tensor) else from_numpy(value.dtype)
    return np.full(value.shape, fill, dtype=working_dtype(dtype).numpy)


def decayed(gradient: Tensor, value: Tensor, weight_decay: float) -> Tensor:
    """The gradient of the loss with an L2 penalty added."""
    return gradient + value * weight_decay if weight_decay else gradient


def shrunk(value: Tensor, rate: float | Tensor, weight_decay: float) -> Tensor:
    """A parameter after decoupled weight decay: value * (1 - rate * weight_decay)."""
    return value * (1.0 - rate * weight_decay) if weight_decay else value


def as_count(step: Tensor) -> Tensor:
    """A counter as a float32 scalar."""
    return step.to(int32).float()
