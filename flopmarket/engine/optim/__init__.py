"""Optimizers as pure transforms: (parameters, gradients, state) to (parameters, state).

``init`` gives the first state as arrays, ``update`` one step as lazy tensors; ``trace.py`` puts
both into a step program. Updates follow torch's formulas; options are constants of the program, and
a learning rate may be a schedule: ``clip(AdamW(lr=warmup_cosine(3e-4, 100, 10_000)), max_norm=1)``.

``protocol`` says what an optimizer is; ``descent`` and ``adaptive`` hold them; ``schedules`` holds
learning rates; ``wrappers`` clip and accumulate.
"""

from flopmarket.engine.optim.adaptive import Adagrad, Adam, AdamW, RMSprop
from flopmarket.engine.optim.descent import SGD, Lion
from flopmarket.engine.optim.protocol import Optimizer, Rate, Schedule
from flopmarket.engine.optim.schedules import (
    constant,
    cosine,
    exponential,
    linear,
    one_cycle,
    piecewise,
    polynomial,
    step,
    warmup,
    warmup_cosine,
)
from flopmarket.engine.optim.wrappers import (
    Accumulated,
    Clipped,
    accumulate,
    clip,
    gradient_norm,
)

__all__ = [
    "SGD",
    "Accumulated",
    "Adagrad",
    "Adam",
    "AdamW",
    "Clipped",
    "Lion",
    "Optimizer",
    "RMSprop",
    "Rate",
    "Schedule",
    "accumulate",
    "clip",
    "constant",
    "cosine",
    "exponential",
    "gradient_norm",
    "linear",
    "one_cycle",
    "piecewise",
    "polynomial",
    "step",
    "warmup",
    "warmup_cosine",
]
