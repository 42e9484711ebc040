"""Operations on nodes that are a few primitives each: promotion, broadcasting, signs, folds.

``tensor.py``, ``grad.py`` and ``functional`` build on these, so that one spelling of "minus" or
"mean" exists. Everything here takes and returns graph nodes; shapes broadcast only where a
docstring says so.

Promotion (as in torch): bool < unsigned and signed integers < floats; two integer types give the
narrowest that holds both, float16 and bfloat16 together float32, float64 with anything float64, an
integer type with a float type that float type. A Python scalar is weak: it changes the kind of a
tensor's dtype (bool to int64, integer to float32) but never its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import floats, graph
from flopmarket.engine.dtypes import (
    DType,
    bool_,
    float32,
    float64,
    from_numpy,
    int32,
    int64,
    unsigned_of,
)
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape

Scalar = bool | int | float


# ---------------------------------------------------------------- dtypes


def promote(a: DType, b: DType) -> DType:
    """The dtype that an operation on ``a`` and ``b`` computes in.

    Raises EngineError (DTYPE_MISMATCH) for uint64 with a signed type, which no integer type holds.
    """
    if a is b:
        return a
    if a.is_float and b.is_float:
        return float64 if float64 in (a, b) else float32
    if a.is_float or b.is_float:
        return a if a.is_float else b
    wide = np.promote_types(a.numpy, b.numpy)
    if wide.kind == "f":
        raise EngineError(f"no dtype holds both {a} and {b}; cast one", code="DTYPE_MISMATCH")
    return from_numpy(wide)


def promote_scalar(dtype: DType, value: Scalar) -> DType:
    """The dtype that an operation on a tensor of ``dtype`` and a Python scalar computes in."""
    if isinstance(value, bool):
        return dtype
    if isinstance(value, int):
        return int64 if dtype is bool_ else dtype
    return dtype if dtype.is_float else float32


def literal(value: Scalar, dtype: DType, shape: Shape) -> Node:
    """A constant of ``shape``; raises EngineError (SCALAR_RANGE) if ``dtype`` cannot hold it."""
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        if not int(info.min) <= int(value) <= int(info.max):
            raise EngineError(f"the scalar {value} does not fit in {dtype}", code="SCALAR_RANGE")
        value = int(value)
    with np.errstate(over="ignore"):
        return graph.filled(value, dtype, shape)


def like(value: Scalar, x: Node) -> Node:
    """A constant with the dtype and shape of ``x``."""
    return literal(value, x.dtype, x.shape)


# ---------------------------------------------------------------- shapes


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape, axes aligned from the last; raises EngineError (SHAPE_MISMATCH)."""
    result: list[int] = [1] * max(map(len, shapes))
    for shape in shapes:
        for axis in range(1, len(shape) + 1):
            n, m = shape[-axis], result[-axis]
            if n != 1 and m != 1 and n != m:
                text = " and ".join(str(list(s)) for s in shapes)
                raise EngineError(f"shapes {text} do not broadcast", code="SHAPE_MISMATCH")
            result[-axis] = n if m == 1 else m
    return tuple(result)


def broadcast_to(x: Node, shape: Shape) -> Node:
    """``x`` seen under ``shape``, new leading axes and axes of length 1 repeated."""
    if broadcast_shapes(x.shape, shape) != shape:
        raise EngineError(
            f"shape {list(x.shape)} does not expand to {list(shape)}", code="SHAPE_MISMATCH"
        )
    return graph.expand(graph.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape), shape)


def broadcast(*nodes: Node) -> tuple[Node, ...]:
    """All nodes under their common shape."""
    shape = broadcast_shapes(*(node.shape for node in nodes))
    return tuple(broadcast_to(node, shape) for node in nodes)


def axis_of(axis: int, rank: int) -> int:
    """``axis`` counted from the front; raises EngineError (AXIS_RANGE)."""
    if not -rank <= axis < rank:
        raise EngineError(f"axis {axis} is outside a tensor of rank {rank}", code="AXIS_RANGE")
    return axis % rank


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Ascending distinct axes; None means all of them."""
    if axes is None:
        return tuple(range(rank))
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    found = tuple(sorted({axis_of(axis, rank) for axis in given}))
    if len(found) != len(given):
        raise EngineError(f"axes {list(given)} repeat one", code="AXIS_RANGE")
    return found


def swap(x: Node, first: int, second: int) -> Node:
    """Two axes exchanged."""
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = axes[second], axes[first]
    return graph.permute(x, axes)


def part(x: Node, axis: int, start: int, count: int, step: int = 1) -> Node:
    """``count`` elements along one axis from ``start``."""
    ranges = [(0, 1, n) for n in x.shape]
    ranges[axis] = (start, step, count)
    return graph.slice_(x, ranges)


# ---------------------------------------------------------------- elementwise (equal shapes)


def negative(x: Node) -> Node:
    """-x: exact for floats, wrapping for integers."""
    if x.dtype.kind == "u":
        return graph.mul(x, graph.filled(np.iinfo(x.dtype.numpy).max, x.dtype, x.shape))
    return graph.mul(x, like(-1, x))


def subtract(a: Node, b: Node) -> Node:
    """a - b with one rounding."""
    return graph.add(a, negative(b))


def invert(x: Node) -> Node:
    """Logical not of a bool, bitwise not of an unsigned integer."""
    ones = True if x.dtype is bool_ else int(np.iinfo(x.dtype.numpy).max)
    return graph.bit("xor", x, like(ones, x))


def minimum(a: Node, b: Node) -> Node:
    """The smaller: NaN propagates, -0 < +0; ties take ``a``."""
    if a.dtype.is_float:
        return negative(graph.max_(negative(a), negative(b)))
    if a.dtype is bool_:
        return graph.bit("and", a, b)
    return graph.where(graph.cmp("lt", b, a), b, a)


def at_most(x: Node, high: Node) -> Node:
    """min(x, high) for a ``high`` that is no NaN: NaN in ``x`` stays, ties take ``x``."""
    return graph.where(graph.cmp("lt", high, x), high, x)


def sign(x: Node) -> Node:
    """-1, 0 or 1 in the dtype of ``x``; 0 for NaN."""
    zero = like(0, x)
    up = graph.where(graph.cmp("lt", zero, x), like(1, x), zero)
    if x.dtype.kind == "u":
        return up
    return graph.where(graph.cmp("lt", x, zero), like(-1, x), up)


def absolute(x: Node) -> Node:
    """|x|. For floats FMA(x, sign x, +0), whose derivative at 0 is 0."""
    if x.dtype.is_float:
        return graph.fma(x, sign(x), like(0.0, x))
    if x.dtype.kind != "i":
        return x
    return graph.where(graph.cmp("lt", x, like(0, x)), negative(x), x)


def polynomial(coefficients: Sequence[float], x: Node) -> Node:
    """Horner's rule, lowest coefficient first."""
    total = like(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = graph.fma(total, x, like(coefficient, x))
    return total


def detach(x: Node) -> Node:
    """The same value with no derivative: a float's bits through an unsigned type and back."""
    if not x.dtype.is_float:
        return x
    return graph.bitcast(graph.bitcast(x, unsigned_of(x.dtype)), x.dtype)


# ---------------------------------------------------------------- folds


def keep_axes(x: Node, axes: Iterable[int], shape: Shape) -> Node:
    """A reduced ``x`` with the folded ``axes`` of ``shape`` back as length 1."""
    folded = set(axes)
    return graph.reshape(x, tuple(1 if a in folded else n for a, n in enumerate(shape)))


def fold(kind: str, x: Node, axes: tuple[int, ...], keep: bool = False) -> Node:
    """REDUCE ``kind``; a fold over no axes is ``x`` itself."""
    result = graph.reduce(kind, x, axes) if axes else x
    return keep_axes(result, axes, x.shape) if keep else result


def mean(x: Node, axes: tuple[int, ...], keep: bool = False) -> Node:
    """Sum over ``axes`` divided by their number of elements (float).

    float16 cannot count beyond 65504: callers widen 16-bit floats.
    """
    total = fold("sum", x, axes, keep)
    return graph.div(total, like(float(prod(x.shape[a] for a in axes)), total))


def spread(x: Node, axes: tuple[int, ...], correction: int, keep: bool = False) -> Node:
    """Variance over ``axes``: sum of squared distances to the mean by (count - correction)."""
    distance = subtract(x, broadcast_to(mean(x, axes, keep=True), x.shape))
    total = graph.reduce("sumprod", distance, axes, distance)
    count = max(0, prod(x.shape[a] for a in axes) - correction)
    result = graph.div(total, like(float(count), total))
    return keep_axes(result, axes, x.shape) if keep else result


def ramp(shape: Shape, axes: tuple[int, ...]) -> Node:
    """int32 of ``shape``: the row-major index inside ``axes``, flattened together."""
    count = prod(shape[a] for a in axes)
    if count > 2**31 - 1:
        raise EngineError(f"{count} elements do not index in int32", code="SHAPE_TOO_LARGE")
    inner = tuple(n if a in axes else 1 for a, n in enumerate(shape))
    return graph.expand(graph.reshape(graph.iota(0, (count,)), inner), shape)


def first_extreme(x: Node, axes: tuple[int, ...], extreme: Node) -> Node:
    """int32 (axes kept as 1): row-major index of the first element equal to its row's extreme.

    ``extreme`` has ``axes`` kept. A row without an equal element (NaN) gives 2^31 - 1.
    """
    hit = graph.cmp("eq", x, graph.expand(extreme, x.shape))
    index = ramp(x.shape, axes)
    nowhere = graph.filled(2**31 - 1, int32, x.shape)
    return fold("min", graph.where(hit, index, nowhere), axes, keep=True)


def replace(outputs: Sequence[Node], by: dict[Node, Node]) -> tuple[Node, ...]:
    """``outputs`` with every node of ``by`` exchanged for its value, bottom up."""
    done: dict[Node, Node] = {}
    for node in graph.topological(outputs):
        if node in by:
            done[node] = by[node]
            continue
        src = tuple(done[source] for source in node.src)
        same = src == node.src
        done[node] = node if same else graph.make(node.op, src, node.arg, node.dtype, node.shape)
    return tuple(done[output] for output in outputs)


def as_array(data: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    """Python or numpy data as an array of a dtype of the engine.

    Python floats become float32, ints int64. Raises EngineError (DTYPE_UNKNOWN, DATA_RAGGED).
    """
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise EngineError(f"no tensor can hold this data: {error}", code="DATA_RAGGED") from None
    if dtype is not None and (array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"):
        with np.errstate(all="ignore"):
            return floats.convert(array, dtype) if dtype.is_float else array.astype(dtype.numpy)
    if array.dtype == np.float64 and not isinstance(data, np.ndarray | np.generic):
        return array.astype(np.float32)
    from_numpy(array.dtype)
    return array
