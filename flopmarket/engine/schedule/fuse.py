"""Which nodes share a kernel, and which ones are written to memory.

``fuse`` turns canonical output nodes into :class:`Kernel` s in launch order. A kernel has at most
one *core* (REDUCE, DOT, SCATTER, CONCAT, LOOP), everything elementwise that feeds only it is
computed inside it (prologue; a loop reads stored values only), and elementwise consumers of the
value of a REDUCE or DOT at the same element join it (epilogue); elementwise kernels of equal shape
that read the same things become one kernel with several results. A node with several users is
stored, unless it is cheaper to compute again than to read. None of it can change a bit: every
operation is still computed once per element by its own rule.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from flopmarket.engine import limits, loop
from flopmarket.engine.dtypes import float32, int32
from flopmarket.engine.graph import ELEMENTWISE, Node, Op, Shape, topological
from flopmarket.engine.schedule.frame import Frame, read_by_loops

CORES = frozenset({Op.REDUCE, Op.DOT, Op.SCATTER, Op.CONCAT, Op.LOOP})
"""Operations that get a kernel of their own, with what can be fused around them."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What one kernel computes. ``roots`` are the nodes it writes.

    All have as many elements, except those of a loop, whose results are written together.
    """

    core: Node | None
    roots: tuple[Node, ...]

    @property
    def anchor(self) -> Node:
        """The node whose shape is the kernel's index space."""
        return self.core if self.core is not None else self.roots[0]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Kernels in launch order, and every node that lies in memory (leaves, literals included)."""

    kernels: tuple[Kernel, ...]
    stored: frozenset[Node]
    outputs: tuple[Node, ...]


def is_leaf(node: Node) -> bool:
    """Whether a node lies in memory without being computed."""
    return node.op is Op.INPUT or (node.op is Op.CONST and not is_uniform(node))


def is_uniform(node: Node) -> bool:
    """Whether a CONST has one value throughout, so that kernels can spell it."""
    size = node.dtype.size_bytes
    return bool(node.arg == node.arg[:size] * node.elements)


def is_packed_dot(node: Node) -> bool:
    """Whether a DOT is large enough for packing its operands to pay."""
    if node.op is not Op.DOT or len(node.src) == 3:
        return False
    bytes_only = all(source.dtype.size_bytes == 1 for source in node.src)
    if node.dtype is not float32 and not (node.dtype is int32 and bytes_only):
        return False
    (_, M, K), N = node.src[0].shape, node.shape[2]
    return M >= 4 and N >= 8 and K >= 4 and M * N * K >= limits.MIN_PACKED_DOT_FMAS


def is_plain_view(node: Node) -> bool:
    """Whether a VIEW keeps the row-major order of elements (a reshape in effect)."""
    if node.arg[0] == "reshape":
        return True
    if node.arg[0] != "permute":
        return False
    moved = [axis for axis in node.arg[1] if node.src[0].shape[axis] != 1]
    return moved == sorted(moved)


def fuse(outputs: Sequence[Node], *, fusion: bool = True, frame: Frame | None = None) -> Schedule:
    """The schedule of ``outputs`` (canonical). ``fusion`` False: a kernel for every node.

    ``frame`` says where values go that do not stay under their own names, and what loops wait for.
    """
    frame = Frame.of_step(outputs) if frame is None else frame
    order = topological(outputs, frame.operands)
    wanted = {*outputs, *read_by_loops(frame, order)}
    stored = stored_nodes(order, wanted, frame.operands, fusion=fusion)
    groups = _Groups(outputs, stored, order, frame)
    if fusion:
        groups.merge()
    return groups.schedule()


# ---------------------------------------------------------------- what is stored


_WEIGHT = {Op.DIV: 6, Op.SQRT: 8, Op.GATHER: 3}
_MAX_RECOMPUTED_OPS = 2
_MAX_RECOMPUTED_READS = 2
_MAX_BODY_OPS = 256
_MAX_BODY_READS = 20
_MAX_VIEW_CHAIN = 16


def stored_nodes(
    order: Sequence[Node],
    wanted: Collection[Node],
    operands: Callable[[Node], tuple[Node, ...]],
    *,
    fusion: bool = True,
) -> set[Node]:
    """The nodes of ``order`` (sources first) that lie in memory, leaves included.

    ``wanted`` are stored whatever they are; ``operands`` says what a node is computed from.
    """
    uses = _uses(order, operands)
    stored: set[Node] = set()
    ops: dict[Node, int] = {}
    reads: dict[Node, int] = {}
    chain: dict[Node, int] = {}
    for node in order:
        sources = list(dict.fromkeys(operands(node)))
        ops[node] = sum(0 if s in stored else ops[s] for s in sources)
        reads[node] = sum(1 if s in stored else reads[s] for s in sources)
        chain[node] = max((0 if s in stored else chain[s] for s in sources), default=0)
        if node.op is Op.VIEW:
            chain[node] += 1
        elif node.op in ELEMENTWISE or node.op is Op.GATHER:
            ops[node] += _WEIGHT.get(node.op, 1)
        if is_leaf(node) or node in wanted or node.op in CORES:
            stored.add(node)
        elif node.op is Op.VIEW:
            if chain[node] > _MAX_VIEW_CHAIN:
                stored.add(node)
        elif (node.op in ELEMENTWISE or node.op is Op.GATHER) and (
            not fusion or _is_worth_storing(uses[node], ops[node], reads[node])
        ):
            stored.add(node)
    return stored


def _is_worth_storing(uses: list[bool], ops: int, reads: int) -> bool:
    if ops > _MAX_BODY_OPS or reads > _MAX_BODY_READS:
        return True
    if ops <= _MAX_RECOMPUTED_OPS and reads <= _MAX_RECOMPUTED_READS:
        return False
    return len(uses) > 1 or any(uses)


def _uses(
    order: Sequence[Node], operands: Callable[[Node], tuple[Node, ...]]
) -> dict[Node, list[bool]]:
    """How every node is read by nodes that are no views, views between them looked through: for
    every way, whether an element may be read several times on it."""
    uses: dict[Node, list[bool]] = {node: [] for node in order}
    for node in reversed(order):
        for source in dict.fromkeys(operands(node)):
            if node.op is not Op.VIEW:
                uses[source].append(repeats(node, source))
                continue
            again = repeats(node, source)
            # A node read in very many ways is stored whatever the ways are.
            uses[source] += [repeated or again for repeated in uses[node][:8]]
    return uses


def repeats(user: Node, source: Node) -> bool:
    """Whether ``user`` may read an element of ``source`` several times."""
    if user.op is Op.VIEW:
        return user.arg[0] in ("expand", "window") and user.elements > source.elements
    if user.op is Op.DOT:
        return not is_packed_dot(user)
    if user.op is Op.GATHER:
        return True
    if user.op is Op.SCATTER:
        return source is user.src[1]
    return False


# ---------------------------------------------------------------- groups


MAX_GROUP_OPS = 400
"""Operations of one kernel, up to which others join it."""
_MAX_ROOTS = 12
_MAX_GROUP_BUFFERS = 40


@dataclass(slots=True)
class _Group:
    """A kernel under construction. ``reads`` maps stored nodes to "every access is pointwise"."""

    number: int
    core: Node | None
    roots: list[Node]
    reads: dict[Node, bool]
    ops: int
    before: int = 0
    """Bit set of the groups that must run earlier, transitively."""
    members: set[int] = field(default_factory=set)


class _Groups:
    """The merging of kernels; one instance per call of ``fuse``."""

    def __init__(
        self, outputs: Sequence[Node], stored: set[Node], order: list[Node], frame: Frame
    ) -> None:
        self.outputs = tuple(outputs)
        self.frame = frame
        loops: dict[loop.Group, _Group] = {}
        self.stored = stored
        self.position = {node: at for at, node in enumerate(order)}
        self.of: dict[Node, _Group] = {}
        self.live: list[_Group] = []
        for node in order:
            if node in stored and not is_leaf(node):
                core = node if node.op in CORES else None
                known = loops.get(loop.group_of(node)) if node.op is Op.LOOP else None
                if known is not None:  # one more result of the same execution
                    known.roots.append(node)
                    self.of[node] = known
                    continue
                reads, ops = self._cone(node)
                group = _Group(len(self.live), core, [node], reads, ops)
                for read in reads:
                    if read in self.of:
                        group.before |= self.of[read].before | 1 << self.of[read].number
                self.live.append(group)
                self.of[node] = group
                if node.op is Op.LOOP:
                    loops[loop.group_of(node)] = group

    def _cone(self, root: Node) -> tuple[dict[Node, bool], int]:
        """Stored nodes that computing ``root`` reads, and the operations on the way."""
        reads: dict[Node, bool] = {}
        plain_root = root.op in ELEMENTWISE
        seen: set[tuple[Node, bool]] = set()
        counted: set[Node] = set()
        plain = plain_root or (root.op is Op.VIEW and is_plain_view(root))
        stack = [(source, plain) for source in self.frame.operands(root)]
        while stack:
            node, plain = stack.pop()
            if (node, plain) in seen:
                continue
            seen.add((node, plain))
            if node in self.stored:
                reads[node] = reads.get(node, True) and plain
                continue
            if node.op in ELEMENTWISE:
                counted.add(node)
            elif node.op is Op.VIEW:
                plain = plain and is_plain_view(node)
            else:
                plain = False
            stack.extend((source, plain) for source in node.src)
        ordered = sorted(reads, key=lambda node: self.position[node])
        return {node: reads[node] for node in ordered}, len(counted) + 1

    def merge(self) -> None:
        """Let every elementwise kernel join an earlier one where that is legal and worth it."""
        by_shape: dict[Shape, list[_Group]] = {}
        for group in list(self.live):
            if group.core is None:
                target = self._producer(group) or self._sibling(group, by_shape)
                if target is not None:
                    self._join(target, group)
                    group = target
            if group.core is None:
                known = by_shape.setdefault(group.roots[0].shape, [])
                if group not in known:
                    known.append(group)

    def _producer(self, group: _Group) -> _Group | None:
        count = group.roots[0].elements
        for read in sorted(group.reads, key=lambda node: -self.position[node]):
            target = self.of.get(read)
            if (
                target is not None
                and (target.core is None or target.core.op in (Op.REDUCE, Op.DOT))
                and target.roots[0].elements == count
                and self._may_join(target, group)
            ):
                return target
        return None

    def _sibling(self, group: _Group, by_shape: dict[Shape, list[_Group]]) -> _Group | None:
        for target in reversed(by_shape.get(group.roots[0].shape, [])[-16:]):
            shared = any(node in target.reads for node in group.reads)
            if shared and target.core is None and self._may_join(target, group):
                return target
        return None

    def _may_join(self, target: _Group, group: _Group) -> bool:
        if (
            len(target.roots) + len(group.roots) > _MAX_ROOTS
            or target.ops + group.ops > MAX_GROUP_OPS
            or len(target.reads.keys() | group.reads.keys()) + len(target.roots)
            > _MAX_GROUP_BUFFERS
        ):
            return False
        for read, plain in group.reads.items():
            producer = self.of.get(read)
            if producer is target:
                if not plain:
                    return False
            elif producer is not None and producer.before >> target.number & 1:
                return False
        return True

    def _join(self, target: _Group, group: _Group) -> None:
        before = (target.before | group.before) & ~(1 << target.number)
        for other in self.live:
            if other.before >> target.number & 1 or other.before >> group.number & 1:
                other.before |= before | 1 << target.number
        target.before = before
        target.ops += group.ops
        for read, plain in group.reads.items():
            if self.of.get(read) is not target:
                target.reads[read] = target.reads.get(read, True) and plain
        for root in group.roots:
            target.roots.append(root)
            self.of[root] = target
        self.live.remove(group)

    def schedule(self) -> Schedule:
        """Drop what is only read inside its own kernel, and order the kernels."""
        read_outside = set(self.outputs)
        for group in self.live:
            read_outside.update(group.reads)
        kernels: dict[int, Kernel] = {}
        for group in self.live:
            roots = tuple(root for root in group.roots if root in read_outside)
            kernels[group.number] = Kernel(group.core, roots)
        leaves = {node for node in self.stored if is_leaf(node)}
        stored = leaves | {root for kernel in kernels.values() for root in kernel.roots}
        return Schedule(
            tuple(kernels[number] for number in self._launch_order()),
            frozenset(stored),
            self.outputs,
        )

    def _launch_order(self) -> list[int]:
        """Topological order; of the ready kernels the one whose first root came first."""
        waiting: dict[int, int] = {}
        followers: dict[int, list[int]] = {}
        for group in self.live:
            needed = {self.of[read].number for read in group.reads if read in self.of}
            needed.discard(group.number)
            waiting[group.number] = len(needed)
            for number in needed:
                followers.setdefault(number, []).append(group.number)
        ready = [number for number, count in waiting.items() if not count]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            number = heapq.heappop(ready)
            order.append(number)
            for follower in followers.get(number, ()):
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
        assert len(order) == len(self.live), "kernels depend on each other in a circle"
        return order
