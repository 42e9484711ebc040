"""The elementary functions by name, for each type that has them, and finding them in a graph.

float32 has ``macros``, float64 ``doubles``. ``tensor`` and ``functional`` apply them, ``grad.py``
recognises them: their primitives have no useful derivatives of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from flopmarket.engine import doubles, graph, macros
from flopmarket.engine.dtypes import DType, float32, float64
from flopmarket.engine.graph import Node, Op

FUNCTIONS: Mapping[DType, Mapping[str, Callable[[Node], Node]]] = {
    float32: macros.MACROS,
    float64: doubles.FUNCTIONS,
}
"""Every elementary function by the type of its argument, and by name."""


def apply(name: str, x: Node) -> Node:
    """The function called ``name`` of a float32 or float64 ``x``."""
    return FUNCTIONS[x.dtype][name](x)


def recognise(node: Node) -> tuple[str, Node] | None:
    """(name, argument) if ``node`` is one of :data:`FUNCTIONS` applied to a node, else None.

    A walk compares ``node`` with a sample of each function and stops at the first difference. What
    it finds is confirmed by building the function on the argument: equal graphs are the same
    object, in decoded programs as in fresh ones.
    """
    if node.dtype not in FUNCTIONS:
        return None
    for name, sources in _by_root(node.dtype).get(node.op, ()):
        if all(node.src[at].op is op for at, op in sources):
            argument = _argument(node, *_sample(node.dtype, name))
            if argument is not None and FUNCTIONS[node.dtype][name](argument) is node:
                return name, argument
    return None


@cache
def _by_root(dtype: DType) -> dict[Op, list[tuple[str, tuple[tuple[int, Op], ...]]]]:
    """Functions by the operation at their root, with those of its sources that are fixed."""
    found: dict[Op, list[tuple[str, tuple[tuple[int, Op], ...]]]] = {}
    for name in FUNCTIONS[dtype]:
        root, leaf = _sample(dtype, name)
        sources = tuple(
            (at, source.op)
            for at, source in enumerate(root.src)
            if source is not leaf and _literal(source) is None
        )
        found.setdefault(root.op, []).append((name, sources))
    return found


@cache
def _sample(dtype: DType, name: str) -> tuple[Node, Node]:
    """A function applied to a leaf, and the leaf."""
    leaf = graph.input_("input", "sample", dtype, (1,))
    return FUNCTIONS[dtype][name](leaf), leaf


def _argument(node: Node, sample: Node, leaf: Node) -> Node | None:
    """The node in place of ``leaf`` if ``node`` looks like ``sample``."""
    found: dict[Node, Node] = {sample: node}
    pending = [sample]
    while pending:
        wanted = pending.pop()
        have = found[wanted]
        if have.dtype is not wanted.dtype or have.shape != node.shape:
            return None
        if wanted is leaf:
            continue
        if (literal := _literal(wanted)) is not None:
            if _literal(have) != literal:
                return None
            continue
        if have.op is not wanted.op or have.arg != wanted.arg:
            return None
        for source, source_of_have in zip(wanted.src, have.src, strict=True):
            if source not in found:
                found[source] = source_of_have
                pending.append(source)
            elif found[source] is not source_of_have:
                return None
    return found.get(leaf)


def _literal(node: Node) -> Any:
    """The bytes of a scalar literal seen through its views, or None."""
    while node.op is Op.VIEW:
        node = node.src[0]
    return node.arg if node.op is Op.CONST and node.elements == 1 else None
