"""Loop nests: how the elements of a kernel are spread over work-items, on CPUs and on GPUs.

A CPU work-item is a work-group of its own and runs a block of elements in plain loops, the
innermost one over the last axis, which the driver's compiler vectorises. A GPU work-item computes
one element. The kernel families fill the scopes that these functions open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from flopmarket.engine import views
from flopmarket.engine.codegen.emit import BufferKey, Emitter
from flopmarket.engine.codegen.loops import If, Let, Line, Loop, Scope, Statement, render
from flopmarket.engine.codegen.opencl import OPAQUE, Target
from flopmarket.engine.graph import Shape
from flopmarket.engine.views import Index, Linear, variable

BLOCK_ELEMENTS = 4096
"""Elements of one CPU work-item of an elementwise kernel, where there are enough of them."""

MIN_BLOCK_ELEMENTS = 512
GPU_LOCAL_SIZE = 128
NAME = "KERNEL_NAME"
"""Stands for the kernel's name in :attr:`Call.text`; equal texts are one kernel."""


@dataclass(frozen=True, slots=True)
class Call:
    """One launch: kernel text with :data:`NAME` for its name, buffers in parameter order, sizes.

    ``written`` holds the positions of buffers that the kernel writes; ``needs_zero`` says that the
    ``uint`` 0 behind special literals follows the buffers; ``sizes`` are ``int`` arguments after
    that. ``flops`` and ``size_bytes`` are for the profile's table.
    """

    family: str
    text: str
    arguments: tuple[BufferKey, ...]
    written: frozenset[int]
    needs_zero: bool
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]
    flops: int = 0
    size_bytes: int = 0
    sizes: tuple[int, ...] = ()


def collapse(shape: Shape, index: Index, forms: Sequence[Linear]) -> Shape:
    """``shape`` with neighbouring axes joined wherever every access runs through them as through
    one.

    ``index`` holds the variables of ``shape``'s axes, ``forms`` the accesses made with them. Axes
    of length 1 vanish; the result has at least one axis.
    """
    nested = [inner for form in dict.fromkeys(forms) for inner in form.forms()]
    out: list[int] = []
    previous = None
    for n, form in zip(shape, index, strict=True):
        if n == 1:
            continue
        atom = form.terms[0][0]
        if previous is not None and all(
            f.coefficient(previous) == f.coefficient(atom) * n for f in nested
        ):
            out[-1] *= n
        else:
            out.append(n)
        previous = atom
    return tuple(out) or (1,)


def is_wide(forms: Sequence[Linear]) -> bool:
    """Whether some index needs 64 bits (with room for a rounded-up grid)."""
    limit = 2**31 - 2**20
    return any(
        max(abs(inner.low), abs(inner.high)) >= limit for form in forms for inner in form.forms()
    )


@dataclass(slots=True)
class Nest:
    """An open nest: fill ``scope`` at ``index`` (variables of the collapsed shape), then close."""

    top: Scope
    scope: Scope
    index: Index
    loops: list[Loop]
    body: list[Statement]
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]

    def close(self) -> list[Statement]:
        """Put the loops around what was filled in."""
        scope = self.scope
        for loop in reversed(self.loops):
            assert scope.parent is not None
            scope.parent.body.append(loop)
            scope = scope.parent
        return self.body


def elements(emitter: Emitter, shape: Shape, target: Target) -> Nest:
    """A nest with one turn per element of ``shape`` (collapsed)."""
    if not target.is_cpu:
        return _gpu_nest(emitter, shape)
    inner, outer, kind = shape[-1], prod(shape[:-1]), emitter.index_type
    total = inner * outer
    block = min(BLOCK_ELEMENTS, max(MIN_BLOCK_ELEMENTS, total // (4 * target.compute_units)))
    if inner < block:
        nest = rows(emitter, shape[:-1], max(1, block // inner), depth=0)
        start, stop = "0", str(inner)
    else:
        blocks = -(-inner // block)
        nest = rows(emitter, shape[:-1], 1, depth=0, axis=1)
        nest.global_size = (blocks, *nest.global_size[1:])
        start, stop = block_range(nest.top, kind, "x", block, inner, axis=0)
    body: list[Statement] = []
    nest.loops.append(Loop(kind, "x", start, stop, body))
    depth = nest.scope.depth + 1
    nest.scope = nest.scope.child(body)
    nest.index = (*nest.index, variable("x", inner, depth))
    return nest


def rows(emitter: Emitter, shape: Shape, per_item: int, *, depth: int = 0, axis: int = 0) -> Nest:
    """A nest with one turn per row of ``shape``, ``per_item`` rows for each CPU work-item.

    The scope of a turn is at depth 1. ``axis`` is the grid axis that counts blocks of rows.
    """
    kind = emitter.index_type
    total = prod(shape)
    top = Scope(depth, [])
    body: list[Statement] = []
    items = -(-total // per_item)
    start, stop = block_range(top, kind, "row", per_item, total, axis=axis)
    loop = Loop(kind, "row", start, stop, body)
    scope = top.child(body)
    index = decode(scope, kind, "row", shape)
    size = (items,) if axis == 0 else (*(1,) * axis, items)
    return Nest(top, scope, index, [loop], top.body, size, (1,) * len(size))


def block_range(
    top: Scope, kind: str, name: str, block: int, total: int, *, axis: int
) -> tuple[str, str]:
    """C text of where the block of this work-item begins and ends."""
    blocks = -(-total // block)
    if blocks == 1:
        return "0", str(total)
    top.body.append(Let(kind, f"{name}_first", f"({kind})get_global_id({axis}) * {block}"))
    start = f"{name}_first"
    if total % block == 0:
        return start, f"{start} + {block}"
    top.body.append(
        Let(kind, f"{name}_last", f"{start} + {block} < {total} ? {start} + {block} : {total}")
    )
    return start, f"{name}_last"


def decode(scope: Scope, kind: str, name: str, shape: Shape) -> Index:
    """Variables ``d0``, ``d1``, ... of ``shape``'s axes, from the flat C variable ``name``."""
    out: list[Linear] = []
    for at, (stride, n) in enumerate(zip(views.strides(shape), shape, strict=True)):
        if n > 1:
            text = name if stride == 1 else f"{name} / {stride}"
            if prod(shape[:at]) > 1:
                text = f"({text}) % {n}"
            scope.body.append(Let(kind, f"d{at}", text))
        out.append(variable(f"d{at}", n, scope.depth))
    return tuple(out)


def _gpu_nest(emitter: Emitter, shape: Shape) -> Nest:
    total, kind = prod(shape), emitter.index_type
    items = -(-total // GPU_LOCAL_SIZE) * GPU_LOCAL_SIZE
    top = Scope(0, [])
    top.body.append(Let(kind, "item", f"({kind})get_global_id(0)"))
    if items != total:
        top.body.append(If(f"item >= {total}", [Line("return;")]))
    index = decode(top, kind, "item", shape)
    return Nest(top, top, index, [], top.body, (items,), (GPU_LOCAL_SIZE,))


def make_call(
    family: str,
    emitter: Emitter,
    body: list[Statement],
    global_size: tuple[int, ...],
    local_size: tuple[int, ...],
    *,
    flops: int = 0,
) -> Call:
    """The finished call of an emitter's kernel."""
    return finish_call(
        family,
        emitter,
        signature(emitter, render(body), local_size),
        global_size,
        local_size,
        flops,
    )


def family_of(family: str, emitter: Emitter) -> str:
    """The family's name, which says so where the kernel computes in float64: the lint looks."""
    return f"{family}_f64" if emitter.has_float64 else family


def signature(emitter: Emitter, text: str, local_size: tuple[int, ...]) -> str:
    """A whole kernel definition around a body's text."""
    declared = [p.declaration() for p in emitter.parameters.values()]
    if OPAQUE in text:
        declared.append(f"const uint {OPAQUE}")
    x, y, z = (*local_size, 1, 1)[:3]
    return (
        f"__kernel __attribute__((reqd_work_group_size({x}, {y}, {z})))\n"
        f"void {NAME}({', '.join(declared)}) {{\n{text}\n}}\n"
    )


def finish_call(
    family: str,
    emitter: Emitter,
    text: str,
    global_size: tuple[int, ...],
    local_size: tuple[int, ...],
    flops: int = 0,
) -> Call:
    """The call of a kernel whose text is complete, arguments being the emitter's parameters."""
    keys = tuple(emitter.parameters)
    return Call(
        family_of(family, emitter),
        text,
        keys,
        frozenset(at for at, p in enumerate(emitter.parameters.values()) if p.written),
        OPAQUE in text,
        global_size,
        local_size,
        flops,
        sum(key.elements * key.dtype.size_bytes for key in keys),
    )
