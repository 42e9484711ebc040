"""Device memory of a step, estimated from what the schedule stores, without generating code.

``cost.py`` counts with it what a buyer is told and a device is chosen by. It follows the schedule:
which values lie in memory (:func:`~flopmarket.engine.schedule.fuse.stored_nodes`), packed operands
of DOTs as a CPU wants them, partial sums, the buffers of loops, and how buffers are shared. Only
the merging of kernels is left out, which changes when values live and spares some: so time and
space stay linear in the graph, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flopmarket.engine import loop
from flopmarket.engine.exact import REDUCE_BLOCK
from flopmarket.engine.graph import Node, Op, topological
from flopmarket.engine.schedule.frame import Frame, Place, read_by_loops
from flopmarket.engine.schedule.fuse import is_leaf, is_packed_dot, stored_nodes
from flopmarket.engine.schedule.memory import share

_TILE_ROWS, _TILE_COLUMNS, _TILE_TERMS = 16, 48, 4
"""Most rows, columns and terms that pad a packed operand (``codegen/templates/gemm.py``)."""


def step_bytes(states: Sequence[tuple[Node, Node]], outputs: Sequence[Node]) -> int:
    """Bytes that a step needs on a device: what it keeps between steps, and the most besides.

    ``states`` are the leaf and the next value of every state tensor, ``outputs`` the other results;
    all canonical. A state that changes has two buffers, the next value's own being one of them.
    """
    results = tuple(dict.fromkeys([*(value for _, value in states), *outputs]))
    resident, swapped = 0, set()
    for leaf, value in states:
        resident += _size(leaf) * (1 if value is leaf else 2)
        if not is_leaf(value):
            swapped.add(value)
    frame = Frame.of_step(results)
    order = topological(results)
    everything = [*order, *(node for body in loop.bodies(order) for node in body.nodes)]
    for node in dict.fromkeys(everything):
        is_state = node.op is Op.INPUT and node.arg[0] in ("state", *loop.PLACEHOLDERS)
        if is_leaf(node) and not is_state:
            resident += _size(node)
    resident += sum(_size(node) for node in results if not is_leaf(node) and node not in swapped)
    return resident + sum(_temporaries(frame, ("frozen",)))


def _temporaries(frame: Frame, fixed_kinds: Collection[str]) -> list[int]:
    """Sizes of allocations besides leaves and results: of a step, or of one turn of a loop.

    What depends on leaves of ``fixed_kinds`` and literals alone is computed once and stays.
    """
    order = topological(frame.outputs, frame.operands)
    wanted = {*frame.outputs, *read_by_loops(frame, order)}
    stored = stored_nodes(order, wanted, frame.operands)
    written = {node: at for at, node in enumerate(order) if node in stored and not is_leaf(node)}
    buffers = _Buffers()
    for place in frame.loops.values():  # all results come into being together
        first = min(written[node] for node in place.results.values())
        written |= dict.fromkeys(place.results.values(), first)
        for size in _loop_buffers(place):
            buffers.add(size, first, first)
    last_use = _last_uses(order, written, frame)
    fixed = _fixed(order, frame, fixed_kinds)
    elsewhere = {*frame.outputs, *frame.sinks}
    for node, at in written.items():
        if node not in elsewhere:
            last = max(at, last_use.get(node, at))
            buffers.add(_size(node), at, last, keep=node in fixed)
        for size in _partials(node):
            buffers.add(size, at, at)
    for (_, source), (first, last, size) in _packed(written).items():
        buffers.add(size, first, last, keep=source in fixed)
    return buffers.sizes()


@dataclass(slots=True)
class _Buffers:
    """Sizes of buffers that stay, and (bytes, first, last position) of those that come and go."""

    kept: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, size: int, first: int, last: int, *, keep: bool = False) -> None:
        """One buffer that lives from ``first`` to ``last``, or with ``keep`` for good."""
        if keep:
            self.kept.append(size)
        else:
            self.spans.append((size, first, last))

    def sizes(self) -> list[int]:
        """Sizes of all allocations, what comes and goes sharing them."""
        return [*self.kept, *share(self.spans)[1]]


def _last_uses(order: Sequence[Node], written: Mapping[Node, int], frame: Frame) -> dict[Node, int]:
    """The position of the last written value that is computed from each node."""
    last_use: dict[Node, int] = {}
    for node in reversed(order):
        at = written.get(node, last_use.get(node, -1))
        for source in frame.operands(node):
            last_use[source] = max(last_use.get(source, -1), at)
    return last_use


def _fixed(order: Iterable[Node], frame: Frame, kinds: Collection[str]) -> set[Node]:
    """Nodes that depend on leaves of ``kinds`` and literals alone."""
    fixed: set[Node] = set()
    for node in order:
        if node.op is Op.INPUT:
            if node.arg[0] in kinds:
                fixed.add(node)
        elif all(source in fixed for source in frame.operands(node)):
            fixed.add(node)
    return fixed


def _loop_buffers(place: Place) -> list[int]:
    """Buffers of a loop besides its wanted results: its other carries', and those of a turn."""
    if place.group.count == 0:
        return []
    carries = len(place.others)
    sizes = [_size(source) for source in place.group.src[:carries]]
    for at, (key, source) in enumerate(zip(place.keys, place.group.src, strict=True)):
        if at not in place.results if at < carries else key is not source:
            sizes.append(_size(source))
    return sizes + _temporaries(Frame.of_body(place), ("shared",))


def _partials(node: Node) -> list[int]:
    """Bytes of the blocks' results of a REDUCE over more than one block, and of blocks of these."""
    sizes: list[int] = []
    if node.op is Op.REDUCE and node.elements:
        terms = node.src[0].elements // node.elements
        while terms > REDUCE_BLOCK:
            terms = -(-terms // REDUCE_BLOCK)
            sizes.append(node.elements * terms * max(4, node.dtype.size_bytes))
    return sizes


def _packed(written: Mapping[Node, int]) -> dict[tuple[int, Node], tuple[int, int, int]]:
    """Packed operands by side and node: first and last position, bytes. Equal ones are one."""
    packed: dict[tuple[int, Node], tuple[int, int, int]] = {}
    for node, at in written.items():
        if is_packed_dot(node):
            for side, size in enumerate(_packed_bytes(node)):
                key = side, node.src[side]
                first, last, most = packed.get(key, (at, at, 0))
                packed[key] = min(first, at), max(last, at), max(most, size)
    return packed


def _packed_bytes(node: Node) -> tuple[int, int]:
    """Bytes of both operands of a packed DOT; an element takes four, whatever its type."""
    (left, right), lane = node.src, 4 * (node.src[0].shape[2] + _TILE_TERMS)
    rows, columns = left.shape[1] + _TILE_ROWS, right.shape[2] + _TILE_COLUMNS
    return lane * rows * _matrices(left), lane * columns * _matrices(right)


def _matrices(source: Node) -> int:
    """The batch, or 1 where an operand is plainly the same in all of it and is packed once."""
    return 1 if _is_repeated(source) else source.shape[0]


def _is_repeated(source: Node) -> bool:
    return source.op is Op.VIEW and source.arg[0] == "expand" and source.src[0].shape[0] == 1


def _size(node: Node) -> int:
    return max(1, node.size_bytes)
