"""Counted work of a program: what a quote, an invoice and a settlement are computed from.

Read from the graph alone, never from a device or a schedule, so every party counts the same. One
operation is one FLOP, an FMA two; data movement and launches are those of ideal fusion: every
*root* (REDUCE, DOT, SCATTER, a tensor at the border, or a value read by several roots) is written
once and its operands are read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from flopmarket.engine import dtypes
from flopmarket.engine.graph import ELEMENTWISE, Node, Op

if TYPE_CHECKING:
    from flopmarket.engine.program import Program

WORK_CLASSES = ("dot-f32", "dot-int", "elementwise-f32", "reduce-f32", "integer")
"""Classes of counted work: contractions, pointwise floats, float folds, and everything integer."""

_ROOTS = frozenset({Op.REDUCE, Op.DOT, Op.SCATTER})


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one step.

    ``flops`` maps every class of :data:`WORK_CLASSES` to operations; sizes are bytes; ``launches``
    counts roots. ``peak_memory_bytes`` bounds what a device needs: frozen, two copies of the state,
    inputs, outputs, the largest set of intermediates alive at once, and packed operands.
    """

    flops: Mapping[str, int]
    bytes_moved: int
    launches: int
    peak_memory_bytes: int
    frozen_bytes: int
    state_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def total_flops(self) -> int:
        """Operations of all classes together."""
        return sum(self.flops.values())


def measure(program: Program) -> Cost:
    """Count one step of ``program``."""
    flops = dict.fromkeys(WORK_CLASSES, 0)
    for node in program.nodes:
        work_class, count = _operations(node)
        if count:
            flops[work_class] += count
    border = [*program.state_nodes, *program.output_nodes]
    roots = _roots(program.nodes, border)
    frozen, state, inputs, outputs = (
        sum(spec.size_bytes for spec in specs)
        for specs in (program.frozen, program.state, program.inputs, program.outputs)
    )
    moved = sum(root.size_bytes + sum(_read_bytes(root, roots)) for root in roots)
    literals = sum(node.size_bytes for node in program.nodes if node.op is Op.CONST)
    resident = frozen + 2 * state + inputs + outputs + literals
    return Cost(
        flops=flops,
        bytes_moved=moved,
        launches=len(roots),
        peak_memory_bytes=resident + _peak_intermediates(program.nodes, roots),
        frozen_bytes=frozen,
        state_bytes=state,
        input_bytes=inputs,
        output_bytes=outputs,
    )


def _operations(node: Node) -> tuple[str, int]:
    """Class and number of operations of one node."""
    if node.op is Op.DOT:
        batch, rows, terms = node.src[0].shape
        work_class = "dot-f32" if node.dtype is dtypes.float32 else "dot-int"
        return work_class, 2 * batch * rows * terms * node.shape[2]
    if node.op is Op.REDUCE:
        per_element = 2 if node.arg[0] == "sumprod" else 1
        work_class = "reduce-f32" if node.dtype.is_float else "integer"
        return work_class, per_element * node.src[0].elements
    if node.op is Op.SCATTER:
        work_class = "elementwise-f32" if node.dtype.is_float else "integer"
        return work_class, node.src[2].elements if node.arg == ("add",) else 0
    if node.op in ELEMENTWISE and not (node.op is Op.CAST and node.arg == ("bitcast",)):
        is_float = node.dtype.is_float or any(s.dtype.is_float for s in node.src)
        count = node.elements * (2 if node.op is Op.FMA else 1)
        return ("elementwise-f32" if is_float else "integer"), count
    return "integer", 0


def _roots(nodes: tuple[Node, ...], border: list[Node]) -> dict[Node, int]:
    """Every value that is written to memory, with its position in the order."""
    uses: dict[Node, int] = {}
    for node in nodes:
        for source in set(node.src):
            uses[source] = uses.get(source, 0) + 1
    written = set(border)
    roots = {}
    for at, node in enumerate(nodes):
        shared = uses.get(node, 0) > 1 and node.op in ELEMENTWISE
        at_border = node in written and node.op not in (Op.INPUT, Op.CONST)
        if node.op in _ROOTS or node.op is Op.CONCAT or at_border or shared:
            roots[node] = at
    return roots


def _read_bytes(root: Node, roots: Mapping[Node, int]) -> list[int]:
    """Bytes each operand of ``root`` reads: what its region needs, not more than it holds."""
    sizes = []
    for source in root.src:
        node = source
        while node.op is Op.VIEW and node not in roots:
            node = node.src[0]
        if node.op in (Op.CONST, Op.IOTA):
            continue
        sizes.append(min(node.size_bytes, max(source.size_bytes, 1)))
    return sizes


def _peak_intermediates(nodes: tuple[Node, ...], roots: Mapping[Node, int]) -> int:
    """Most bytes of roots alive at once, packed DOT operands included."""
    last_use: dict[Node, int] = {}
    for node in reversed(nodes):
        at = roots.get(node, last_use.get(node, -1))
        for source in node.src:
            last_use[source] = max(last_use.get(source, -1), at)
    ends: dict[int, int] = {}
    alive = peak = 0
    for node, at in roots.items():
        alive += node.size_bytes
        peak = max(peak, alive + _packed_bytes(node))
        end = max(last_use.get(node, at), at)
        ends[end] = ends.get(end, 0) + node.size_bytes
        alive -= ends.pop(at, 0)
    return peak


def _packed_bytes(node: Node) -> int:
    """Bytes of both operands of a DOT in tile-padded form."""
    if node.op is not Op.DOT:
        return 0
    batch, rows, terms = node.src[0].shape
    columns = node.shape[2]
    padded = (-(-rows // 16) * 16 + -(-columns // 64) * 64) * terms
    return prod((batch, padded, node.src[0].dtype.size_bytes))
