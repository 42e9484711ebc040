"""The canonical form of a graph: the one rewriting that is part of the law.

docs/numerics.md §3: an addition or subtraction of a product is an FMA before the digest is taken,
so that no compiler is left a choice about contraction. Any other rewriting (view merging, fusion)
belongs to the scheduler and must be exact; it never changes a program's digest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flopmarket.engine import graph
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.loop import Body, body_of


def canonicalise(outputs: Sequence[Node]) -> tuple[Node, ...]:
    """``outputs`` with ADD of a float product turned into FMA, bottom up; idempotent.

    The left-most product is taken when both sides are one; a product with other uses is duplicated
    into the FMA and stays for those uses. Negating a product negates its second factor first
    (exact), so that ``a - b * c`` becomes FMA(b, -c, a). The bodies of loops are rewritten
    likewise; what goes in and out of a body is a value, rounded: no FMA forms across that border.
    """
    return _canonicalise(outputs, {})


def _canonicalise(outputs: Sequence[Node], bodies: dict[Body, Body]) -> tuple[Node, ...]:
    """``bodies`` remembers the canonical form of every body met so far; their depth is bounded."""
    done: dict[Node, Node] = {}
    for node in graph.topological(outputs):
        src = tuple(done[s] for s in node.src)
        arg = node.arg
        if node.op is Op.LOOP:
            count, reverse, body, which = arg
            if body not in bodies:
                results = _canonicalise(body.results, bodies)
                bodies[body] = body_of(results, body.carries, body.items, body.shared)
            arg = (count, reverse, bodies[body], which)
        if src != node.src or arg != node.arg:
            node_now = graph.make(node.op, src, arg, node.dtype, node.shape)
        else:
            node_now = node
        done[node] = _contract(node_now)
    return tuple(done[output] for output in outputs)


def _contract(node: Node) -> Node:
    if not node.dtype.is_float:
        return node
    if node.op is Op.MUL:
        return _negate_inside(node)
    if node.op is Op.ADD:
        left, right = node.src
        if left.op is Op.MUL:
            return graph.fma(left.src[0], left.src[1], right)
        if right.op is Op.MUL:
            return graph.fma(right.src[0], right.src[1], left)
    return node


def _negate_inside(node: Node) -> Node:
    """(b * c) * -1 -> b * (c * -1): the same bits, and the product stays visible to an addition.

    The sign goes to the second factor, or to the first where the second is itself a product; where
    both are, the node stays as it is, so that one pass is enough and its cost linear.
    """
    product, minus = node.src
    if _is_minus_one(product):
        product, minus = minus, product
    if product.op is not Op.MUL or not _is_minus_one(minus):
        return node
    first, second = product.src
    if _is_minus_one(first) or _is_minus_one(second):
        return node
    if second.op is not Op.MUL:
        return graph.mul(first, graph.mul(second, minus))
    if first.op is not Op.MUL:
        return graph.mul(graph.mul(first, minus), second)
    return node


def _is_minus_one(node: Node) -> bool:
    value = graph.const_scalar(node)
    return value is not None and value == np.float32(-1)
