"""The executable specification of legal graphs: one rule per operation, checked on every node.

A node that passes cannot make a kernel read out of bounds, overflow an index, or mean two things.
This file and ``reference.py`` together are the definition of profile FX1's primitives; the prose is
docs/numerics.md §1. Rules receive a fully built node and raise :class:`GraphError`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np

from flopmarket.engine import dtypes, limits, loop
from flopmarket.engine.errors import GraphError
from flopmarket.engine.graph import Node, Op

INPUT_KINDS = ("frozen", "state", "input", "seed", "step", "buffer", "hole", *loop.PLACEHOLDERS)
REDUCE_KINDS = ("sum", "prod", "max", "min", "sumprod")
BIT_KINDS = ("and", "or", "xor", "shl", "shr")
CMP_KINDS = ("lt", "eq")
SCATTER_KINDS = ("add", "set")
_POSITIONS = frozenset(map(str, range(limits.MAX_SOURCES)))
INDEX_DTYPES = (dtypes.int32, dtypes.int64, dtypes.uint32)
_SELECTING = ("reshape", "permute", "expand", "slice")
_ranges: WeakKeyDictionary[Node, tuple[int, int]] = WeakKeyDictionary()


def check(node: Node) -> None:
    """Raise GraphError unless ``node`` is legal, given that its sources are."""
    _check_shape(node)
    for source in node.src:
        if not isinstance(source, Node):
            _illegal(node, "a source is not a node")
    _RULES[node.op](node)


def _illegal(node: Node, why: str, code: str = "GRAPH_ILLEGAL") -> NoReturn:
    sources = ", ".join(f"{s.dtype}{list(s.shape)}" for s in node.src[:4])
    shape = list(node.shape) if len(node.shape) <= limits.MAX_RANK else f"rank {len(node.shape)}"
    raise GraphError(f"{node.op.name}({sources}) -> {node.dtype}{shape}: {why}", code=code)


def _check_shape(node: Node) -> None:
    if len(node.shape) > limits.MAX_RANK:
        _illegal(node, f"rank over the limit of {limits.MAX_RANK}", "GRAPH_RANK")
    for n in node.shape:
        if type(n) is not int or n < 0:
            _illegal(node, f"dimension {n!r} is not a non-negative int")
    # The product of the non-zero axes is bounded too, so that no view of an empty tensor overflows.
    if prod(n for n in node.shape if n) > limits.MAX_ELEMENTS:
        _illegal(node, f"more elements than {limits.MAX_ELEMENTS}", "GRAPH_TOO_LARGE")
    if node.dtype not in dtypes.DTYPES:
        _illegal(node, f"dtype {node.dtype} is not in profile FX1")


def _want_sources(node: Node, *counts: int) -> None:
    if len(node.src) not in counts:
        _illegal(node, f"takes {' or '.join(map(str, counts))} sources, got {len(node.src)}")


def _want_same(node: Node, *sources: Node) -> None:
    for source in sources:
        if source.shape != node.shape:
            _illegal(node, "sources and result want equal shapes; expand first")
        if source.dtype is not node.dtype:
            _illegal(node, "sources and result want equal dtypes; cast first")


def _want_arg(node: Node, *kinds: str) -> None:
    if not (isinstance(node.arg, tuple) and len(node.arg) == 1 and node.arg[0] in kinds):
        _illegal(node, f"argument {node.arg!r} is not one of {', '.join(kinds)}")


def _want_no_arg(node: Node) -> None:
    if node.arg != ():
        _illegal(node, "takes no argument")


def _is_axis(axis: Any, rank: int) -> bool:
    return type(axis) is int and 0 <= axis < rank


# ---------------------------------------------------------------- leaves


def _input(node: Node) -> None:
    _want_sources(node, 0)
    arg = node.arg
    if not (isinstance(arg, tuple) and len(arg) == 2 and all(type(a) is str for a in arg)):
        _illegal(node, "argument is (kind, name)")
    kind, name = arg
    if kind not in INPUT_KINDS:
        _illegal(node, f"unknown input kind {kind!r}")
    if not 0 < len(name.encode()) <= limits.MAX_NAME_BYTES:
        _illegal(node, f"a name has 1 to {limits.MAX_NAME_BYTES} bytes")
    if kind in loop.PLACEHOLDERS and name not in _POSITIONS:
        _illegal(node, f"a placeholder's name is a position below {limits.MAX_SOURCES}")
    if kind == "seed" and (node.dtype is not dtypes.uint32 or node.shape != (2,)):
        _illegal(node, "the seed is uint32[2]")
    if kind == "step" and (node.dtype is not dtypes.uint32 or node.shape != ()):
        _illegal(node, "the step index is a uint32 scalar")


def _const(node: Node) -> None:
    _want_sources(node, 0)
    if type(node.arg) is not bytes or len(node.arg) != node.size_bytes:
        _illegal(node, "the literal's length is not that of its shape")
    if len(node.arg) > limits.MAX_CONSTANT_BYTES:
        _illegal(node, f"literal over {limits.MAX_CONSTANT_BYTES} bytes", "GRAPH_CONSTANTS")
    if node.dtype is dtypes.bool_:
        if node.arg.strip(b"\x00\x01"):
            _illegal(node, "a bool literal holds 0 or 1")
        return
    array = np.frombuffer(node.arg, dtype=node.dtype.numpy)
    if node.dtype.is_float and dtypes.canonical(array).tobytes() != node.arg:
        _illegal(node, "a NaN literal is not the canonical one")


def _iota(node: Node) -> None:
    _want_sources(node, 0)
    if not (isinstance(node.arg, tuple) and len(node.arg) == 1):
        _illegal(node, "argument is (axis,)")
    if not _is_axis(node.arg[0], len(node.shape)):
        _illegal(node, f"no axis {node.arg[0]!r}")
    if not node.dtype.is_integer:
        _illegal(node, "integer dtypes only")
    if node.shape[node.arg[0]] - 1 > int(np.iinfo(node.dtype.numpy).max):
        _illegal(node, f"the ramp does not fit in {node.dtype}")


# ---------------------------------------------------------------- views


def _view(node: Node) -> None:
    _want_sources(node, 1)
    if not (isinstance(node.arg, tuple) and node.arg and node.arg[0] in _VIEWS):
        _illegal(node, f"unknown view {node.arg!r}")
    if node.dtype is not node.src[0].dtype:
        _illegal(node, "a view keeps its dtype")
    _VIEWS[node.arg[0]](node, node.src[0].shape)


def _view_reshape(node: Node, shape: tuple[int, ...]) -> None:
    if node.arg != ("reshape",) or prod(shape) != node.elements:
        _illegal(node, "a reshape keeps the number of elements")


def _view_permute(node: Node, shape: tuple[int, ...]) -> None:
    if len(node.arg) != 2 or not isinstance(node.arg[1], tuple):
        _illegal(node, "argument is ('permute', axes)")
    axes = node.arg[1]
    if not all(type(a) is int for a in axes) or sorted(axes) != list(range(len(shape))):
        _illegal(node, f"{axes} is no permutation of {len(shape)} axes")
    if node.shape != tuple(shape[a] for a in axes):
        _illegal(node, "shape is not the permuted one")


def _view_expand(node: Node, shape: tuple[int, ...]) -> None:
    if node.arg != ("expand",) or len(shape) != len(node.shape):
        _illegal(node, "an expand keeps the rank")
    if any(n not in (1, m) for n, m in zip(shape, node.shape, strict=True)):
        _illegal(node, "only axes of length 1 expand")


def _view_pad(node: Node, shape: tuple[int, ...]) -> None:
    rows = _rows(node, len(shape), 2)
    if any(low < 0 or high < 0 for low, high in rows):
        _illegal(node, "padding is not negative; slice instead")
    if node.shape != tuple(a + n + b for n, (a, b) in zip(shape, rows, strict=True)):
        _illegal(node, "shape is not the padded one")


def _view_slice(node: Node, shape: tuple[int, ...]) -> None:
    rows = _rows(node, len(shape), 3)
    for n, (start, step, count) in zip(shape, rows, strict=True):
        if step == 0 or count < 0:
            _illegal(node, "a slice has a step other than 0 and a count >= 0")
        last = start + (count - 1) * step
        if count and not (0 <= start < n and 0 <= last < n):
            _illegal(node, f"slice {start}..{last} leaves an axis of {n}", "GRAPH_INDEX_RANGE")
    if node.shape != tuple(count for _, _, count in rows):
        _illegal(node, "shape is not the sliced one")


def _view_window(node: Node, shape: tuple[int, ...]) -> None:
    windows = node.arg[1] if len(node.arg) == 2 else None
    if not isinstance(windows, tuple) or not windows:
        _illegal(node, "argument is ('window', ((axis, size, stride, dilation), ...))")
    rows = _rows(node, len(windows), 4)
    want = list(shape)
    previous = -1
    for axis, size, stride, dilation in rows:
        if not (previous < axis < len(shape)):
            _illegal(node, "window axes are distinct, ascending and existing")
        previous = axis
        if size < 1 or stride < 1 or dilation < 1:
            _illegal(node, "window size, stride and dilation are positive")
        reach = (size - 1) * dilation + 1
        if reach > shape[axis]:
            _illegal(node, f"a window of {reach} does not fit in an axis of {shape[axis]}")
        want[axis] = (shape[axis] - reach) // stride + 1
    if node.shape != (*want, *(size for _, size, _, _ in rows)):
        _illegal(node, "shape is not the windowed one")


def _rows(node: Node, count: int, width: int) -> tuple[tuple[int, ...], ...]:
    """The view's argument as ``count`` rows of ``width`` plain ints, or an error."""
    if len(node.arg) != 2 or not isinstance(node.arg[1], tuple) or len(node.arg[1]) != count:
        _illegal(node, f"the view wants {count} rows of {width} ints")
    rows: tuple[tuple[int, ...], ...] = node.arg[1]
    for row in rows:
        if not isinstance(row, tuple) or len(row) != width:
            _illegal(node, f"the view wants rows of {width} ints")
        if any(type(v) is not int or abs(v) > limits.MAX_ELEMENTS for v in row):
            _illegal(node, "a view's number is out of bounds", "GRAPH_TOO_LARGE")
    return rows


_VIEWS: dict[str, Callable[[Node, tuple[int, ...]], None]] = {
    "reshape": _view_reshape,
    "permute": _view_permute,
    "expand": _view_expand,
    "pad": _view_pad,
    "slice": _view_slice,
    "window": _view_window,
}


# ---------------------------------------------------------------- elementwise


def _cast(node: Node) -> None:
    _want_sources(node, 1)
    _want_arg(node, "numeric", "bitcast")
    if node.shape != node.src[0].shape:
        _illegal(node, "a cast keeps the shape")
    if node.dtype is node.src[0].dtype:
        _illegal(node, "a cast to the same dtype is not a node")
    if node.arg == ("bitcast",):
        if node.dtype.bits != node.src[0].dtype.bits:
            _illegal(node, "a bitcast keeps the width")
        if dtypes.bool_ in (node.dtype, node.src[0].dtype):
            _illegal(node, "bool has no bits to reinterpret; cast numerically")


def _arithmetic(node: Node) -> None:
    _want_sources(node, 3 if node.op is Op.FMA else 1 if node.op is Op.SQRT else 2)
    _want_no_arg(node)
    _want_same(node, *node.src)
    if node.dtype is dtypes.bool_:
        _illegal(node, "no arithmetic on bool; use BIT or cast")
    if node.op in (Op.FMA, Op.SQRT) and not node.dtype.is_float:
        _illegal(node, "float only")


def _max(node: Node) -> None:
    _want_sources(node, 2)
    _want_no_arg(node)
    _want_same(node, *node.src)


def _cmp(node: Node) -> None:
    _want_sources(node, 2)
    _want_arg(node, *CMP_KINDS)
    a, b = node.src
    if a.shape != node.shape or b.shape != node.shape or a.dtype is not b.dtype:
        _illegal(node, "both sides want the result's shape and one dtype")
    if node.dtype is not dtypes.bool_:
        _illegal(node, "a comparison gives bool")


def _where(node: Node) -> None:
    _want_sources(node, 3)
    _want_no_arg(node)
    condition, a, b = node.src
    if condition.dtype is not dtypes.bool_ or condition.shape != node.shape:
        _illegal(node, "the condition is a bool of the result's shape")
    _want_same(node, a, b)


def _bit(node: Node) -> None:
    _want_sources(node, 2)
    _want_arg(node, *BIT_KINDS)
    _want_same(node, *node.src)
    if node.dtype is dtypes.bool_:
        if node.arg[0] in ("shl", "shr"):
            _illegal(node, "no shifts on bool")
    elif node.dtype.kind != "u":
        _illegal(node, "unsigned integers and bool only; bitcast first")


# ---------------------------------------------------------------- reductions


def _reduce(node: Node) -> None:
    if not (isinstance(node.arg, tuple) and len(node.arg) == 2 and node.arg[0] in REDUCE_KINDS):
        _illegal(node, f"argument is (kind, axes) with kind of {', '.join(REDUCE_KINDS)}")
    kind, axes = node.arg
    _want_sources(node, 2 if kind == "sumprod" else 1)
    x = node.src[0]
    if not isinstance(axes, tuple) or not all(_is_axis(a, len(x.shape)) for a in axes):
        _illegal(node, f"no axes {axes!r}")
    if list(axes) != sorted(set(axes)) or not (axes or kind == "sumprod"):
        _illegal(node, "axes are distinct, ascending and at least one")
    if any(s.dtype is not node.dtype or s.shape != x.shape for s in node.src):
        _illegal(node, "sources want one shape and the result's dtype")
    if node.dtype is dtypes.bool_ and kind not in ("max", "min"):
        _illegal(node, "bool folds by max (any) and min (all) only; cast first")
    if node.shape != tuple(n for axis, n in enumerate(x.shape) if axis not in axes):
        _illegal(node, "shape is not the reduced one")
    if kind in ("max", "min") and prod(x.shape[a] for a in axes) == 0:
        _illegal(node, f"{kind} of no elements")


def _dot(node: Node) -> None:
    _want_sources(node, 2, 3)
    _want_no_arg(node)
    a, b = node.src[0], node.src[1]
    if len(a.shape) != 3 or len(b.shape) != 3:
        _illegal(node, "operands are [B, M, K] and [B, K, N]")
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        _illegal(node, "batch and contracted lengths of the operands differ")
    if node.shape != (*a.shape[:2], b.shape[2]):
        _illegal(node, "shape is not [B, M, N]")
    wanted = dtypes.contraction(a.dtype, b.dtype, a.shape[2])
    if wanted is None:
        _illegal(node, "operands are floats of one kind, or integers of 8 and 16 bits, or int32")
    if node.dtype is not wanted:
        code = "GRAPH_OVERFLOW" if wanted is dtypes.int64 else "GRAPH_ILLEGAL"
        _illegal(node, f"the contraction of these operands is {wanted}", code)
    if len(node.src) == 3 and (
        node.src[2].dtype is not dtypes.int32 or node.src[2].shape != a.shape[:2]
    ):
        _illegal(node, "the valid length is int32 [B, M]")


# ---------------------------------------------------------------- movement by index


def _gather(node: Node) -> None:
    _want_sources(node, 2)
    data, index = node.src
    if not (isinstance(node.arg, tuple) and len(node.arg) == 1):
        _illegal(node, "argument is (axis,)")
    axis = node.arg[0]
    if not _is_axis(axis, len(data.shape)):
        _illegal(node, f"no axis {axis!r}")
    if index.dtype not in INDEX_DTYPES:
        _illegal(node, "an index is int32, int64 or uint32")
    if node.dtype is not data.dtype:
        _illegal(node, "a gather keeps the dtype of its data")
    if node.shape != (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]):
        _illegal(node, "shape is not the gathered one")
    if node.elements and data.shape[axis] == 0:
        _illegal(node, "nothing to gather from", "GRAPH_INDEX_RANGE")
    _check_constant_index(node, index, data.shape[axis])


def _scatter(node: Node) -> None:
    _want_sources(node, 3)
    _want_arg(node, *SCATTER_KINDS)
    destination, index, updates = node.src
    if node.shape != destination.shape or not destination.shape:
        _illegal(node, "the result has the destination's shape, of rank 1 or more")
    if len(index.shape) != 1 or index.dtype not in INDEX_DTYPES:
        _illegal(node, "the index is one axis of int32, int64 or uint32")
    if updates.shape != (*index.shape, *destination.shape[1:]):
        _illegal(node, "updates are [U, ...] with the destination's rows")
    if destination.dtype is not node.dtype or updates.dtype is not node.dtype:
        _illegal(node, "destination, updates and result want one dtype")
    if node.dtype is dtypes.bool_ and node.arg == ("add",):
        _illegal(node, "bool does not add")
    _check_constant_index(node, index, destination.shape[0])


def _check_constant_index(node: Node, index: Node, length: int) -> None:
    low, high = _constant_range(index)
    if low < 0 or high >= length:
        worst = low if low < 0 else high
        _illegal(node, f"constant index {worst} outside 0..{length - 1}", "GRAPH_INDEX_RANGE")


def _constant_range(index: Node) -> tuple[int, int]:
    """Least and largest element of the literal that ``index`` is a view of; (0, -1) without one.

    Remembered for every view on the way: a program may read one literal through as many views, and
    as often, as it has nodes.
    """
    passed: list[Node] = []
    while index not in _ranges and index.op is Op.VIEW and index.arg[0] in _SELECTING:
        passed.append(index)
        index = index.src[0]
    found = _ranges.get(index, (0, -1))
    if index not in _ranges and index.op is Op.CONST and index.elements:
        values = np.frombuffer(index.arg, dtype=index.dtype.numpy)
        found = int(values.min()), int(values.max())
        passed.append(index)
    _ranges.update(dict.fromkeys(passed, found))
    return found


def _concat(node: Node) -> None:
    if not 2 <= len(node.src) <= limits.MAX_SOURCES:
        _illegal(node, f"takes 2 to {limits.MAX_SOURCES} sources, got {len(node.src)}")
    if not (isinstance(node.arg, tuple) and len(node.arg) == 1):
        _illegal(node, "argument is (axis,)")
    axis = node.arg[0]
    if not _is_axis(axis, len(node.shape)):
        _illegal(node, f"no axis {axis!r}")
    rest = (*node.shape[:axis], *node.shape[axis + 1 :])
    for s in node.src:
        if s.dtype is not node.dtype or len(s.shape) != len(node.shape):
            _illegal(node, "sources want one dtype and rank")
        if (*s.shape[:axis], *s.shape[axis + 1 :]) != rest:
            _illegal(node, "sources differ outside the joined axis")
    if sum(s.shape[axis] for s in node.src) != node.shape[axis]:
        _illegal(node, "shape is not the joined one")


_RULES: dict[Op, Callable[[Node], None]] = {
    Op.INPUT: _input,
    Op.CONST: _const,
    Op.IOTA: _iota,
    Op.VIEW: _view,
    Op.CAST: _cast,
    Op.ADD: _arithmetic,
    Op.MUL: _arithmetic,
    Op.FMA: _arithmetic,
    Op.DIV: _arithmetic,
    Op.SQRT: _arithmetic,
    Op.MAX: _max,
    Op.CMP: _cmp,
    Op.WHERE: _where,
    Op.BIT: _bit,
    Op.REDUCE: _reduce,
    Op.DOT: _dot,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.CONCAT: _concat,
    Op.LOOP: loop.check,
}
