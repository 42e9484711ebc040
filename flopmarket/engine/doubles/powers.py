"""IEEE 754's pow."""

from __future__ import annotations

from flopmarket.engine import compose, graph, rounding
from flopmarket.engine.compose import like
from flopmarket.engine.doubles.exponential import exp, log
from flopmarket.engine.doubles.parts import INFINITY, NAN
from flopmarket.engine.graph import Node


def power(x: Node, y: Node) -> Node:
    """x**y as e**(y log x), IEEE 754's special cases included.

    The relative error grows with the result's exponent, to 2^-43 at the ends of the range.
    """
    zero, one = like(0.0, x), like(1.0, x)
    size = compose.absolute(x)
    value = exp(graph.mul(y, log(size)))
    infinite = graph.cmp("eq", compose.absolute(y), like(INFINITY, y))
    half = graph.mul(y, like(0.5, y))
    whole = graph.cmp("eq", rounding.half_even(y), y)
    odd = graph.bit("and", whole, compose.invert(graph.cmp("eq", rounding.half_even(half), half)))
    minus = graph.cmp("lt", graph.div(one, rounding.copy_sign(one, x)), zero)
    value = graph.where(graph.bit("and", minus, odd), compose.negative(value), value)
    open_ends = graph.bit("or", infinite, graph.cmp("eq", size, like(INFINITY, x)))
    undefined = graph.bit(
        "and", graph.cmp("lt", x, zero), compose.invert(graph.bit("or", whole, open_ends))
    )
    value = graph.where(undefined, like(NAN, x), value)
    always_one = graph.bit("or", graph.cmp("eq", y, zero), graph.cmp("eq", x, one))
    unit = graph.bit("and", graph.cmp("eq", size, one), infinite)
    is_nan = compose.invert(graph.cmp("eq", value, value))
    return graph.where(graph.bit("and", is_nan, graph.bit("or", always_one, unit)), one, value)
