"""Nodes of a canonical program as bytes: each after its sources, the bodies of loops inline.

A body is written out where a LOOP first has it and named by its number afterwards. It gets its
number when it is complete, so a body cannot contain itself. Reading meets bytes of strangers: every
count is bounded before anything is built, and every node passes the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopmarket.engine import dtypes, limits
from flopmarket.engine.codec import Reader, Writer, malformed
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node, Op, Shape, make
from flopmarket.engine.loop import Body, body_of

_OPS = {int(op): op for op in Op}


def write_form(writer: Writer, dtype: DType, shape: Shape) -> None:
    """Dtype and shape."""
    writer.natural(dtype.code)
    writer.natural(len(shape))
    for n in shape:
        writer.natural(n)


def read_form(reader: Reader) -> tuple[DType, Shape]:
    """Dtype and shape."""
    dtype = dtypes.DTYPES[reader.natural(len(dtypes.DTYPES) - 1, "dtype")]
    rank = reader.natural(limits.MAX_RANK, "rank")
    return dtype, tuple(reader.natural(limits.MAX_ELEMENTS, "dimension") for _ in range(rank))


class NodeWriter:
    """Writes the nodes of one program."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._bodies: dict[Body, int] = {}

    def nodes(self, nodes: Sequence[Node]) -> dict[Node, int]:
        """Write ``nodes``, sources first; their numbers."""
        writer = self._writer
        index = {node: at for at, node in enumerate(nodes)}
        writer.natural(len(nodes))
        for node in nodes:
            writer.natural(int(node.op))
            write_form(writer, node.dtype, node.shape)
            writer.natural(len(node.src))
            for source in node.src:
                writer.natural(index[source])
            if node.op is Op.LOOP:
                self._loop(*node.arg)
            else:
                writer.argument(node.arg)
        return index

    def _loop(self, count: int, reverse: int, body: Body, which: int) -> None:
        writer = self._writer
        for number in (count, reverse, which, self._bodies.get(body, 0)):
            writer.natural(number)
        if body in self._bodies:
            return
        for number in (body.carries, body.items, body.shared):
            writer.natural(number)
        index = self.nodes(body.nodes)
        writer.natural(len(body.results))
        for node in body.results:
            writer.natural(index[node])
        self._bodies[body] = len(self._bodies) + 1


class NodeReader:
    """Reads the nodes of one program, within the limits of all its bodies together."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._bodies: list[Body] = []
        self._nodes_left = limits.MAX_NODES
        self._edges_left = limits.MAX_EDGES
        self._literal_bytes_left = limits.MAX_CONSTANT_BYTES

    def nodes(self, depth: int = 0) -> list[Node]:
        """The next list of nodes; ``depth`` counts the bodies around it."""
        reader = self._reader
        count = reader.natural(self._nodes_left, "nodes")
        self._nodes_left -= count
        nodes: list[Node] = []
        for at in range(count):
            number = reader.natural(2**32, "operation")
            if number not in _OPS:
                malformed(f"node {at} has unknown operation {number}", "PROGRAM_UNKNOWN_OP")
            dtype, shape = read_form(reader)
            sources = []
            edges = reader.natural(min(limits.MAX_SOURCES, self._edges_left), "sources")
            self._edges_left -= edges
            for _ in range(edges):
                index = reader.natural(limits.MAX_NODES, "source")
                if index >= at:
                    malformed(f"node {at} uses node {index}: a cycle", "PROGRAM_CYCLE")
                sources.append(nodes[index])
            arg = self._loop(depth) if _OPS[number] is Op.LOOP else self._argument()
            nodes.append(make(_OPS[number], tuple(sources), arg, dtype, shape))
        return nodes

    def index(self, nodes: Sequence[Node]) -> Node:
        """The node that the next number names."""
        index = self._reader.natural(limits.MAX_NODES, "node")
        if index >= len(nodes):
            malformed(f"node {index} of {len(nodes)}")
        return nodes[index]

    def _argument(self) -> Any:
        arg = self._reader.argument(limits.MAX_CONSTANT_BYTES)
        if isinstance(arg, bytes):
            self._literal_bytes_left -= len(arg)
            if self._literal_bytes_left < 0:
                malformed(f"constants over {limits.MAX_CONSTANT_BYTES} bytes", "PROGRAM_LIMIT")
        return arg

    def _loop(self, depth: int) -> tuple[int, int, Body, int]:
        reader = self._reader
        count = reader.natural(limits.MAX_LOOP_TURNS, "turns")
        reverse = reader.natural(1, "direction")
        which = reader.natural(limits.MAX_SOURCES, "result")
        number = reader.natural(len(self._bodies), "body")
        body = self._bodies[number - 1] if number else self._body(depth + 1)
        return count, reverse, body, which

    def _body(self, depth: int) -> Body:
        reader = self._reader
        if depth > limits.MAX_LOOP_DEPTH:
            malformed(f"loops nest deeper than {limits.MAX_LOOP_DEPTH}", "LOOP_DEPTH")
        carries, items, shared = (reader.natural(limits.MAX_SOURCES, "values") for _ in range(3))
        nodes = self.nodes(depth)
        count = reader.natural(limits.MAX_SOURCES, "results")
        results = [self.index(nodes) for _ in range(count)]
        self._bodies.append(body_of(results, carries, items, shared))
        return self._bodies[-1]
