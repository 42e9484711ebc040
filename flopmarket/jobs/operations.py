"""The canonical list of one step's values, and how each is cut into tiles.

A dispute names values by their position in this list, so it is a function of the program alone:
the nodes of the canonical graph in the order of the codec, a LOOP spelled out turn by turn
(``item`` takes a slice in, ``stack`` joins the slices that come out; carries and shared values are
the values themselves), and at the end the tensors that leave the step, under the roots that a
commitment is made of (``state`` and ``output``). Called by both parties and by the referee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import loop
from flopmarket.engine.dtypes import DType, canonical, unsigned_of
from flopmarket.engine.graph import Node, Op, Shape
from flopmarket.engine.program import Program
from flopmarket.errors import LimitExceeded
from flopmarket.limits import MAX_DISPUTE_OPERATIONS, MAX_DISPUTE_TILES, MERKLE_LEAF_BYTES
from flopmarket.trust import merkle
from flopmarket.trust.encoding import tagged_hash

Array = np.ndarray[Any, Any]
Elements = np.ndarray[Any, np.dtype[np.int64]]
"""Row-major positions of elements in a value."""

TILE_SIDE = 64
TILE_ELEMENTS = TILE_SIDE * TILE_SIDE
_FOLDED_ELEMENTS = 2**20  # read for one tile of a REDUCE with several results
_INPUT_ROWS = 16  # rows of the data that one tile of an input covers: each may be a leaf away
_VALUE_DOMAIN = "flopmarket.value-root.v1"


class Part(StrEnum):
    """What an operation of the list is."""

    NODE = "node"
    ITEM = "item"
    STACK = "stack"
    STATE = "state"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Layout:
    """A value as ``batch`` matrices [rows, columns], cut into tiles of at most so many of each."""

    batch: int
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int

    @property
    def across(self) -> int:
        """Tiles of one row of tiles."""
        return -(-self.columns // self.tile_columns)

    @property
    def down(self) -> int:
        """Rows of tiles in one matrix."""
        return -(-self.rows // self.tile_rows)

    @property
    def count(self) -> int:
        """Tiles in all; row-major."""
        return self.batch * self.down * self.across

    def bounds(self, tile: int) -> tuple[int, slice, slice]:
        """The matrix, the rows and the columns of a tile."""
        matrix, rest = divmod(tile, self.down * self.across)
        row, column = divmod(rest, self.across)
        top, left = row * self.tile_rows, column * self.tile_columns
        return (
            matrix,
            slice(top, min(top + self.tile_rows, self.rows)),
            slice(left, min(left + self.tile_columns, self.columns)),
        )

    def elements(self, tile: int) -> Elements:
        """Positions of a tile's elements, in the tile's own row-major order."""
        matrix, rows, columns = self.bounds(tile)
        down = np.arange(rows.start, rows.stop, dtype=np.int64) + matrix * self.rows
        along = np.arange(columns.start, columns.stop, dtype=np.int64)
        return (down[:, None] * self.columns + along[None, :]).reshape(-1)

    def tiles_of(self, elements: Elements) -> tuple[Elements, Elements]:
        """Tile of each element, and its position inside that tile."""
        row, column = np.divmod(elements, max(1, self.columns))
        matrix, row = np.divmod(row, max(1, self.rows))
        across, down = column // self.tile_columns, row // self.tile_rows
        tile = (matrix * self.down + down) * self.across + across
        width = np.minimum(self.tile_columns, self.columns - across * self.tile_columns)
        inside = (row % self.tile_rows) * width + column % self.tile_columns
        return tile, inside


def blocks(elements: int, size: int = TILE_ELEMENTS) -> Layout:
    """Consecutive elements, ``size`` a tile."""
    return Layout(1 if elements else 0, 1, elements, 1, max(1, size))


def matrices(shape: Shape, side: int = TILE_SIDE) -> Layout:
    """Square tiles over the last two axes."""
    if not prod(shape):
        return blocks(0)
    return Layout(prod(shape[:-2]), shape[-2], shape[-1], side, side)


def leaves(dtype: DType, shape: Shape) -> Layout:
    """The leaves of a committed tensor's tree (``trust.merkle``)."""
    return blocks(prod(shape), MERKLE_LEAF_BYTES // dtype.size_bytes)


@dataclass(frozen=True, slots=True)
class Outside:
    """A tensor of an agreed bundle: ``kind`` is frozen, state, input (the data) or outputs."""

    kind: str
    name: str
    dtype: DType
    shape: Shape
    step: int = 0

    @property
    def layout(self) -> Layout:
        """Its leaves."""
        return leaves(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Operation:
    """One value of a step. ``sources`` are positions of earlier ones.

    ``at``: the slice that an item takes. ``name``: the tensor of a state or output. ``turns``:
    the turns of the loops around it, outermost first.
    """

    part: Part
    node: Node | None
    dtype: DType
    shape: Shape
    sources: tuple[int, ...]
    layout: Layout
    at: int = 0
    name: str = ""
    turns: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def committed(self) -> bool:
        """Whether its root is that of a committed tensor."""
        return self.part in (Part.STATE, Part.OUTPUT)

    def root(self, hashes: Sequence[bytes]) -> bytes:
        """Root of the value whose tiles have these leaf hashes."""
        if self.committed:
            size = self.elements * self.dtype.size_bytes
            return merkle.tensor_root_of_leaves(self.dtype.name, self.shape, size, hashes)
        tree = merkle.TreeBuilder()
        for item in hashes:
            tree.append(item)
        return self.root_of_tree(tree.root())

    def root_of_tree(self, tree_root: bytes) -> bytes:
        """Root of a value that is not committed, from the root of the tree over its tiles."""
        numbers = (len(self.shape), *self.shape, self.layout.count)
        words = b"".join(n.to_bytes(8, "big") for n in numbers)
        return tagged_hash(_VALUE_DOMAIN, bytes([self.dtype.code]), words, tree_root)

    def describe(self) -> str:
        """The operation in words."""
        form = f"{self.dtype}{list(self.shape)}"
        around = f" in turn {'.'.join(map(str, self.turns))}" if self.turns else ""
        if self.node is None:
            named = f" {self.name!r}" if self.name else ""
            return f"{self.part}{named} {form}{around}"
        arg = self.node.arg
        words = "" if isinstance(arg, bytes) or not arg else f" {arg!r}"
        return f"{self.node.op.name}{words[:120]} {form}{around}"


def words_of(array: Array, dtype: DType) -> Array:
    """The canonical value as unsigned words: what is hashed."""
    return canonical(np.asarray(array)).view(unsigned_of(dtype).numpy)


def tile_bytes(words: Array, layout: Layout, tile: int) -> bytes:
    """Canonical bytes of one tile of :func:`words_of` a value."""
    matrix, rows, columns = layout.bounds(tile)
    return words.reshape(layout.batch, layout.rows, layout.columns)[matrix, rows, columns].tobytes()


def tile_hashes(array: Array, dtype: DType, layout: Layout) -> tuple[bytes, ...]:
    """Leaf hashes of every tile of a value."""
    words = words_of(array, dtype)
    return tuple(merkle.leaf_hash(tile_bytes(words, layout, tile)) for tile in range(layout.count))


class StepPlan:
    """The canonical operations of one step of a program."""

    def __init__(self, program: Program) -> None:
        work = sum(g.count * g.body.work for g in loop.groups(program.nodes))
        total = len(program.nodes) + work
        if total > MAX_DISPUTE_OPERATIONS:
            raise LimitExceeded(
                f"a step has {total} values with its loops spelled out, a dispute lists at most "
                f"{MAX_DISPUTE_OPERATIONS}",
                code="DISPUTE_TOO_MANY_OPERATIONS",
                hint="the segment is decided by a third run",
            )
        self.program = program
        self._list: list[Operation] = []
        at = self._frame(program.nodes, {}, ())
        self.first_state = len(self._list)
        for specs, nodes, part in (
            (program.state, program.state_nodes, Part.STATE),
            (program.outputs, program.output_nodes, Part.OUTPUT),
        ):
            for spec, node in zip(specs, nodes, strict=True):
                self._add(
                    Operation(
                        part,
                        None,
                        spec.dtype,
                        spec.shape,
                        (at[node],),
                        leaves(spec.dtype, spec.shape),
                        name=spec.name,
                    )
                )
        self.operations = _laid_out(self._list)
        for operation in self.operations:
            if operation.layout.count > MAX_DISPUTE_TILES:
                raise LimitExceeded(
                    f"{operation.describe()} has {operation.layout.count} tiles, a dispute lists "
                    f"at most {MAX_DISPUTE_TILES}",
                    code="DISPUTE_TOO_MANY_TILES",
                )

    @cached_property
    def last_use(self) -> Mapping[int, int]:
        """The last operation that reads each one, itself where none does."""
        last = {at: at for at in range(len(self.operations))}
        for at, operation in enumerate(self.operations):
            last.update(dict.fromkeys(operation.sources, at))
        return last

    def named(self, part: Part, roots: Sequence[bytes]) -> dict[str, bytes]:
        """Roots of the step's state or output tensors, out of the roots of all operations."""
        return {
            op.name: root
            for op, root in zip(
                self.operations[self.first_state :], roots[self.first_state :], strict=True
            )
            if op.part is part
        }

    def _add(self, operation: Operation) -> int:
        self._list.append(operation)
        return len(self._list) - 1

    def _frame(
        self, nodes: Sequence[Node], given: Mapping[Node, int], turns: tuple[int, ...]
    ) -> dict[Node, int]:
        """Append the nodes of a graph or body. Loops nest at most ``MAX_LOOP_DEPTH`` deep."""
        at = dict(given)
        results: dict[loop.Group, list[int]] = {}
        for node in nodes:
            if node in at:
                continue
            if node.op is Op.LOOP:
                group = loop.group_of(node)
                if group not in results:
                    results[group] = self._loop(group, [at[s] for s in node.src], turns)
                at[node] = results[group][node.arg[3]]
                continue
            sources = tuple(at[s] for s in node.src)
            layout = blocks(node.elements)
            at[node] = self._add(
                Operation(Part.NODE, node, node.dtype, node.shape, sources, layout, turns=turns)
            )
        return at

    def _loop(self, group: loop.Group, sources: list[int], turns: tuple[int, ...]) -> list[int]:
        """Append every turn of a loop; positions of its results."""
        body, split = group.body, group.body.carries + group.body.items
        carries = sources[: body.carries]
        stacked = body.results[body.carries :]
        slices = [[0] * group.count for _ in stacked]
        for turn in range(group.count):
            position = group.count - 1 - turn if group.reverse else turn
            inside = (*turns, turn)
            given: dict[Node, int] = {}
            for (kind, n), leaf in body.placeholders.items():
                if kind == "item":
                    given[leaf] = self._item(sources[body.carries + n], position, leaf, inside)
                else:
                    given[leaf] = carries[n] if kind == "carry" else sources[split + n]
            at = self._frame(body.nodes, given, inside)
            values = [at[result] for result in body.results]
            carries = values[: body.carries]
            for row, value in zip(slices, values[body.carries :], strict=True):
                row[position] = value
        joined = [
            self._add(
                Operation(
                    Part.STACK,
                    None,
                    node.dtype,
                    (group.count, *node.shape),
                    tuple(row),
                    blocks(group.count * node.elements),
                    turns=turns,
                )
            )
            for node, row in zip(stacked, slices, strict=True)
        ]
        return [*carries, *joined]

    def _item(self, source: int, position: int, leaf: Node, turns: tuple[int, ...]) -> int:
        return self._add(
            Operation(
                Part.ITEM,
                None,
                leaf.dtype,
                leaf.shape,
                (source,),
                blocks(leaf.elements),
                at=position,
                turns=turns,
            )
        )


def _laid_out(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Tiles that keep what one tile reads small: square ones for what a product or a fold along
    columns reads, fewer results where each needs many terms."""
    square: set[int] = set()
    for operation in operations:
        node = operation.node
        if node is None:
            continue
        if node.op is Op.DOT:
            square.update(operation.sources[:2])
        elif node.op is Op.REDUCE and len(node.src[0].shape) - 1 not in node.arg[1]:
            square.update(operation.sources)
    return tuple(
        replace(operation, layout=_layout(operation, square=at in square))
        for at, operation in enumerate(operations)
    )


def _layout(operation: Operation, *, square: bool) -> Layout:
    node = operation.node
    if operation.committed:
        return operation.layout
    if node is not None and node.op is Op.DOT:
        terms = node.src[0].shape[2]
        return matrices(node.shape, _product_side(terms))
    if node is not None and node.op is Op.REDUCE:
        terms = max(1, prod(node.src[0].shape) // max(1, node.elements))
        return blocks(node.elements, max(1, min(TILE_ELEMENTS, _FOLDED_ELEMENTS // terms)))
    if node is not None and node.op is Op.INPUT and node.arg[0] == "input":
        row = prod(node.shape[1:])
        return blocks(node.elements, max(1, min(TILE_ELEMENTS, _INPUT_ROWS * row)))
    if square and len(operation.shape) >= 2:
        return matrices(operation.shape)
    return blocks(operation.elements)


def _product_side(terms: int) -> int:
    """Side of a product's tiles: at most about 2^24 multiplications each."""
    side = TILE_SIDE
    while side > 8 and side * side * terms > 2**24:
        side //= 2
    return side
