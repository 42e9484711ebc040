"""What the functions are built from: constants, signs and powers of two."""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float64, uint64
from flopmarket.engine.graph import Node

INFINITY = float("inf")
NAN = float("nan")

# ln 2 with 21 trailing zero bits, and what it lacks.
LN2 = 0.6931471803691238
LN2_REST = 1.9082149292705877e-10
LOG2_E = 1.4426950408889634


def signed(size: Node, x: Node) -> Node:
    """``size`` with the sign of ``x``; ``x`` itself where it is a zero."""
    zero = like(0.0, x)
    flipped = graph.where(graph.cmp("lt", x, zero), compose.negative(size), size)
    return graph.where(graph.cmp("eq", x, zero), x, flipped)


def repaired(value: Node, factor: Node) -> Node:
    """value * factor for a factor near 1; the derivative of value."""
    missing = compose.subtract(graph.mul(value, factor), value)
    return graph.add(value, compose.detach(missing))


def power_of_two(exponent: Node) -> Node:
    """2**n of an int64 n in -1022..1023."""
    bits = graph.bitcast(graph.add(exponent, like(1023, exponent)), uint64)
    return graph.bitcast(graph.bit("shl", bits, like(52, bits)), float64)
