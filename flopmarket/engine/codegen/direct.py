"""DOT straight from its operands: any shape, a valid length, every dtype, all fused around it.

``contract.py`` sends here what packing would not pay for: depthwise convolutions, products with few
rows or columns, and rows with a valid length. A CPU work-item accumulates a block of neighbouring
outputs at once. Outputs are neighbours along N, or along M where that is much the longer axis; if
the operands see that axis as rows of an image, a block stays in one row, so that what it reads is
contiguous and the window's taps are loops of their own instead of quotients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter, Temp
from flopmarket.engine.codegen.laying import lay_operands
from flopmarket.engine.codegen.loops import Array, Assign, Let, Loop, Scope, Statement, Value
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import ZERO, Index, Linear, variable

BLOCK = 64
"""Neighbouring outputs that one work-item accumulates."""
VECTOR = 16
"""Blocks are multiples of it where the axis is longer."""
MIN_RUN = 8
"""Outputs of a row of an image from which blocks stay inside rows."""
ITEM_FMAS = 32 * 1024
"""Work of one CPU work-item, where there is enough of it."""


def lower_direct(lowering: Lowering, kernel: Kernel, node: Node) -> None:
    """Append the call of a DOT kernel that reads its operands where they are."""
    laid = lay_operands(lowering, kernel, node)
    scratch = lowering.emitter(kernel, wide=True)
    whole = (node.src[0].shape[2],)
    flat = _Direct(lowering, kernel, node, scratch, _inner_length(node), whole, laid)
    flat.body()
    run, taps = flat.inner, flat.taps
    if lowering.target.is_cpu:
        run, taps = _rows(scratch.forms, run), _taps(scratch.forms, taps[0])
    emitter = lowering.emitter(kernel, wide=nests.is_wide(scratch.forms))
    body, size, local = _Direct(lowering, kernel, node, emitter, run, taps, laid).body()
    flops = 2 * node.elements * node.src[0].shape[2]
    lowering.calls.append(nests.make_call("dot", emitter, body, size, local, flops=flops))


def _is_along_m(node: Node) -> bool:
    return node.shape[2] < 8 < node.shape[1]


def _inner_length(node: Node) -> int:
    return node.shape[1] if _is_along_m(node) else node.shape[2]


def _rows(forms: Iterable[Linear], count: int) -> int:
    """How many neighbouring outputs form a row."""
    return next((by for by in views.divisors(forms, "lane", count) if by >= MIN_RUN), count)


def _taps(forms: Iterable[Linear], count: int) -> tuple[int, ...]:
    """The axes that K consists of, outermost first: the taps of a window. One chunk's at most."""
    if count > DOT_CHUNK:
        return (count,)
    axes: list[int] = []
    step = 1
    for by in views.divisors(forms, "k0", count):
        if by % step == 0:
            axes.append(by // step)
            step = by
    return (count // step, *reversed(axes))


@dataclass(slots=True)
class _Direct:
    """One rendering of the kernel. ``run`` neighbouring outputs form a row; ``taps`` are K's axes.

    A row of the nest is one index of the outer axis and one block of a row.
    """

    lowering: Lowering
    kernel: Kernel
    node: Node
    emitter: Emitter
    run: int
    taps: tuple[int, ...]
    laid: Mapping[Node, Temp]

    @property
    def inner(self) -> int:
        """Outputs along the axis of neighbours."""
        return _inner_length(self.node)

    @property
    def width(self) -> int:
        """Outputs of a block: equal ones that cover a row with little overlap."""
        if not self.lowering.target.is_cpu:
            return 1
        blocks = -(-self.run // BLOCK)
        return min(self.run, -(-self.run // (blocks * VECTOR)) * VECTOR)

    def body(self) -> tuple[list[Statement], tuple[int, ...], tuple[int, ...]]:
        """Statements, global and local size."""
        emitter, node, width = self.emitter, self.node, self.width
        batch, M, N = node.shape
        K = node.src[0].shape[2]
        blocks = -(-self.run // width)
        outer = N if _is_along_m(node) else M
        space: Shape = (batch, outer, self.inner // self.run, blocks)
        kind, register = emitter.index_type, opencl.register_type(node.dtype)
        target = self.lowering.target
        if target.is_cpu:
            per_item = max(1, ITEM_FMAS // max(1, width * K))
            per_item = max(1, min(per_item, prod(space) // (4 * target.compute_units)))
            nest = nests.rows(emitter, space, per_item)
        else:
            nest = nests.elements(emitter, space, target)
        scope = nest.scope
        b, o, row, block = nest.index
        begin = emitter.index(block * width)
        if self.run % width:
            # The last block of a row starts early, and computes some outputs once more.
            begin = f"{begin} < {self.run - width} ? {begin} : {self.run - width}"
        scope.body.append(Let(kind, "begin", begin))
        place = _Place(o, row * self.run, self.run, kind, _is_along_m(node))
        scope.body.append(Array(register, "chunk", width))
        zero = opencl.literal(node.dtype.numpy.type(0), node.dtype)
        inner: list[Statement] = []
        inner_scope = scope.child(inner)
        if 0 < K <= DOT_CHUNK and len(node.src) == 2:
            scope.body.append(self._each("chunk[w]", zero))
            scope.body.append(self._taps(scope, b, place))
            total = opencl.combine("sum", node.dtype, zero, "chunk[w]")
            inner.append(Let(register, "result", total))
        else:
            scope.body.append(Array(register, "total", width))
            scope.body.append(self._each("total[w]", zero))
            if K:
                scope.body.append(self._chunks(scope, b, place, zero))
            inner.append(Let(register, "result", "total[w]"))
        m, n = place.at(inner_scope)
        flat = views.flatten((b, m, n), node.shape)
        emitter.bind(node, flat, Value("result", inner_scope.depth))
        self.lowering.store_roots(emitter, self.kernel, flat, inner_scope)
        scope.body.append(Loop(kind, "w", "0", str(width), inner))
        return nest.close(), nest.global_size, nest.local_size

    def _each(self, target: str, value: str) -> Loop:
        kind = self.emitter.index_type
        return Loop(kind, "w", "0", str(self.width), [Assign(target, value)])

    def _terms(
        self, scope: Scope, b: Linear, k: Linear, place: _Place, condition: str = ""
    ) -> Loop:
        """One term for every output of the block, where ``condition`` of the output holds."""
        emitter, node = self.emitter, self.node
        each: list[Statement] = []
        vector_scope = scope.child(each)
        m, n = place.at(vector_scope)
        a_value = self._element(node.src[0], (b, m, k), vector_scope)
        b_value = self._element(node.src[1], (b, k, n), vector_scope)
        text = opencl.multiply_add(node.dtype, a_value, b_value, "chunk[w]")
        if condition:
            count = emitter.value(node.src[2], (b, m), vector_scope)
            text = f"{condition} < {count.text} ? {text} : chunk[w]"
        each.append(Assign("chunk[w]", text))
        return Loop(emitter.index_type, "w", "0", str(self.width), each)

    def _element(self, source: Node, index: Index, scope: Scope) -> Value:
        """An element of an operand, from where it was laid or where it is."""
        temp = self.laid.get(source)
        if temp is None:
            return self.emitter.value(source, index, scope)
        shared = temp.elements < source.elements
        flat = views.flatten((ZERO, *index[1:]) if shared else index, source.shape)
        return self.emitter.load(temp, flat, scope)

    def _taps(self, scope: Scope, b: Linear, place: _Place) -> Loop:
        """All terms as one chunk, in nested loops over K's axes in row-major order."""
        kind = self.emitter.index_type
        loops: list[Loop] = []
        k = ZERO
        for axis, count in enumerate(self.taps):
            loop = Loop(kind, f"k{axis}", "0", str(count), [])
            scope = scope.child(loop.body)
            k = k * count + variable(loop.name, count, scope.depth)
            loops.append(loop)
        loops[-1].body.append(self._terms(scope, b, k, place))
        for outer, inner in pairwise(loops):
            outer.body.append(inner)
        return loops[0]

    def _chunks(self, scope: Scope, b: Linear, place: _Place, zero: str) -> Loop:
        """K in chunks whose sums are added up, terms beyond the valid length being skipped."""
        emitter, node = self.emitter, self.node
        kind, K = emitter.index_type, node.src[0].shape[2]
        chunk_body: list[Statement] = []
        chunk_scope = scope.child(chunk_body)
        turns: list[Statement] = []
        turn_scope = chunk_scope.child(turns)
        k = variable("k", K, turn_scope.depth)
        stop, condition = "stop", ""
        chunk_body.append(Let(kind, "stop", f"c + {DOT_CHUNK} < {K} ? c + {DOT_CHUNK} : {K}"))
        if len(node.src) == 3 and place.along_m:
            condition = "k"
        elif len(node.src) == 3:
            count = emitter.value(node.src[2], (b, place.outer), scope)
            # Terms beyond the valid length are skipped, whatever they hold.
            chunk_body.append(Let(kind, "valid", f"{count.text} < stop ? {count.text} : stop"))
            stop = "valid"
        turns.append(self._terms(turn_scope, b, k, place, condition))
        chunk_body.append(self._each("chunk[w]", zero))
        chunk_body.append(Loop(kind, "k", "c", stop, turns))
        total = opencl.combine("sum", node.dtype, "total[w]", "chunk[w]")
        chunk_body.append(self._each("total[w]", total))
        return Loop(kind, "c", "0", str(K), chunk_body, str(DOT_CHUNK))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where output ``w`` of the block lies: ``row + begin + w`` along one axis, ``outer`` along the
    other."""

    outer: Linear
    row: Linear
    run: int
    kind: str
    along_m: bool

    def at(self, scope: Scope) -> tuple[Linear, Linear]:
        """(m, n) of the output, whose number in the row gets a name in ``scope``."""
        # A name of its own, so that its range is the row and not whole blocks.
        scope.body.append(Let(self.kind, "lane", "begin + w"))
        v = self.row + variable("lane", self.run, scope.depth)
        return (v, self.outer) if self.along_m else (self.outer, v)
