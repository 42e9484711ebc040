"""Counted work of a program: what a quote, an invoice and a settlement are computed from.

Read from the graph alone, never from a device, so every party counts the same. One operation is one
FLOP, an FMA two; data movement and launches are those of ideal fusion (``schedule/regions.py``):
every value that is written is one launch, which writes it once and reads what it is computed from
once. A loop is its body, counted as often as it turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flopmarket.engine import dtypes, loop
from flopmarket.engine.graph import ELEMENTWISE, Node, Op, input_, topological
from flopmarket.engine.schedule.footprint import step_bytes
from flopmarket.engine.schedule.regions import read_bytes, written_nodes

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


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one step.

    ``flops`` maps every class of :data:`WORK_CLASSES` to operations; sizes are bytes; ``launches``
    counts written values. ``peak_memory_bytes`` is what a device needs, and is no part of a price:
    frozen, two copies of a state that changes, inputs, outputs, the largest set of intermediates
    alive at once, and packed operands (``schedule/footprint.py``). It is an estimate, a few percent
    from what is allocated, and more than that on devices that pack nothing; a device that needs
    more than it has says so before it begins.
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
    leaves = [input_("state", spec.name, spec.dtype, spec.shape) for spec in program.state]
    states = list(zip(leaves, program.state_nodes, strict=True))
    return Cost(
        flops=work.flops,
        bytes_moved=work.bytes_moved,
        launches=work.launches,
        peak_memory_bytes=step_bytes(states, program.output_nodes),
        frozen_bytes=frozen,
        state_bytes=state,
        input_bytes=inputs,
        output_bytes=outputs,
    )


@dataclass(slots=True)
class _Work:
    """Work of some nodes: of a step, or of one turn of a loop."""

    flops: dict[str, int]
    bytes_moved: int
    launches: int


def _work(nodes: Sequence[Node], border: Sequence[Node]) -> _Work:
    """Count ``nodes``, of which those in ``border`` are written out; loops by their turns.

    A value that goes into a loop is written, too. Bodies nest to a bounded depth.
    """
    flops = dict.fromkeys(WORK_CLASSES, 0)
    for node in nodes:
        for work_class, count in _operations(node):
            flops[work_class] += count
    loops = loop.groups(nodes)
    outside = {*border, *(source for group in loops for source in group.src)}
    written = written_nodes(nodes, outside)
    plain = [node for node in written if node.op is not Op.LOOP]
    total = _Work(flops, 0, len(plain))
    known = frozenset(written)
    total.bytes_moved = sum(node.size_bytes + read_bytes(node, known) for node in plain)
    for group, results in loops.items():
        turn = _turn(group, results)
        for work_class, count in turn.flops.items():
            flops[work_class] += group.count * count
        carried = sum(source.size_bytes for source in group.src[: group.body.carries])
        total.bytes_moved += group.count * turn.bytes_moved + 2 * carried
        total.launches += group.count * turn.launches
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
