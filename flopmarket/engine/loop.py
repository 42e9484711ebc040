"""LOOP: a body of nodes that runs a fixed number of times, carrying values from turn to turn.

A :class:`Body` is closed: its leaves are placeholders, nothing of the graph around it. Turn by turn
it maps carries and one slice of every scanned array, beside values shared by all turns, to the next
carries and to one slice of every stacked result. A LOOP node is one result of one loop:

- ``src``: first values of the carries, then scanned arrays [count, ...], then shared values;
- ``arg``: (count, reverse, body, which). With ``reverse`` 1 the last slices come first. ``which``
  below the number of carries is that carry after the last turn, others are stacked results
  [count, ...], whose slice lies where the scanned slices of its turn lie.

Nodes that differ in ``which`` alone are results of one execution. A count of 0 is legal: carries
pass, stacked results are empty. Bodies are interned as nodes are, so equal bodies are one object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from flopmarket.engine import limits
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import GraphError
from flopmarket.engine.graph import Node, Op, Shape, input_, make, topological

PLACEHOLDERS = ("carry", "item", "shared")
"""Kinds of INPUT nodes that a body may read; their names are positions in decimal."""


class Body:
    """What one turn computes. ``results`` are the next carries, then slices of stacked results.

    Never constructed directly: :func:`body_of` checks and interns. Identity is equality.
    """

    __slots__ = (
        "__weakref__",
        "carries",
        "depth",
        "expanded_nodes",
        "items",
        "nodes",
        "placeholders",
        "results",
        "shared",
        "work",
    )

    results: tuple[Node, ...]
    carries: int
    items: int
    shared: int
    nodes: tuple[Node, ...]
    """Every node of the body, sources first."""
    placeholders: dict[tuple[str, int], Node]
    """The placeholders that are read, by kind and position."""
    depth: int
    """1 for a body without loops in it."""
    expanded_nodes: int
    """Nodes of the body and of the bodies of all loops in it."""
    work: int
    """Nodes evaluated in one turn, every turn of the loops inside counted."""

    def __repr__(self) -> str:
        return (
            f"<body of {len(self.nodes)} nodes: {self.carries} carries, {self.items} items, "
            f"{self.shared} shared, {len(self.results) - self.carries} stacked>"
        )


_interned: WeakValueDictionary[tuple[Any, ...], Body] = WeakValueDictionary()
_interning = threading.Lock()


@dataclass(frozen=True, slots=True)
class Group:
    """One execution of a loop: what its result nodes have in common."""

    src: tuple[Node, ...]
    count: int
    reverse: bool
    body: Body


def placeholder(kind: str, position: int, dtype: DType, shape: Shape) -> Node:
    """The placeholder of a 'carry', 'item' (one slice) or 'shared' value at ``position``."""
    return input_(kind, str(position), dtype, shape)


def group_of(node: Node) -> Group:
    """The execution that a LOOP node is a result of."""
    count, reverse, body, _ = node.arg
    return Group(node.src, count, bool(reverse), body)


def groups(nodes: Iterable[Node]) -> dict[Group, list[Node]]:
    """The loops among ``nodes``, each with its result nodes there, in the given order."""
    found: dict[Group, list[Node]] = {}
    for node in nodes:
        if node.op is Op.LOOP:
            found.setdefault(group_of(node), []).append(node)
    return found


def bodies(nodes: Iterable[Node]) -> list[Body]:
    """The distinct bodies of the loops among ``nodes``, and those inside them."""
    found: dict[Body, None] = {}
    stack = [group.body for group in groups(nodes)]
    while stack:
        body = stack.pop()
        if body not in found:
            found[body] = None
            stack.extend(group.body for group in groups(body.nodes))
    return list(found)


def result(group: Group, which: int) -> Node:
    """The node of one result of a loop."""
    value = group.body.results[which] if 0 <= which < len(group.body.results) else None
    if value is None:
        _refuse(f"a loop of {len(group.body.results)} results has no result {which}")
    shape = value.shape if which < group.body.carries else (group.count, *value.shape)
    arg = (group.count, int(group.reverse), group.body, which)
    return make(Op.LOOP, group.src, arg, value.dtype, shape)


# ---------------------------------------------------------------- bodies


def body_of(results: Sequence[Node], carries: int, items: int, shared: int) -> Body:
    """The interned body of these results; the first ``carries`` are the next carries.

    Raises GraphError: LOOP_OPEN when a leaf is no placeholder of the body, LOOP_DEPTH, LOOP_LIMIT,
    GRAPH_ILLEGAL.
    """
    results = tuple(results)
    key = (tuple(map(id, results)), carries, items, shared)
    found = _interned.get(key)
    if found is not None:
        return found
    for count in (carries, items, shared):
        if type(count) is not int or not 0 <= count <= limits.MAX_SOURCES:
            _refuse(f"a loop has 0 to {limits.MAX_SOURCES} values of a kind, not {count!r}")
    if not max(1, carries) <= len(results) <= limits.MAX_SOURCES:
        _refuse(
            f"{len(results)} results; a loop has 1 to {limits.MAX_SOURCES}, every carry among them"
        )
    body = Body.__new__(Body)
    body.results, body.carries, body.items, body.shared = results, carries, items, shared
    body.nodes = tuple(topological(results))
    body.placeholders = _placeholders(body)
    inside = groups(body.nodes)
    body.depth = 1 + max((group.body.depth for group in inside), default=0)
    body.expanded_nodes = len(body.nodes) + sum(g.body.expanded_nodes for g in inside)
    body.work = len(body.nodes) + sum(g.count * g.body.work for g in inside)
    if body.depth > limits.MAX_LOOP_DEPTH:
        _refuse(f"loops nest deeper than {limits.MAX_LOOP_DEPTH}", "LOOP_DEPTH")
    if body.expanded_nodes > limits.MAX_NODES:
        _refuse(f"a body of {body.expanded_nodes} nodes, at most {limits.MAX_NODES}", "LOOP_LIMIT")
    with _interning:
        return _interned.setdefault(key, body)


def _placeholders(body: Body) -> dict[tuple[str, int], Node]:
    counts = {"carry": body.carries, "item": body.items, "shared": body.shared}
    found: dict[tuple[str, int], Node] = {}
    for node in body.nodes:
        if node.op is not Op.INPUT:
            continue
        kind, name = node.arg
        if kind not in counts:
            _refuse(f"its body reads {node!r}, which is outside of it", "LOOP_OPEN")
        if int(name) >= counts[kind]:
            _refuse(f"its body reads {kind} {name} of {counts[kind]}", "LOOP_OPEN")
        if found.setdefault((kind, int(name)), node) is not node:
            _refuse(f"its body reads {kind} {name} in two forms")
    return found


# ---------------------------------------------------------------- legality (called by spec)


def check(node: Node) -> None:
    """Raise GraphError unless a LOOP node is legal."""
    group, which = _argument(node)
    body = group.body
    forms = _source_forms(node, group)
    for (kind, position), leaf in body.placeholders.items():
        first = {"carry": 0, "item": body.carries, "shared": body.carries + body.items}[kind]
        if (leaf.dtype, leaf.shape) != forms[first + position]:
            dtype, shape = forms[first + position]
            _refuse(f"{kind} {position} is {dtype}{list(shape)}, its body reads {leaf!r}")
    for at, following in enumerate(body.results[: body.carries]):
        if (following.dtype, following.shape) != forms[at]:
            dtype, shape = forms[at]
            _refuse(
                f"carry {at} is {dtype}{list(shape)} and becomes "
                f"{following.dtype}{list(following.shape)}"
            )
    value = body.results[which]
    shape = value.shape if which < body.carries else (group.count, *value.shape)
    if node.dtype is not value.dtype or node.shape != shape:
        _refuse(f"result {which} is {value.dtype}{list(shape)}, not {node!r}")
    if group.count * body.work > limits.MAX_LOOP_WORK:
        _refuse(
            f"{group.count} turns of {body.work} nodes, at most {limits.MAX_LOOP_WORK} together",
            "LOOP_LIMIT",
        )


def _argument(node: Node) -> tuple[Group, int]:
    if not (isinstance(node.arg, tuple) and len(node.arg) == 4 and type(node.arg[2]) is Body):
        _refuse("argument is (count, reverse, body, which)")
    count, reverse, body, which = node.arg
    if type(count) is not int or not 0 <= count <= limits.MAX_LOOP_TURNS:
        _refuse(f"{count!r} turns; a loop has 0 to {limits.MAX_LOOP_TURNS}", "LOOP_LIMIT")
    if type(reverse) is not int or reverse not in (0, 1):
        _refuse(f"reverse is 0 or 1, not {reverse!r}")
    if type(which) is not int or not 0 <= which < len(body.results):
        _refuse(f"no result {which!r}")
    return Group(node.src, count, bool(reverse), body), which


def _source_forms(node: Node, group: Group) -> list[tuple[DType, Shape]]:
    """Dtype and shape that the body sees of every source."""
    body = group.body
    wanted = body.carries + body.items + body.shared
    if len(node.src) != wanted or wanted > limits.MAX_SOURCES:
        _refuse(f"{len(node.src)} sources, its body wants {wanted} (at most {limits.MAX_SOURCES})")
    forms = [(source.dtype, source.shape) for source in node.src]
    for at in range(body.carries, body.carries + body.items):
        source = node.src[at]
        if not source.shape or source.shape[0] != group.count:
            _refuse(
                f"a scanned array has the turns as its first axis: {group.count}, "
                f"not {list(source.shape)}"
            )
        forms[at] = (source.dtype, source.shape[1:])
    return forms


def _refuse(why: str, code: str = "GRAPH_ILLEGAL") -> NoReturn:
    raise GraphError(f"LOOP: {why}", code=code)
