"""Functions of two operands of one shape, both float32 or both float64: atan2, hypot, logaddexp.

Nodes in and out. Errors in the docstrings are the largest of float32 measured against float64;
float64 stays within 3 ulp where the tests look. Called by the tensor methods.
"""

from __future__ import annotations

from flopmarket.engine import analytic, compose, dtypes, graph
from flopmarket.engine.compose import like
from flopmarket.engine.graph import Node
from flopmarket.engine.rounding import magnitude, sign_bit

_PI = {
    dtypes.float32: (3.1415927410125732, -8.742278000372475e-08),
    dtypes.float64: (3.141592653589793, 1.2246467991473532e-16),
}
"""The nearest number of a type to pi, and what is missing."""

_SCALES = {
    dtypes.float32: (2.0**60, 2.0**-70, 2.0**-40, 2.0**86),
    dtypes.float64: (2.0**500, 2.0**-600, 2.0**-450, 2.0**650),
}
"""From where the scale is what, and below where: so that squares are normal numbers."""


def _sign_is_set(x: Node) -> Node:
    """bool: whether the sign bit is 1; true of -0."""
    bits = graph.bitcast(x, dtypes.unsigned_of(x.dtype))
    top = like(sign_bit(x.dtype), bits)
    return graph.cmp("eq", graph.bit("and", bits, top), top)


def _flip(x: Node, condition: Node) -> Node:
    return graph.where(condition, compose.negative(x), x)


def atan2(y: Node, x: Node) -> Node:
    """The angle of the point (x, y) in [-pi, pi], signed zeros and infinities as in C.

    Measured: 1.5 ulp. The derivative is that of the smaller ratio; 0 at the origin.
    """
    behind, below = _sign_is_set(x), _sign_is_set(y)
    across, up = _flip(x, behind), _flip(y, below)
    steep = graph.cmp("lt", across, up)
    short, long = graph.where(steep, across, up), graph.where(steep, up, across)
    origin = graph.cmp("eq", long, like(0.0, x))
    diagonal = graph.bit(
        "and", graph.cmp("eq", short, long), graph.cmp("eq", long, like(float("inf"), x))
    )
    ratio = graph.div(short, graph.where(graph.bit("or", origin, diagonal), like(1.0, x), long))
    ratio = graph.where(diagonal, like(1.0, x), ratio)
    whole, rest = _PI[x.dtype]
    angle = analytic.apply("atan", ratio)
    angle = _from(angle, steep, whole / 2, rest / 2)
    angle = _from(angle, behind, whole, rest)
    known = graph.bit("and", graph.cmp("eq", x, x), graph.cmp("eq", y, y))
    return graph.where(known, _flip(angle, below), like(float("nan"), x))


def _from(angle: Node, turned: Node, whole: float, rest: float) -> Node:
    """``whole`` - angle where ``turned``, to more digits of the constant than its type has."""
    less = compose.subtract(angle, like(rest, angle))
    return graph.where(turned, compose.subtract(like(whole, angle), less), angle)


def hypot(x: Node, y: Node) -> Node:
    """sqrt(x^2 + y^2) without overflow; inf if either is. Measured: 1.2 ulp. Derivative 0 at 0."""
    size_x, size_y = magnitude(x), magnitude(y)
    large = graph.max_(size_x, size_y)
    one = like(1.0, x)
    high, down, low, up = _SCALES[x.dtype]
    huge, tiny = graph.cmp("lt", like(high, x), large), graph.cmp("lt", large, like(low, x))
    scale = graph.where(huge, like(down, x), graph.where(tiny, like(up, x), one))
    back = graph.where(huge, like(1 / down, x), graph.where(tiny, like(1 / up, x), one))
    a, b = graph.mul(x, scale), graph.mul(y, scale)
    square = graph.fma(a, a, graph.mul(b, b))
    zero = graph.cmp("eq", square, like(0.0, x))
    root = graph.mul(graph.sqrt(graph.where(zero, one, square)), back)
    root = graph.where(zero, like(0.0, x), root)
    infinity = like(float("inf"), x)
    endless = graph.bit("or", graph.cmp("eq", size_x, infinity), graph.cmp("eq", size_y, infinity))
    return graph.where(endless, infinity, root)


def logaddexp(a: Node, b: Node) -> Node:
    """log(e^a + e^b): the larger plus log1p(e^-distance); equal infinities give themselves.

    Measured: 1 ulp of the larger of the result's magnitude and 1.
    """
    same = graph.cmp("eq", a, b)
    apart = graph.where(same, like(0.0, a), compose.subtract(a, b))
    distance = compose.absolute(apart)
    grown = analytic.apply("log1p", analytic.apply("exp", compose.negative(distance)))
    return graph.add(graph.max_(a, b), grown)
