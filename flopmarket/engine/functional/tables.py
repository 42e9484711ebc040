"""Reading an axis by a table that is known while the graph is built: by views where the table is a
few runs, by a gather otherwise. Padding modes and resampling are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph, limits
from flopmarket.engine.dtypes import int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node

Array = np.ndarray[Any, Any]

MAX_RUNS = 8
"""Views that one table is read by at most; beyond, a gather is cheaper."""

MAX_CHAINED_TERMS = 16
"""Weighted terms that are added one after the other; longer sums are a REDUCE."""


def check_table(elements: int) -> None:
    """Raise EngineError (TABLE_TOO_LARGE) before a table of so many elements is made."""
    if elements > limits.MAX_TABLE_ELEMENTS:
        raise EngineError(
            f"a table of {elements} elements, at most {limits.MAX_TABLE_ELEMENTS}",
            code="TABLE_TOO_LARGE",
        )


def positions(start: int, stop: int) -> Array:
    """The int64 numbers from ``start`` up to ``stop``, which is left out; see check_table."""
    check_table(stop - start)
    return np.arange(start, stop, dtype=np.int64)


def take(x: Node, axis: int, table: Sequence[int] | Array) -> Node:
    """``x`` along ``axis`` at the positions of a one-dimensional table, each inside the axis."""
    index = np.asarray(table, dtype=np.int64)
    repeats = _repeats(index)
    if repeats > 1:
        once = take(x, axis, index[::repeats])
        shape = once.shape
        wide = graph.reshape(once, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        wide = graph.expand(wide, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return graph.reshape(wide, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))
    runs = _runs(index)
    if len(runs) > MAX_RUNS:
        return graph.gather(x, graph.const(index, int32, index.shape), axis)
    parts = []
    for start, step, count in runs:
        if step:
            parts.append(compose.part(x, axis, start, count, step))
        else:
            one = compose.part(x, axis, start, 1)
            shape = tuple(count if a == axis else n for a, n in enumerate(one.shape))
            parts.append(graph.expand(one, shape))
    return graph.concat(parts, axis) if parts else compose.part(x, axis, 0, 0)


def weigh(x: Node, axis: int, index: Array, weight: Array) -> Node:
    """Sums along ``axis``: result o is the sum over t of weight[o, t] * x[index[o, t]].

    ``index`` and ``weight`` are [O, T] tables, every index inside the axis. Terms are added in
    ascending t (a REDUCE beyond :data:`MAX_CHAINED_TERMS` of them). x is a float.
    """
    count, terms = index.shape
    if terms > MAX_CHAINED_TERMS:
        taps = graph.gather(x, graph.const(index, int32, index.shape), axis)
        own = tuple(
            index.shape[a - axis] if a in (axis, axis + 1) else 1 for a in range(len(taps.shape))
        )
        weights = graph.const(weight.reshape(own), x.dtype, own)
        return graph.reduce("sumprod", taps, (axis + 1,), graph.expand(weights, taps.shape))
    total: Node | None = None
    for at in range(terms):
        tap = take(x, axis, index[:, at])
        own = tuple(count if a == axis else 1 for a in range(len(tap.shape)))
        weights = graph.expand(graph.const(weight[:, at].reshape(own), x.dtype, own), tap.shape)
        total = graph.mul(tap, weights) if total is None else graph.fma(tap, weights, total)
    assert total is not None  # a table has at least one term
    return total


def _repeats(index: Array) -> int:
    """The largest r such that the table is another one with every entry r times; 1 for none."""
    if len(index) < 2 or index[0] != index[1]:
        return 1
    change = np.flatnonzero(np.diff(index)) + 1
    lengths = np.diff(np.concatenate([[0], change, [len(index)]]))
    if len(lengths) == 1:
        return 1
    return int(np.gcd.reduce(lengths))


def _runs(index: Array) -> list[tuple[int, int, int]]:
    """The table as runs (start, step, count), taken greedily; stops early beyond MAX_RUNS."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    while at < len(index) and len(runs) <= MAX_RUNS:
        if at + 1 == len(index):
            runs.append((int(index[at]), 1, 1))
            break
        steps = np.diff(index[at:])
        same = np.flatnonzero(steps != steps[0])
        count = (int(same[0]) if len(same) else len(steps)) + 1
        runs.append((int(index[at]), int(steps[0]), count))
        at += count
    return runs
