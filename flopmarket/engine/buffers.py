"""Realised data behind INPUT 'buffer' leaves, and the step from lazy nodes to arrays.

A buffer leaf is named by the SHA-256 of its content, so equal data is one node and nothing depends
on when or in which order tensors were made. Arrays hang on their leaves weakly: when the last graph
that mentions a leaf is gone, so is the data. Called by ``tensor.py`` and ``trace.py`` only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from flopmarket.engine import dtypes, graph, rewrite
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op

Array = np.ndarray[Any, Any]

_arrays: WeakKeyDictionary[Node, Array] = WeakKeyDictionary()


def leaf(array: Array) -> Node:
    """The leaf that holds (a private, read-only copy of) ``array``."""
    canonical = dtypes.canonical(array)
    content = hashlib.sha256(canonical.tobytes()).hexdigest()
    node = graph.input_("buffer", content, dtypes.from_numpy(array.dtype), array.shape)
    if node not in _arrays:
        if canonical is array or np.may_share_memory(canonical, array):
            canonical = canonical.copy()
        canonical.flags.writeable = False
        _arrays[node] = canonical
    return node


def array_of(node: Node) -> Array | None:
    """The data of a leaf or of a node that was read before, read-only; None for any other."""
    return _arrays.get(node)


def value(node: Node, device: str | None) -> Array:
    """The value of ``node``, read-only, computed on ``device`` unless it was read before.

    Only this very node is remembered: what builds on it is computed from its sources again, so that
    bits do not depend on which intermediate values somebody looked at.
    """
    array = _arrays.get(node)
    if array is None:
        (array,) = realise([node], device)
        array.flags.writeable = False
        _arrays[node] = array
    return array


def collect(nodes: Iterable[Node]) -> dict[Node, Array]:
    """Data of every leaf below ``nodes``.

    Raises EngineError (NOT_REALISABLE) for a leaf that only a program's runner can fill.
    """
    found: dict[Node, Array] = {}
    for node in graph.topological(nodes):
        if node.op is not Op.INPUT:
            continue
        array = _arrays.get(node)
        if array is None:
            raise EngineError(
                f"{node!r} has no value here",
                code="NOT_REALISABLE",
                hint="inside a trace, values are known only when the program runs",
            )
        found[node] = array
    return found


def realise(nodes: Sequence[Node], device: str | None) -> list[Array]:
    """Values of ``nodes``, canonical, on ``device``: a device's name, "reference", or None for the
    first OpenCL device there is."""
    from flopmarket.engine.runtime import realise as runtime  # opens OpenCL: only when asked to

    outputs = rewrite.canonicalise(nodes)
    return runtime.realise(outputs, collect(outputs), device)
