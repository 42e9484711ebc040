"""The intermediate representation: one immutable, hash-consed node type and its builders.

A graph is a DAG of :class:`Node`. Every operation of profile FX1 (docs/numerics.md §1) is one value
of
:class:`Op`; everything else a user can call is written in these. Equal nodes are the same object,
so common subexpressions meet by construction and comparing graphs is comparing identities.

Builders check legality (:mod:`flopmarket.engine.spec`) at once: an illegal node cannot exist,
neither from a user's mistake nor from bytes of a stranger. Shapes are static tuples of positive or
zero ints. Elementwise operations want equal shapes: broadcasting is an explicit ``expand`` view.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from flopmarket.engine import dtypes, floats
from flopmarket.engine.dtypes import DType

Shape = tuple[int, ...]


class Op(IntEnum):
    """The primitives and the structure around them. Numbers are part of the program codec."""

    INPUT = 0
    CONST = 1
    IOTA = 2
    VIEW = 3
    CAST = 4
    ADD = 5
    MUL = 6
    FMA = 7
    DIV = 8
    SQRT = 9
    MAX = 10
    CMP = 11
    WHERE = 12
    BIT = 13
    REDUCE = 14
    DOT = 15
    GATHER = 16
    SCATTER = 17
    CONCAT = 18
    LOOP = 19


ELEMENTWISE = frozenset(
    {Op.CAST, Op.ADD, Op.MUL, Op.FMA, Op.DIV, Op.SQRT, Op.MAX, Op.CMP, Op.WHERE, Op.BIT}
)
"""Operations whose output element depends on the same element of each source."""


class Node:
    """One value of the graph: ``op`` applied to ``src`` under ``arg``, with its dtype and shape.

    Never constructed directly: the builders below check and intern. ``arg`` is a flat or nested
    tuple of ints and strings (bytes for CONST; a LOOP's holds its body), in the normal form that
    ``spec`` documents per op.
    Identity is equality.
    """

    __slots__ = ("__weakref__", "arg", "dtype", "op", "shape", "src")

    op: Op
    src: tuple[Node, ...]
    arg: Any
    dtype: DType
    shape: Shape

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the canonical dense layout."""
        return self.elements * self.dtype.size_bytes

    def __repr__(self) -> str:
        arg = f" {self.arg!r}" if not isinstance(self.arg, bytes) else f" <{len(self.arg)} bytes>"
        return f"<{self.op.name}{arg} {self.dtype}{list(self.shape)}>"


_interned: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()
_interning = threading.Lock()
"""Two threads that build the same node must get the same object, or comparing graphs would fail."""


def make(op: Op, src: tuple[Node, ...], arg: Any, dtype: DType, shape: Shape) -> Node:
    """The interned node for these fields, checked by the specification.

    Raises GraphError when the node would be illegal. Decoders call this; people call the builders.
    """
    key = (op, tuple(map(id, src)), arg, dtype.code, shape)
    found = _interned.get(key)
    if found is not None:
        return found
    from flopmarket.engine import spec  # the specification speaks about nodes, so it imports us

    node = Node.__new__(Node)
    node.op, node.src, node.arg, node.dtype, node.shape = op, src, arg, dtype, shape
    spec.check(node)
    with _interning:
        return _interned.setdefault(key, node)


# ---------------------------------------------------------------- leaves


def input_(kind: str, name: str, dtype: DType, shape: Shape) -> Node:
    """A tensor given from outside.

    ``kind``: 'frozen', 'state', 'input' (named tensors of a program), 'seed' (the job's 64-bit seed
    as uint32[2], low word first), 'step' (the step index, uint32 scalar) or 'buffer' (a realised
    tensor of a local computation; never part of a program). Inside the body of a LOOP: 'carry',
    'item' and 'shared', named by their position (``loop.py``); 'hole' while a body is being traced.
    """
    return make(Op.INPUT, (), (kind, name), dtype, tuple(shape))


def const(value: Any, dtype: DType, shape: Shape = ()) -> Node:
    """A literal of ``shape``: ``value`` is a scalar, or an array with as many elements."""
    array = np.broadcast_to(floats.literal(value, dtype), shape)
    return make(Op.CONST, (), dtypes.canonical(array).tobytes(), dtype, tuple(shape))


def filled(value: Any, dtype: DType, shape: Shape) -> Node:
    """A scalar literal expanded to ``shape`` (no data of that size is stored)."""
    scalar = const(value, dtype)
    return scalar if not shape else expand(reshape(scalar, (1,) * len(shape)), shape)


def iota(axis: int, shape: Shape, dtype: DType = dtypes.int32) -> Node:
    """Index ramp: element i along ``axis`` holds i. Integer dtypes only."""
    return make(Op.IOTA, (), (axis,), dtype, tuple(shape))


def const_scalar(node: Node) -> Any | None:
    """The Python/numpy scalar of a CONST seen through views that keep its value, else None."""
    while node.op is Op.VIEW and node.arg[0] in ("reshape", "expand", "permute", "slice"):
        node = node.src[0]
    if node.op is not Op.CONST or node.elements != 1:
        return None
    return np.frombuffer(node.arg, dtype=node.dtype.numpy)[0]


# ---------------------------------------------------------------- views


def reshape(x: Node, shape: Shape) -> Node:
    """The same elements in row-major order under another shape."""
    shape = tuple(shape)
    return x if shape == x.shape else make(Op.VIEW, (x,), ("reshape",), x.dtype, shape)


def permute(x: Node, axes: Sequence[int]) -> Node:
    """Axis i of the result is axis ``axes[i]`` of ``x``."""
    axes = tuple(axes)
    if axes == tuple(range(len(x.shape))):
        return x
    return make(Op.VIEW, (x,), ("permute", axes), x.dtype, tuple(x.shape[a] for a in axes))


def expand(x: Node, shape: Shape) -> Node:
    """Repeat axes of length 1 up to ``shape`` (same rank)."""
    shape = tuple(shape)
    return x if shape == x.shape else make(Op.VIEW, (x,), ("expand",), x.dtype, shape)


def pad(x: Node, amounts: Sequence[tuple[int, int]]) -> Node:
    """Surround with zeros (bits 0): ``amounts[axis]`` = (before, after), both >= 0."""
    amounts = tuple((int(low), int(high)) for low, high in amounts)
    if not any(low or high for low, high in amounts):
        return x
    shape = tuple(low + n + high for n, (low, high) in zip(x.shape, amounts, strict=True))
    return make(Op.VIEW, (x,), ("pad", amounts), x.dtype, shape)


def slice_(x: Node, ranges: Sequence[tuple[int, int, int]]) -> Node:
    """Strided part: ``ranges[axis]`` = (start, step, count); step may be negative, not zero."""
    ranges = tuple((int(a), int(s), int(c)) for a, s, c in ranges)
    if all(r == (0, 1, n) for r, n in zip(ranges, x.shape, strict=True)):
        return x
    return make(Op.VIEW, (x,), ("slice", ranges), x.dtype, tuple(c for _, _, c in ranges))


def window(x: Node, windows: Sequence[tuple[int, int, int, int]]) -> Node:
    """Sliding windows: each (axis, size, stride, dilation), axes ascending and distinct.

    A windowed axis of length n becomes (n - (size-1)*dilation - 1)//stride + 1 positions; the taps
    are appended as trailing axes in the order given: [.., positions, .., taps...].
    """
    windows = tuple((int(a), int(k), int(s), int(d)) for a, k, s, d in windows)
    shape = list(x.shape)
    for axis, size, stride, dilation in windows:
        if 0 <= axis < len(x.shape) and stride > 0:
            shape[axis] = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    shape += [size for _, size, _, _ in windows]
    return make(Op.VIEW, (x,), ("window", windows), x.dtype, tuple(shape))


# ---------------------------------------------------------------- elementwise


def cast(x: Node, dtype: DType) -> Node:
    """Numeric conversion, one rounding; float to int is NaN -> 0, clamp, toward zero."""
    return x if dtype is x.dtype else make(Op.CAST, (x,), ("numeric",), dtype, x.shape)


def bitcast(x: Node, dtype: DType) -> Node:
    """The same bits under another dtype of equal width; NaNs become canonical on the way."""
    return x if dtype is x.dtype else make(Op.CAST, (x,), ("bitcast",), dtype, x.shape)


def add(a: Node, b: Node) -> Node:
    """a + b: one IEEE rounding, or wrapping integers."""
    return make(Op.ADD, (a, b), (), a.dtype, a.shape)


def mul(a: Node, b: Node) -> Node:
    """a * b: one IEEE rounding, or wrapping integers. On bool it is not defined; use BIT."""
    return make(Op.MUL, (a, b), (), a.dtype, a.shape)


def fma(a: Node, b: Node, c: Node) -> Node:
    """a * b + c with one rounding; float only."""
    return make(Op.FMA, (a, b, c), (), a.dtype, a.shape)


def div(a: Node, b: Node) -> Node:
    """a / b: correctly rounded; integers floor, x/0 = 0, MIN/-1 wraps."""
    return make(Op.DIV, (a, b), (), a.dtype, a.shape)


def sqrt(x: Node) -> Node:
    """Correctly rounded square root; float only."""
    return make(Op.SQRT, (x,), (), x.dtype, x.shape)


def max_(a: Node, b: Node) -> Node:
    """The larger: NaN propagates as the canonical NaN, -0 < +0."""
    return make(Op.MAX, (a, b), (), a.dtype, a.shape)


def cmp(kind: str, a: Node, b: Node) -> Node:
    """'lt' or 'eq' as IEEE has it (NaN compares false, -0 equals +0); gives bool."""
    return make(Op.CMP, (a, b), (kind,), dtypes.bool_, a.shape)


def where(condition: Node, a: Node, b: Node) -> Node:
    """a where ``condition`` (bool) holds, else b."""
    return make(Op.WHERE, (condition, a, b), (), a.dtype, a.shape)


def bit(kind: str, a: Node, b: Node) -> Node:
    """'and' 'or' 'xor' 'shl' 'shr' on unsigned (and/or/xor on bool too); a shift >= width is 0."""
    return make(Op.BIT, (a, b), (kind,), a.dtype, a.shape)


# ---------------------------------------------------------------- the rest


def reduce(kind: str, x: Node, axes: Iterable[int], y: Node | None = None) -> Node:
    """Fold ``axes`` away (ascending, flattened row-major) in the order of docs/numerics.md §2.

    ``kind``: 'sum', 'prod', 'max', 'min', or 'sumprod' (the sum of x*y, lanes being FMA chains).
    max and min of no elements are illegal; the empty sum is +0, the empty product 1.
    """
    axes = tuple(sorted(axes))
    if not axes and kind != "sumprod":
        return x
    src = (x,) if y is None else (x, y)
    shape = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    return make(Op.REDUCE, src, (kind, axes), x.dtype, shape)


def dot(a: Node, b: Node, valid: Node | None = None) -> Node:
    """Contraction [B, M, K] x [B, K, N] -> [B, M, N] in the dtype that ``dtypes.contraction`` says.

    ``valid``, int32 [B, M], is the number of leading terms that count in each row (clamped to
    0..K); terms beyond it are skipped, whatever they hold.
    """
    out = dtypes.contraction(a.dtype, b.dtype, a.shape[-1]) or a.dtype
    src = (a, b) if valid is None else (a, b, valid)
    return make(Op.DOT, src, (), out, (*a.shape[:2], b.shape[-1]))


def gather(data: Node, index: Node, axis: int) -> Node:
    """data.take(index, axis): computed indices are clamped into range, constant ones checked."""
    shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    return make(Op.GATHER, (data, index), (axis,), data.dtype, shape)


def scatter(kind: str, destination: Node, index: Node, updates: Node) -> Node:
    """Rows of ``updates`` [U, ...] onto rows ``index`` [U] of ``destination`` [D, ...].

    'add' starts from the destination and adds in ascending update order; 'set': the last update
    wins. Computed indices out of range are dropped, constant ones are rejected.
    """
    return make(
        Op.SCATTER, (destination, index, updates), (kind,), destination.dtype, destination.shape
    )


def concat(sources: Sequence[Node], axis: int) -> Node:
    """Join along ``axis``; the other axes are equal."""
    if len(sources) == 1:
        return sources[0]
    shape = list(sources[0].shape)
    if 0 <= axis < len(shape):
        shape[axis] = sum(s.shape[axis] if axis < len(s.shape) else 0 for s in sources)
    return make(Op.CONCAT, tuple(sources), (axis,), sources[0].dtype, tuple(shape))


# ---------------------------------------------------------------- walks


def topological(
    outputs: Iterable[Node], sources_of: Callable[[Node], Iterable[Node]] = lambda node: node.src
) -> list[Node]:
    """All nodes below ``outputs``, sources first, in one order that depends on the graph alone.

    Depth-first post-order, sources left to right, outputs in order; iterative, so a deep graph
    cannot exhaust the stack. The body of a LOOP is not entered. ``sources_of`` replaces ``src``.
    """
    order: list[Node] = []
    done: set[Node] = set()
    for output in outputs:
        stack: list[tuple[Node, Iterator[Node]]] = []
        if output not in done:
            done.add(output)
            stack.append((output, iter(sources_of(output))))
        while stack:
            node, sources = stack[-1]
            for source in sources:
                if source not in done:
                    done.add(source)
                    stack.append((source, iter(sources_of(source))))
                    break
            else:
                stack.pop()
                order.append(node)
    return order
