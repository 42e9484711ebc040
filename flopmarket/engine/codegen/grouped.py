"""REDUCE on a GPU: one row for a work-group, or one output for a work-item.

Where neighbours in memory are elements of a row, a group reads a row together and folds what its
work-items have summed up in a tree: with 64 of them, each a lane, that is the order of FX1. Where
neighbours are outputs, or rows are short, every work-item folds an output of its own, under FAST in
a few sums side by side. The shapes alone decide about the order.
"""

from __future__ import annotations

from math import prod

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter
from flopmarket.engine.codegen.folds import Fold, accumulate, identity, tree_kind
from flopmarket.engine.codegen.loops import (
    Assign,
    If,
    Let,
    Line,
    Loop,
    Scope,
    Statement,
    Value,
    Variable,
)
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.exact import REDUCE_LANES
from flopmarket.engine.graph import Shape
from flopmarket.engine.views import variable

GROUP_SIZES = (128, 64, 32)
"""Work-items of a group under FAST, the best first; a row has at least as many elements."""
SUMS = 4
"""Sums side by side of a work-item that folds alone."""


def fold_grouped(
    lowering: Lowering, fold: Fold, emitter: Emitter, shape: Shape, *, columns: bool
) -> bool:
    """Append the call of one stage, if it is computed here.

    ``columns``: neighbours in memory are outputs.
    """
    target = lowering.target
    sizes = GROUP_SIZES if target.is_fast else (REDUCE_LANES,)
    local = next((size for size in sizes if size <= fold.size), 0)
    if local and target.can_group and not columns:
        body, size, items = _together(fold, emitter, shape, local)
    elif target.is_fast:
        body, size, items = _alone(lowering, fold, emitter, shape)
    else:
        return False
    flops = prod(fold.space) * fold.size
    lowering.calls.append(nests.make_call("reduce", emitter, body, size, items, flops=flops))
    return True


Body = tuple[list[Statement], tuple[int, ...], tuple[int, ...]]
"""Statements, global and local size."""


def _together(fold: Fold, emitter: Emitter, shape: Shape, local: int) -> Body:
    kind, register = emitter.index_type, opencl.register_type(fold.dtype)
    top = Scope(0, [])
    top.body += [
        Line(f"__local {_stored(register)} part[{local}];"),
        Let(kind, "row", f"({kind})get_group_id(0)"),
        Let("int", "lane", "(int)get_local_id(0)"),
    ]
    index = views.unflatten(views.flatten(nests.decode(top, kind, "row", shape), shape), fold.space)
    top.body.append(Variable(register, "mine", identity(fold)))
    whole, rest = divmod(fold.size, local)
    turns: list[Statement] = []
    scope = top.child(turns)
    at = variable("t", whole, scope.depth) * local + variable("lane", local, 0)
    values = fold.source(emitter, index, at, scope)
    turns.append(Assign("mine", accumulate(fold, "mine", values)))
    top.body.append(Loop(kind, "t", "0", str(whole), turns))
    if rest:
        tail: list[Statement] = []
        scope = top.child(tail)
        # A name of its own, whose range ends with the row.
        tail.append(Let(kind, "last", "lane"))
        at = views.constant(whole * local) + variable("last", rest, scope.depth)
        values = fold.source(emitter, index, at, scope)
        tail.append(Assign("mine", accumulate(fold, "mine", values)))
        top.body.append(If(f"lane < {rest}", tail))
    top.body.append(Assign("part[lane]", "mine"))
    step = local // 2
    while step:
        text = opencl.combine(tree_kind(fold), fold.dtype, "part[lane]", f"part[lane + {step}]")
        top.body.append(Line("barrier(CLK_LOCAL_MEM_FENCE);"))
        top.body.append(If(f"lane < {step}", [Assign("part[lane]", text)]))
        step //= 2
    done: list[Statement] = [Let(register, "result", "part[0]")]
    scope = top.child(done)
    fold.finish(emitter, index, Value("result", scope.depth), scope)
    top.body.append(If("lane == 0", done))
    return top.body, (prod(shape) * local,), (local,)


def _alone(lowering: Lowering, fold: Fold, emitter: Emitter, shape: Shape) -> Body:
    kind, register = emitter.index_type, opencl.register_type(fold.dtype)
    nest = nests.elements(emitter, shape, lowering.target)
    top = nest.scope
    index = views.unflatten(views.flatten(nest.index, shape), fold.space)
    lanes = min(SUMS, fold.size)
    whole, rest = divmod(fold.size, lanes)
    top.body += [Variable(register, f"sum{lane}", identity(fold)) for lane in range(lanes)]
    turns: list[Statement] = []
    scope = top.child(turns)
    turn = variable("t", whole, scope.depth)
    for lane in range(lanes):
        values = fold.source(emitter, index, turn * lanes + lane, scope)
        turns.append(Assign(f"sum{lane}", accumulate(fold, f"sum{lane}", values)))
    top.body.append(Loop(kind, "t", "0", str(whole), turns))
    for lane in range(rest):
        values = fold.source(emitter, index, views.constant(whole * lanes + lane), top)
        top.body.append(Assign(f"sum{lane}", accumulate(fold, f"sum{lane}", values)))
    for lane in range(1, lanes):
        text = opencl.combine(tree_kind(fold), fold.dtype, "sum0", f"sum{lane}")
        top.body.append(Assign("sum0", text))
    top.body.append(Let(register, "result", "sum0"))
    fold.finish(emitter, index, Value("result", top.depth), top)
    return nest.close(), nest.global_size, nest.local_size


def _stored(register: str) -> str:
    """C type of a register in local memory."""
    return "uchar" if register == "bool" else register
