"""Convolution over any number of spatial axes as DOT over windows: how it is spelled, found again,
differentiated and transposed.

``functional`` builds :func:`forward` and :func:`transposed`; ``grad.py`` asks :func:`recognise`
whether a DOT is such a convolution (a structural test on the views below it, so decoded programs
qualify too) and takes :func:`source_gradient` for the derivative of the input. The derivative of
the weights needs no rule of its own: the transposed DOT reads the same windows. A transposed
convolution is made of forward ones, so its derivatives are of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod

from flopmarket.engine import compose, graph
from flopmarket.engine.grad_views import place
from flopmarket.engine.graph import Node, Op


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution: lengths of source, kernel and result, and its steps."""

    source: int
    size: int
    stride: int
    dilation: int
    result: int

    @property
    def reach(self) -> int:
        """Source positions from the first tap of a window to the last, both included."""
        return (self.size - 1) * self.dilation + 1


@dataclass(frozen=True, slots=True)
class Windows:
    """The left operand of a convolution's DOT: windows of ``source`` [N, C, *S] in G groups."""

    source: Node
    groups: int
    axes: tuple[Axis, ...]


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
    x: Node, weight: Node, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Node:
    """[N, C, *S] (padded already) with [O, C/groups, *K] -> [N, O, *R]."""
    batch, channels = x.shape[:2]
    out, inner, *kernel = weight.shape
    dims = len(kernel)
    taps = graph.window(x, tuple(zip(range(2, 2 + dims), kernel, strides, dilations, strict=True)))
    places = taps.shape[2 : 2 + dims]
    split = graph.reshape(taps, (batch, groups, channels // groups, *places, *kernel))
    terms = inner * prod(kernel)
    ordered = graph.permute(split, _window_order(dims))
    left = graph.reshape(ordered, (groups, batch * prod(places), terms))
    right = compose.swap(graph.reshape(weight, (groups, out // groups, terms)), 1, 2)
    return _as_image(graph.dot(left, right), batch, places)


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
    dims = len(windows)
    if len(dot.src) != 2 or [w[0] for w in windows] != list(range(2, len(node.shape))):
        return None
    if permuted.arg[1] != _window_order(dims) or split.shape[0] != node.shape[0]:
        return None
    groups = split.shape[1]
    batch, channels = taps.shape[:2]
    places, kernel = taps.shape[2 : 2 + dims], taps.shape[2 + dims :]
    if not dot.elements or not groups or channels % groups:
        return None
    inner = channels // groups
    wanted = (
        (batch, groups, inner, *places, *kernel),
        (groups, batch * prod(places), inner * prod(kernel)),
    )
    if (split.shape, flat.shape) != wanted:
        return None
    axes = tuple(
        Axis(node.shape[axis], size, stride, dilation, taps.shape[axis])
        for axis, size, stride, dilation in windows
    )
    return Windows(node, groups, axes)


def source_gradient(windows: Windows, weight: Node, g: Node) -> Node:
    """The cotangent of ``windows.source`` from that of the DOT, [G, N*R, O/G].

    ``weight`` is the DOT's right operand [G, C/G*K, O/G].
    """
    batch, channels = windows.source.shape[:2]
    groups, outer = g.shape[0], g.shape[2]
    image = _as_image(g, batch, tuple(axis.result for axis in windows.axes))
    kernel = graph.reshape(
        compose.swap(weight, 1, 2),
        (groups * outer, channels // groups, *(axis.size for axis in windows.axes)),
    )
    return transposed(image, kernel, windows.axes, groups)


def transposed(image: Node, weight: Node, axes: Sequence[Axis], groups: int) -> Node:
    """[N, O, *result] with [O, C/groups, *K] -> [N, C, *source]: what a convolution's windows give
    back to the positions they read.

    For stride s the source positions fall into s phases an axis; each is a convolution of stride 1
    over the padded image with the kernel taps that meet it, flipped, so that no product with an
    inserted zero is computed and the work equals the forward's. The phases are interleaved by
    CONCAT and views. Windows that do not overlap need one product for all phases.
    """
    if all(axis.reach <= axis.stride for axis in axes):
        woven = _apart(image, weight, axes, groups)
    else:
        woven = _woven(image, weight, axes, groups)
    for at, axis in enumerate(axes):
        woven = _reach(woven, at + 2, 0, axis.source)
    return woven


def _window_order(dims: int) -> tuple[int, ...]:
    """[N, G, C/G, *R, *K] -> [G, N, *R, C/G, *K]."""
    return (1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))


def _as_image(rows: Node, batch: int, places: Sequence[int]) -> Node:
    """A DOT's rows and columns [G, N*R, O/G] as [N, O, *R]."""
    groups, _, outer = rows.shape
    dims = len(places)
    split = graph.reshape(rows, (groups, batch, *places, outer))
    ordered = graph.permute(split, (1, 0, dims + 2, *range(2, dims + 2)))
    return graph.reshape(ordered, (batch, groups * outer, *places))


def _apart(image: Node, weight: Node, axes: Sequence[Axis], groups: int) -> Node:
    """Windows that do not overlap: every source position has one tap or none."""
    batch, outer = image.shape[0], image.shape[1] // groups
    inner, kernel = weight.shape[1], weight.shape[2:]
    dims = len(axes)
    places = image.shape[2:]
    split = graph.reshape(image, (batch, groups, outer, *places))
    rows = graph.permute(split, (1, 0, *range(3, 3 + dims), 2))
    left = graph.reshape(rows, (groups, batch * prod(places), outer))
    right = graph.reshape(weight, (groups, outer, inner * prod(kernel)))
    part = graph.reshape(graph.dot(left, right), (groups, batch, *places, inner, *kernel))
    # [G, N, *R, C/G, *K] -> [N, G, C/G, R1, K1, R2, K2, ..]
    pairs = [axis for at in range(dims) for axis in (2 + at, 3 + dims + at)]
    part = graph.permute(part, (1, 0, 2 + dims, *pairs))
    for at, axis in enumerate(axes):
        part = place(part, 4 + 2 * at, 0, axis.dilation, axis.stride)
    lengths = (n * axis.stride for n, axis in zip(places, axes, strict=True))
    return graph.reshape(part, (batch, groups * inner, *lengths))


def _woven(image: Node, weight: Node, axes: Sequence[Axis], groups: int) -> Node:
    """Overlapping windows: one convolution of stride 1 a phase, the phases interleaved."""
    batch, channels = image.shape[0], groups * weight.shape[1]
    dims = len(axes)
    counts = tuple(-(-axis.source // axis.stride) for axis in axes)
    shape = (batch, channels, *counts)
    parts: list[Node | None] = []
    for residues in product(*(range(axis.stride) for axis in axes)):
        found = [_phase(axis, residue) for axis, residue in zip(axes, residues, strict=True)]
        met = [phase for phase in found if phase is not None]
        whole = len(met) == dims
        parts.append(_phase_gradient(image, weight, met, counts, groups) if whole else None)
    dtype = next(part.dtype for part in parts if part is not None)
    nothing = compose.literal(0, dtype, shape)
    phases = [graph.reshape(nothing if part is None else part, (1, *shape)) for part in parts]
    strides = tuple(axis.stride for axis in axes)
    joined = graph.reshape(graph.concat(phases, 0), (*strides, *shape))
    # [P1, P2, .., N, C, Q1, Q2, ..] -> [N, C, Q1, P1, Q2, P2, ..]: position = Q * stride + P.
    pairs = [axis for at in range(dims) for axis in (dims + 2 + at, at)]
    ordered = graph.permute(joined, (dims, dims + 1, *pairs))
    lengths = (count * stride for count, stride in zip(counts, strides, strict=True))
    return graph.reshape(ordered, (batch, channels, *lengths))


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
    image: Node, weight: Node, phases: Sequence[_Phase], counts: Sequence[int], groups: int
) -> Node:
    """One phase: image [N, O, *R] and weight [O, C/G, *K] -> [N, C, *Q]."""
    for at, (phase, count) in enumerate(zip(phases, counts, strict=True)):
        start = phase.offset - (phase.count - 1) * phase.spacing
        image = _reach(image, at + 2, start, count + (phase.count - 1) * phase.spacing)
        # Ascending positions of the image meet descending taps of the kernel.
        last = phase.first + (phase.count - 1) * phase.step
        weight = compose.part(weight, at + 2, last, phase.count, -phase.step)
    out, inner, *kernel = weight.shape
    split = graph.reshape(weight, (groups, out // groups, inner, *kernel))
    turned = graph.reshape(compose.swap(split, 1, 2), (groups * inner, out // groups, *kernel))
    return forward(image, turned, [1] * len(kernel), [p.spacing for p in phases], groups)


def _reach(x: Node, axis: int, start: int, count: int) -> Node:
    """``count`` elements of an axis from ``start``, which may lie outside: zeros stand there."""
    length = x.shape[axis]
    low, high = max(0, -start), max(0, start + count - length)
    x = graph.pad(x, [(low, high) if a == axis else (0, 0) for a in range(len(x.shape))])
    return compose.part(x, axis, start + low, count)
