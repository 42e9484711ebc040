"""Ideal fusion: the values that are written to memory, and what computing each of them reads.

``cost.py`` counts launches and moved bytes with it. It is what :mod:`fuse` aims at, without its
limits on buffers and its search for kernels to join: a value that flows into one kernel alone, at
the same element, is never written. Time is linear in the graph, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flopmarket.engine.graph import ELEMENTWISE, Node, Op
from flopmarket.engine.schedule.fuse import (
    CORES,
    MAX_GROUP_OPS,
    is_leaf,
    is_plain_view,
    repeats,
    stored_nodes,
)


@dataclass(slots=True)
class _Flow:
    """Where a value goes: the one root that it is computed for (None: several), and how."""

    root: Node | None
    plain: bool
    """Every way to the root keeps the element's index."""
    repeated: bool
    """The root may read an element several times."""
    uses: int

    def join(self, other: _Flow) -> None:
        """A further way."""
        self.root = self.root if self.root is other.root else None
        self.plain &= other.plain
        self.repeated |= other.repeated
        self.uses += other.uses


def written_nodes(nodes: Sequence[Node], wanted: Collection[Node]) -> list[Node]:
    """The values of ``nodes`` (sources first) that are written; computed ``wanted`` ones always."""
    stored = stored_nodes(nodes, wanted, lambda node: node.src)
    flows: dict[Node, _Flow] = {}
    found: list[Node] = []
    folded: set[Node] = set()
    """Roots with a fold or product in their kernel already."""
    ops: dict[Node, int] = {}
    for node in reversed(nodes):
        flow = flows.get(node)
        root = flow.root if flow is not None else None
        if node in wanted or not _joins(node, flow, stored, ops, folded):
            if is_leaf(node) or node.op is Op.CONST:
                continue
            found.append(node)
            root = node
        if root is not None:
            ops[root] = ops.get(root, 0) + (node.op in ELEMENTWISE)
            if node.op in CORES:
                folded.add(root)
        _spread(node, root, flow if root is not node else None, flows)
    return found[::-1]


def _joins(
    node: Node,
    flow: _Flow | None,
    stored: Collection[Node],
    ops: Mapping[Node, int],
    folded: Collection[Node],
) -> bool:
    """Whether a value is computed where it is needed instead of being written."""
    if node not in stored:
        return True
    if flow is None or flow.root is None or flow.repeated:
        return False
    if node.op in CORES:
        is_epilogue = flow.plain and flow.root.elements == node.elements
        return node.op in (Op.REDUCE, Op.DOT) and is_epilogue and flow.root not in folded
    return (flow.plain or flow.uses == 1) and ops[flow.root] < MAX_GROUP_OPS


def _spread(node: Node, root: Node | None, flow: _Flow | None, flows: dict[Node, _Flow]) -> None:
    """Tell the sources of ``node`` where they go."""
    keeps = node.op in ELEMENTWISE or (node.op is Op.VIEW and is_plain_view(node))
    plain = node.op in CORES or (keeps and (flow is None or flow.plain))
    repeated = flow is not None and flow.repeated
    for source in dict.fromkeys(node.src):
        again = repeated or repeats(node, source)
        way = _Flow(root, plain, again, flow.uses if flow and node.op is Op.VIEW else 1)
        if source in flows:
            flows[source].join(way)
        else:
            flows[source] = way


def read_bytes(root: Node, written: Collection[Node]) -> int:
    """Bytes that computing ``root`` reads of written values and leaves, each no more than held."""
    reads: dict[Node, int] = {}
    pending, seen = [root], {root}
    while pending:
        for source in pending.pop().src:
            base = source
            while base.op is Op.VIEW and base not in written:
                base = base.src[0]
            if base in written or base.op is Op.INPUT:
                size = min(base.size_bytes, max(source.size_bytes, 1))
                reads[base] = max(reads.get(base, 0), size)
            elif base not in seen:
                seen.add(base)
                pending.append(base)
    return sum(reads.values())
