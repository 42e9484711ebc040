"""Packing of a product's operands on a CPU, with the operand's views and elementwise work fused in.

``contract.py`` calls :func:`pack` for A and for B of a packed DOT. A work-item fills one panel of
``templates/gemm.py``'s layout (``width`` rows of A or columns of B, here called lanes) over a range
of k: k outside, lanes inside, so that stores are contiguous and the lanes vectorise.

Operands that are windows of a tensor (convolutions) have quotients and remainders of the lane's
number in their indices. Where the rows of the image are whole panels, or a panel whole rows, lanes
are counted by row and place instead, and what they read is contiguous. Elsewhere the quotients,
which do not depend on k, are tabulated once for a work-item and the inner loop adds, compares and
gathers (in one network twice as slow). Computing them at each element took five times as long.
"""

from __future__ import annotations

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Temp
from flopmarket.engine.codegen.loops import Array, Assign, Let, Loop, Scope, Statement, Value
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.nest import Call
from flopmarket.engine.codegen.pack_plain import STEPS, pack_plain
from flopmarket.engine.codegen.templates.gemm import UNROLL, GemmSpec
from flopmarket.engine.graph import Node
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import Atom, Index, Linear, variable

LANE = "x"
"""Name of the variable that counts rows of A or columns of B."""

MIN_RUN = 8
"""Lanes in a row of an image from which they are counted by row and place."""


def pack(
    lowering: Lowering,
    kernel: Kernel,
    spec: GemmSpec,
    operand: str,
    source: Node,
    shared: bool,
    temp: Temp,
) -> Call:
    """The launch that fills ``temp`` with packed ``operand`` ('a' or 'b') of ``spec``."""
    plain = pack_plain(lowering, kernel, spec, operand, source, shared, temp)
    if plain is not None:
        return plain
    scratch = _Packing(lowering, kernel, spec, operand, source, shared, wide=True)
    scratch.body(temp)
    wide = nests.is_wide(scratch.emitter.forms)
    packing = _Packing(lowering, kernel, spec, operand, source, shared, wide=wide)
    packing.run = scratch.row_length()
    return packing.call(temp)


class _Packing:
    """One rendering of a packing kernel."""

    def __init__(
        self,
        lowering: Lowering,
        kernel: Kernel,
        spec: GemmSpec,
        operand: str,
        source: Node,
        shared: bool,
        *,
        wide: bool,
    ) -> None:
        self.emitter = lowering.emitter(kernel, wide=wide)
        self.emitter.spell = self._spell
        self._source, self._operand = source, operand
        self._batch = 1 if shared else source.shape[0]
        self._width = spec.tile.mr if operand == "a" else spec.tile.nr
        self._count = spec.M if operand == "a" else spec.N
        self._K, self._steps = spec.K, max(spec.padded_k, UNROLL)
        # Work-items that start one after the other should share what they read: those along the
        # shorter axis do (in a convolution, that is where the taps of the window are).
        self._panels_first = self._count < self._K
        self._tables: dict[str, str] = {}
        self._filling: list[Statement] = []
        self.run: int | None = None
        """Lanes of a row, where rows and panels fit into each other."""

    def row_length(self) -> int | None:
        """What :attr:`run` should be, after :meth:`body` has shown the accesses."""
        for by in views.divisors(self.emitter.forms, LANE, self._count):
            if by >= MIN_RUN and (by % self._width == 0 or self._width % by == 0):
                return by
        return None

    def call(self, temp: Temp) -> Call:
        """The finished call."""
        body = self.body(temp)
        items = -(-self._steps // STEPS)
        panels = -(-self._count // self._width)
        size = (panels, items, self._batch) if self._panels_first else (items, panels, self._batch)
        return nests.make_call("pack", self.emitter, body, size, (1, 1, 1))

    def body(self, temp: Temp) -> list[Statement]:
        """Statements of the kernel."""
        emitter, kind, width = self.emitter, self.emitter.index_type, self._width
        out = emitter.parameter(temp, written=True).name
        panels = -(-self._count // width)
        top = Scope(0, [])
        along_k = int(self._panels_first)
        first, last = nests.block_range(top, kind, "k", STEPS, self._K, axis=along_k)
        top.body.append(Let(kind, "panel", f"({kind})get_global_id({1 - along_k})"))
        if self._batch > 1:
            top.body.append(Let(kind, "b", f"({kind})get_global_id(2)"))
            top.body.append(Let(kind, "matrix", f"b * {panels} + panel"))
        else:
            top.body.append(Let(kind, "matrix", "panel"))
        top.body.append(Let(kind, "base", f"matrix * {self._steps * width}"))
        top.body.append(Let(kind, "x0", f"panel * {width}"))
        top.body.append(Let(kind, "left", f"{self._count} - x0"))
        ragged = self.run is None and bool(self._count % width)
        turns = self._turns(out, top, clamped=ragged)
        if self._tables:
            lane = Let(kind, LANE, _clamped("x0 + lane", self._count) if ragged else "x0 + lane")
            top.body.extend(Array(kind, name, width) for name in self._tables.values())
            top.body.append(Loop(kind, "lane", "0", str(width), [lane, *self._filling]))
        elif ragged:
            # Only the last panel is ragged; the others read without a clamp, contiguously.
            whole = self._turns(out, top, clamped=False)
            top.body.append(Let(kind, "begin", f"left >= {width} ? {last} : {first}"))
            top.body.append(Loop(kind, "k", first, "begin", whole))
            first = "begin"
        top.body.append(Loop(kind, "k", first, last, turns))
        if self._steps > self._K:
            zeros = Assign(f"{out}[base + k * {width} + lane]", "0.0f")
            # The padding of k, by the work-item that packs its end.
            top.body.append(
                Loop(
                    kind,
                    "k",
                    f"({last} == {self._K} ? {self._K} : {self._steps})",
                    str(self._steps),
                    [Loop(kind, "lane", "0", str(width), [zeros])],
                )
            )
        return top.body

    def _turns(self, out: str, top: Scope, *, clamped: bool) -> list[Statement]:
        """The body of the loop over k."""
        kind, width = self.emitter.index_type, self._width
        turns: list[Statement] = []
        turn_scope = top.child(turns)
        if self.run is not None:
            turns.append(self._by_rows(out, top, turn_scope, self.run))
            return turns
        lanes: list[Statement] = []
        scope = turn_scope.child(lanes)
        lanes.append(
            Let(kind, LANE, _clamped("x0 + lane", self._count) if clamped else "x0 + lane")
        )
        value = self._value(scope).text
        if clamped:
            value = f"lane < left ? {value} : 0.0f"
        lanes.append(Assign(f"{out}[base + k * {width} + lane]", value))
        turns.append(Loop(kind, "lane", "0", str(width), lanes))
        return turns

    def _by_rows(self, out: str, top: Scope, scope: Scope, run: int) -> Loop:
        """The loop over lanes, as one part of a row or as several rows of ``run`` lanes."""
        kind, width, count = self.emitter.index_type, self._width, self._count
        lanes: list[Statement] = []
        inner = scope.child(lanes)
        if run % width == 0:
            parts = run // width
            self._once(top, Let(kind, "line", f"panel / {parts}"))
            self._once(top, Let(kind, "part", f"panel % {parts}"))
            x = variable("line", count // run, 0) * run + variable("part", parts, 0) * width
            value = self._value(inner, x + variable("lane", width, inner.depth)).text
            lanes.append(Assign(f"{out}[base + k * {width} + lane]", value))
            return Loop(kind, "lane", "0", str(width), lanes)
        rows, lines = width // run, count // run
        row: list[Statement] = []
        middle = scope.child(row)
        inner = middle.child(lanes)
        here = f"panel * {rows} + row"
        row.append(Let(kind, "line", _clamped(here, lines) if lines % rows else here))
        x = variable("line", lines, middle.depth) * run + variable("lane", run, inner.depth)
        value = self._value(inner, x).text
        if lines % rows:
            value = f"{here} < {lines} ? {value} : 0.0f"
        lanes.append(Assign(f"{out}[base + k * {width} + row * {run} + lane]", value))
        row.append(Loop(kind, "lane", "0", str(run), lanes))
        return Loop(kind, "row", "0", str(rows), row)

    def _once(self, scope: Scope, statement: Let) -> None:
        if statement not in scope.body:
            scope.body.append(statement)

    def _value(self, scope: Scope, x: Linear | None = None) -> Value:
        batch = variable("b", self._batch, 0)
        k = variable("k", self._K, 1)
        x = variable(LANE, self._count, 2) if x is None else x
        index: Index = (batch, x, k) if self._operand == "a" else (batch, k, x)
        return self.emitter.value(self._source, index, scope)

    # ------------------------------------------------------------ tables

    def _spell(self, form: Linear, wide: bool) -> str:
        """Text of an index, with a table for what only the lane decides by division."""
        tabled = [(a, c) for a, c in form.terms if a.kind != "var" and _is_of_lane(a)]
        if not tabled:
            return opencl.index_text(form, wide)
        rest = [(a, c) for a, c in form.terms if not (a.kind != "var" and _is_of_lane(a))]
        plain = [(a, c) for a, c in rest if a.kind == "var" and a.key == LANE]
        rest = [(a, c) for a, c in rest if not (a.kind == "var" and a.key == LANE)]
        held = Linear((*tabled, *plain), 0)
        name = self._tables.get(held.key)
        if name is None:
            name = self._tables[held.key] = f"table{len(self._tables)}"
            self._filling.append(Assign(f"{name}[lane]", opencl.index_text(held, wide)))
        others = opencl.index_text(Linear(tuple(rest), form.constant), wide)
        return f"({name}[lane] + {others})"


def _is_of_lane(atom: Atom) -> bool:
    """Whether the lane's number is the one variable that ``atom`` depends on."""
    assert atom.of is not None
    names = {
        inner.key for form in atom.of.forms() for inner, _ in form.terms if inner.kind == "var"
    }
    return names == {LANE}


def _clamped(text: str, count: int) -> str:
    return f"{text} < {count} ? {text} : {count - 1}"
