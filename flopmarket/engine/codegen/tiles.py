"""A product's tile by a work-group: operands through local memory, sums in registers.

:class:`Tiled` renders the kernel, ``tiled.py`` decides about its shape. A tile of either operand is
read once by the whole group, with its prologue fused in and neighbours reading neighbours, while
the one before is multiplied from local memory; at the end the sums pass through local memory again,
so that results are stored side by side. What multiplies is float32 arithmetic here, and a matrix
unit in ``matrix.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flopmarket.engine import dtypes, views
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Temp
from flopmarket.engine.codegen.loops import Assign, Let, Line, Loop, Scope, Statement, Value, render
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.pack_plain import Matrix, matrix_of
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Node
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import Index, Linear, variable

SIDE = 16
"""Work-items along either side of a group."""
ITEMS = SIDE * SIDE
PAD = 4
"""Floats between rows of a tile, so that a column of it lies in different banks."""
ZERO = opencl.literal(np.float32(0), dtypes.float32)
"""+0 that no compiler knows: what is added to it is not left out."""
_UNROLL = Line("#pragma unroll")
_ALIGNED = "__attribute__((aligned(16)))"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sums of a work-item along either axis, parts of K, and where the sums of parts go.

    ``totals`` is where sums over chunks wait for the next chunk, as the exact order has it.
    """

    square: int
    parts: int
    temp: Temp | None
    totals: Temp | None


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand and its rows or columns; ``matrix`` says how it lies, where it lies plainly."""

    name: str
    source: Node
    count: int
    matrix: Matrix | None

    @property
    def along_k(self) -> bool:
        """Whether neighbours along K lie side by side."""
        if self.matrix is None:
            return self.name == "a"
        return self.matrix.lane != 1 and self.matrix.k == 1


class Tiled:
    """One rendering of the kernel. ``STEPS`` are the terms of a tile."""

    STEPS = 16
    family = "gemm_tiled"

    def __init__(
        self, lowering: Lowering, kernel: Kernel, node: Node, shape: Shape, *, wide: bool
    ) -> None:
        self._lowering, self._kernel, self._node = lowering, kernel, node
        self._square, self._parts, self._temp = shape.square, shape.parts, shape.temp
        self.emitter = lowering.emitter(kernel, wide=wide)
        self.edge = shape.square * SIDE
        self._vector = min(4, shape.square)
        self._batch, self._M, self._N = node.shape
        self._K = node.src[0].shape[2]
        self._totals = shape.totals
        self._is_fast = lowering.target.is_fast
        # Whole tiles, so that no part begins inside one.
        tiles = -(-self._K // self.STEPS)
        self._turns = -(-tiles // shape.parts)
        if shape.parts > 1 and not self._is_fast:
            self._turns = DOT_CHUNK // self.STEPS
        self._a, self._b = (
            Operand(name, source, count, matrix_of(lowering, kernel, name, source))
            for name, source, count in zip("ab", node.src, (self._M, self._N), strict=True)
        )

    def text(self) -> str:
        """The kernel's body."""
        top, loads = Scope(0, []), list[Statement]()
        load_scope = top.child(loads)
        for operand in (self._a, self._b):
            loads += [_UNROLL, self._load(operand, load_scope)]
        stores = self._stores(top)
        edge, kind, turns = self.edge, self.emitter.index_type, self._turn_count
        lines = [
            *(f"__local {self.element} tile_{name}[{self._room}] {_ALIGNED};" for name in "ab"),
            f"__local float stage[{SIDE * edge}] {_ALIGNED};",
            "const int tx = (int)get_local_id(0);",
            "const int ty = (int)get_local_id(1);",
            f"const int item = ty * {SIDE} + tx;",
            f"const {kind} n_first = ({kind})get_group_id(0) * {edge};",
            f"const {kind} m_first = ({kind})get_group_id(1) * {edge};",
            *self._third_axis(),
            *(f"{self.element} next_{name}[{self._each}];" for name in "ab"),
            *self._begin(),
            *self._place_of_totals(),
            *(render([s], 0) for s in top.body),
            f"for (int turn = 0; turn <= {turns}; turn += 1) {{",
            f"if (turn < {turns}) {{",
            f"const {kind} k_first = ({kind})({self._first_turn} + turn) * {self.STEPS};",
            render(loads, 0),
            "}",
            "if (turn > 0) {",
            *self._multiply(),
            "}",
            *self._between_chunks(),
            "barrier(CLK_LOCAL_MEM_FENCE);",
            f"if (turn < {turns}) {{",
            "#pragma unroll",
            f"for (int j = 0; j < {self._each}; j += 1) {{",
            f"const int e = item + j * {ITEMS};",
            *(self._keep(operand) for operand in (self._a, self._b)),
            "}",
            "}",
            "barrier(CLK_LOCAL_MEM_FENCE);",
            "}",
            *self._after_chunks(),
            f"for (int s = 0; s < {self._square}; s += 1) {{",
            *self._chosen(),
            "barrier(CLK_LOCAL_MEM_FENCE);",
            *self._staged(),
            "barrier(CLK_LOCAL_MEM_FENCE);",
            f"for (int j = 0; j < {self._square}; j += 1) {{",
            f"const int e = item + j * {ITEMS};",
            f"const {kind} gm = m_first + {self._row_of_stage()};",
            f"const {kind} gn = n_first + e % {edge};",
            f"if (gm < {self._M} && gn < {self._N}) {{",
            "const float value = stage[e];",
            render(stores, 0),
            "}",
            "}",
            "}",
        ]
        return "\n".join(lines)

    @property
    def _each(self) -> int:
        """Elements of a tile that one work-item reads."""
        return self.STEPS * self.edge // ITEMS

    # ------------------------------------------------------------ parts of K

    @property
    def _first_turn(self) -> str:
        return "first_turn" if self._parts > 1 else "0"

    @property
    def _turn_count(self) -> str:
        return "turns" if self._parts > 1 else str(self._turns)

    def _third_axis(self) -> list[str]:
        """The batch and the part of K, from the third axis of the grid."""
        kind = self.emitter.index_type
        third = f"({kind})get_global_id(2)"
        if self._parts == 1:
            return [f"const {kind} b = {third};"]
        return [
            f"const {kind} third = {third};",
            f"const {kind} b = third / {self._parts};",
            f"const int part = (int)(third % {self._parts});",
            f"const int first_turn = part * {self._turns};",
            f"const int left = {-(-self._K // self.STEPS)} - first_turn;",
            f"const int turns = left < 0 ? 0 : left < {self._turns} ? left : {self._turns};",
        ]

    # ------------------------------------------------------------ chunks

    def _place_of_totals(self) -> list[str]:
        """Where this work-item's totals lie: vectors of the group's work-items side by side."""
        if self._totals is None:
            return []
        self._totals_name = self.emitter.parameter(self._totals, written=True).name
        groups = -(-self._M // self.edge), -(-self._N // self.edge)
        group = f"((long)b * {groups[0]} + (long)get_group_id(1)) * {groups[1]}"
        begin = f"({group} + (long)get_group_id(0)) * {self.edge**2}"
        return [f"const long begin = {begin} + item * {self._vector};"]

    def _total(self, number: int) -> str:
        place = f"{self._totals_name} + begin + {number * ITEMS * self._vector}"
        return f"*(__global float{self._vector}*)({place})"

    def _between_chunks(self) -> list[str]:
        """At the end of a chunk that is not the last: the sums are added up and begin anew."""
        if self._totals is None:
            return []
        chunk = DOT_CHUNK // self.STEPS
        vector = f"float{self._vector}"
        lines = [f"if (turn % {chunk} == 0 && turn > 0 && turn < {self._turns}) {{"]
        for number, (i, j) in enumerate(self._sums):
            before = f"turn == {chunk} ? ({vector})({ZERO}) : {self._total(number)}"
            lines += [
                f"const {vector} t{number} = {before};",
                f"{self._total(number)} = t{number} + c{i}_{j};",
                f"c{i}_{j} = ({vector})(0.0f);",
            ]
        return [*lines, "}"]

    def _after_chunks(self) -> list[str]:
        """The last chunk's sums are added to the total, which is +0 where there was none before."""
        if self._is_fast or self._parts > 1:
            return []
        before = f"(float{self._vector})({ZERO})"
        return [
            f"c{i}_{j} = {before if self._totals is None else self._total(number)} + c{i}_{j};"
            for number, (i, j) in enumerate(self._sums)
        ]

    # ------------------------------------------------------------ tiles

    def _inside(self, operand: Operand) -> tuple[str, str]:
        """C text of (term, row or column) in the tile of a work-item's element ``e``."""
        if operand.along_k:
            return f"e % {self.STEPS}", f"e / {self.STEPS}"
        return f"e / {self.edge}", f"e % {self.edge}"

    def _load(self, operand: Operand, scope: Scope) -> Loop:
        """A tile's elements into registers. Terms beyond K are 0 in both operands."""
        kind, K, count = self.emitter.index_type, self._K, operand.count
        body: list[Statement] = []
        inner = scope.child(body)
        term, place = self._inside(operand)
        first = "m_first" if operand.name == "a" else "n_first"
        body.append(Let("int", "e", f"item + j * {ITEMS}"))
        body.append(Let(kind, "k", f"k_first + {term}"))
        body.append(Let(kind, "x", f"{first} + {place}"))
        body.append(Let(kind, "gk", f"k < {K} ? k : {K - 1}" if K % self.STEPS else "k"))
        ragged = count % self.edge
        body.append(Let(kind, "gx", f"x < {count} ? x : {count - 1}" if ragged else "x"))
        b = variable("b", self._batch, 0)
        gk, gx = variable("gk", K, inner.depth), variable("gx", count, inner.depth)
        index: Index = (b, gx, gk) if operand.name == "a" else (b, gk, gx)
        value = self._element(operand, index, inner)
        value = f"k < {K} ? {value} : ({self.element})0" if K % self.STEPS else value
        body.append(Assign(f"next_{operand.name}[j]", value))
        return Loop("int", "j", "0", str(self._each), body)

    # ------------------------------------------------------------ results

    def _stores(self, top: Scope) -> list[Statement]:
        """What becomes of the finished ``value`` at ``gm``, ``gn``."""
        body: list[Statement] = []
        scope = top.child([]).child(body)
        b = variable("b", self._batch, 0)
        index = (b, variable("gm", self._M, scope.depth), variable("gn", self._N, scope.depth))
        flat: Linear = views.flatten(index, self._node.shape)
        if self._temp is not None:
            place = flat + variable("part", self._parts, 0) * self._node.elements
            self.emitter.store(self._temp, place, "value", scope, False)
            return body
        self.emitter.bind(self._node, flat, Value("value", scope.depth))
        self._lowering.store_roots(self.emitter, self._kernel, flat, scope)
        return body

    # ------------------------------------------------------------ what multiplies

    element = "float"
    """C type of an element of a tile."""

    @property
    def _width(self) -> int:
        """Elements between the terms of a tile."""
        return self.edge + PAD

    @property
    def _room(self) -> int:
        """Elements of a tile with what pads it."""
        return self.STEPS * self._width

    def _element(self, operand: Operand, index: Index, scope: Scope) -> str:
        """An element of an operand as a tile holds it."""
        return self.emitter.value(operand.source, index, scope).text

    def _keep(self, operand: Operand) -> str:
        """A register into the tile."""
        term, place = self._inside(operand)
        return f"tile_{operand.name}[({term}) * {self._width} + {place}] = next_{operand.name}[j];"

    @property
    def _offsets(self) -> range:
        """Where the vectors of a work-item lie along an axis, after its first."""
        return range(0, self.edge, SIDE * self._vector)

    @property
    def _sums(self) -> list[tuple[int, int]]:
        """Names of a work-item's vectors of sums: (row, vector of the row)."""
        return [(i, j) for i in range(self._square) for j in range(self._square // self._vector)]

    def _begin(self) -> list[str]:
        """The sums."""
        vector = f"float{self._vector}"
        return [f"{vector} c{i}_{j} = ({vector})(0.0f);" for i, j in self._sums]

    def _multiply(self) -> list[str]:
        """A tile's terms for all sums of a work-item."""
        v = self._vector
        lines = ["#pragma unroll", f"for (int k = 0; k < {self.STEPS}; k += 1) {{"]
        for name, line in (("a", "ty"), ("b", "tx")):
            for h, at in enumerate(self._offsets):
                place = f"tile_{name} + k * {self._width} + {line} * {v} + {at}"
                lines.append(f"const float{v} {name}{h} = *(__local const float{v}*)({place});")
        for i, j in self._sums:
            factor = f"a{i // v}.{'xyzw'[i % v]}"
            lines.append(f"c{i}_{j} = fx1_fma_float{v}({factor}, b{j}, c{i}_{j});")
        return [*lines, "}"]

    def _chosen(self) -> list[str]:
        """Row ``s`` of a work-item's sums, which are names and no array: they stay in registers."""
        columns = range(self._square // self._vector)
        lines = [f"float{self._vector} row{j} = c0_{j};" for j in columns]
        for i in range(1, self._square):
            row = " ".join(f"row{j} = c{i}_{j};" for j in columns)
            lines += [f"if (s == {i}) {{ {row} }}"]
        return lines

    def _staged(self) -> list[str]:
        """The chosen rows of all work-items into local memory."""
        vector = f"float{self._vector}"
        begin = f"stage + ty * {self.edge} + tx * {self._vector}"
        return [
            f"*(__local {vector}*)({begin} + {at}) = row{j};" for j, at in enumerate(self._offsets)
        ]

    def _row_of_stage(self) -> str:
        """C text of the row of the tile that element ``e`` of the stage belongs to."""
        v = self._vector
        return f"e / {self.edge} * {v} + s % {v} + s / {v} * {SIDE * v}"
