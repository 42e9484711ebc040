"""REDUCE in the order of FX1 (docs/numerics.md §2): 64 lanes, blocks of 4096, a tree, the blocks.

A reduction of at most one block is one kernel, in one of two forms. The *row* form keeps 64 lanes
of one output and suits a reduced axis that is contiguous in memory; the *column* form keeps the
lanes of many neighbouring outputs at once and suits contiguous outputs (bias gradients). A longer
reduction first writes one result per block to a temporary, every block being a row of its own and
thus spread over work-items, and then reduces that temporary by the same rule. On a GPU a row is
one work-group's, and under FAST the order is another one (``grouped.py``).
"""

from __future__ import annotations

from math import prod

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter, Temp
from flopmarket.engine.codegen.folds import Finish, Fold, Source, accumulate, identity, tree_kind
from flopmarket.engine.codegen.grouped import fold_grouped
from flopmarket.engine.codegen.loops import (
    Array,
    Assign,
    Let,
    Loop,
    Scope,
    Statement,
    Value,
)
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.exact import REDUCE_BLOCK, REDUCE_LANES
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import ZERO, Index, Linear, variable

COLUMN_WIDTH = 64
"""Neighbouring outputs that one work-item of the column form keeps lanes of (16 KiB of floats)."""
ROW_ELEMENTS = 4096
"""Elements that one CPU work-item of the row form reduces, where rows are short."""


def lower_reduce(lowering: Lowering, kernel: Kernel) -> None:
    """Append the calls of a REDUCE kernel."""
    node = kernel.core
    assert node is not None
    kind, axes = node.arg
    x = node.src[0]
    reduced = tuple(x.shape[a] for a in axes)
    count = prod(reduced)

    def finish(emitter: Emitter, index: Index, result: Value, scope: Scope) -> None:
        flat = views.flatten(index, node.shape)
        if node.dtype.is_narrow_float:
            text = opencl.rounded(result.text, node.dtype)
            result = emitter.let(scope, node.dtype, text, result.depth)
        emitter.bind(node, flat, result)
        lowering.store_roots(emitter, kernel, flat, scope)

    if count == 0:
        _constant(lowering, kernel, node, finish)
        return

    def operands(emitter: Emitter, index: Index, at: Linear, scope: Scope) -> list[Value]:
        inside = iter(views.unflatten(at, reduced))
        kept = iter(index)
        whole = tuple(next(inside) if a in axes else next(kept) for a in range(len(x.shape)))
        return [emitter.value(s, whole, scope) for s in node.src]

    source: Source = operands
    while count > REDUCE_BLOCK:
        source, count = _blocks(lowering, kernel, kind, node, source, count)
        kind = "sum" if kind == "sumprod" else kind
    dtype = opencl.arithmetic_dtype(node.dtype)
    _fold(lowering, Fold(kernel, kind, dtype, node.shape, count, source, finish))


def _constant(lowering: Lowering, kernel: Kernel, node: Node, finish: Finish) -> None:
    identity = node.dtype.numpy.type(1 if node.arg[0] == "prod" else 0)
    value = Value(opencl.literal(identity, node.dtype), 0)
    lowering.per_element(
        "empty", kernel, node.shape, lambda emitter, index, s: finish(emitter, index, value, s)
    )


def _blocks(
    lowering: Lowering, kernel: Kernel, kind: str, node: Node, source: Source, count: int
) -> tuple[Source, int]:
    """Fold every block of every row into a temporary; the source that reads it, its row length."""
    blocks = -(-count // REDUCE_BLOCK)
    rows = node.elements
    dtype = opencl.arithmetic_dtype(node.dtype)
    temp = lowering.temp(dtype, rows * blocks)

    def stage(first: int, number: int, size: int) -> None:
        space = (*node.shape, number)

        def part(emitter: Emitter, index: Index, at: Linear, scope: Scope) -> list[Value]:
            return source(emitter, index[:-1], (index[-1] + first) * REDUCE_BLOCK + at, scope)

        def finish(emitter: Emitter, index: Index, result: Value, scope: Scope) -> None:
            row = views.flatten(index[:-1], node.shape)
            emitter.store(temp, row * blocks + index[-1] + first, result.text, scope, False)

        _fold(lowering, Fold(kernel, kind, dtype, space, size, part, finish))

    whole, rest = divmod(count, REDUCE_BLOCK)
    stage(0, whole, REDUCE_BLOCK)
    if rest:
        stage(whole, 1, rest)
    return _read(temp, node.shape, blocks), blocks


def _read(temp: Temp, shape: Shape, count: int) -> Source:
    def source(emitter: Emitter, index: Index, at: Linear, scope: Scope) -> list[Value]:
        return [emitter.load(temp, views.flatten(index, shape) * count + at, scope)]

    return source


# ---------------------------------------------------------------- one stage


def _fold(lowering: Lowering, fold: Fold) -> None:
    shape, wide, columns = _probe(lowering, fold)
    emitter = lowering.emitter(fold.kernel, wide=wide)
    is_cpu = lowering.target.is_cpu
    if not is_cpu and fold_grouped(lowering, fold, emitter, shape, columns=columns):
        return
    if columns and is_cpu:
        body, size = _columns(lowering, fold, emitter, shape)
    else:
        body, size = _rows(lowering, fold, emitter, shape)
    flops = prod(fold.space) * fold.size
    local = (1,) * len(size)
    lowering.calls.append(nests.make_call("reduce", emitter, body, size, local, flops=flops))


def _probe(lowering: Lowering, fold: Fold) -> tuple[Shape, bool, bool]:
    """The collapsed row space, whether indices are wide, whether the column form suits better."""
    scratch = lowering.emitter(fold.kernel, wide=True)
    index = views.space_index("s", fold.space, [0] * len(fold.space))
    scope = Scope(0, [])
    lane = variable("j", min(REDUCE_LANES, fold.size), 0)
    turn = variable("t", -(-fold.size // REDUCE_LANES), 0)
    fold.source(scratch, index, turn * REDUCE_LANES + lane, scope)
    loads = list(scratch.forms)
    fold.finish(scratch, index, Value("result", 0), scope)
    shape = nests.collapse(fold.space, index, scratch.forms)
    last = next((form for form in reversed(index) if form.terms), ZERO)
    along = sum(1 for f in loads if lane.terms and f.coefficient(lane.terms[0][0]) == 1)
    across = sum(1 for f in loads if last.terms and f.coefficient(last.terms[0][0]) == 1)
    columns = across > along and shape[-1] >= 8
    return shape, nests.is_wide(scratch.forms), columns


def _tree_steps(lanes: int) -> list[tuple[int, int]]:
    """(step, live lanes) of the tree over ``lanes`` lanes; a missing lane is skipped."""
    steps = []
    step = REDUCE_LANES // 2
    while step:
        live = max(0, min(step, lanes - step))
        if live:
            steps.append((step, live))
        lanes = min(lanes, step)
        step //= 2
    return steps


def _column_tree(fold: Fold, kind: str, lanes: int, width: int, live_columns: str) -> Loop:
    """The same tree over the lanes of ``width`` columns, as one loop over its steps: it is short
    beside what came before, and a loop for each step took drivers long to compile."""
    target = f"lane[j * {width} + w]"
    text = opencl.combine(tree_kind(fold), fold.dtype, target, f"lane[(j + step) * {width} + w]")
    half = REDUCE_LANES // 2
    present = f"{REDUCE_LANES} >> level"
    body: list[Statement] = [
        Let(kind, "step", f"{half} >> level"),
        Let(kind, "present", f"{present} < {lanes} ? {present} : {lanes}"),
        Let(kind, "live_lanes", "present - step < step ? present - step : step"),
    ]
    columns = Loop(kind, "w", "0", live_columns, [Assign(target, text)])
    body.append(Loop(kind, "j", "0", "live_lanes", [columns]))
    return Loop(kind, "level", "0", str(half.bit_length()), body)


def _phases(size: int) -> list[tuple[int, int, int]]:
    """(first turn, end of turns, lanes) of the loops that cover a row of ``size``."""
    chunks, tail = divmod(size, REDUCE_LANES)
    phases = [(0, chunks, REDUCE_LANES)] if chunks else []
    if tail:
        phases.append((chunks, chunks + 1, tail))
    return phases


def _turn(start: int, stop: int, size: int, depth: int) -> Linear:
    """The form of the turn counter: a constant where there is one turn."""
    if stop - start == 1:
        return views.constant(start)
    return variable("t", -(-size // REDUCE_LANES), depth)


def _rows(
    lowering: Lowering, fold: Fold, emitter: Emitter, shape: Shape
) -> tuple[list[Statement], tuple[int, ...]]:
    kind, dtype = emitter.index_type, fold.dtype
    register = opencl.register_type(dtype)
    per_item = max(1, ROW_ELEMENTS // fold.size) if lowering.target.is_cpu else 1
    units = 4 * lowering.target.compute_units
    per_item = max(1, min(per_item, -(-prod(shape) // units)))
    nest = nests.rows(emitter, shape, per_item)
    scope = nest.scope
    index = views.unflatten(views.flatten(nest.index, shape), fold.space)
    scope.body.append(Array(register, "lane", min(REDUCE_LANES, fold.size)))
    single = fold.size <= REDUCE_LANES
    if not single:
        begin = [Assign("lane[j]", identity(fold))]
        scope.body.append(Loop(kind, "j", "0", str(REDUCE_LANES), [*begin]))
    for start, stop, lanes in _phases(fold.size):
        turns: list[Statement] = []
        turn_scope = scope.child(turns)
        turn = _turn(start, stop, fold.size, turn_scope.depth)
        inner: list[Statement] = []
        lane_scope = turn_scope.child(inner)
        at = turn * REDUCE_LANES + variable("j", lanes, lane_scope.depth)
        values = fold.source(emitter, index, at, lane_scope)
        inner.append(Assign("lane[j]", accumulate(fold, "lane[j]", values, single)))
        turns.append(Loop(kind, "j", "0", str(lanes), inner))
        scope.body.append(Loop(kind, "t", str(start), str(stop), turns))
    for step, live in _tree_steps(min(REDUCE_LANES, fold.size)):
        text = opencl.combine(tree_kind(fold), dtype, "lane[j]", f"lane[j + {step}]")
        scope.body.append(Loop(kind, "j", "0", str(live), [Assign("lane[j]", text)]))
    scope.body.append(Let(register, "result", "lane[0]"))
    fold.finish(emitter, index, Value("result", scope.depth), scope)
    return nest.close(), nest.global_size


def _columns(
    lowering: Lowering, fold: Fold, emitter: Emitter, shape: Shape
) -> tuple[list[Statement], tuple[int, ...]]:
    kind, dtype = emitter.index_type, fold.dtype
    register = opencl.register_type(dtype)
    count = shape[-1]
    width = min(COLUMN_WIDTH, count)
    blocks = -(-count // width)
    nest = nests.rows(emitter, shape[:-1], 1, axis=1)
    scope = nest.scope
    nest.top.body.append(Let(kind, "cb", f"({kind})get_global_id(0)"))
    block = variable("cb", blocks, 0)
    live_columns = str(width)
    if count % width:
        left = f"{count} - cb * {width}"
        nest.top.body.append(Let(kind, "live", f"{left} < {width} ? {left} : {width}"))
        live_columns = "live"

    def index_at(at: Scope) -> Index:
        # A name of its own, so that its range is the axis and not whole blocks.
        text = emitter.index(block * width + variable("w", width, at.depth))
        at.body.append(Let(kind, "column", text))
        column = variable("column", count, at.depth)
        return views.unflatten(views.flatten((*nest.index, column), shape), fold.space)

    lanes_total = min(REDUCE_LANES, fold.size)
    scope.body.append(Array(register, "lane", lanes_total * width))
    single = fold.size <= REDUCE_LANES
    if not single:
        begin = [Assign("lane[i]", identity(fold))]
        scope.body.append(Loop(kind, "i", "0", str(lanes_total * width), [*begin]))
    for start, stop, lanes in _phases(fold.size):
        turns: list[Statement] = []
        turn_scope = scope.child(turns)
        turn = _turn(start, stop, fold.size, turn_scope.depth)
        each: list[Statement] = []
        lane_scope = turn_scope.child(each)
        inner: list[Statement] = []
        column_scope = lane_scope.child(inner)
        at = turn * REDUCE_LANES + variable("j", lanes, lane_scope.depth)
        values = fold.source(emitter, index_at(column_scope), at, column_scope)
        target = f"lane[j * {width} + w]"
        inner.append(Assign(target, accumulate(fold, target, values, single)))
        each.append(Loop(kind, "w", "0", live_columns, inner))
        turns.append(Loop(kind, "j", "0", str(lanes), each))
        scope.body.append(Loop(kind, "t", str(start), str(stop), turns))
    scope.body.append(_column_tree(fold, kind, lanes_total, width, live_columns))
    inner = []
    column_scope = scope.child(inner)
    inner.append(Let(register, "result", "lane[w]"))
    result = Value("result", column_scope.depth)
    fold.finish(emitter, index_at(column_scope), result, column_scope)
    scope.body.append(Loop(kind, "w", "0", live_columns, inner))
    return nest.close(), (blocks, *nest.global_size[1:])
