"""Finding elementary functions again in a graph of primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.macros import circular, exponential, gaussian, hyperbolic

MACROS: dict[str, Callable[[Node], Node]] = {
    "exp2": exponential.exp2,
    "exp": exponential.exp,
    "log2": exponential.log2,
    "log": exponential.log,
    "tanh": hyperbolic.tanh,
    "sigmoid": exponential.sigmoid,
    "erf": gaussian.erf,
    "erfc": gaussian.erfc,
    "sin": circular.sin,
    "cos": circular.cos,
    "tan": circular.tan,
    "expm1": exponential.expm1,
    "log1p": exponential.log1p,
    "log10": exponential.log10,
    "softplus": exponential.softplus,
    "sinh": hyperbolic.sinh,
    "cosh": hyperbolic.cosh,
    "asin": circular.asin,
    "acos": circular.acos,
    "atan": circular.atan,
    "asinh": hyperbolic.asinh,
    "acosh": hyperbolic.acosh,
    "atanh": hyperbolic.atanh,
    "normal_cdf": gaussian.normal_cdf,
    "gelu": gaussian.gelu,
}
"""Every elementary function by name."""

LAW = tuple(MACROS)[:11]
"""The functions that profile FX1 holds to 2 ulp over all inputs (docs/numerics.md §1)."""


def recognise(node: Node) -> tuple[str, Node] | None:
    """(name, argument) if ``node`` is one of :data:`MACROS` applied to a node, else None.

    A walk compares ``node`` with a sample of each function and stops at the first difference. What
    it finds is confirmed by building the function on the argument: equal graphs are the same
    object, in decoded programs as in fresh ones.
    """
    if node.dtype is not float32:
        return None
    for name, sources in _by_root().get(node.op, ()):
        if all(node.src[at].op is op for at, op in sources):
            argument = _argument(node, *_sample(name))
            if argument is not None and MACROS[name](argument) is node:
                return name, argument
    return None


@cache
def _by_root() -> dict[Op, list[tuple[str, tuple[tuple[int, Op], ...]]]]:
    """Functions by the operation at their root, with those of its sources that are fixed."""
    found: dict[Op, list[tuple[str, tuple[tuple[int, Op], ...]]]] = {}
    for name in MACROS:
        root, leaf = _sample(name)
        sources = tuple(
            (at, source.op)
            for at, source in enumerate(root.src)
            if source is not leaf and _literal(source) is None
        )
        found.setdefault(root.op, []).append((name, sources))
    return found


@cache
def _sample(name: str) -> tuple[Node, Node]:
    """A function applied to a leaf, and the leaf."""
    leaf = graph.input_("input", "sample", float32, (1,))
    return MACROS[name](leaf), leaf


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
