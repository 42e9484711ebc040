"""Packing of operands that lie in memory as matrices: one kernel for those of all sizes.

Weights above all are read as they are, and a model has dozens of shapes of them. Here the sizes and
strides are arguments of the kernel, so that a model builds one or two kernels for all its weights;
``pack.py`` asks this module first.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.engine import views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Temp
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.nest import Call
from flopmarket.engine.codegen.templates.gemm import UNROLL, GemmSpec
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import Index, variable

STEPS = 64
"""k steps that one work-item packs."""

_SIZES = (
    *("count", "terms", "steps"),
    *("batch_stride", "lane_stride", "k_stride", "offset"),
    "panels_first",
)
"""The kernel's sizes: rows of A or columns of B, K, K padded; where an element lies; and whether
the grid's first axis counts panels."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Element (b, x, k) of an operand is number ``offset`` plus strides of ``node``."""

    node: Node
    offset: int
    batch: int
    lane: int
    k: int


def pack_plain(
    lowering: Lowering,
    kernel: Kernel,
    spec: GemmSpec,
    operand: str,
    source: Node,
    shared: bool,
    temp: Temp,
) -> Call | None:
    """The launch that fills ``temp``, or None where ``source`` is no matrix in memory."""
    matrix = matrix_of(lowering, kernel, operand, source)
    if matrix is None:
        return None
    width = spec.tile.mr if operand == "a" else spec.tile.nr
    count = spec.M if operand == "a" else spec.N
    steps = max(spec.padded_k, UNROLL)
    items, panels = -(-steps // STEPS), -(-count // width)
    batch = 1 if shared else source.shape[0]
    panels_first = count < spec.K
    lane = "lane" if matrix.lane == 1 else "lane * lane_stride"
    k = "k" if matrix.k == 1 else "k * k_stride"
    emitter = lowering.emitter(kernel, wide=False)
    out = emitter.parameter(temp, written=True)
    element = opencl.loaded(f"from[{k} + {lane}]", matrix.node.dtype)
    given = emitter.parameter(matrix.node)
    given_type = matrix.node.dtype.c_name
    sizes = ", ".join(f"const int {name}" for name in _SIZES)
    text = f"""__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void {nests.NAME}({out.declaration()}, {given.declaration()}, {sizes}) {{
    const int first_axis = (int)get_global_id(0);
    const int second_axis = (int)get_global_id(1);
    const int panel = panels_first != 0 ? first_axis : second_axis;
    const int k_first = (panels_first != 0 ? second_axis : first_axis) * {STEPS};
    const int k_end = k_first + {STEPS} < steps ? k_first + {STEPS} : steps;
    const int k_last = k_end < terms ? k_end : terms;
    const int b = (int)get_global_id(2);
    const int x0 = panel * {width};
    const int left = count - x0 < {width} ? count - x0 : {width};
    const int start = offset + b * batch_stride + x0 * lane_stride;
    const int base = (b * ((count + {width - 1}) / {width}) + panel) * steps * {width};
    __global const {given_type}* from = {given.name} + start;
    __global float* to = {out.name} + base;
    if (left < {width} || k_end > terms) {{
        for (int at = k_first * {width}; at < k_end * {width}; at += 1) {{
            to[at] = 0.0f;
        }}
    }}
    if (left == {width}) {{
        for (int k = k_first; k < k_last; k += 1) {{
            for (int lane = 0; lane < {width}; lane += 1) {{
                to[k * {width} + lane] = {element};
            }}
        }}
    }} else {{
        for (int k = k_first; k < k_last; k += 1) {{
            for (int lane = 0; lane < left; lane += 1) {{
                to[k * {width} + lane] = {element};
            }}
        }}
    }}
}}
"""
    size = (panels, items, batch) if panels_first else (items, panels, batch)
    return Call(
        "pack",
        text,
        (temp, matrix.node),
        frozenset({0}),
        False,
        size,
        (1, 1, 1),
        0,
        (temp.elements + matrix.node.elements) * 4,
        (
            *(count, spec.K, steps),
            *(matrix.batch, matrix.lane, matrix.k, matrix.offset),
            int(panels_first),
        ),
    )


def matrix_of(lowering: Lowering, kernel: Kernel, operand: str, source: Node) -> Matrix | None:
    """How the operand lies in memory, if views alone lead to it."""
    batch, rows, columns = source.shape
    x, k = (rows, columns) if operand == "a" else (columns, rows)
    forms = variable("b", batch, 0), variable("x", x, 2), variable("k", k, 1)
    index: Index = forms if operand == "a" else (forms[0], forms[2], forms[1])
    is_stored = lowering.is_stored(kernel)
    node = source
    while not is_stored(node):
        if node.op is not Op.VIEW:
            return None
        index, guards = views.through(node, index)
        if guards:
            return None
        node = node.src[0]
    if node.op is Op.INPUT and node.arg[0] == "item":
        return None  # a slice of a loop's source moves with the turn
    flat = views.unbound(views.flatten(index, node.shape))
    if any(atom.kind != "var" for atom, _ in flat.terms) or nests.is_wide((flat,)):
        return None
    strides = [flat.coefficient(form.terms[0][0]) if form.terms else 0 for form in forms]
    return Matrix(node, flat.constant, *strides)
