"""Derivatives of the views: each index map run backwards, sums where it read an element twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.graph import Node, Shape


def view_rule(node: Node, g: Node) -> Node:
    """The cotangent of the source of a VIEW ``node`` whose cotangent is ``g``."""
    x, kind = node.src[0], node.arg[0]
    if node.elements == 0:
        return like(0.0, x)
    if kind == "reshape":
        return graph.reshape(g, x.shape)
    if kind == "permute":
        return graph.permute(g, [node.arg[1].index(axis) for axis in range(len(x.shape))])
    if kind == "expand":
        axes = tuple(a for a, n in enumerate(x.shape) if n != g.shape[a])
        return compose.fold("sum", g, axes, keep=True)
    if kind == "pad":
        return graph.slice_(
            g, [(low, 1, n) for (low, _), n in zip(node.arg[1], x.shape, strict=True)]
        )
    if kind == "slice":
        for axis, (start, step, _) in enumerate(node.arg[1]):
            g = place(g, axis, start, step, x.shape[axis])
        return g
    return sum_windows(g, x.shape, node.arg[1])


def place(g: Node, axis: int, start: int, step: int, length: int) -> Node:
    """The inverse of a slice along one axis: element i at start + i * step of ``length`` zeros."""
    count = g.shape[axis]
    if step < 0:
        g = compose.part(g, axis, count - 1, count, -1)
        start, step = start + (count - 1) * step, -step
    if step > 1 and count > 1:
        # Each element followed by step - 1 zeros, those after the last one cut off.
        shape = g.shape
        g = graph.reshape(g, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        g = graph.pad(g, [(0, step - 1 if a == axis + 1 else 0) for a in range(len(g.shape))])
        g = graph.reshape(g, (*shape[:axis], count * step, *shape[axis + 1 :]))
        g = compose.part(g, axis, 0, (count - 1) * step + 1)
    tail = length - start - g.shape[axis]
    return graph.pad(g, [(start, tail) if a == axis else (0, 0) for a in range(len(g.shape))])


def sum_windows(g: Node, shape: Shape, windows: Sequence[tuple[int, int, int, int]]) -> Node:
    """Every tap of ``g``, laid out as ``graph.window`` does, added to the element of ``shape`` that
    it was read from; in ascending row-major order of the taps.

    ``windows``: (axis, size, stride, dilation), as in the view.
    """
    rank = len(shape)
    total: Node | None = None
    for taps in product(*(range(size) for _, size, _, _ in windows)):
        part = graph.slice_(g, [(0, 1, n) for n in g.shape[:rank]] + [(tap, 1, 1) for tap in taps])
        part = graph.reshape(part, g.shape[:rank])
        for tap, (axis, _, stride, dilation) in zip(taps, windows, strict=True):
            part = place(part, axis, tap * dilation, stride, shape[axis])
        total = part if total is None else graph.add(total, part)
    assert total is not None  # a window has at least one tap
    return total
