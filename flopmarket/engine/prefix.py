"""Running sums and products along an axis, on nodes.

The order is part of the definition (W. Hillis and G. Steele, "Data parallel algorithms", 1986): in
round r = 0, 1, 2, ... every element from place 2^r on becomes (element 2^r places before) op (it).
An element depends on those before it alone, not on the length of the row; it is a tree of depth
log2(length), so the error grows with the logarithm only. Integers are exact (they wrap).
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import compose, graph
from flopmarket.engine.analytic import apply
from flopmarket.engine.compose import like, literal
from flopmarket.engine.graph import Node
from flopmarket.engine.ordering import delayed

Operator = Callable[[Node, Node], Node]


def scan(
    operator: Operator, x: Node, axis: int, neutral: int, exclusive: bool, reverse: bool
) -> Node:
    """op over all elements up to each one; ``exclusive`` leaves it out, ``reverse`` starts at the
    end. ``neutral`` changes nothing under op."""
    if x.elements == 0:
        return x
    if reverse:
        x = compose.part(x, axis, x.shape[axis] - 1, x.shape[axis], -1)
    step = 1
    while step < x.shape[axis]:
        x = graph.where(_from(x, axis, step), operator(delayed(x, axis, step), x), x)
        step *= 2
    if exclusive:
        x = graph.where(_from(x, axis, 1), delayed(x, axis, 1), like(neutral, x))
    if reverse:
        x = compose.part(x, axis, x.shape[axis] - 1, x.shape[axis], -1)
    return x


def _from(x: Node, axis: int, place: int) -> Node:
    """bool: whether an element's place along ``axis`` is at least ``place``."""
    ramp = graph.iota(axis, x.shape)
    return graph.cmp("lt", like(place - 1, ramp), ramp)


def log_sum_exp(x: Node, axis: int) -> Node:
    """log of the running sum of e**x, as a running (maximum, sum of e**(x - maximum))."""
    if x.elements == 0:
        return x
    top = compose.detach(x)
    total = apply("exp", compose.subtract(x, _finite(top)))
    step = 1
    while step < x.shape[axis]:
        started = _from(x, axis, step)
        low = graph.where(started, delayed(top, axis, step), like(float("-inf"), top))
        joined = graph.max_(low, top)
        shift = _finite(joined)
        here = graph.mul(total, apply("exp", compose.subtract(top, shift)))
        there = apply("exp", compose.subtract(low, shift))
        both = graph.fma(delayed(total, axis, step), there, here)
        total, top = graph.where(started, both, total), joined
        step *= 2
    return graph.add(_finite(top), apply("log", total))


def _finite(top: Node) -> Node:
    """A shift for exponents: the maximum, or 0 where it is infinite."""
    size = compose.absolute(top)
    return graph.where(
        graph.cmp("lt", size, like(float("inf"), top)), top, literal(0.0, top.dtype, top.shape)
    )
