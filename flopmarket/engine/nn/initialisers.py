"""How parameters begin: functions of the seed, drawn inside an FX1 program over Philox."""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import compose, random
from flopmarket.engine.dtypes import float32
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.tensor import Tensor

Initialiser = Callable[[Node, int, Shape], Node]
"""(seed uint32[2], ordinal of the parameter in its model, shape) to a float32 node."""


def constant(value: float) -> Initialiser:
    """Every element ``value``."""
    return lambda seed, ordinal, shape: compose.literal(value, float32, shape)


def uniform(bound: float) -> Initialiser:
    """Uniform in [-bound, bound)."""
    return lambda seed, ordinal, shape: random.uniform(
        seed, random.INITIAL, ordinal, shape, -bound, bound
    )


def normal(deviation: float) -> Initialiser:
    """Normal around 0."""

    def build(seed: Node, ordinal: int, shape: Shape) -> Node:
        return (Tensor(random.normal(seed, random.INITIAL, ordinal, shape)) * deviation).node

    return build
