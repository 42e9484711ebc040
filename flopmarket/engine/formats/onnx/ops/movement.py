"""Operators that move data and compute nothing: reshape, transpose, join, cut, repeat.

They work alike on tensors, on codes of narrow formats and on host arrays (strings), through
:func:`moved`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import creation
from flopmarket.engine.compose import axes_of, axis_of, broadcast_shapes
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.narrow import Narrow, is_narrow, narrow_of
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.formats.onnx.values import check_host
from flopmarket.engine.tensor import Tensor

Shape = tuple[int, ...]


def moved(x: Value, movement: Callable[[Any], Any]) -> Value:
    """``movement`` on a tensor, on the codes of a Narrow, or on a host array."""
    if isinstance(x, Narrow):
        return x.map(movement)
    if isinstance(x, Tensor | np.ndarray):
        return movement(x)
    raise OnnxIllegal("its input is no tensor")


def reshaped(x: Value, shape: Sequence[int]) -> Value:
    """The same elements under another shape; raises OnnxIllegal where their numbers differ."""
    if prod(shape) != prod(x.shape):
        raise OnnxIllegal(f"shape {list(x.shape)} does not reshape to {list(shape)}")
    return moved(x, lambda t: t.reshape(tuple(shape)))


@op("Identity")
def identity(node: OpNode, x: Value) -> Value:
    return x


# ---------------------------------------------------------------- shape


def _reshape_target(before: Shape, wanted: Sequence[int], allow_zero: bool) -> Shape:
    shape = list(wanted)
    if not allow_zero:
        for axis, n in enumerate(shape):
            if n == 0:
                if axis >= len(before):
                    raise OnnxIllegal(f"shape {list(wanted)} keeps an axis that is not there")
                shape[axis] = before[axis]
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise OnnxIllegal(f"{list(wanted)} is no shape")
    if -1 in shape:
        rest = prod(n for n in shape if n != -1)
        if rest == 0 or prod(before) % rest:
            raise OnnxIllegal(f"shape {list(before)} does not reshape to {list(wanted)}")
        shape[shape.index(-1)] = prod(before) // rest
    return tuple(shape)


@op("Reshape")
def reshape_to_attribute(node: OpNode, x: Value) -> Value:
    return reshaped(x, _reshape_target(x.shape, node.ints("shape") or (), False))


@op("Reshape", since=5)
def reshape(node: OpNode, x: Value, shape: Value) -> Value:
    wanted = node.host_ints(shape, "the target shape")
    return reshaped(x, _reshape_target(x.shape, wanted, bool(node.get("allowzero", 0))))


@op("Flatten")
def flatten(node: OpNode, x: Value) -> Value:
    axis, rank = node.get("axis", 1), len(x.shape)
    if not -rank <= axis <= rank:
        raise OnnxIllegal(f"axis {axis} of a tensor of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return reshaped(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


def _squeezed(x: Value, axes: Sequence[int] | None) -> Value:
    rank = len(x.shape)
    found = [a for a in range(rank) if x.shape[a] == 1] if axes is None else axes_of(axes, rank)
    if any(x.shape[axis] != 1 for axis in found):
        raise OnnxIllegal(f"axes {list(found)} of shape {list(x.shape)} are not all 1")
    return reshaped(x, [n for axis, n in enumerate(x.shape) if axis not in found])


@op("Squeeze")
def squeeze_attribute(node: OpNode, x: Value) -> Value:
    return _squeezed(x, node.ints("axes"))


@op("Squeeze", since=13)
def squeeze(node: OpNode, x: Value, axes: Value = None) -> Value:
    return _squeezed(x, None if axes is None else node.host_ints(axes, "the axes"))


def _unsqueezed(x: Value, axes: Sequence[int]) -> Value:
    rank = len(x.shape) + len(axes)
    if rank > limits.MAX_RANK:
        raise OnnxIllegal(f"a tensor of rank {rank}, at most {limits.MAX_RANK}", code="ONNX_LIMIT")
    new = axes_of(axes, rank)
    rest = iter(x.shape)
    return reshaped(x, [1 if axis in new else next(rest) for axis in range(rank)])


@op("Unsqueeze")
def unsqueeze_attribute(node: OpNode, x: Value) -> Value:
    return _unsqueezed(x, node.ints("axes") or ())


@op("Unsqueeze", since=13)
def unsqueeze(node: OpNode, x: Value, axes: Value) -> Value:
    return _unsqueezed(x, node.host_ints(axes, "the axes"))


@op("Transpose")
def transpose(node: OpNode, x: Value) -> Value:
    rank = len(x.shape)
    order = node.ints("perm") or tuple(reversed(range(rank)))
    if sorted(axis % max(1, rank) for axis in order) != list(range(rank)):
        raise OnnxIllegal(f"{list(order)} is no order of {rank} axes")

    def movement(t: Any) -> Any:
        return t.transpose(order) if isinstance(t, np.ndarray) else t.permute(*order)

    return moved(x, movement) if rank else x


# ---------------------------------------------------------------- joining and cutting


def joined(values: Sequence[Value], axis: int) -> Value:
    """Values of one dtype along an existing axis."""
    if not values:
        raise OnnxIllegal("nothing to join")
    rank = len(values[0].shape)
    at = axis_of(axis, rank)
    if all(isinstance(value, Tensor) for value in values):
        return creation.cat(list(values), at)
    if all(is_narrow(value) for value in values):
        parts = [narrow_of(value) for value in values]
        return Narrow(creation.cat([part.codes for part in parts], at), parts[0].format)
    if not all(isinstance(value, np.ndarray) for value in values):
        raise OnnxIllegal("it joins values of different types")
    check_host(sum(value.size for value in values))
    return np.concatenate(list(values), axis=at)


@op("Concat")
def concat(node: OpNode, *values: Value) -> Value:
    return joined(values, node.get("axis", 1))


def part(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """A slice along one axis, with Python's rules for negative and far ends."""
    index = [slice(None)] * len(x.shape)
    index[axis] = slice(start, stop, step)
    return moved(x, lambda t: t[tuple(index)])


def cut(x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    """Consecutive parts of these sizes, which add up to the axis."""
    if min(sizes, default=0) < 0 or sum(sizes) != x.shape[axis]:
        raise OnnxIllegal(f"sizes {list(sizes)[:8]} do not split {x.shape[axis]} elements")
    ends = np.cumsum(sizes).tolist()
    return tuple(part(x, axis, end - n, end) for end, n in zip(ends, sizes, strict=True))


def _even(total: int, count: int) -> list[int]:
    """``count`` sizes as ONNX rounds them: all equal but the last ones."""
    if not 1 <= count <= limits.MAX_NODE_VALUES:
        raise OnnxIllegal(f"{count} parts")
    size = -(-total // count)
    return [max(0, min(size, total - at * size)) for at in range(count)]


@op("Split")
def split_attribute(node: OpNode, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = axis_of(node.get("axis", 0), len(x.shape))
    given = node.ints("split")
    if given is None and sizes is not None:
        given = node.host_ints(sizes, "the sizes")
    return cut(x, axis, given or _even(x.shape[axis], len(node.outputs)))


@op("Split", since=13)
def split(node: OpNode, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = axis_of(node.get("axis", 0), len(x.shape))
    if sizes is not None:
        return cut(x, axis, node.host_ints(sizes, "the sizes"))
    return cut(x, axis, _even(x.shape[axis], node.get("num_outputs", len(node.outputs))))


def _sliced(
    x: Value,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Value:
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise OnnxIllegal("starts, ends, axes and steps differ in number")
    rank = len(x.shape)
    axes_of(axes, rank)  # each once, inside the rank
    index = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise OnnxIllegal("a step is 0")
        index[axis_of(axis, rank)] = slice(start, end, step)
    return moved(x, lambda t: t[tuple(index)])


@op("Slice")
def slice_attributes(node: OpNode, x: Value) -> Value:
    return _sliced(x, node.ints("starts") or (), node.ints("ends") or (), node.ints("axes"), None)


@op("Slice", since=10)
def slice_inputs(
    node: OpNode, x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None
) -> Value:
    return _sliced(
        x,
        node.host_ints(starts, "the starts"),
        node.host_ints(ends, "the ends"),
        None if axes is None else node.host_ints(axes, "the axes"),
        None if steps is None else node.host_ints(steps, "the steps"),
    )


# ---------------------------------------------------------------- repeating


@op("Expand", since=8)
def expand(node: OpNode, x: Value, shape: Value) -> Value:
    wanted = node.host_ints(shape, "the target shape")
    if min(wanted, default=0) < 0:
        raise OnnxIllegal(f"{list(wanted)} is no shape")
    target = broadcast_shapes(tuple(x.shape), wanted)
    return moved(
        x,
        lambda t: np.broadcast_to(t, target) if isinstance(t, np.ndarray) else t.expand(*target),
    )


@op("Tile", since=6)
def tile(node: OpNode, x: Value, repeats: Value) -> Value:
    counts = node.host_ints(repeats, "the repeats")
    if len(counts) != len(x.shape) or min(counts, default=0) < 0:
        raise OnnxIllegal(f"repeats {list(counts)} for shape {list(x.shape)}")
    if isinstance(x, np.ndarray):
        check_host(prod(x.shape) * prod(counts))
        return np.tile(x, counts)
    return moved(x, lambda t: _tiled(t, counts))


def _tiled(x: Tensor, counts: Sequence[int]) -> Tensor:
    for axis, count in enumerate(counts):
        if count == 1:
            continue
        before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        repeated = x.reshape(*before, 1, n, *after).expand(*before, count, n, *after)
        x = repeated.reshape(*before, count * n, *after)
    return x
