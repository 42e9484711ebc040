"""Derivatives of the elementary functions, as ``grad.py`` applies them to what it recognises.

A rule receives the function's node y, its argument x and the cotangent g of y, all of one shape and
one type of ``analytic.FUNCTIONS``, and returns the cotangent of x. Where a function's own value
would lose digits (1 + expm1 at large negative x), the rule computes the derivative anew.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

from flopmarket.engine import graph
from flopmarket.engine.analytic import apply
from flopmarket.engine.compose import like, negative, subtract
from flopmarket.engine.graph import Node

Rule = Callable[[Node, Node, Node], Node]

_LN2 = log(2.0)
_LN10 = log(10.0)


def _tanh(y: Node, x: Node, g: Node) -> Node:
    return graph.mul(g, graph.fma(y, negative(y), like(1.0, y)))


def _sigmoid(y: Node, x: Node, g: Node) -> Node:
    return graph.mul(g, graph.mul(y, subtract(like(1.0, y), y)))


def _erf(y: Node, x: Node, g: Node) -> Node:
    bell = apply("exp", graph.mul(x, negative(x)))
    return graph.mul(g, graph.mul(bell, like(2.0 / pi**0.5, x)))


def _bell(x: Node) -> Node:
    """The normal density."""
    grown = apply("exp", graph.mul(graph.mul(x, x), like(-0.5, x)))
    return graph.mul(grown, like((2.0 * pi) ** -0.5, x))


def _gelu(y: Node, x: Node, g: Node) -> Node:
    return graph.mul(g, graph.fma(x, _bell(x), apply("normal_cdf", x)))


def _less_than_one(x: Node) -> tuple[Node, Node]:
    """1 - x and 1 + x: the factors of 1 - x^2, which keep their digits near 1."""
    one = like(1.0, x)
    return subtract(one, x), graph.add(x, one)


def _asin(y: Node, x: Node, g: Node) -> Node:
    below, above = _less_than_one(x)
    return graph.div(g, graph.sqrt(graph.mul(below, above)))


def _acosh(y: Node, x: Node, g: Node) -> Node:
    below, above = graph.add(x, like(-1.0, x)), graph.add(x, like(1.0, x))
    return graph.div(g, graph.mul(graph.sqrt(below), graph.sqrt(above)))


def _atanh(y: Node, x: Node, g: Node) -> Node:
    below, above = _less_than_one(x)
    return graph.div(g, graph.mul(below, above))


def _square_and_one(x: Node) -> Node:
    return graph.fma(x, x, like(1.0, x))


RULES: dict[str, Rule] = {
    "exp": lambda y, x, g: graph.mul(g, y),
    "exp2": lambda y, x, g: graph.mul(graph.mul(g, y), like(_LN2, y)),
    "log": lambda y, x, g: graph.div(g, x),
    "log2": lambda y, x, g: graph.div(graph.mul(g, like(1.0 / _LN2, x)), x),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "erfc": lambda y, x, g: _erf(y, x, negative(g)),
    "sin": lambda y, x, g: graph.mul(g, apply("cos", x)),
    "cos": lambda y, x, g: graph.mul(g, negative(apply("sin", x))),
    "tan": lambda y, x, g: graph.mul(g, _square_and_one(y)),
    "expm1": lambda y, x, g: graph.mul(g, apply("exp", x)),
    "log1p": lambda y, x, g: graph.div(g, graph.add(x, like(1.0, x))),
    "log10": lambda y, x, g: graph.div(graph.mul(g, like(1.0 / _LN10, x)), x),
    "softplus": lambda y, x, g: graph.mul(g, apply("sigmoid", x)),
    "sinh": lambda y, x, g: graph.mul(g, apply("cosh", x)),
    "cosh": lambda y, x, g: graph.mul(g, apply("sinh", x)),
    "asin": _asin,
    "acos": lambda y, x, g: _asin(y, x, negative(g)),
    "atan": lambda y, x, g: graph.div(g, _square_and_one(x)),
    "asinh": lambda y, x, g: graph.div(g, graph.sqrt(_square_and_one(x))),
    "acosh": _acosh,
    "atanh": _atanh,
    "normal_cdf": lambda y, x, g: graph.mul(g, _bell(x)),
    "gelu": _gelu,
}
"""One rule for each of the functions of ``analytic.FUNCTIONS``."""
