"""The bit-exact interpreter: profile FX1 in NumPy, one function per primitive.

This is the law in executable form. Every other way of running a program is compared with it, the
referee of a dispute runs it, and no speed is asked of it (tens of MFLOP/s; use small shapes).

How floats are widened, rounded and fused is ``floats.py``; the order of sums is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, floats, loop
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import DOT_CHUNK, REDUCE_BLOCK, REDUCE_LANES
from flopmarket.engine.floats import fma32 as fma32
from flopmarket.engine.graph import Node, Op, topological

Array = np.ndarray[Any, Any]


def evaluate(outputs: Iterable[Node], leaves: Mapping[Node, Array]) -> list[Array]:
    """Values of ``outputs``, canonical, given one array per INPUT node below them.

    Raises EngineError (INPUT_MISSING, INPUT_SHAPE) when a leaf is absent or of another form, and
    DEVICE_MEMORY when a value does not fit into memory.
    """
    outputs = list(outputs)
    try:
        return _evaluate(topological(outputs), outputs, leaves)
    except MemoryError as error:
        raise EngineError(f"the reference: {error}", code="DEVICE_MEMORY", retryable=True) from None


def _evaluate(
    order: Sequence[Node], outputs: Sequence[Node], leaves: Mapping[Node, Array]
) -> list[Array]:
    """:func:`evaluate` with the order of all nodes below ``outputs`` given."""
    uses: dict[Node, int] = dict.fromkeys(outputs, 1)
    for node in order:
        for source in node.src:
            uses[source] = uses.get(source, 0) + 1
    values: dict[Node, Array] = {}
    loops: dict[loop.Group, list[Array]] = {}
    with np.errstate(all="ignore"):
        for node in order:
            if node.op is Op.INPUT:
                values[node] = leaf_value(node, leaves)
            elif node.op is Op.LOOP:
                group = loop.group_of(node)
                if group not in loops:
                    loops[group] = _loop(group, [values[s] for s in node.src])
                values[node] = loops[group][node.arg[3]]
            else:
                values[node] = _RULES[node.op](node, *(values[s] for s in node.src))
            for source in node.src:
                uses[source] -= 1
                if not uses[source]:
                    values.pop(source, None)
    return [dtypes.canonical(values[node]) for node in outputs]


def _loop(group: loop.Group, sources: Sequence[Array]) -> list[Array]:
    """Every result of a loop: the carries after the last turn, then the stacked results."""
    body, split = group.body, group.body.carries + group.body.items
    carries = list(sources[: body.carries])
    stacked = [
        np.zeros((group.count, *node.shape), dtype=node.dtype.numpy)
        for node in body.results[body.carries :]
    ]
    for turn in range(group.count):
        at = group.count - 1 - turn if group.reverse else turn
        given = {
            "carry": carries,
            "item": [array[at] for array in sources[body.carries : split]],
            "shared": sources[split:],
        }
        leaves = {leaf: given[kind][n] for (kind, n), leaf in body.placeholders.items()}
        values = _evaluate(body.nodes, body.results, leaves)
        carries = values[: body.carries]
        for array, value in zip(stacked, values[body.carries :], strict=True):
            array[at] = value
    return [*carries, *stacked]


def leaf_value(node: Node, leaves: Mapping[Node, Array]) -> Array:
    """The canonical value given for a leaf; raises ``INPUT_MISSING`` or ``INPUT_SHAPE``."""
    if node not in leaves:
        raise EngineError(f"no value was given for {node!r}", code="INPUT_MISSING")
    value = np.asarray(leaves[node])
    if value.shape != node.shape or value.dtype != node.dtype.numpy:
        raise EngineError(
            f"{node!r} was given {value.dtype}{list(value.shape)}", code="INPUT_SHAPE"
        )
    return dtypes.canonical(value).reshape(node.shape)


# ---------------------------------------------------------------- scalar arithmetic


def maximum(a: Array, b: Array) -> Array:
    """MAX of FX1: NaN propagates, -0 < +0."""
    if a.dtype.kind != "f":
        return np.maximum(a, b)
    larger = np.where(a == b, np.where(np.signbit(a), b, a), np.where(a > b, a, b))
    return np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), larger)


def minimum(a: Array, b: Array) -> Array:
    """The mirror of MAX, used by REDUCE min: NaN propagates, -0 < +0."""
    return np.minimum(a, b) if a.dtype.kind != "f" else np.negative(maximum(-a, -b))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    zero = b == 0
    safe = np.where(zero, a.dtype.type(1), b)
    quotient = np.floor_divide(a, safe)
    if a.dtype.kind == "i":
        lowest = np.iinfo(a.dtype).min
        quotient = np.where((a == lowest) & (safe == -1), a.dtype.type(lowest), quotient)
    return np.where(zero, a.dtype.type(0), quotient)


def _cast(node: Node, x: Array) -> Array:
    source, target = node.src[0].dtype, node.dtype
    if node.arg == ("bitcast",):
        return dtypes.canonical(dtypes.canonical(x).view(target.numpy))
    if target is dtypes.bool_:
        return np.asarray(floats.wide(x) != 0)
    if source.is_float and target.is_integer:
        return _float_to_int(floats.wide(x), target.numpy)
    return floats.convert(x, target) if target.is_float else x.astype(target.numpy)


def _float_to_int(x: Array, target: np.dtype[Any]) -> Array:
    info = np.iinfo(target)
    wide = np.trunc(x.astype(np.float64))
    # 2^63 and 2^64 are exact in float64, so ">= max + 1" is an exact test for every width.
    above, below = wide >= float(int(info.max) + 1), wide < float(info.min)
    inside = np.where(above | below | np.isnan(wide), 0.0, wide).astype(target)
    clamped = np.where(below, target.type(info.min), inside)
    return np.asarray(np.where(above, target.type(info.max), clamped))


def _bit(node: Node, a: Array, b: Array) -> Array:
    kind = node.arg[0]
    if kind in ("shl", "shr"):
        width = node.dtype.bits
        amount = np.where(b < width, b, 0).astype(a.dtype)
        shifted = np.left_shift(a, amount) if kind == "shl" else np.right_shift(a, amount)
        return np.asarray(np.where(b < width, shifted, a.dtype.type(0)))
    operation = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[kind]
    return np.asarray(operation(a, b))


# ---------------------------------------------------------------- views


def _view(node: Node, x: Array) -> Array:
    kind = node.arg[0]
    if kind == "reshape":
        return x.reshape(node.shape)
    if kind == "permute":
        return x.transpose(node.arg[1])
    if kind == "expand":
        return np.broadcast_to(x, node.shape)
    if kind == "pad":
        return np.pad(x, node.arg[1])
    if kind == "slice":
        return x[tuple(_range(*part) for part in node.arg[1])]
    for axis, size, stride, dilation in node.arg[1]:
        count = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
        taps = np.arange(count)[:, None] * stride + np.arange(size)[None, :] * dilation
        x = np.moveaxis(np.take(x, taps, axis=axis), axis + 1, -1)
    return x


def _range(start: int, step: int, count: int) -> slice:
    stop = start + step * count
    return slice(start, stop if stop >= 0 else None, step) if count else slice(0)


# ---------------------------------------------------------------- sums


def _fold(kind: str, rows: Array) -> Array:
    """REDUCE of float sum/prod over the last axis of [R, N], N >= 1, by blocks, lanes and tree."""
    combine: Callable[[Array, Array], Array] = np.add if kind == "sum" else np.multiply
    while True:
        blocks = [
            _tree(combine, _lanes(combine, rows[:, start : start + REDUCE_BLOCK]))
            for start in range(0, rows.shape[1], REDUCE_BLOCK)
        ]
        rows = np.stack(blocks, axis=1)
        if rows.shape[1] == 1:
            return rows[:, 0]


def _lanes(combine: Callable[[Array, Array], Array], block: Array) -> Array:
    """Lane j folds elements j, j + 64, ... in order, from its first one."""
    lanes = block[:, :REDUCE_LANES].copy()
    for start in range(REDUCE_LANES, block.shape[1], REDUCE_LANES):
        part = block[:, start : start + REDUCE_LANES]
        lanes[:, : part.shape[1]] = combine(lanes[:, : part.shape[1]], part)
    return lanes


def _tree(combine: Callable[[Array, Array], Array], lanes: Array) -> Array:
    """Fold lanes j += j + 32, 16, 8, 4, 2, 1; a missing lane is skipped."""
    step = REDUCE_LANES // 2
    while step:
        live = max(0, min(step, lanes.shape[1] - step))
        if live:
            lanes[:, :live] = combine(lanes[:, :live], lanes[:, step : step + live])
        lanes = lanes[:, :step]
        step //= 2
    return lanes[:, 0]


def _sum_of_products(x: Array, y: Array) -> Array:
    """REDUCE sumprod over the last axis of two [R, N]: each lane an FMA chain from +0."""
    blocks = []
    for start in range(0, x.shape[1], REDUCE_BLOCK):
        width = min(REDUCE_BLOCK, x.shape[1] - start)
        lanes = np.zeros((x.shape[0], min(REDUCE_LANES, width)), dtype=x.dtype)
        for at in range(start, start + width, REDUCE_LANES):
            live = min(REDUCE_LANES, start + width - at)
            part = x[:, at : at + live], y[:, at : at + live]
            lanes[:, :live] = floats.fma(*part, lanes[:, :live])
        blocks.append(_tree(np.add, lanes))
    return _fold("sum", np.stack(blocks, axis=1)) if len(blocks) > 1 else blocks[0]


def _reduce(node: Node, x: Array, y: Array | None = None) -> Array:
    kind, axes = node.arg
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    x, y = floats.wide(x), None if y is None else floats.wide(y)

    def rows(array: Array) -> Array:
        return array.transpose([*rest, *axes]).reshape(-1, count)

    if count == 0:
        result = np.full(node.shape, 1 if kind == "prod" else 0, dtype=x.dtype)
    elif kind in ("max", "min"):
        result = _extreme(maximum if kind == "max" else minimum, rows(x))
    elif not node.dtype.is_float:
        if y is not None:
            x = np.multiply(x, y)
        total = np.prod if kind == "prod" else np.sum
        result = total(rows(x), axis=1, dtype=x.dtype)
    elif y is not None:
        result = _sum_of_products(rows(x), rows(y))
    else:
        result = _fold(kind, rows(x))
    return floats.fit(np.asarray(result).reshape(node.shape), node.dtype)


def _extreme(choose: Callable[[Array, Array], Array], rows: Array) -> Array:
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = np.concatenate(
            [choose(rows[:, :half], rows[:, half : 2 * half]), rows[:, 2 * half :]], axis=1
        )
    return rows[:, 0]


def _dot(node: Node, a: Array, b: Array, valid: Array | None = None) -> Array:
    terms = a.shape[2]
    counts = None if valid is None else np.clip(valid, 0, terms)[:, :, None]
    if not node.dtype.is_float:
        wide_a, wide_b = a.astype(node.dtype.numpy), b.astype(node.dtype.numpy)
        if counts is not None:
            wide_a = np.where(np.arange(terms) < counts, wide_a, node.dtype.numpy.type(0))
        return np.asarray(np.matmul(wide_a, wide_b))
    a, b = floats.wide(a), floats.wide(b)
    total = np.zeros(node.shape, dtype=node.dtype.numpy)
    for start in range(0, terms, DOT_CHUNK):
        chunk = np.zeros(node.shape, dtype=node.dtype.numpy)
        for k in range(start, min(start + DOT_CHUNK, terms)):
            chained = floats.fma(a[:, :, k, None], b[:, None, k, :], chunk)
            chunk = chained if counts is None else np.where(k < counts, chained, chunk)
        total = total + chunk
    return total


# ---------------------------------------------------------------- movement by index


def _gather(node: Node, data: Array, index: Array) -> Array:
    axis = node.arg[0]
    clamped = np.clip(index.astype(np.int64), 0, max(0, data.shape[axis] - 1))
    if node.elements == 0:
        return np.zeros(node.shape, dtype=node.dtype.numpy)
    return np.take(data, clamped, axis=axis)


def _scatter(node: Node, destination: Array, index: Array, updates: Array) -> Array:
    result = destination.copy()
    for at, row in enumerate(index.astype(np.int64)):
        if 0 <= row < result.shape[0]:
            total = updates[at]
            if node.arg == ("add",):
                total = floats.fit(floats.wide(result[row]) + floats.wide(total), node.dtype)
            result[row] = total
    return result


def _arithmetic(operation: Callable[..., Any]) -> Callable[..., Array]:
    """The rule of an operation that rounds: in the wide type, then once more for 16-bit floats."""

    def rule(node: Node, *sources: Array) -> Array:
        return floats.fit(np.asarray(operation(*map(floats.wide, sources))), node.dtype)

    return rule


def _compare(node: Node, a: Array, b: Array) -> Array:
    a, b = floats.wide(a), floats.wide(b)
    return np.asarray(a < b if node.arg == ("lt",) else a == b)


_RULES: dict[Op, Callable[..., Array]] = {
    Op.CONST: lambda n: np.frombuffer(n.arg, dtype=n.dtype.numpy).reshape(n.shape),
    Op.IOTA: lambda n: np.broadcast_to(
        np.arange(n.shape[n.arg[0]], dtype=n.dtype.numpy).reshape(
            [-1 if axis == n.arg[0] else 1 for axis in range(len(n.shape))]
        ),
        n.shape,
    ),
    Op.VIEW: _view,
    Op.CAST: _cast,
    Op.ADD: _arithmetic(np.add),
    Op.MUL: _arithmetic(np.multiply),
    Op.FMA: _arithmetic(floats.fma),
    Op.DIV: _arithmetic(_divide),
    Op.SQRT: _arithmetic(np.sqrt),
    Op.MAX: _arithmetic(maximum),
    Op.CMP: _compare,
    Op.WHERE: lambda n, condition, a, b: np.asarray(np.where(condition, a, b)),
    Op.BIT: _bit,
    Op.REDUCE: _reduce,
    Op.DOT: _dot,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.CONCAT: lambda n, *sources: np.concatenate(sources, axis=n.arg[0]),
}
