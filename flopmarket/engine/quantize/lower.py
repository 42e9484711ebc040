"""A float product by constant weights as integer DOTs, on the graph.

An activation is coded where it comes into being, below the views (windows of a convolution, heads
of an attention) through which the product reads it; padding then stands for the code of 0. Order of
every computation: codes = clamp(rne(x * (1 / scale)) + zero), the integer DOT, the zero point's
correction in integers, one conversion to float32, one multiplication by the scales. At 4 bits every
group has an integer DOT and the groups are summed by a float DOT with their scales (numerics.md
§2).
"""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import bool_, float32, int8
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.quantize.ranges import Coding
from flopmarket.engine.quantize.weights import INT4_ZERO

_ROUND = 12582912.0
"""1.5 * 2^23: beside it float32 has no fraction, so adding it rounds to nearest even. Products
beyond 2^22 are far outside every code and stay there."""

_PUSHED = ("reshape", "permute", "expand", "slice", "window", "pad")


def site(operand: Node) -> Node:
    """The node below the views of ``operand`` where it is coded: the deepest of fewest elements."""
    best = node = operand
    while node.op is Op.VIEW and node.arg[0] in _PUSHED:
        node = node.src[0]
        if node.elements <= best.elements:
            best = node
    return best


def coded(operand: Node, coding: Coding) -> Node:
    """``operand`` in codes of a static ``coding``."""
    start = site(operand)
    return through_views(operand, start, _static(start, coding), coding.zero_point)


def through_views(operand: Node, start: Node, codes: Node, zero_point: int | Node) -> Node:
    """The views that lead from ``start`` to ``operand`` over ``codes``, padding with the zero."""
    views = []
    node = operand
    while node is not start:
        views.append(node)
        node = node.src[0]
    for view in reversed(views):
        if view.arg[0] == "pad":
            codes = _padded(codes, view.arg[1], zero_point)
        else:
            codes = graph.make(Op.VIEW, (codes,), view.arg, codes.dtype, view.shape)
    return codes


def _padded(codes: Node, amounts: tuple[tuple[int, int], ...], zero_point: int | Node) -> Node:
    padded = graph.pad(codes, amounts)
    if isinstance(zero_point, int) and zero_point == 0:
        return padded
    inside = graph.pad(graph.filled(True, bool_, codes.shape), amounts)
    if isinstance(zero_point, int):
        border = like(zero_point, padded)
    else:
        border = compose.broadcast_to(graph.reshape(zero_point, ()), padded.shape)
    return graph.where(inside, padded, border)


def _static(x: Node, coding: Coding) -> Node:
    x = graph.cast(x, float32)
    steps = graph.fma(x, like(1.0 / coding.scale, x), like(_ROUND, x))
    return graph.cast(graph.add(steps, like(coding.zero_point - _ROUND, x)), coding.dtype)


def coded_rows(operand: Node) -> tuple[Node, Node]:
    """[B, M, K] as (int8 codes, float32 scales [B, M, 1]), each row over its own largest magnitude.

    A row of zeros has scale 0; NaN and infinity make the scale, and so the result, NaN.
    """
    x = graph.cast(operand, float32)
    top = compose.fold("max", compose.absolute(x), (2,), keep=True)
    inverse = graph.expand(graph.div(like(127.0, top), top), x.shape)
    steps = graph.fma(x, inverse, like(_ROUND, x))
    codes = graph.cast(graph.add(steps, like(-_ROUND, x)), int8)
    return codes, graph.mul(top, like(1.0 / 127.0, top))


def int8_product(
    codes: Node,
    weight: Node,
    factor: Node,
    correction: Node | None = None,
    valid: Node | None = None,
) -> Node:
    """[B, M, K] codes by int8 [W, N, K] to float32 [B, M, N]; W is B, or 1 for all alike.

    ``factor`` float32 and ``correction`` int32 are [W, N].
    """
    batch = codes.shape[0]
    right = compose.swap(_for_all(weight, batch), 1, 2)
    total = graph.dot(codes, right, valid)
    if correction is not None:
        total = graph.add(total, graph.cast(_columns(correction, total), total.dtype))
    return graph.mul(graph.cast(total, float32), _columns(factor, total))


def int4_product(codes: Node, packed: Node, factor: Node, correction: Node | None = None) -> Node:
    """[B, M, K] codes by packed uint8 [W, N, G, group / 2] to float32 [B, M, N].

    ``factor`` float32 and ``correction`` int32 are [W, N, G].
    """
    (batch, rows, terms), (_, columns, groups, half) = codes.shape, packed.shape
    group = 2 * half
    weight = _for_all(unpacked(packed), batch)
    codes = graph.pad(codes, [(0, 0), (0, 0), (0, groups * group - terms)])
    left = graph.permute(graph.reshape(codes, (batch, rows, groups, group)), (0, 2, 1, 3))
    right = graph.permute(weight, (0, 2, 3, 1))
    total = graph.dot(
        graph.reshape(left, (batch * groups, rows, group)),
        graph.reshape(right, (batch * groups, group, columns)),
    )
    if correction is not None:
        shift = compose.swap(_for_all(correction, batch), 1, 2)
        shift = graph.reshape(shift, (batch * groups, 1, columns))
        total = graph.add(total, graph.cast(graph.expand(shift, total.shape), total.dtype))
    parts = graph.cast(total, float32)
    if groups == 1:
        return graph.mul(parts, _columns(graph.reshape(factor, factor.shape[:2]), parts))
    sums = graph.reshape(parts, (batch, groups, rows, columns))
    left = graph.reshape(graph.permute(sums, (0, 3, 2, 1)), (batch * columns, rows, groups))
    scales = graph.reshape(_for_all(factor, batch), (batch * columns, groups, 1))
    product = graph.reshape(graph.dot(left, scales), (batch, columns, rows))
    return compose.swap(product, 1, 2)


def unpacked(packed: Node) -> Node:
    """uint8 [..., half] as int8 codes -8..7 [..., 2 * half]: low nibbles, then high ones."""
    low = graph.bit("and", packed, like(15, packed))
    high = graph.bit("shr", packed, like(4, packed))
    both = graph.cast(graph.concat([low, high], len(packed.shape) - 1), int8)
    return graph.add(both, like(-INT4_ZERO, both))


def table_rows(codes: Node, scales: Node, index: Node) -> Node:
    """Rows ``index`` of an int8 table [R, ...] with float32 ``scales`` [R], as float32."""
    rows = graph.cast(graph.gather(codes, index, 0), float32)
    step = graph.gather(scales, index, 0)
    inner = (*step.shape, *(1 for _ in range(len(rows.shape) - len(step.shape))))
    return graph.mul(rows, graph.expand(graph.reshape(step, inner), rows.shape))


def _for_all(x: Node, batch: int) -> Node:
    """[1 or B, ...] seen as [B, ...]."""
    return graph.expand(x, (batch, *x.shape[1:]))


def _columns(x: Node, total: Node) -> Node:
    """[W, N] under the shape of [B, M, N]."""
    batch, _, columns = total.shape
    return graph.expand(graph.reshape(_for_all(x, batch), (batch, 1, columns)), total.shape)
