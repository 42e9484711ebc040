"""From scheduled kernels to launches with text: elementwise, CONCAT and SCATTER, and the dispatch.

``Lowering`` takes the kernels of a schedule one by one and appends their calls. REDUCE lives in
``reduce.py``, DOT in ``contract.py``. Loops over large axes first run on a scratch emitter, which
shows which accesses there are; then axes that all accesses treat as one are joined and the real
body is emitted, with 32-bit indices where they suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter, Temp
from flopmarket.engine.codegen.loops import Assign, If, Let, Line, Loop, Scope, Statement
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.repeat import AnyCall, turn_form
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node, Op, Shape
from flopmarket.engine.schedule.frame import Frame
from flopmarket.engine.schedule.fuse import Kernel, Schedule
from flopmarket.engine.views import Index, Linear, variable

Emit = Callable[[Emitter, Index, Scope], None]
"""Emits one turn of a nest: (emitter, index in the kernel's space, scope)."""


class Lowering:
    """Turns the schedule of a frame into calls. One instance for a step, one for every loop."""

    def __init__(
        self,
        schedule: Schedule,
        target: Target,
        frame: Frame,
        tile: GemmTile | None = None,
        *,
        fusion: bool = True,
    ) -> None:
        self.schedule = schedule
        self.target = target
        self.frame = frame
        self.fusion = fusion
        self.given_tile = tile
        self.calls: list[AnyCall] = []
        self.final = frozenset(schedule.outputs)
        self.packed: dict[Hashable, Temp] = {}
        self._temps = 0

    def tile(self, M: int, N: int, K: int) -> GemmTile:
        """The register tile of a product: the given one, or the best guess for the device."""
        if self.given_tile is not None:
            return self.given_tile
        return choose_tile(M, N, self.target.vector_floats)

    def run(self) -> list[AnyCall]:
        """Lower every kernel, in launch order."""
        # The families import this module for its type; their rules are looked up here.
        from flopmarket.engine.codegen.contract import lower_dot
        from flopmarket.engine.codegen.reduce import lower_reduce
        from flopmarket.engine.schedule.loops import lower_loop

        for kernel in self.schedule.kernels:
            op = None if kernel.core is None else kernel.core.op
            if op is Op.LOOP:
                lower_loop(self, kernel)
            elif kernel.anchor.elements == 0:
                continue
            elif op is Op.REDUCE:
                lower_reduce(self, kernel)
            elif op is Op.DOT:
                lower_dot(self, kernel)
            elif op is Op.SCATTER:
                self._scatter(kernel)
            elif op is Op.CONCAT:
                self._concat(kernel)
            else:
                self._elementwise(kernel)
        return self.calls

    # ------------------------------------------------------------ shared by the families

    def emitter(self, kernel: Kernel, *, wide: bool) -> Emitter:
        """An emitter that loads what other kernels store."""
        turn = None if self.frame.turns is None else turn_form(self.frame.turns)
        return Emitter(self.target, self.is_stored(kernel), wide=wide, turn=turn)

    def is_stored(self, kernel: Kernel) -> Callable[[Node], bool]:
        """Whether ``kernel`` finds a node in memory."""
        own = set(kernel.roots) | {kernel.core}
        stored = self.schedule.stored
        return lambda node: node in stored and node not in own

    def is_shared(self, kernel: Kernel, source: Node) -> bool:
        """Whether an operand of a product, [batch, ...], is the same in every batch."""
        if source.shape[0] == 1:
            return True
        scratch = self.emitter(kernel, wide=True)
        index = views.space_index("s", source.shape, [0] * len(source.shape))
        scratch.value(source, index, Scope(0, []))
        atom = index[0].terms[0][0]
        return not any(form.depends_on(atom) for form in scratch.forms)

    def temp(self, dtype: DType, elements: int) -> Temp:
        """A new temporary buffer."""
        return Temp(self.temp_name(), dtype, elements)

    def temp_name(self) -> str:
        """A name that no other temporary of this frame has."""
        self._temps += 1
        return f"t{self._temps}"

    def store_roots(self, emitter: Emitter, kernel: Kernel, flat: Linear, scope: Scope) -> None:
        """Compute and store every root of the kernel at row-major position ``flat``."""
        for root in kernel.roots:
            index = views.unflatten(flat, root.shape)
            value = emitter.value(root, index, scope)
            sink = self.frame.sinks.get(root)
            if sink is None:
                emitter.store(root, flat, value.text, scope, root in self.final)
                continue
            place = emitter.at_turn(flat, root.elements) if sink.stacked else flat
            emitter.store(sink.key, place, value.text, scope, sink.final)

    def probe(self, kernel: Kernel, shape: Shape, emit: Emit) -> tuple[Shape, bool]:
        """The collapsed form of a space, and whether its indices are wide."""
        scratch = self.emitter(kernel, wide=True)
        index = views.space_index("s", shape, [0] * len(shape))
        emit(scratch, index, Scope(0, []))
        wide = nests.is_wide(scratch.forms)
        return nests.collapse(shape, index, scratch.forms), wide

    # ------------------------------------------------------------ elementwise

    def _elementwise(self, kernel: Kernel) -> None:
        space = kernel.anchor.shape

        def emit(emitter: Emitter, index: Index, scope: Scope) -> None:
            self.store_roots(emitter, kernel, views.flatten(index, space), scope)

        self.per_element("map", kernel, space, emit)

    def per_element(self, family: str, kernel: Kernel, space: Shape, emit: Emit) -> None:
        """Append the call that runs ``emit`` once for each element of ``space``."""
        shape, wide = self.probe(kernel, space, emit)
        emitter = self.emitter(kernel, wide=wide)
        nest = nests.elements(emitter, shape, self.target)
        index = views.unflatten(views.flatten(nest.index, shape), space)
        emit(emitter, index, nest.scope)
        self.calls.append(
            nests.make_call(
                family, emitter, nest.close(), nest.global_size, nest.local_size, flops=prod(space)
            )
        )

    # ------------------------------------------------------------ movement

    def _concat(self, kernel: Kernel) -> None:
        """One call a source, each writing its part of the result."""
        node = kernel.core
        assert node is not None
        axis, offset = node.arg[0], 0
        for source in node.src:
            if source.elements:
                self._concat_part(kernel, node, source, axis, offset)
            offset += source.shape[axis]

    def _concat_part(
        self, kernel: Kernel, node: Node, source: Node, axis: int, offset: int
    ) -> None:
        def emit(emitter: Emitter, index: Index, scope: Scope) -> None:
            value = emitter.value(source, index, scope)
            moved = (*index[:axis], index[axis] + offset, *index[axis + 1 :])
            flat = views.flatten(moved, node.shape)
            emitter.store(node, flat, value.text, scope, node in self.final)

        self.per_element("concat", kernel, source.shape, emit)

    def _scatter(self, kernel: Kernel) -> None:
        """Copy the destination, then let every work-item walk all updates for the part it owns.

        A work-item owns a range of rows and a block of columns, so no two touch one element and the
        updates of an element arrive in ascending order.
        """
        node = kernel.core
        assert node is not None
        destination, _places, updates = node.src
        count, columns = node.shape[0], prod(node.shape[1:])

        def copy(emitter: Emitter, index: Index, scope: Scope) -> None:
            value = emitter.value(destination, index, scope)
            flat = views.flatten(index, node.shape)
            emitter.store(node, flat, value.text, scope, node in self.final)

        self.per_element("copy", kernel, node.shape, copy)
        if updates.elements == 0:
            return
        scratch = self.emitter(kernel, wide=True)
        self._scatter_body(scratch, node, count, columns)
        emitter = self.emitter(kernel, wide=nests.is_wide(scratch.forms))
        body, size = self._scatter_body(emitter, node, count, columns)
        local = (1, 1) if self.target.is_cpu else (32, 1)
        flops = updates.elements
        self.calls.append(nests.make_call("scatter", emitter, body, size, local, flops=flops))

    def _scatter_body(
        self, emitter: Emitter, node: Node, count: int, columns: int
    ) -> tuple[list[Statement], tuple[int, int]]:
        _destination, places, updates = node.src
        kind, dtype = emitter.index_type, node.dtype
        width = min(columns, 256) if self.target.is_cpu else 1
        blocks = -(-columns // width)
        wanted = 2 * self.target.compute_units if self.target.is_cpu else 4096
        parts = max(1, min(count, -(-wanted // blocks)))
        part_rows = -(-count // parts)
        parts = -(-count // part_rows)
        top = Scope(0, [])
        if not self.target.is_cpu:
            top.body.append(Let(kind, "block", f"({kind})get_global_id(0)"))
            top.body.append(If(f"block >= {blocks}", [Line("return;")]))
            first, last = "block", "block + 1"
        else:
            first, last = nests.block_range(top, kind, "column", width, columns, axis=0)
        top.body.append(Let(kind, "low", f"({kind})get_global_id(1) * {part_rows}"))
        limit = f"low + {part_rows} < {count} ? low + {part_rows} : {count}"
        top.body.append(Let(kind, "high", limit))
        turns: list[Statement] = []
        update_scope = top.child(turns)
        at = variable("u", places.shape[0], 1)
        place = emitter.value(places, (at,), update_scope)
        # Compared in the index's own type first: a wide one must not be cut to look valid.
        inside = f"{place.text} < {opencl.integer_literal(count, places.dtype)}"
        if places.dtype.kind == "i":
            inside = f"{place.text} >= 0 && {inside}"
        turns.append(Let(kind, "place", f"{inside} ? ({kind}){place.text} : -1"))
        owned: list[Statement] = []
        owned_scope = update_scope.child(owned)
        inner: list[Statement] = []
        column = variable("x", columns, 3)
        inner_scope = owned_scope.child(inner)
        index = (at, *views.unflatten(column, node.shape[1:]))
        update = emitter.value(updates, index, inner_scope)
        target = emitter.parameter(node, written=True)
        here = f"{target.name}[place * {columns} + {opencl.index_text(column, emitter.wide)}]"
        value = update.text
        if node.arg[0] == "add":
            total = opencl.combine("sum", dtype, opencl.loaded(here, dtype), value)
            value = opencl.rounded(total, dtype)
        final = node in self.final
        inner.append(Assign(here, opencl.stored(value, dtype, final=final)))
        owned.append(Loop(kind, "x", first, last, inner))
        turns.append(If("place >= low && place < high", owned))
        top.body.append(Loop(kind, "u", "0", str(places.shape[0]), turns))
        columns_grid = blocks if self.target.is_cpu else -(-blocks // 32) * 32
        return top.body, (columns_grid, parts)


_TILE_SPEEDS = {
    4: ((GemmTile(4, 2, 4), 1.0),),
    8: ((GemmTile(6, 2, 8), 1.0), (GemmTile(8, 1, 8), 0.45)),
    16: ((GemmTile(8, 2, 16), 1.0), (GemmTile(8, 3, 16), 0.95), (GemmTile(16, 1, 16), 0.7)),
}
"""Register tiles by the device's vector width, with their speed relative to the first."""


def choose_tile(M: int, N: int, vector_floats: int) -> GemmTile:
    """The tile that computes M x N soonest, counting the rows and columns that pad it."""

    def cost(candidate: tuple[GemmTile, float]) -> float:
        tile, speed = candidate
        return -(-M // tile.mr) * tile.mr * -(-N // tile.nr) * tile.nr / speed

    width = 16 if vector_floats >= 16 else 8 if vector_floats >= 8 else 4
    return min(_TILE_SPEEDS[width], key=cost)[0]
