"""The step, or the body of a loop, as one level of the schedule; and where its values go.

A value that must reach a certain buffer (the next carry, a slice of a stacked result, the first
carry of a loop inside) is handed over by a *carrier*: a node of its own that means the same value
and that fusion can put into the kernel that computes it. A carrier's :class:`Sink` says where it is
stored. Carriers are private to the schedule; no program contains one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flopmarket.engine import dtypes, loop
from flopmarket.engine.codegen.emit import BufferKey, Temp
from flopmarket.engine.graph import Node, Op, topological
from flopmarket.engine.loop import Group


@dataclass(frozen=True, slots=True)
class Sink:
    """A buffer that a carrier writes: at the turn's slice if ``stacked``; ``final`` values leave
    the engine."""

    key: BufferKey
    stacked: bool
    final: bool


@dataclass(frozen=True, slots=True)
class Place:
    """One loop of a frame and its buffers there.

    ``operands`` are what the loop waits for, one for each source; ``keys`` are the buffers that its
    body sees in even turns; ``others`` those of its carries in odd ones. ``results`` are the wanted
    results by number.
    """

    group: Group
    operands: tuple[Node, ...]
    keys: tuple[BufferKey, ...]
    others: tuple[BufferKey, ...]
    results: Mapping[int, Node]
    final: frozenset[int]


class Frame:
    """One level: its ``outputs`` (stored under their own names, or carriers), sinks and loops."""

    def __init__(
        self, outputs: Sequence[Node], sinks: Mapping[Node, Sink], turns: int | None
    ) -> None:
        self.outputs = tuple(outputs)
        self.sinks = dict(sinks)
        self.turns = turns
        self.loops: dict[Group, Place] = {}
        for group, nodes in loop.groups(topological(outputs)).items():
            self.loops[group] = self._place(group, nodes)

    @staticmethod
    def of_step(outputs: Sequence[Node]) -> Frame:
        """The outermost frame."""
        return Frame(outputs, {}, None)

    @staticmethod
    def of_body(place: Place) -> Frame:
        """The frame of a loop's body: its wanted results go to :func:`next_key` and
        :func:`stacked_key`."""
        body = place.group.body
        sinks: dict[Node, Sink] = {}
        for at, value in enumerate(body.results):
            if at < body.carries:
                sinks[carrier(value)] = Sink(next_key(at, value), False, at in place.final)
            elif at in place.results:
                sinks[carrier(value)] = Sink(stacked_key(at, value), True, at in place.final)
        return Frame(tuple(sinks), sinks, place.group.count)

    def operands(self, node: Node) -> tuple[Node, ...]:
        """What must be computed before ``node`` can be."""
        if node.op is not Op.LOOP:
            return node.src
        return self.loops[loop.group_of(node)].operands

    def _place(self, group: Group, nodes: Sequence[Node]) -> Place:
        results = {node.arg[3]: node for node in nodes}
        final = frozenset(at for at, node in results.items() if node in self.outputs)
        number = len(self.loops)
        operands: list[Node] = []
        keys: list[BufferKey] = []
        others: list[BufferKey] = []
        for at, source in enumerate(group.src):
            key: BufferKey = source
            if at < group.body.carries:
                # After the last turn the carry must lie in the buffer that is the loop's result.
                spare = Temp(f"loop{number}_carry{at}_spare", source.dtype, source.elements)
                last = results.get(
                    at, Temp(f"loop{number}_carry{at}", source.dtype, source.elements)
                )
                key, other = (spare, last) if group.count % 2 else (last, spare)
                others.append(other)
            elif source.op is Op.INPUT and source.arg[0] == "item":
                # A slice of the loop around this one: its place moves, a copy's does not.
                key = Temp(f"loop{number}_source{at}", source.dtype, source.elements)
            if key is not source:
                source = carrier(source)
                self.sinks[source] = Sink(key, False, at in final and group.count == 0)
            operands.append(source)
            keys.append(key)
        return Place(group, tuple(operands), tuple(keys), tuple(others), results, final)


def carrier(value: Node) -> Node:
    """A fresh node that means ``value``: not interned, so that two of one value stay apart."""
    node = Node.__new__(Node)
    node.op, node.src, node.arg = Op.VIEW, (value,), ("reshape",)
    node.dtype, node.shape = value.dtype, value.shape
    return node


def next_key(at: int, value: Node) -> Temp:
    """What the body calls the buffer that carry ``at`` is written to."""
    return Temp(f"next{at}", value.dtype, value.elements)


def stacked_key(at: int, value: Node) -> Temp:
    """What the body calls the buffer of stacked result ``at``, of which it writes a slice."""
    return Temp(f"stacked{at}", value.dtype, value.elements)


def slab_key(name: str, size_bytes: int) -> Temp:
    """Memory of ``size_bytes`` for whatever lies in it."""
    return Temp(name, dtypes.uint8, size_bytes)


def read_by_loops(frame: Frame, order: Collection[Node]) -> set[Node]:
    """Nodes that a loop reads from memory."""
    return {operand for node in order if node.op is Op.LOOP for operand in frame.operands(node)}
