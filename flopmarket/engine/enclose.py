"""Closing a loop's body: from nodes over holes to a LOOP, with outer values lifted into it.

While a body is being traced its carries and slices are *holes*: INPUT nodes with names of their
own, so that bodies inside bodies cannot be confused. :func:`enclose` exchanges holes for
placeholders. What the body reads of the graph around it becomes a shared source: the largest parts
that depend on no hole are computed outside, once, and enter as values. Views, literals and ramps
stay inside, where they cost nothing. Used by ``functional.scan`` and by the derivative of LOOP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as counter

from flopmarket.engine import graph, loop
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node, Op, Shape
from flopmarket.engine.loop import Group

_names = counter()


def hole(dtype: DType, shape: Shape) -> Node:
    """A fresh leaf that stands for a value known only inside the body being traced."""
    return graph.input_("hole", str(next(_names)), dtype, shape)


@dataclass(frozen=True, slots=True)
class Open:
    """A loop whose body is still open.

    ``carries`` and ``items`` are holes, ``initial`` and ``scanned`` what fills them from outside;
    ``following`` are the next carries and ``slices`` the slices of stacked results, nodes over the
    holes and over anything outside.
    """

    carries: tuple[Node, ...]
    items: tuple[Node, ...]
    initial: tuple[Node, ...]
    scanned: tuple[Node, ...]
    following: tuple[Node, ...]
    slices: tuple[Node, ...]


def enclose(open_: Open, count: int, reverse: bool) -> tuple[list[Node], list[Node]]:
    """The carries after ``count`` turns, and the stacked results [count, ...].

    Scanned arrays that the body does not read are left out. The carries at the start of every turn
    are stacked results too, behind the given ones: nobody computes them unless a derivative asks.
    """
    given = [*open_.following, *open_.slices]
    if not given:
        return [], []
    read = set(graph.topological(given))
    before = [c for c in open_.carries if c in read and c not in open_.slices]
    results = [*given, *before]
    items = [at for at, item in enumerate(open_.items) if item in read]
    exchanged = _placeholders("carry", open_.carries)
    exchanged |= _placeholders("item", [open_.items[at] for at in items])
    inside, lifted = _split(results, set(exchanged))
    exchanged |= _placeholders("shared", lifted)
    for node in inside:
        if node not in exchanged:
            src = tuple(exchanged[source] for source in node.src)
            exchanged[node] = graph.make(node.op, src, node.arg, node.dtype, node.shape)
    body = loop.body_of(
        [exchanged[node] for node in results], len(open_.carries), len(items), len(lifted)
    )
    sources = (*open_.initial, *(open_.scanned[at] for at in items), *lifted)
    group = Group(sources, count, reverse, body)
    nodes = [loop.result(group, which) for which in range(len(given))]
    return nodes[: len(open_.following)], nodes[len(open_.following) :]


def _placeholders(kind: str, nodes: Sequence[Node]) -> dict[Node, Node]:
    return {n: loop.placeholder(kind, at, n.dtype, n.shape) for at, n in enumerate(nodes)}


def _split(results: Sequence[Node], holes: set[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes that a body holds, and those that it reads from outside, sources first."""
    order = graph.topological(results)
    varies: set[Node] = set()
    for node in order:
        if node in holes or any(source in varies for source in node.src):
            varies.add(node)
    inside, lifted = set(varies), set[Node]()
    stack = [*results, *(source for node in varies for source in node.src)]
    while stack:
        node = stack.pop()
        if node in inside or node in lifted:
            continue
        if node.op in (Op.VIEW, Op.CONST, Op.IOTA):
            inside.add(node)
            stack.extend(node.src)
        else:
            lifted.add(node)
    return [n for n in order if n in inside], [n for n in order if n in lifted]
