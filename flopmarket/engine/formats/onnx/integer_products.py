"""Float products of dequantised operands as integer ones: what QDQ models mean.

DequantizeLinear -> Conv, MatMul or Gemm multiplies (a - z_a) s_a by (b - z_b) s_b in floats. Where
neither scale changes along the contracted axis, that is the integer product of the stored bytes,
less the corrections of the zero points, times s_a s_b: exact sums, one rounding of the total. The
rewriting reads the graph, so it sees through whatever views lie between (the windows of a
convolution, padding, transpositions, heads). Scales by blocks along that axis stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import buffers, compose, graph, reference
from flopmarket.engine.dtypes import float32, int32
from flopmarket.engine.formats.onnx.ops import integers
from flopmarket.engine.formats.onnx.registry import Value
from flopmarket.engine.formats.onnx.values import tensors_in, with_tensors
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.quantize.lower import through_views
from flopmarket.engine.tensor import Tensor

MAX_CHECKED_ELEMENTS = 2**25
"""Elements of an operand whose scales are followed through its views."""

_MOVES = ("reshape", "permute", "expand", "slice", "window", "pad")
_REPEATS = ("reshape", "permute", "expand", "slice")


@dataclass(frozen=True, slots=True)
class _Dequantised:
    """(codes - zero) * scale, all of one shape; ``zero`` is int32, None if there is none."""

    codes: Node
    zero: Node | None
    scale: Node


@dataclass(frozen=True, slots=True)
class _Operand:
    """Codes of a DOT's operand; ``zero`` (int32) and ``scale`` are scalars or have K as 1."""

    codes: Node
    zero: Node | None
    scale: Node


def with_integer_products(values: Mapping[str, Value]) -> dict[str, Value]:
    """``values`` with every product of dequantised operands computed in integers."""
    tensors = tensors_in(list(values.values()))
    order = graph.topological([tensor.node for tensor in tensors])
    if not any(_is_candidate(node) for node in order):
        return dict(values)
    done: dict[Node, Node] = {}
    for node in order:
        src = tuple(done[source] for source in node.src)
        made = _product(src) if _is_candidate(node) else None
        if made is None:
            same = src == node.src
            made = node if same else graph.make(node.op, src, node.arg, node.dtype, node.shape)
        done[node] = made
    by = {id(tensor): Tensor(done[tensor.node], device=tensor.device) for tensor in tensors}
    return {name: with_tensors(value, by) for name, value in values.items()}


def _is_candidate(node: Node) -> bool:
    return node.op is Op.DOT and node.dtype is float32 and len(node.src) == 2 and node.elements > 0


def _product(src: tuple[Node, ...]) -> Node | None:
    """The integer product of a float DOT's sources, or None where they are not dequantised."""
    a, b = _operand(src[0], 2), _operand(src[1], 1)
    if a is None or b is None:
        return None
    total = graph.cast(integers.matmul(a.codes, b.codes, a.zero, b.zero), float32)
    left, right = compose.broadcast(a.scale, b.scale)
    return graph.mul(total, compose.broadcast_to(graph.mul(left, right), total.shape))


def _operand(operand: Node, contracted: int) -> _Operand | None:
    """What a DOT's operand is made of; ``contracted`` is the axis that is summed over."""
    value = operand
    while value.op is Op.VIEW and value.arg[0] in _MOVES:
        value = value.src[0]
    found = _dequantised(value)
    if found is None or not operand.shape[contracted]:
        return None
    scale = _along(found.scale, operand, value, contracted)
    zero = None if found.zero is None else _along(found.zero, operand, value, contracted)
    if scale is None or (found.zero is not None and zero is None):
        return None
    border: int | Node = 0
    if zero is not None:
        if zero.shape and _has_padding(operand, value):
            return None
        border = graph.cast(zero, found.codes.dtype)
    return _Operand(through_views(operand, value, found.codes, border), zero, scale)


def _dequantised(value: Node) -> _Dequantised | None:
    """The parts of a value that DequantizeLinear gave; 8-bit codes only."""
    if value.op is not Op.MUL or value.dtype is not float32:
        return None
    whole, scale = value.src
    if whole.op is not Op.CAST or whole.src[0].dtype is not int32:
        return None
    codes, zero = whole.src[0], None
    if codes.op is Op.ADD:
        codes, minus_zero = codes.src
        if minus_zero.op is not Op.MUL or graph.const_scalar(minus_zero.src[1]) != -1:
            return None
        zero = None if _is_zero(minus_zero.src[0]) else minus_zero.src[0]
    if codes.op is not Op.CAST or not codes.src[0].dtype.is_integer:
        return None
    stored = codes.src[0]
    return _Dequantised(stored, zero, scale) if stored.dtype.size_bytes == 1 else None


def _along(x: Node, operand: Node, value: Node, contracted: int) -> Node | None:
    """A scale or zero point of ``value`` as a scalar, or as the operand has it with the contracted
    axis of length 1; None if it changes along that axis."""
    single = _single(x)
    if single is not None:
        return single
    if operand.elements > MAX_CHECKED_ELEMENTS or _has_padding(operand, value):
        return None
    place = graph.input_("input", "place", int32, x.shape)
    (places,) = reference.evaluate([through_views(operand, value, place, 0)], {place: _places(x)})
    first = np.take(places, [0], axis=contracted)
    if (places != first).any():
        return None
    return compose.part(through_views(operand, value, x, 0), contracted, 0, 1)


def _places(x: Node) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Which stored element every element of ``x`` is."""
    seen = x.src[0] if x.op is Op.CAST else x
    base = seen
    while base.op is Op.VIEW and base.arg[0] in _REPEATS:
        base = base.src[0]
    stored = graph.input_("input", "stored", int32, base.shape)
    numbers = np.arange(base.elements, dtype=np.int32).reshape(base.shape)
    (places,) = reference.evaluate([through_views(seen, base, stored, 0)], {stored: numbers})
    return places


def _single(x: Node) -> Node | None:
    """The scalar that ``x`` repeats; None if it holds several elements."""
    while x.elements != 1 and x.op is Op.VIEW and x.arg[0] in _REPEATS:
        x = x.src[0]
    if x.op is Op.CAST and x.elements != 1:
        inner = _single(x.src[0])
        return None if inner is None else graph.cast(inner, x.dtype)
    return graph.reshape(x, ()) if x.elements == 1 else None


def _is_zero(x: Node) -> bool:
    """Whether every element is a literal 0."""
    while x.op in (Op.VIEW, Op.CAST):
        x = x.src[0]
    if x.op is Op.CONST:
        return not x.arg.strip(b"\x00")
    array = buffers.array_of(x)
    return array is not None and not array.any()


def _has_padding(operand: Node, value: Node) -> bool:
    node = operand
    while node is not value:
        if node.arg[0] == "pad":
            return True
        node = node.src[0]
    return False
