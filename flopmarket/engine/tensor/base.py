"""What every tensor has: a graph node, a device, ways to read its value, and operand handling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from flopmarket.engine import analytic, buffers, compose, graph
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import DType, float32, float64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape


class TensorBase:
    """Construction, attributes, realising, and the plumbing of the families of methods.

    The families are subclasses of this; ``flopmarket.engine.tensor.Tensor`` joins them all.
    """

    __slots__ = ("_device", "_node")
    _node: Node
    _device: str | None
    __array_priority__ = 1000.0

    def __init__(self, data: Any, dtype: DType | None = None, *, device: str | None = None) -> None:
        if isinstance(data, TensorBase):
            data, device = data._node, device or data._device
        if isinstance(data, Node):
            self._node = data if dtype is None else graph.cast(data, dtype)
        else:
            self._node = buffers.leaf(compose.as_array(data, dtype))
        self._device = device

    # ------------------------------------------------------------ what it is

    @property
    def node(self) -> Node:
        """The graph node this tensor stands for."""
        return self._node

    @property
    def shape(self) -> Shape:
        """Lengths of the axes."""
        return self._node.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._node.dtype

    @property
    def device(self) -> str | None:
        """Where it will be realised; None leaves the choice to the runtime."""
        return self._device

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> int | Shape:
        """The shape, or the length of one axis."""
        return self.shape if dim is None else self.shape[compose.axis_of(dim, self.ndim)]

    def numel(self) -> int:
        """Number of elements."""
        return self._node.elements

    def __len__(self) -> int:
        if not self.shape:
            raise EngineError("a scalar tensor has no length", code="AXIS_RANGE")
        return self.shape[0]

    def __repr__(self) -> str:
        known = "" if buffers.array_of(self._node) is None else ", realised"
        device = "" if self._device is None else f", device={self._device!r}"
        return f"Tensor({self.dtype}{list(self.shape)}, {self._node.op.name}{known}{device})"

    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    # ------------------------------------------------------------ realising

    def realize(self) -> Self:
        """Compute the value now and forget how: memory of what it came from is freed, and
        derivatives stop here. For the values that an eager loop carries on; returns self.

        Raises EngineError (NOT_REALISABLE) inside a trace.
        """
        self._node = buffers.leaf(buffers.value(self._node, self._device))
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a fresh array. Reading changes nothing: not what later results are computed
        from, nor their bits or derivatives."""
        return buffers.value(self._node, self._device).copy()

    def item(self) -> bool | int | float:
        """The only element as a Python number."""
        if self.numel() != 1:
            raise EngineError(
                f"a tensor of shape {list(self.shape)} is not one number", code="SHAPE_MISMATCH"
            )
        value: bool | int | float = self.numpy().reshape(()).item()
        return value

    def tolist(self) -> Any:
        """The value as nested Python lists."""
        return self.numpy().tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    # ------------------------------------------------------------ plumbing

    def _wrap(self, node: Node, *others: TensorBase) -> Self:
        """``node`` on the device that this tensor and ``others`` share."""
        device = common_device(self, *others) if others else self._device
        return type(self)(node, device=device)

    def _pair(self, other: Operand) -> tuple[Node, Node, str | None]:
        """Both operands under one dtype and shape, and the device they share."""
        a = self._node
        if isinstance(other, TensorBase):
            dtype = compose.promote(a.dtype, other.dtype)
            left, right = compose.broadcast(graph.cast(a, dtype), graph.cast(other._node, dtype))
            return left, right, common_device(self, other)
        # A float64 of NumPy is a Python float too, and as weak as one.
        if isinstance(other, np.ndarray | np.generic | list | tuple) and not isinstance(
            other, float
        ):
            return self._pair(type(self)(other))
        if not isinstance(other, bool | int | float):
            raise EngineError(
                f"a tensor does not combine with {type(other).__name__}", code="OPERAND_KIND"
            )
        dtype = compose.promote_scalar(a.dtype, other)
        return graph.cast(a, dtype), compose.literal(other, dtype, a.shape), self._device

    def _binary(
        self, other: Operand, rule: Callable[[Node, Node], Node], reflected: bool = False
    ) -> Self:
        a, b, device = self._pair(other)
        return type(self)(rule(b, a) if reflected else rule(a, b), device=device)

    def _wide(self) -> Node:
        """This value in the dtype that functions and moments are computed in: float64 as it is,
        else float32."""
        return self._node if self.dtype is float64 else graph.cast(self._node, float32)

    def _function(self, name: str) -> Self:
        """The elementary function called ``name``."""
        return self._narrowed(analytic.apply(name, self._wide()))

    def _narrowed(self, node: Node) -> Self:
        """A float32 result rounded to this tensor's dtype where that is a 16-bit float."""
        dtype = self.dtype
        return self._wrap(graph.cast(node, dtype) if dtype.is_narrow_float else node)

    def _analytic(
        self, other: Operand, rule: Callable[[Node, Node], Node], reflected: bool = False
    ) -> Self:
        """A ``rule`` of two wide operands, rounded to their dtype where that is 16 bits wide."""
        pair = self._pair(other)
        a, b = (type(self)(node) for node in pair[:2])
        result = rule(b._wide(), a._wide()) if reflected else rule(a._wide(), b._wide())
        return type(self)(a._narrowed(result).node, device=pair[2])


Operand = TensorBase | Scalar
Axes = int | Sequence[int] | None


def common_device(*tensors: TensorBase) -> str | None:
    """The one device that ``tensors`` name; raises EngineError (DEVICE_MISMATCH)."""
    names = {tensor.device for tensor in tensors} - {None}
    if len(names) > 1:
        text = " and ".join(sorted(str(name) for name in names))
        raise EngineError(f"tensors on {text} do not combine", code="DEVICE_MISMATCH")
    return names.pop() if names else None


# ---------------------------------------------------------------- arguments


def as_ints(values: Sequence[int | Sequence[int]]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    if len(values) == 1 and not isinstance(values[0], int):
        return tuple(values[0])
    return tuple(values)  # type: ignore[arg-type]  # ints, by the line above


def without(shape: Shape, axes: Sequence[int]) -> Shape:
    """``shape`` with some axes left out."""
    return tuple(n for axis, n in enumerate(shape) if axis not in axes)
