"""Counted work of a program: what a quote, an invoice and a settlement are computed from.

Read from the graph alone, never from a device or a schedule, so every party counts the same. One
operation is one FLOP, an FMA two; data movement and launches are those of ideal fusion: every
*root* (REDUCE, DOT, SCATTER, a tensor at the border, or a value read by several roots) is written
once and its operands are read once. A loop is its body, counted as often as it turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from flopmarket.engine import dtypes, loop
from flopmarket.engine.graph import ELEMENTWISE, Node, Op, topological

if TYPE_CHECKING:
    from flopmarket.engine.program import Program

WORK_CLASSES = ("dot-f32", "dot-int", "elementwise-f32", "reduce-f32", "integer", "f64")
"""Classes of counted work: contractions of floats and of 8-bit integers, pointwise floats, float
folds, everything else integer, and whatever computes in float64.

16-bit floats compute in float32 and count as it, and each rounding to 16 bits as integer work. A
wider integer's contraction counts as integer operations, since no device is faster at it; float64
has a class of its own, since the same card may be as fast at it as at float32, or sixty-four times
slower, or unable.
"""

ROUNDING_OPERATIONS = 8
"""Integer operations that one rounding to a 16-bit float counts as (``codegen/prelude.py``)."""

_ROUNDED = frozenset({Op.ADD, Op.MUL, Op.FMA, Op.DIV, Op.SQRT, Op.CAST, Op.REDUCE, Op.SCATTER})

_ROOTS = frozenset({Op.REDUCE, Op.DOT, Op.SCATTER, Op.LOOP})


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
    work = _work(program.nodes, [*program.state_nodes, *program.output_nodes])
    frozen, state, inputs, outputs = (
        sum(spec.size_bytes for spec in specs)
        for specs in (program.frozen, program.state, program.inputs, program.outputs)
    )
    bodies = (body.nodes for body in loop.bodies(program.nodes))
    literals = sum(
        node.size_bytes
        for nodes in (program.nodes, *bodies)
        for node in nodes
        if node.op is Op.CONST
    )
    resident = frozen + 2 * state + inputs + outputs + literals
    return Cost(
        flops=work.flops,
        bytes_moved=work.bytes_moved,
        launches=work.launches,
        peak_memory_bytes=resident + work.peak_bytes,
        frozen_bytes=frozen,
        state_bytes=state,
        input_bytes=inputs,
        output_bytes=outputs,
    )


@dataclass(slots=True)
class _Work:
    """Work of some nodes: of a step, or of one turn of a loop. ``peak_bytes`` are intermediates."""

    flops: dict[str, int]
    bytes_moved: int
    launches: int
    peak_bytes: int


def _work(nodes: Sequence[Node], border: Sequence[Node]) -> _Work:
    """Count ``nodes``, of which those in ``border`` are written out; loops by their turns.

    A value that goes into a loop is written, too. Bodies nest to a bounded depth.
    """
    flops = dict.fromkeys(WORK_CLASSES, 0)
    for node in nodes:
        for work_class, count in _operations(node):
            flops[work_class] += count
    loops = loop.groups(nodes)
    roots = _roots(nodes, [*border, *(source for group in loops for source in group.src)])
    for results in loops.values():  # they come into being together
        roots.update(dict.fromkeys(results, roots[results[0]]))
    roots = dict(sorted(roots.items(), key=lambda item: item[1]))
    plain = [root for root in roots if root.op is not Op.LOOP]
    total = _Work(flops, 0, len(plain), 0)
    bases = _bases(nodes, roots)
    total.bytes_moved = sum(root.size_bytes + _read_bytes(root, bases) for root in plain)
    beside: dict[Node, int] = {}
    for group, results in loops.items():
        turn = _turn(group, results)
        for work_class, count in turn.flops.items():
            flops[work_class] += group.count * count
        carried = sum(source.size_bytes for source in group.src[: group.body.carries])
        total.bytes_moved += group.count * turn.bytes_moved + 2 * carried
        total.launches += group.count * turn.launches
        others = sum(node.size_bytes for node in results[1:])
        beside[results[0]] = 2 * carried + turn.peak_bytes + others
    total.peak_bytes = _peak_intermediates(nodes, roots, beside)
    return total


def _turn(group: loop.Group, results: Sequence[Node]) -> _Work:
    """One turn of a loop of which ``results`` are wanted, with what it keeps from turn to turn."""
    body = group.body
    wanted = {node.arg[3] for node in results}
    border = [node for at, node in enumerate(body.results) if at < body.carries or at in wanted]
    nodes = topological(border)
    turn = _work(nodes, border)
    for node in border:
        if node.op in (Op.INPUT, Op.CONST):  # moved from one buffer to another
            turn.bytes_moved += 2 * node.size_bytes
            turn.launches += 1
    turn.peak_bytes += sum(map(_packed_bytes, nodes))
    return turn


def _operations(node: Node) -> list[tuple[str, int]]:
    """Classes and numbers of operations of one node."""
    work_class, count = _class_and_count(node)
    wide = dtypes.float64 in (node.dtype, *(source.dtype for source in node.src))
    found = [("f64" if wide else work_class, count)]
    if node.dtype.is_narrow_float and node.op in _ROUNDED and node.arg[:1] not in _EXACT:
        roundings = node.src[2].elements if node.op is Op.SCATTER else node.elements
        found.append(("integer", ROUNDING_OPERATIONS * roundings))
    return found


_EXACT = (("bitcast",), ("set",), ("max",), ("min",))
"""Arguments of operations that round in other forms, but not in these."""


def _class_and_count(node: Node) -> tuple[str, int]:
    """Class and number of operations of one node, float64 and roundings apart."""
    if node.op is Op.DOT:
        batch, rows, terms = node.src[0].shape
        is_narrow = all(source.dtype.size_bytes == 1 for source in node.src[:2])
        integer = "dot-int" if is_narrow else "integer"
        work_class = "dot-f32" if node.dtype.is_float else integer
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


def _roots(nodes: Sequence[Node], border: Sequence[Node]) -> dict[Node, int]:
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


def _bases(nodes: Sequence[Node], roots: Mapping[Node, int]) -> dict[Node, Node]:
    """What every node lies in: itself, or what it is a view of; ``nodes`` have sources first."""
    bases: dict[Node, Node] = {}
    for node in nodes:
        is_view = node.op is Op.VIEW and node not in roots
        bases[node] = bases[node.src[0]] if is_view else node
    return bases


def _read_bytes(root: Node, bases: Mapping[Node, Node]) -> int:
    """Bytes that ``root`` reads: what its region needs of every operand, not more than it holds."""
    size = 0
    for source in root.src:
        base = bases[source]
        if base.op not in (Op.CONST, Op.IOTA):
            size += min(base.size_bytes, max(source.size_bytes, 1))
    return size


def _peak_intermediates(
    nodes: Sequence[Node], roots: Mapping[Node, int], beside: Mapping[Node, int]
) -> int:
    """Most bytes of roots alive at once, packed DOT operands and ``beside`` included."""
    last_use: dict[Node, int] = {}
    for node in reversed(nodes):
        at = roots.get(node, last_use.get(node, -1))
        for source in node.src:
            last_use[source] = max(last_use.get(source, -1), at)
    ends: dict[int, int] = {}
    alive = peak = 0
    for node, at in roots.items():
        alive += node.size_bytes
        peak = max(peak, alive + _packed_bytes(node) + beside.get(node, 0))
        end = max(last_use.get(node, at), at)
        ends[end] = ends.get(end, 0) + node.size_bytes
        alive -= ends.pop(at, 0)
    return peak


def _packed_bytes(node: Node) -> int:
    """Bytes of both operands of a DOT in tile-padded form, where narrow types are float32."""
    if node.op is not Op.DOT:
        return 0
    batch, rows, terms = node.src[0].shape
    columns = node.shape[2]
    padded = (-(-rows // 16) * 16 + -(-columns // 64) * 64) * terms
    return prod((batch, padded, max(4, node.src[0].dtype.size_bytes)))
