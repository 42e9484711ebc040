"""Tensors from nothing (zeros, arange, rand) and from other tensors (cat, stack, where).

torch has these as module functions and so does the public facade.
"""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine import compose, graph, random
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import DType, bool_, float32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Operand, Tensor, as_ints, common_device, without


def full(
    shape: Sequence[int], value: Scalar, dtype: DType | None = None, device: str | None = None
) -> Tensor:
    """One value everywhere; the dtype follows the value."""
    kind = dtype or {bool: bool_, int: int64}.get(type(value), float32)
    return Tensor(compose.literal(value, kind, tuple(shape)), device=device)


def zeros(*shape: int | Sequence[int], dtype: DType = float32) -> Tensor:
    """Zeros."""
    return full(as_ints(shape), 0, dtype)


def ones(*shape: int | Sequence[int], dtype: DType = float32) -> Tensor:
    """Ones."""
    return full(as_ints(shape), 1, dtype)


def eye(size: int, dtype: DType = float32) -> Tensor:
    """Identity matrix."""
    rows, columns = (graph.iota(axis, (size, size)) for axis in (0, 1))
    return Tensor(graph.cmp("eq", rows, columns)).to(dtype)


def arange(start: int, stop: int | None = None, step: int = 1, dtype: DType = int64) -> Tensor:
    """start, start + step, ... below ``stop`` (whole numbers)."""
    steps = range(start) if stop is None else range(start, stop, step)
    ramp = graph.iota(0, (len(steps),), int64)
    scaled = graph.mul(ramp, compose.like(steps.step, ramp))
    return Tensor(graph.add(scaled, compose.like(steps.start, ramp))).to(dtype)


def rand(*shape: int | Sequence[int], seed: int, dtype: DType = float32) -> Tensor:
    """Uniform in [0, 1) in steps of 2^-24, a function of ``seed`` and shape alone.

    In a 16-bit ``dtype`` the float32 draw is rounded, so that 1 itself may occur.
    """
    drawn = random.uniform(random.key(seed), random.INITIAL, 0, as_ints(shape))
    return Tensor(drawn).to(dtype)


def randn(*shape: int | Sequence[int], seed: int, dtype: DType = float32) -> Tensor:
    """Standard normal, a function of ``seed`` and shape alone; drawn in float32."""
    drawn = random.normal(random.key(seed), random.INITIAL, 0, as_ints(shape))
    return Tensor(drawn).to(dtype)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along an existing axis, in the promoted dtype."""
    nodes = _promoted(tensors)
    axis = compose.axis_of(dim, len(nodes[0].shape))
    rest = {without(node.shape, (axis,)) for node in nodes if len(node.shape) > axis}
    if len(rest) != 1 or len({len(node.shape) for node in nodes}) != 1:
        shapes = ", ".join(str(list(node.shape)) for node in nodes)
        raise EngineError(f"no joining {shapes} along axis {axis}", code="SHAPE_MISMATCH")
    return Tensor(graph.concat(nodes, axis), device=common_device(*tensors))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along a new axis."""
    return cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


def where(condition: Tensor, a: Operand, b: Operand) -> Tensor:
    """``a`` where ``condition`` holds, else ``b``; one of them may be a Python scalar, or both."""
    if isinstance(a, Tensor):
        return a.where(condition, b)
    if isinstance(b, Tensor):
        return b.where(~condition, a)
    return full((), a).where(condition, b)


def _promoted(tensors: Sequence[Tensor]) -> list[Node]:
    if not tensors:
        raise EngineError("nothing to join", code="SHAPE_MISMATCH")
    dtype: DType = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = compose.promote(dtype, tensor.dtype)
    return [graph.cast(tensor.node, dtype) for tensor in tensors]
