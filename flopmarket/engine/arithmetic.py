"""The operators of ``Tensor`` as rules on nodes of one dtype; shapes are equal but for matmul."""

from __future__ import annotations

from math import prod

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import bool_, float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node


def add(a: Node, b: Node) -> Node:
    """a + b; on bool, or."""
    return graph.bit("or", a, b) if a.dtype is bool_ else graph.add(a, b)


def mul(a: Node, b: Node) -> Node:
    """a * b; on bool, and."""
    return graph.bit("and", a, b) if a.dtype is bool_ else graph.mul(a, b)


def divide(a: Node, b: Node) -> Node:
    """True division, in float32."""
    return graph.div(graph.cast(a, float32), graph.cast(b, float32))


def floor_divide(a: Node, b: Node) -> Node:
    """The quotient rounded down."""
    quotient = graph.div(a, b)
    return compose.floor(quotient) if a.dtype.is_float else quotient


def remainder(a: Node, b: Node) -> Node:
    """a - b * floor(a / b): the sign of b."""
    return compose.subtract(a, graph.mul(floor_divide(a, b), b))


def at_most(a: Node, b: Node) -> Node:
    """a <= b; false with NaN."""
    return graph.bit("or", graph.cmp("lt", a, b), graph.cmp("eq", a, b))


def power(x: Node, exponent: int) -> Node:
    """x**exponent by squaring, from the lowest bit of the exponent up."""
    result: Node | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else graph.mul(result, x)
        exponent >>= 1
        if exponent:
            x = graph.mul(x, x)
    return compose.like(1, x) if result is None else result


def matmul(a: Node, b: Node) -> Node:
    """torch's matmul: [.., M, K] x [.., K, N] with broadcast batches; vectors lose their axis."""
    if not a.shape or not b.shape:
        raise EngineError("matmul wants at least one axis on both sides", code="SHAPE_MISMATCH")
    left = graph.reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    right = graph.reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    (rows, terms), columns = left.shape[-2:], right.shape[-1]
    if terms != right.shape[-2]:
        raise EngineError(
            f"matmul of {list(a.shape)} and {list(b.shape)}: {terms} terms against "
            f"{right.shape[-2]}",
            code="SHAPE_MISMATCH",
        )
    batch = compose.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    if prod(right.shape[:-2]) == 1:  # one matrix for every batch: its rows are just more rows
        flat = graph.reshape(left, (1, prod(left.shape[:-1]), terms))
        product = graph.dot(flat, graph.reshape(right, (1, terms, columns)))
    else:
        left = compose.broadcast_to(left, (*batch, rows, terms))
        right = compose.broadcast_to(right, (*batch, terms, columns))
        product = graph.dot(
            graph.reshape(left, (prod(batch), rows, terms)),
            graph.reshape(right, (prod(batch), terms, columns)),
        )
    tail = ((rows,) if len(a.shape) > 1 else ()) + ((columns,) if len(b.shape) > 1 else ())
    return graph.reshape(product, (*batch, *tail))
