"""Two-dimensional convolution as DOT over windows: how it is spelled, found again, differentiated.

``functional.conv2d`` builds :func:`forward`; ``grad.py`` asks :func:`recognise` whether a DOT is
such a convolution (a structural test on the views below it, so decoded programs qualify too) and
takes :func:`source_gradient` for the derivative of the input. The derivative of the weights needs
no rule of its own: the transposed DOT reads the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from flopmarket.engine import compose, graph
from flopmarket.engine.graph import Node, Op

_ORDER = (1, 0, 3, 4, 2, 5, 6)  # [N, G, C/G, OH, OW, KH, KW] -> [G, N, OH, OW, C/G, KH, KW]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution: lengths of source, kernel and result, and its steps."""

    source: int
    size: int
    stride: int
    dilation: int
    result: int


@dataclass(frozen=True, slots=True)
class Windows:
    """The left operand of a convolution's DOT: windows of ``source`` [N, C, H, W] in G groups."""

    source: Node
    groups: int
    rows: Axis
    columns: Axis


@dataclass(frozen=True, slots=True)
class _Phase:
    """The kernel taps that meet source positions of one residue modulo the stride.

    Taps are first, first + step, ... (``count`` of them); tap j of position q reads the result at
    q + offset - j * spacing.
    """

    first: int
    step: int
    count: int
    offset: int
    spacing: int


def forward(
    x: Node, weight: Node, strides: tuple[int, int], dilations: tuple[int, int], groups: int
) -> Node:
    """[N, C, H, W] (padded already) with [O, C/groups, KH, KW] -> [N, O, OH, OW]."""
    batch, channels = x.shape[:2]
    out, inner, *kernel = weight.shape
    windows = tuple(zip((2, 3), kernel, strides, dilations, strict=True))
    taps = graph.window(x, windows)
    height, width = taps.shape[2:4]
    split = graph.reshape(taps, (batch, groups, channels // groups, height, width, *kernel))
    terms = inner * kernel[0] * kernel[1]
    left = graph.reshape(graph.permute(split, _ORDER), (groups, batch * height * width, terms))
    right = compose.swap(graph.reshape(weight, (groups, out // groups, terms)), 1, 2)
    product = graph.reshape(graph.dot(left, right), (groups, batch, height, width, out // groups))
    return graph.reshape(graph.permute(product, (1, 0, 4, 2, 3)), (batch, out, height, width))


def recognise(dot: Node) -> Windows | None:
    """The windows that a DOT convolves, or None for any other product."""
    views = []
    node = dot.src[0]
    for kind in ("reshape", "permute", "reshape", "window"):
        if node.op is not Op.VIEW or node.arg[0] != kind:
            return None
        views.append(node)
        node = node.src[0]
    flat, permuted, split, taps = views
    windows = taps.arg[1]
    if len(dot.src) != 2 or len(node.shape) != 4 or [w[0] for w in windows] != [2, 3]:
        return None
    if permuted.arg[1] != _ORDER or split.shape[0] != node.shape[0] or not dot.elements:
        return None
    groups = split.shape[1]
    batch, channels, height, width, *kernel = taps.shape
    if not groups or channels % groups:
        return None
    inner = channels // groups
    wanted = (
        (batch, groups, inner, height, width, *kernel),
        (groups, batch * height * width, inner * kernel[0] * kernel[1]),
    )
    if (split.shape, flat.shape) != wanted:
        return None
    rows, columns = (
        Axis(node.shape[axis], size, stride, dilation, taps.shape[axis])
        for axis, size, stride, dilation in windows
    )
    return Windows(node, groups, rows, columns)


def source_gradient(windows: Windows, weight: Node, g: Node) -> Node:
    """The cotangent of ``windows.source`` from that of the DOT, [G, N*OH*OW, O/G].

    ``weight`` is the DOT's right operand [G, C/G*KH*KW, O/G]. For stride s the source positions
    fall into s phases an axis; each is a DOT over stride-1 windows of the padded cotangent with the
    kernel taps that meet it, flipped, so that no product with an inserted zero is computed and the
    work equals the forward's. The phases are interleaved by CONCAT and views.
    """
    groups, rows, columns = windows.groups, windows.rows, windows.columns
    batch, channels = windows.source.shape[:2]
    outer, inner = g.shape[2], channels // groups
    image = graph.permute(
        graph.reshape(g, (groups, batch, rows.result, columns.result, outer)), (0, 1, 4, 2, 3)
    )
    kernel = graph.reshape(weight, (groups, inner, rows.size, columns.size, outer))
    heights, widths = -(-rows.source // rows.stride), -(-columns.source // columns.stride)
    shape = (groups, batch, heights, widths, inner)
    phases = []
    for row_phase in range(rows.stride):
        for column_phase in range(columns.stride):
            down, across = _phase(rows, row_phase), _phase(columns, column_phase)
            if down is None or across is None:
                part = compose.literal(0.0, g.dtype, shape)
            else:
                part = _phase_gradient(image, kernel, down, across, (heights, widths))
            phases.append(graph.reshape(part, (1, *shape)))
    joined = graph.reshape(graph.concat(phases, 0), (rows.stride, columns.stride, *shape))
    # [PH, PW, G, N, QH, QW, C/G] -> [N, G, C/G, QH, PH, QW, PW]: source row = QH * stride + PH.
    woven = graph.reshape(
        graph.permute(joined, (3, 2, 6, 4, 0, 5, 1)),
        (batch, channels, heights * rows.stride, widths * columns.stride),
    )
    return compose.part(compose.part(woven, 2, 0, rows.source), 3, 0, columns.source)


def _phase(axis: Axis, phase: int) -> _Phase | None:
    """The taps k with k * dilation = ``phase`` modulo the stride; None if there are none."""
    common = gcd(axis.stride, axis.dilation)
    step = axis.stride // common
    for first in range(min(step, axis.size)):
        if (first * axis.dilation - phase) % axis.stride == 0:
            count = (axis.size - first - 1) // step + 1
            offset = (phase - first * axis.dilation) // axis.stride
            return _Phase(first, step, count, offset, axis.dilation // common)
    return None


def _phase_gradient(
    image: Node, kernel: Node, down: _Phase, across: _Phase, counts: tuple[int, int]
) -> Node:
    """One phase: image [G, N, O, OH, OW] and kernel [G, C, KH, KW, O] -> [G, N, QH, QW, C]."""
    groups, batch, outer = image.shape[:3]
    inner = kernel.shape[1]
    for axis, phase, count in ((3, down, counts[0]), (4, across, counts[1])):
        image = _reach(
            image,
            axis,
            phase.offset - (phase.count - 1) * phase.spacing,
            count + (phase.count - 1) * phase.spacing,
        )
    for axis, phase in ((2, down), (3, across)):
        # Ascending positions of the image meet descending taps of the kernel.
        last = phase.first + (phase.count - 1) * phase.step
        kernel = compose.part(kernel, axis, last, phase.count, -phase.step)
    taps = graph.window(
        image, [(3, down.count, 1, down.spacing), (4, across.count, 1, across.spacing)]
    )
    terms = outer * down.count * across.count
    left = graph.reshape(
        graph.permute(taps, (0, 1, 3, 4, 2, 5, 6)), (groups, batch * counts[0] * counts[1], terms)
    )
    right = graph.reshape(graph.permute(kernel, (0, 4, 2, 3, 1)), (groups, terms, inner))
    return graph.reshape(graph.dot(left, right), (groups, batch, *counts, inner))


def _reach(x: Node, axis: int, start: int, count: int) -> Node:
    """``count`` elements of an axis from ``start``, which may lie outside: zeros stand there."""
    length = x.shape[axis]
    low, high = max(0, -start), max(0, start + count - length)
    x = graph.pad(x, [(low, high) if a == axis else (0, 0) for a in range(len(x.shape))])
    return compose.part(x, axis, start + low, count)
