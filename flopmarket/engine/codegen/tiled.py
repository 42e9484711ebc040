"""DOT on a GPU: which tiles, and how K is split.

In FX1's order every chunk of K is a chain of its own, and their sums are added up from the left
(docs/numerics.md §2); under FAST one chain runs over all of K. Where a product has too few tiles to
fill the device, groups share out K as well: under EXACT a group has one chunk and leaves its sums,
under FAST a part of any length. A second kernel adds them, in their order. ``tiles.py`` and
``matrix.py`` render the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter, Temp
from flopmarket.engine.codegen.loops import Assign, Loop, Scope, Statement, Value, Variable
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.matrix import MatrixTiled
from flopmarket.engine.codegen.tiles import SIDE, Shape, Tiled
from flopmarket.engine.dtypes import float32
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Node
from flopmarket.engine.schedule.fuse import Kernel, is_packed_dot
from flopmarket.engine.views import Index, variable

SQUARES = (8, 4, 2)
"""Sums of one work-item along either axis, the best first."""
GROUPS_PER_UNIT = 2
"""Groups for each compute unit from which a larger tile pays."""
MAX_GROUPS = 65_535
"""Groups along the second and third axis of a grid that every driver takes."""
MAX_PARTS = 16
"""Parts of K under FAST, each of a chunk's length at the least."""
MAX_PART_SUMS = 1 << 24
"""Sums of all chunks that groups may leave to be added (64 MiB)."""


@dataclass(frozen=True, slots=True)
class Split:
    """Sums of a work-item along an axis, and parts of K."""

    square: int
    parts: int

    @property
    def edge(self) -> int:
        """Rows and columns of a group's tile."""
        return self.square * SIDE

    def groups(self, node: Node) -> tuple[int, int, int]:
        """Groups of a product along columns, rows, and batch with parts of K."""
        batch, M, N = node.shape
        return (-(-N // self.edge), -(-M // self.edge), batch * self.parts)


def is_tiled(lowering: Lowering, node: Node) -> bool:
    """Whether a DOT is computed here."""
    target = lowering.target
    if target.is_cpu or not target.can_group:
        return False
    if not is_packed_dot(node) or node.dtype is not float32:
        return False
    return max(_split(lowering, node).groups(node)[1:]) <= MAX_GROUPS


def lower_tiled(lowering: Lowering, kernel: Kernel, node: Node) -> None:
    """Append the calls of a DOT kernel."""
    K = node.src[0].shape[2]
    split = _split(lowering, node)
    groups = split.groups(node)
    parts = totals = None
    if split.parts > 1:
        parts = lowering.temp(float32, split.parts * node.elements)
    elif K > DOT_CHUNK and not lowering.target.is_fast:
        totals = lowering.temp(float32, groups[0] * groups[1] * groups[2] * split.edge**2)
    shape = Shape(split.square, split.parts, parts, totals)
    kind = MatrixTiled if _has_matrix_unit(lowering, node) else Tiled
    tiled = kind(lowering, kernel, node, shape, wide=True)
    text = tiled.text()
    if not nests.is_wide(tiled.emitter.forms):
        tiled = kind(lowering, kernel, node, shape, wide=False)
        text = tiled.text()
    lowering.calls.append(
        nests.finish_call(
            tiled.family,
            tiled.emitter,
            nests.signature(tiled.emitter, text, (SIDE, SIDE, 1)),
            (groups[0] * SIDE, groups[1] * SIDE, groups[2]),
            (SIDE, SIDE, 1),
            2 * node.elements * K,
        )
    )
    if parts is not None:
        _add_parts(lowering, kernel, node, parts, split.parts)


def _split(lowering: Lowering, node: Node) -> Split:
    target = lowering.target
    batch, M, N = node.shape
    K = node.src[0].shape[2]
    return split_of(batch, M, N, K, target.compute_units, is_fast=target.is_fast)


def _has_matrix_unit(lowering: Lowering, node: Node) -> bool:
    """Whether the device multiplies matrices of the operands' type."""
    left, right = (source.dtype for source in node.src)
    return lowering.target.has_matrix_units and left is right and left.is_narrow_float


def split_of(batch: int, M: int, N: int, K: int, units: int, *, is_fast: bool) -> Split:
    """Enough groups to fill ``units``, with as large a tile as there can be."""
    wanted = GROUPS_PER_UNIT * units
    groups = 0
    square = SQUARES[-1]
    for square in SQUARES:
        edge = square * SIDE
        groups = batch * -(-M // edge) * -(-N // edge)
        if groups >= wanted and edge <= max(M, SIDE * SQUARES[-1]):
            return Split(square, 1)
    if is_fast:
        return Split(square, max(1, min(MAX_PARTS, K // DOT_CHUNK, -(-wanted // groups))))
    chunks = -(-K // DOT_CHUNK)
    return Split(square, chunks if chunks * batch * M * N <= MAX_PART_SUMS else 1)


def _add_parts(lowering: Lowering, kernel: Kernel, node: Node, temp: Temp, parts: int) -> None:
    """The call that adds the parts of every sum from the left, and all that is fused behind."""
    zero = opencl.literal(node.dtype.numpy.type(0), node.dtype)

    def emit(emitter: Emitter, index: Index, scope: Scope) -> None:
        flat = views.flatten(index, node.shape)
        scope.body.append(Variable("float", "total", zero))
        turns: list[Statement] = []
        inner = scope.child(turns)
        at = flat + variable("part", parts, inner.depth) * node.elements
        more = emitter.load(temp, at, inner)
        turns.append(Assign("total", opencl.combine("sum", float32, "total", more.text)))
        scope.body.append(Loop(emitter.index_type, "part", "0", str(parts), turns))
        emitter.bind(node, flat, Value("total", scope.depth))
        lowering.store_roots(emitter, kernel, flat, scope)

    lowering.per_element("add_parts", kernel, node.shape, emit)
