"""How many kernels a device builds that never saw a program: an estimate from the graph alone.

Quotes predict the building from it. Two kernels are taken for one when operation, argument, element
types and shapes agree, as their texts then mostly do; a packed product counts its packing of both
operands. Within about a third of what the engine builds; calibration does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopmarket.engine import loop
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.program import Program
from flopmarket.engine.schedule.fuse import is_packed_dot, stored_nodes

_ROOTS = frozenset({Op.REDUCE, Op.DOT, Op.SCATTER, Op.CONCAT})
_NO_KERNEL = frozenset({Op.INPUT, Op.CONST, Op.LOOP})
_KERNELS_OF_PACKED_DOT = 3


def kernel_count(program: Program) -> int:
    """Kernels of one step; the body of a loop counts once, however often it turns."""
    forms = _forms(program.nodes, [*program.state_nodes, *program.output_nodes])
    for body in loop.bodies(program.nodes):
        forms |= _forms(body.nodes, body.results)
    return sum(kernels for kernels, *_ in forms)


def _forms(nodes: Sequence[Node], border: Sequence[Node]) -> set[tuple[Any, ...]]:
    """What tells the kernels of these nodes apart, each behind its number of kernels."""
    written = set(border)
    stored = stored_nodes(nodes, written, lambda node: node.src)
    return {
        (
            _KERNELS_OF_PACKED_DOT if is_packed_dot(node) else 1,
            node.op,
            repr(node.arg),
            node.dtype,
            node.shape,
            tuple((source.dtype, source.shape) for source in node.src),
        )
        for node in nodes
        if node.op not in _NO_KERNEL and (node in stored or node in written or node.op in _ROOTS)
    }
