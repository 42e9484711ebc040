"""The same graph in float64: what derivatives are checked against by finite differences.

Not a second definition of FX1: roundings are float64's, and elementary functions are those of
``exact.py``, found by ``analytic.recognise``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import analytic, reference
from flopmarket.engine.graph import Node, Op
from tests.engine.frontend.exact import EXACT

Array = np.ndarray[Any, Any]


def evaluate(output: Node, leaves: Mapping[Node, Array]) -> Array:
    """The value of ``output`` with every float32 node computed in float64 (small graphs only)."""
    return _value(output, dict(leaves))


def _value(node: Node, values: dict[Node, Array]) -> Array:
    if node not in values:
        found = analytic.recognise(node)
        if found is not None:
            values[node] = EXACT[found[0]](_value(found[1], values))
        else:
            values[node] = _apply(node, [_value(source, values) for source in node.src])
    return values[node]


def _apply(node: Node, src: Sequence[Array]) -> Array:
    if node.op is Op.FMA:
        return src[0] * src[1] + src[2]
    if node.op is Op.DOT:
        a = src[0]
        if len(src) == 3:
            a = np.where(np.arange(a.shape[2]) < src[2][:, :, None], a, 0.0)
        return np.matmul(a, src[1])
    if node.op is Op.REDUCE:
        kind, axes = node.arg
        x = src[0] * src[1] if kind == "sumprod" else src[0]
        fold = {"prod": np.prod, "max": np.max, "min": np.min}.get(kind, np.sum)
        return np.asarray(fold(x, axis=axes))
    if node.op is Op.CONST and node.dtype.is_float:
        return np.frombuffer(node.arg, dtype=np.float32).reshape(node.shape).astype(np.float64)
    if node.op is Op.CAST:
        if node.arg == ("bitcast",):  # detach: keeps the value for the way back
            return src[0]
        return src[0].astype(np.float64 if node.dtype.is_float else node.dtype.numpy)
    return np.asarray(reference._RULES[node.op](node, *src))


def differences(output: Node, leaves: Mapping[Node, Array], wrt: Node) -> Array:
    """Central finite differences of the sum of ``output`` by every element of ``wrt``."""
    result = np.zeros(wrt.shape)
    for at in np.ndindex(*wrt.shape):
        sides = []
        for sign in (1.0, -1.0):
            moved = dict(leaves)
            moved[wrt] = leaves[wrt].copy()
            moved[wrt][at] += sign * 1e-5
            sides.append(float(np.sum(evaluate(output, moved))))
        result[at] = (sides[0] - sides[1]) / 2e-5
    return result
