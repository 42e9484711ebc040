"""One tile of one operation, computed by the reference from the elements it reads and no others.

:func:`recompute` asks for elements by position. A party answers from whole values and notes which
tiles were touched: these are the inputs it must open. The referee answers from proven tiles. Both
run the same code, so what is opened is what is needed, also where an index decides what is read.
The arithmetic is ``flopmarket.engine.reference`` on small graphs; nothing here computes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from flopmarket.engine import graph, reference
from flopmarket.engine.graph import ELEMENTWISE, Node, Op, Shape
from flopmarket.engine.runtime.session import seed_words
from flopmarket.jobs.operations import Array, Elements, Operation, Part
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.spec import DataOrder

Fetch = Callable[[int, Elements], Array]
"""Elements of the source at a position, one-dimensional, by their row-major positions."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What a step knows beside tensors."""

    seed: int
    step: int
    order: DataOrder


def recompute(op: Operation, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    """Elements ``at`` of an operation's value; ``at`` is one tile in its own order."""
    if op.part is Part.ITEM:
        return fetch(0, at + op.at * op.elements)
    if op.part is Part.STACK:
        return _stacked(op, at, fetch)
    if op.committed:
        return fetch(0, at)
    node = op.node
    assert node is not None
    if node.op in ELEMENTWISE:
        return _evaluate(node, [fetch(k, at) for k in range(len(node.src))], at.shape)
    return _RULES[node.op](node, at, fetch, facts)


def _evaluate(node: Node, sources: Sequence[Array], shape: Shape) -> Array:
    """The node's operation on other, smaller sources."""
    leaves = {
        graph.input_("buffer", str(k), s.dtype, value.shape): value
        for k, (s, value) in enumerate(zip(node.src, sources, strict=True))
    }
    small = graph.make(node.op, tuple(leaves), node.arg, node.dtype, tuple(shape))
    return reference.evaluate([small], leaves)[0]


def _axes(at: Elements, shape: Shape) -> list[Elements]:
    if not shape:
        return []
    return [np.asarray(axis, dtype=np.int64) for axis in np.unravel_index(at, shape)]


def _flat(index: Sequence[Elements], shape: Shape) -> Elements:
    total = np.zeros(np.broadcast_shapes(*(i.shape for i in index), ()), dtype=np.int64)
    for axis, length in zip(index, shape, strict=True):
        total = total * length + axis
    return total


def _input(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    kind = node.arg[0]
    if kind == "seed":
        return np.asarray(seed_words(facts.seed)[at])
    if kind == "step":
        return np.full(at.shape, facts.step, dtype=np.uint32)
    if kind != "input":
        return fetch(0, at)
    length = prod(node.shape[1:])
    row, inside = np.divmod(at, length)
    rows = rows_of_step(facts.order, facts.seed, facts.step)
    return fetch(0, rows[row] * length + inside)


def _const(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    return np.asarray(np.frombuffer(node.arg, dtype=node.dtype.numpy)[at])


def _iota(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    return np.asarray(_axes(at, node.shape)[node.arg[0]].astype(node.dtype.numpy))


def _view(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    kind, source = node.arg[0], node.src[0].shape
    if kind == "reshape":
        return fetch(0, at)
    index = _axes(at, node.shape)
    inside = np.ones(at.shape, dtype=np.bool_)
    if kind == "permute":
        moved = [index[0]] * len(source) if source else []
        for position, axis in enumerate(node.arg[1]):
            moved[axis] = index[position]
    elif kind == "expand":
        moved = [i if n != 1 else np.zeros_like(i) for i, n in zip(index, source, strict=True)]
    elif kind == "slice":
        rows = zip(index, node.arg[1], strict=True)
        moved = [i * step + start for i, (start, step, _) in rows]
    elif kind == "window":
        moved = index[: len(source)]
        for tap, (axis, _, stride, dilation) in zip(index[len(source) :], node.arg[1], strict=True):
            moved[axis] = moved[axis] * stride + tap * dilation
    else:
        assert kind == "pad", kind
        moved = [i - low for i, (low, _) in zip(index, node.arg[1], strict=True)]
        for i, n in zip(moved, source, strict=True):
            inside &= (i >= 0) & (i < n)
    result = np.zeros(at.shape, dtype=node.dtype.numpy)
    if inside.any():
        result[inside] = fetch(0, _flat([i[inside] for i in moved], source))
    return result


def _reduce(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    """Terms are folded row-major, as in the definition, whatever axes they lie along."""
    axes, source = node.arg[1], node.src[0].shape
    kept = [axis for axis in range(len(source)) if axis not in axes]
    lengths = tuple(source[axis] for axis in axes)
    count = prod(lengths)
    small = np.zeros((len(at), count), dtype=np.int64)
    if count:
        index: list[Elements] = [small] * len(source)
        for axis, i in zip(kept, _axes(at, node.shape), strict=True):
            index[axis] = i[:, None]
        for axis, i in zip(axes, _axes(np.arange(count), lengths), strict=True):
            index[axis] = i[None, :]
        small = np.broadcast_to(_flat(index, source), small.shape)
    parts = [fetch(k, small.reshape(-1)).reshape(small.shape) for k in range(len(node.src))]
    leaves = [
        graph.input_("buffer", str(k), node.dtype, part.shape) for k, part in enumerate(parts)
    ]
    folded = graph.reduce(node.arg[0], leaves[0], (1,), *leaves[1:])
    return reference.evaluate([folded], dict(zip(leaves, parts, strict=True)))[0]


def _dot(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    (a, b), terms = node.src[:2], node.src[0].shape[2]
    batch, row, column = _axes(at, node.shape)
    rows, columns, k = np.unique(row), np.unique(column), np.arange(terms, dtype=np.int64)
    matrix = int(batch[0])
    left = (matrix * a.shape[1] + rows[:, None]) * terms + k[None, :]
    right = (matrix * terms + k[:, None]) * b.shape[2] + columns[None, :]
    sources: list[Array] = [
        fetch(0, left.reshape(-1)).reshape(1, len(rows), terms),
        fetch(1, right.reshape(-1)).reshape(1, terms, len(columns)),
    ]
    if len(node.src) == 3:
        sources.append(fetch(2, matrix * a.shape[1] + rows).reshape(1, -1))
    return _evaluate(node, sources, (1, len(rows), len(columns))).reshape(-1)


def _gather(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    (data, index), axis = node.src, node.arg[0]
    places = _axes(at, node.shape)
    after = axis + len(index.shape)
    asked = fetch(1, _flat(places[axis:after], index.shape) + np.zeros_like(at))
    chosen = np.clip(asked.astype(np.int64), 0, max(0, data.shape[axis] - 1))
    return fetch(0, _flat([*places[:axis], chosen, *places[after:]], data.shape))


def _scatter(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    """Row by row: the updates that land there, in their order."""
    destination, index, _ = node.src
    width = prod(destination.shape[1:])
    updates = index.shape[0]
    targets = fetch(1, np.arange(updates, dtype=np.int64)).astype(np.int64)
    result = fetch(0, at).copy()
    row, column = np.divmod(at, width)
    for target in np.intersect1d(row, targets):
        where, landing = np.flatnonzero(row == target), np.flatnonzero(targets == target)
        taken = landing[:, None] * width + column[where][None, :]
        part = fetch(2, taken.reshape(-1)).reshape(taken.shape)
        leaves = {
            graph.input_("buffer", "0", node.dtype, (1, len(where))): result[None, where],
            graph.input_("buffer", "1", index.dtype, (len(landing),)): np.zeros(
                len(landing), dtype=index.dtype.numpy
            ),
            graph.input_("buffer", "2", node.dtype, part.shape): part,
        }
        result[where] = reference.evaluate([graph.scatter(node.arg[0], *leaves)], leaves)[0][0]
    return result


def _concat(node: Node, at: Elements, fetch: Fetch, facts: StepFacts) -> Array:
    axis = node.arg[0]
    index = _axes(at, node.shape)
    ends = np.cumsum([s.shape[axis] for s in node.src])
    source = np.searchsorted(ends, index[axis], side="right")
    result = np.zeros(at.shape, dtype=node.dtype.numpy)
    for k in np.unique(source):
        mine = source == k
        moved = [i[mine] for i in index]
        moved[axis] = moved[axis] - (int(ends[k]) - node.src[k].shape[axis])
        result[mine] = fetch(int(k), _flat(moved, node.src[k].shape))
    return result


def _stacked(op: Operation, at: Elements, fetch: Fetch) -> Array:
    source, inside = np.divmod(at, prod(op.shape[1:]))
    result = np.zeros(at.shape, dtype=op.dtype.numpy)
    for k in np.unique(source):
        result[source == k] = fetch(int(k), inside[source == k])
    return result


_RULES: dict[Op, Callable[[Node, Elements, Fetch, StepFacts], Array]] = {
    Op.INPUT: _input,
    Op.CONST: _const,
    Op.IOTA: _iota,
    Op.VIEW: _view,
    Op.REDUCE: _reduce,
    Op.DOT: _dot,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.CONCAT: _concat,
}
