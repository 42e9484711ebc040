"""Derivatives as rules on the graph: one table from primitive to rule, walked in reverse.

:func:`grad` is the only entry; ``trace.training_step`` and users call it. There is no tape and no
flag on tensors. A rule receives a node and its cotangent and returns (source, contribution) pairs.
Elementary functions are found again by ``analytic.recognise`` and differentiated as a whole
(``grad_functions.py``); convolutions by ``convolution.recognise``, whose rule gives the derivative
of the unpadded windows' source as DOTs over windows. All other rules are per primitive, views in
``grad_views.py``, loops in ``grad_loop.py``.

The order of accumulation is part of the law: nodes are visited in reverse ``graph.topological``
order of the loss, a rule's contributions come in operand order, and each is added to the right of
the sum so far. Integer and bool values, casts between float and integer, comparisons and bit
operations have no derivative and stop the walk. A cast between floats passes the cotangent on, cast
back; a DOT of 16-bit operands has a float32 cotangent, and theirs are rounded to them once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import overload

from flopmarket.engine import analytic, compose, convolution, grad_functions, grad_loop, graph, loop
from flopmarket.engine.compose import like, negative
from flopmarket.engine.dtypes import int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.grad_views import view_rule
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.tensor import Tensor

Contributions = list[tuple[Node, Node]]
Rule = Callable[[Node, Node], Contributions]


@overload
def grad(loss: Tensor, wrt: Sequence[Tensor]) -> list[Tensor]: ...
@overload
def grad(loss: Node, wrt: Sequence[Node]) -> list[Node]: ...
def grad(loss: Tensor | Node, wrt: Sequence[Tensor] | Sequence[Node]) -> list[Tensor] | list[Node]:
    """d loss / d w for every w of ``wrt``, each with the shape of its w; zeros where none reaches.

    ``loss`` has one float element. Raises EngineError (GRAD_LOSS, GRAD_DTYPE, GRAD_UNDEFINED).
    """
    if isinstance(loss, Tensor):
        nodes = [w.node for w in wrt if isinstance(w, Tensor)]
        return [Tensor(node, device=loss.device) for node in grad(loss.node, nodes)]
    targets = [w for w in wrt if isinstance(w, Node)]
    if loss.elements != 1 or not loss.dtype.is_float:
        raise EngineError(
            f"the loss is one float, not {loss.dtype}{list(loss.shape)}",
            code="GRAD_LOSS",
            hint="sum or average it",
        )
    if loss.op is Op.INPUT and loss not in targets:
        raise EngineError(
            f"{loss!r} is a leaf: nothing is known of how it was computed",
            code="GRAD_LOSS",
            hint="take derivatives before realize()",
        )
    for target in targets:
        if not target.dtype.is_float:
            raise EngineError(f"no derivative in {target.dtype}", code="GRAD_DTYPE")
    cotangents = pull_back({loss: like(1.0, loss)}, set(targets))
    return [cotangents.get(target) or like(0.0, target) for target in targets]


def pull_back(seeds: Mapping[Node, Node], targets: set[Node]) -> dict[Node, Node]:
    """Cotangents of the ``targets`` that are reached, given those of some nodes above them."""
    order = graph.topological(seeds)
    reached: set[Node] = set()
    for node in order:
        if node in targets or any(source in reached for source in node.src):
            reached.add(node)
    loops = _Loops(order)
    cotangents = dict(seeds)
    for node in reversed(order):
        cotangent = cotangents.get(node)
        if node not in reached or not node.src:
            continue
        if node.op is Op.LOOP:
            parts = loops.contributions(node, cotangent, reached)
        else:
            parts = [] if cotangent is None else _contributions(node, cotangent)
        for source, part in parts:
            if source in reached:
                known = cotangents.get(source)
                cotangents[source] = part if known is None else graph.add(known, part)
        if node not in targets:
            cotangents.pop(node, None)
    return cotangents


class _Loops:
    """The loops of one walk: their results wait for each other, and go back together."""

    def __init__(self, order: Sequence[Node]) -> None:
        self._first = {group: nodes[0] for group, nodes in loop.groups(order).items()}
        self._given: dict[loop.Group, dict[int, Node]] = {}

    def contributions(
        self, node: Node, cotangent: Node | None, reached: set[Node]
    ) -> Contributions:
        """Those of the whole loop, when the first of its results in the order is visited."""
        group = loop.group_of(node)
        given = self._given.setdefault(group, {})
        if cotangent is not None:
            given[node.arg[3]] = cotangent
        if node is not self._first[group] or not given:
            return []
        return grad_loop.contributions(group, given, reached, pull_back)


def _contributions(node: Node, cotangent: Node) -> Contributions:
    found = analytic.recognise(node)
    if found is not None:
        name, argument = found
        return [(argument, grad_functions.RULES[name](node, argument, cotangent))]
    rule = _RULES.get(node.op)
    return [] if rule is None else rule(node, cotangent)


# ---------------------------------------------------------------- elementwise


def _cast(node: Node, g: Node) -> Contributions:
    x = node.src[0]
    if node.arg == ("bitcast",) or not (node.dtype.is_float and x.dtype.is_float):
        return []
    return [(x, graph.cast(g, x.dtype))]


def _add(node: Node, g: Node) -> Contributions:
    return [(source, g) for source in node.src]


def _mul(node: Node, g: Node) -> Contributions:
    a, b = node.src
    return [(a, graph.mul(g, b)), (b, graph.mul(g, a))]


def _fma(node: Node, g: Node) -> Contributions:
    a, b, c = node.src
    return [(a, graph.mul(g, b)), (b, graph.mul(g, a)), (c, g)]


def _div(node: Node, g: Node) -> Contributions:
    a, b = node.src
    part = graph.div(g, b)
    return [(a, part), (b, graph.mul(part, negative(node)))]


def _sqrt(node: Node, g: Node) -> Contributions:
    return [(node.src[0], graph.div(graph.mul(g, like(0.5, g)), node))]


def _max(node: Node, g: Node) -> Contributions:
    """To the larger; at ties, and where an operand is NaN, to the left."""
    a, b = node.src
    right, zero = graph.cmp("lt", a, b), like(0.0, g)
    return [(a, graph.where(right, zero, g)), (b, graph.where(right, g, zero))]


def _where(node: Node, g: Node) -> Contributions:
    condition, a, b = node.src
    zero = like(0.0, g)
    return [(a, graph.where(condition, g, zero)), (b, graph.where(condition, zero, g))]


# ---------------------------------------------------------------- folds and products


def _reduce(node: Node, g: Node) -> Contributions:
    kind, axes = node.arg
    x = node.src[0]
    wide = graph.expand(compose.keep_axes(g, axes, x.shape), x.shape)
    if kind == "sum":
        return [(x, wide)]
    if kind == "sumprod":
        y = node.src[1]
        return [(x, graph.mul(wide, y)), (y, graph.mul(wide, x))]
    if kind == "prod":
        return [(x, graph.mul(wide, _product_of_others(x, axes)))]
    # max and min: the first extreme element of a row takes all; a row with NaN gets nothing.
    first = compose.first_extreme(x, axes, compose.keep_axes(node, axes, x.shape))
    hit = graph.cmp("eq", compose.ramp(x.shape, axes), graph.expand(first, x.shape))
    return [(x, graph.where(hit, wide, like(0.0, x)))]


def _product_of_others(x: Node, axes: tuple[int, ...]) -> Node:
    """Each element exchanged for the product of the others of its row; exact at zeros."""
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in axes)
    count = prod(x.shape[a] for a in axes)
    if not count:
        return like(1.0, x)
    order = (*rest, *axes)
    moved = graph.permute(x, order)
    rows = graph.reshape(moved, (prod(x.shape[a] for a in rest), count))
    others = graph.reshape(_others_of_rows(rows), moved.shape)
    return graph.permute(others, [order.index(axis) for axis in range(len(order))])


def _others_of_rows(rows: Node) -> Node:
    """:func:`_product_of_others` along the second axis of two, by halves.

    The others of an element are its neighbour and the others of their pair.
    """
    count, length = rows.shape
    if length == 1:
        return like(1.0, rows)
    if length % 2:
        rows = graph.concat([rows, compose.literal(1.0, rows.dtype, (count, 1))], 1)
    pairs = graph.reshape(rows, (count, -(-length // 2), 2))
    left, right = (compose.part(pairs, 2, at, 1) for at in (0, 1))
    others = _others_of_rows(graph.reshape(graph.mul(left, right), pairs.shape[:2]))
    swapped = graph.slice_(pairs, [(0, 1, n) for n in pairs.shape[:2]] + [(1, -1, 2)])
    wide = graph.expand(graph.reshape(others, (*pairs.shape[:2], 1)), pairs.shape)
    return compose.part(graph.reshape(graph.mul(wide, swapped), rows.shape), 1, 0, length)


def _dot(node: Node, g: Node) -> Contributions:
    """dA = dY B^T and dB = A^T dY; terms beyond a row's valid length give and get nothing."""
    a, b = node.src[0], node.src[1]
    windows = convolution.recognise(node)
    if windows is not None:
        transposed = graph.dot(compose.swap(a, 1, 2), g)
        source = convolution.source_gradient(windows, b, g)
        return [
            (windows.source, graph.cast(source, a.dtype)),
            (b, graph.cast(transposed, b.dtype)),
        ]
    part = graph.dot(g, compose.swap(b, 1, 2))
    if len(node.src) == 3:
        valid = graph.reshape(node.src[2], (*a.shape[:2], 1))
        counts = graph.cmp("lt", graph.iota(2, a.shape, int32), graph.expand(valid, a.shape))
        a_counted = graph.where(counts, a, like(0.0, a))
        part = graph.where(counts, part, like(0.0, part))
    else:
        a_counted = a
    other = graph.dot(compose.swap(a_counted, 1, 2), g)
    return [(a, graph.cast(part, a.dtype)), (b, graph.cast(other, b.dtype))]


# ---------------------------------------------------------------- movement by index


def _gather(node: Node, g: Node) -> Contributions:
    """Scatter-add of the rows, in ascending order of the index's elements."""
    data, index = node.src
    axis, rank = node.arg[0], len(data.shape)
    inner = range(axis, axis + len(index.shape))
    outer = [a for a in range(len(g.shape)) if a not in inner]
    rows = graph.reshape(
        graph.permute(g, [*inner, *outer]),
        (index.elements, *(n for a, n in enumerate(data.shape) if a != axis)),
    )
    order = [axis, *(a for a in range(rank) if a != axis)]
    zeros = compose.literal(0.0, g.dtype, tuple(data.shape[a] for a in order))
    flat = graph.reshape(_clamped(index, data.shape[axis]), (index.elements,))
    summed = graph.scatter("add", zeros, flat, rows)
    return [(data, graph.permute(summed, [order.index(a) for a in range(rank)]))]


def _clamped(index: Node, length: int) -> Node:
    """The index that a gather really reads."""
    if index.op is Op.CONST or not length:
        return index
    high = like(length - 1, index)
    index = graph.where(graph.cmp("lt", high, index), high, index)
    return index if index.dtype.kind == "u" else graph.max_(index, like(0, index))


def _scatter(node: Node, g: Node) -> Contributions:
    destination, index, updates = node.src
    length = destination.shape[0]
    taken = graph.gather(g, index, 0) if length else like(0.0, updates)
    order = graph.iota(0, index.shape) if index.shape[0] else like(0, graph.cast(index, int32))
    nobody = compose.literal(-1, int32, (length,))
    winner = graph.scatter("set", nobody, index, order)
    landed = graph.cmp("lt", index, like(length, index))
    if index.dtype.kind == "i":
        landed = graph.bit("and", landed, compose.invert(graph.cmp("lt", index, like(0, index))))
    if node.arg == ("add",):
        return [(destination, g), (updates, _only(landed, taken))]
    last = graph.cmp("eq", graph.gather(winner, index, 0), order) if length else landed
    untouched = graph.cmp("lt", winner, like(0, winner))
    chosen = graph.bit("and", landed, last)
    return [(destination, _only(untouched, g)), (updates, _only(chosen, taken))]


def _only(rows: Node, x: Node) -> Node:
    """``x`` where its leading index is true in ``rows`` [R], else 0."""
    mask = graph.reshape(rows, (*rows.shape, *(1,) * (len(x.shape) - 1)))
    return graph.where(graph.expand(mask, x.shape), x, like(0.0, x))


def _concat(node: Node, g: Node) -> Contributions:
    axis, start = node.arg[0], 0
    pieces: Contributions = []
    for source in node.src:
        pieces.append((source, compose.part(g, axis, start, source.shape[axis])))
        start += source.shape[axis]
    return pieces


def _view(node: Node, g: Node) -> Contributions:
    return [(node.src[0], view_rule(node, g))]


_RULES: dict[Op, Rule] = {
    Op.VIEW: _view,
    Op.CAST: _cast,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.FMA: _fma,
    Op.DIV: _div,
    Op.SQRT: _sqrt,
    Op.MAX: _max,
    Op.WHERE: _where,
    Op.REDUCE: _reduce,
    Op.DOT: _dot,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.CONCAT: _concat,
}
