"""Loops written out turn by turn: what a scan means, in a graph without LOOP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import buffers, graph
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Tensors = tuple[Tensor, ...]
Body = Callable[[Tensors, Tensors], tuple[Sequence[Tensor], Sequence[Tensor]]]


def wall(x: Tensor) -> Tensor:
    """The same value, through which no product reaches an addition: a carry is rounded."""
    return Tensor(graph.reshape(graph.reshape(x.node, (1, *x.shape)), x.shape))


def unrolled(
    body: Body,
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    length: int,
    reverse: bool = False,
) -> tuple[Tensors, list[Tensors]]:
    """The last carries, and the ys of every position."""
    carries: Tensors = tuple(init)
    ys: list[Tensors] = [()] * length
    for turn in range(length):
        at = length - 1 - turn if reverse else turn
        following, found = body(tuple(map(wall, carries)), tuple(x[at] for x in xs))
        carries, ys[at] = tuple(following), tuple(map(wall, found))
    return tuple(map(wall, carries)), ys


def leaves_of(tensors: Sequence[Tensor]) -> tuple[list[Node], dict[Node, Array]]:
    """Nodes of tensors and the data below them, as the comparison fixture takes them."""
    nodes = [tensor.node for tensor in tensors]
    return nodes, buffers.collect(nodes)


def tensor(seed: int, *shape: int, dtype: Any = np.float32) -> Tensor:
    """Random values around 0, on the reference."""
    values = np.random.default_rng(seed).standard_normal(shape) * 2
    return Tensor(values.astype(dtype), device="reference")
