"""The lazy tensor a user writes models with: torch's names and semantics over one graph node.

Nothing is computed until ``.numpy()``, ``.item()`` or ``.realize()``. There is no tape: derivatives
are rules on the graph (:func:`flopmarket.engine.grad.grad`). A tensor never changes; there are no
in-place operations. Broadcasting is torch's; dtype promotion is stated in ``compose.py`` (Python
scalars are weak). Where profile FX1 has no type for torch's answer, the nearest one stands in:
floats are float32, integers from Python and sums of integers are int64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from flopmarket.engine import arithmetic, buffers, compose, dtypes, graph, indexing, macros
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import DType, bool_, float32, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape

MAX_INTEGER_POWER = 64
"""Largest magnitude of an integer exponent in ``tensor ** n``; it unrolls into multiplications."""


class Extreme(NamedTuple):
    """What ``max`` and ``min`` along one axis give: values and int64 positions of the first."""

    values: Tensor
    indices: Tensor


class Tensor:
    """A value of the graph with a shape, a dtype and optionally the device it is computed on.

    ``data`` is a number, nested lists, a numpy array, or a graph Node. Python floats become float32
    and ints int64; a float64 array wants an explicit ``dtype``. ``device`` is a name such as
    "PoCL:0" or "reference"; None means the first device there is. Results inherit it.
    """

    __slots__ = ("_device", "_node")
    _node: Node
    _device: str | None
    __array_priority__ = 1000.0

    def __init__(self, data: Any, dtype: DType | None = None, *, device: str | None = None) -> None:
        if isinstance(data, Tensor):
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

    def __iter__(self) -> Iterator[Tensor]:
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        known = "" if buffers.array_of(self._node) is None else ", realised"
        device = "" if self._device is None else f", device={self._device!r}"
        return f"Tensor({self.dtype}{list(self.shape)}, {self._node.op.name}{known}{device})"

    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    # ------------------------------------------------------------ realising

    def realize(self) -> Tensor:
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

    def _wrap(self, node: Node) -> Tensor:
        return Tensor(node, device=self._device)

    def _pair(self, other: Operand) -> tuple[Node, Node, str | None]:
        """Both operands under one dtype and shape, and the device they share."""
        a = self._node
        if isinstance(other, Tensor):
            dtype = compose.promote(a.dtype, other.dtype)
            left, right = compose.broadcast(graph.cast(a, dtype), graph.cast(other._node, dtype))
            return left, right, common_device(self, other)
        if isinstance(other, np.ndarray | np.generic | list | tuple):
            return self._pair(Tensor(other))
        if not isinstance(other, bool | int | float):
            raise EngineError(
                f"a tensor does not combine with {type(other).__name__}", code="OPERAND_KIND"
            )
        dtype = compose.promote_scalar(a.dtype, other)
        return graph.cast(a, dtype), compose.literal(other, dtype, a.shape), self._device

    def _binary(
        self, other: Operand, rule: Callable[[Node, Node], Node], reflected: bool = False
    ) -> Tensor:
        a, b, device = self._pair(other)
        return Tensor(rule(b, a) if reflected else rule(a, b), device=device)

    def _float(self) -> Node:
        """This value in float32, as the functions of analysis want it."""
        return graph.cast(self._node, float32)

    # ------------------------------------------------------------ arithmetic

    def __add__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.add)

    def __sub__(self, other: Operand) -> Tensor:
        return self._binary(other, compose.subtract)

    def __mul__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.mul)

    def __truediv__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.divide)

    def __floordiv__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.floor_divide)

    def __mod__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.remainder)

    def __radd__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.add, reflected=True)

    def __rsub__(self, other: Operand) -> Tensor:
        return self._binary(other, compose.subtract, reflected=True)

    def __rmul__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.mul, reflected=True)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.divide, reflected=True)

    def __rfloordiv__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.floor_divide, reflected=True)

    def __neg__(self) -> Tensor:
        return self._wrap(compose.negative(self._node))

    def neg(self) -> Tensor:
        """-x."""
        return -self

    def __abs__(self) -> Tensor:
        return self._wrap(compose.absolute(self._node))

    def abs(self) -> Tensor:
        """|x|."""
        return abs(self)

    def sign(self) -> Tensor:
        """-1, 0 or 1."""
        return self._wrap(compose.sign(self._node))

    def floor(self) -> Tensor:
        """Largest integer not above."""
        return self._wrap(compose.floor(self._node)) if self.dtype.is_float else self

    def __pow__(self, exponent: int | float) -> Tensor:
        return self.pow(exponent)

    def pow(self, exponent: int | float) -> Tensor:
        """x to a whole power (by squaring), 0.5 or -0.5; raises EngineError (POW_EXPONENT)."""
        if exponent in (0.5, -0.5):
            root = self.sqrt()
            return root if exponent > 0 else 1.0 / root
        if int(exponent) != exponent or abs(exponent) > MAX_INTEGER_POWER:
            raise EngineError(
                f"no power of {exponent}: whole numbers up to {MAX_INTEGER_POWER}, 0.5 and -0.5",
                code="POW_EXPONENT",
                hint="write exp(y * log(x)) for positive x",
            )
        result = self._wrap(arithmetic.power(self._node, abs(int(exponent))))
        return result if exponent >= 0 else 1.0 / result

    def square(self) -> Tensor:
        """x * x."""
        return self * self

    def sqrt(self) -> Tensor:
        """Correctly rounded square root."""
        return self._wrap(graph.sqrt(self._float()))

    def rsqrt(self) -> Tensor:
        """1 / sqrt(x)."""
        return 1.0 / self.sqrt()

    def reciprocal(self) -> Tensor:
        """1 / x."""
        return 1.0 / self

    # ------------------------------------------------------------ functions of analysis

    def exp(self) -> Tensor:
        """e**x."""
        return self._wrap(macros.exp(self._float()))

    def exp2(self) -> Tensor:
        """2**x."""
        return self._wrap(macros.exp2(self._float()))

    def log(self) -> Tensor:
        """Natural logarithm."""
        return self._wrap(macros.log(self._float()))

    def log2(self) -> Tensor:
        """Base-2 logarithm."""
        return self._wrap(macros.log2(self._float()))

    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""
        return self._wrap(macros.tanh(self._float()))

    def sigmoid(self) -> Tensor:
        """1 / (1 + e**-x)."""
        return self._wrap(macros.sigmoid(self._float()))

    def erf(self) -> Tensor:
        """Error function."""
        return self._wrap(macros.erf(self._float()))

    def relu(self) -> Tensor:
        """max(0, x); derivative 0 at 0."""
        return self._wrap(graph.max_(compose.like(0, self._node), self._node))

    def softmax(self, dim: int) -> Tensor:
        """e**x over its sum along ``dim``."""
        shifted, axes = self._shifted(dim)
        grown = macros.exp(shifted)
        total = compose.fold("sum", grown, axes, keep=True)
        share = graph.expand(graph.div(compose.like(1.0, total), total), grown.shape)
        return self._wrap(graph.mul(grown, share))

    def log_softmax(self, dim: int) -> Tensor:
        """log(softmax(x)) along ``dim``, without the underflow."""
        shifted, axes = self._shifted(dim)
        total = compose.fold("sum", macros.exp(shifted), axes, keep=True)
        return self._wrap(compose.subtract(shifted, graph.expand(macros.log(total), shifted.shape)))

    def logsumexp(self, dim: int, keepdim: bool = False) -> Tensor:
        """log(sum(e**x)) along ``dim``."""
        shifted, axes = self._shifted(dim)
        total = macros.log(compose.fold("sum", macros.exp(shifted), axes, keep=True))
        top = compose.detach(compose.fold("max", self._float(), axes, keep=True))
        result = graph.add(top, total)
        return self._wrap(result if keepdim else graph.reshape(result, without(self.shape, axes)))

    def _shifted(self, dim: int) -> tuple[Node, tuple[int, ...]]:
        """x minus its maximum along ``dim``, the maximum counting as a constant for derivatives."""
        x, axes = self._float(), compose.axes_of(dim, self.ndim)
        top = compose.detach(compose.fold("max", x, axes, keep=True))
        return compose.subtract(x, graph.expand(top, x.shape)), axes

    # ------------------------------------------------------------ comparisons and choice

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._binary(other, lambda a, b: graph.cmp("eq", a, b))  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return ~(self == other)

    def __lt__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: graph.cmp("lt", a, b))

    def __gt__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: graph.cmp("lt", b, a))

    def __le__(self, other: Operand) -> Tensor:
        return self._binary(other, arithmetic.at_most)

    def __ge__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: arithmetic.at_most(b, a))

    def __invert__(self) -> Tensor:
        return self._wrap(compose.invert(self._node))

    def __and__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: graph.bit("and", a, b))

    def __or__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: graph.bit("or", a, b))

    def __xor__(self, other: Operand) -> Tensor:
        return self._binary(other, lambda a, b: graph.bit("xor", a, b))

    def isnan(self) -> Tensor:
        """Where the value is NaN."""
        return self != self

    def maximum(self, other: Operand) -> Tensor:
        """The larger; NaN propagates. At ties the derivative goes to ``self``."""
        return self._binary(other, graph.max_)

    def minimum(self, other: Operand) -> Tensor:
        """The smaller; NaN propagates. At ties the derivative goes to ``self``."""
        return self._binary(other, compose.minimum)

    def clamp(self, min: float | None = None, max: float | None = None) -> Tensor:
        """Limited to [min, max]; the derivative is 1 on the bounds, as in torch."""
        result = self
        if min is not None:
            result = result._binary(min, graph.max_)
        return result if max is None else result._binary(max, compose.at_most)

    def where(self, condition: Tensor, other: Operand) -> Tensor:
        """This value where ``condition`` (bool) holds, else ``other``."""
        a, b, device = self._pair(other)
        choice, a, b = compose.broadcast(condition.node, a, b)
        return Tensor(graph.where(choice, a, b), device=device)

    def masked_fill(self, mask: Tensor, value: Scalar) -> Tensor:
        """``value`` where ``mask`` holds, else this value."""
        return self.where(~mask, value)

    # ------------------------------------------------------------ folds

    def sum(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Sum over ``dim``; bool and integers give int64."""
        x = self._node if self.dtype.is_float else graph.cast(self._node, int64)
        return self._wrap(compose.fold("sum", x, compose.axes_of(dim, self.ndim), keepdim))

    def prod(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Product over ``dim``; bool and integers give int64."""
        x = self._node if self.dtype.is_float else graph.cast(self._node, int64)
        return self._wrap(compose.fold("prod", x, compose.axes_of(dim, self.ndim), keepdim))

    def mean(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Mean over ``dim`` (float)."""
        return self._wrap(compose.mean(self._float(), compose.axes_of(dim, self.ndim), keepdim))

    def var(self, dim: Axes = None, correction: int = 1, keepdim: bool = False) -> Tensor:
        """Variance over ``dim``, by count - ``correction`` (1: unbiased, torch's default)."""
        axes = compose.axes_of(dim, self.ndim)
        return self._wrap(compose.spread(self._float(), axes, correction, keepdim))

    def std(self, dim: Axes = None, correction: int = 1, keepdim: bool = False) -> Tensor:
        """Square root of :meth:`var`."""
        return self.var(dim, correction, keepdim).sqrt()

    def amax(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Largest value over ``dim``; the derivative goes to the first largest element."""
        return self._wrap(compose.fold("max", self._node, compose.axes_of(dim, self.ndim), keepdim))

    def amin(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Smallest value over ``dim``; the derivative goes to the first smallest element."""
        return self._wrap(compose.fold("min", self._node, compose.axes_of(dim, self.ndim), keepdim))

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Largest of all as a Tensor, or along ``dim`` an :class:`Extreme` (values, indices)."""
        if dim is None:
            return self.amax()
        return Extreme(self.amax(dim, keepdim), self.argmax(dim, keepdim))

    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Smallest of all as a Tensor, or along ``dim`` an :class:`Extreme` (values, indices)."""
        if dim is None:
            return self.amin()
        return Extreme(self.amin(dim, keepdim), self.argmin(dim, keepdim))

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """int64 position of the first largest element along ``dim``, or in the flat tensor."""
        return self._position("max", dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """int64 position of the first smallest element along ``dim``, or in the flat tensor."""
        return self._position("min", dim, keepdim)

    def _position(self, kind: str, dim: int | None, keep: bool) -> Tensor:
        axes = compose.axes_of(dim, self.ndim)
        if not axes:
            return self._wrap(compose.literal(0, int64, ()))
        extreme = compose.fold(kind, self._node, axes, keep=True)
        index = graph.cast(compose.first_extreme(self._node, axes, extreme), int64)
        shape = index.shape if keep else without(self.shape, axes)
        return self._wrap(graph.reshape(index, shape))

    def any(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Whether any element is not zero."""
        return self.bool().amax(dim, keepdim)

    def all(self, dim: Axes = None, keepdim: bool = False) -> Tensor:
        """Whether no element is zero."""
        return self.bool().amin(dim, keepdim)

    # ------------------------------------------------------------ products

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matmul(other)

    def matmul(self, other: Tensor) -> Tensor:
        """torch's matmul: vectors, matrices, and batches that broadcast."""
        dtype = compose.promote(self.dtype, other.dtype)
        a, b = graph.cast(self._node, dtype), graph.cast(other._node, dtype)
        return Tensor(arithmetic.matmul(a, b), device=common_device(self, other))

    # ------------------------------------------------------------ shape

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """The same elements under another shape; one length may be -1."""
        return self._wrap(graph.reshape(self._node, _complete(as_ints(shape), self.shape)))

    view = reshape

    def permute(self, *dims: int | Sequence[int]) -> Tensor:
        """Axes in another order."""
        axes = tuple(compose.axis_of(axis, self.ndim) for axis in as_ints(dims))
        return self._wrap(graph.permute(self._node, axes))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Two axes exchanged."""
        first, second = (compose.axis_of(axis, self.ndim) for axis in (dim0, dim1))
        return self._wrap(compose.swap(self._node, first, second))

    @property
    def T(self) -> Tensor:  # noqa: N802 - torch's name
        """All axes reversed."""
        return self._wrap(graph.permute(self._node, tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> Tensor:  # noqa: N802 - torch's name
        """The last two axes exchanged."""
        return self.transpose(-1, -2)

    def expand(self, *shape: int | Sequence[int]) -> Tensor:
        """Axes of length 1 repeated; -1 keeps a length."""
        wanted = list(as_ints(shape))
        missing = len(wanted) - self.ndim
        for axis, n in enumerate(wanted):
            if n == -1 and axis >= missing:
                wanted[axis] = self.shape[axis - missing]
        return self._wrap(compose.broadcast_to(self._node, tuple(wanted)))

    def pad(self, amounts: Sequence[int], value: Scalar = 0) -> Tensor:
        """Surround with ``value``; ``amounts`` = (before, after) of the last axis, then of the one
        before it, and so on, as in torch's ``pad``. Negative amounts are refused."""
        if len(amounts) % 2 or len(amounts) > 2 * self.ndim or min(amounts, default=0) < 0:
            raise EngineError(
                f"padding {list(amounts)} for a tensor of shape {list(self.shape)}",
                code="SHAPE_MISMATCH",
            )
        pairs = [(0, 0)] * (self.ndim - len(amounts) // 2)
        pairs += reversed(list(zip(amounts[::2], amounts[1::2], strict=True)))
        padded = graph.pad(self._node, pairs)
        if value == 0 or padded is self._node:
            return self._wrap(padded)
        inside = graph.pad(compose.literal(True, bool_, self.shape), pairs)
        return self._wrap(graph.where(inside, padded, compose.like(value, padded)))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Axes from ``start_dim`` to ``end_dim`` as one."""
        if not self.shape:
            return self.reshape(1)
        start, end = (compose.axis_of(axis, self.ndim) for axis in (start_dim, end_dim))
        middle = prod(self.shape[start : end + 1])
        return self.reshape(*self.shape[:start], middle, *self.shape[end + 1 :])

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Without the axes of length 1, or without ``dim`` if its length is 1."""
        if dim is None:
            return self.reshape(*(n for n in self.shape if n != 1))
        axis = compose.axis_of(dim, self.ndim)
        keep = self.shape[axis] != 1
        return self if keep else self.reshape(*without(self.shape, (axis,)))

    def unsqueeze(self, dim: int) -> Tensor:
        """With a new axis of length 1 at ``dim``."""
        axis = compose.axis_of(dim, self.ndim + 1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def flip(self, *dims: int | Sequence[int]) -> Tensor:
        """Axes reversed."""
        axes = compose.axes_of(as_ints(dims), self.ndim)
        ranges = [
            (n - 1, -1, n) if a in axes and n else (0, 1, n) for a, n in enumerate(self.shape)
        ]
        return self._wrap(graph.slice_(self._node, ranges))

    def unfold(self, dimension: int, size: int, step: int) -> Tensor:
        """Sliding windows along one axis, the taps as a new last axis."""
        axis = compose.axis_of(dimension, self.ndim)
        return self._wrap(graph.window(self._node, [(axis, size, step, 1)]))

    def __getitem__(self, index: Any) -> Tensor:
        given = index if isinstance(index, tuple) else (index,)
        return self._wrap(indexing.take(self._node, [_index_item(item) for item in given]))

    def gather_rows(self, index: Tensor, dim: int = 0) -> Tensor:
        """``index_select`` for an index of any shape: computed indices are clamped into range."""
        axis = compose.axis_of(dim, self.ndim)
        return self._wrap(graph.gather(self._node, graph.cast(index.node, int32), axis))

    # ------------------------------------------------------------ dtype

    def to(self, dtype: DType) -> Tensor:
        """Converted with one rounding; float to int is NaN -> 0, clamped, toward zero."""
        return self._wrap(graph.cast(self._node, dtype))

    def float(self) -> Tensor:
        """To float32."""
        return self.to(float32)

    def int(self) -> Tensor:
        """To int32."""
        return self.to(int32)

    def long(self) -> Tensor:
        """To int64."""
        return self.to(int64)

    def bool(self) -> Tensor:
        """To bool: not zero."""
        return self.to(bool_)

    def bitcast(self, dtype: DType) -> Tensor:
        """The same bits under another dtype of equal width."""
        return self._wrap(graph.bitcast(self._node, dtype))

    def detach(self) -> Tensor:
        """The same value as a constant for derivatives."""
        return self._wrap(compose.detach(self._node))


Operand = Tensor | Scalar
Axes = int | Sequence[int] | None


def common_device(*tensors: Tensor) -> str | None:
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


def _complete(shape: tuple[int, ...], before: Shape) -> Shape:
    known = prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and prod(before) % known == 0:
        shape = tuple(prod(before) // known if n == -1 else n for n in shape)
    if min(shape, default=0) < 0 or prod(shape) != prod(before):
        raise EngineError(
            f"shape {list(before)} does not reshape to {list(shape)}", code="SHAPE_MISMATCH"
        )
    return shape


def without(shape: Shape, axes: Sequence[int]) -> Shape:
    """``shape`` with some axes left out."""
    return tuple(n for axis, n in enumerate(shape) if axis not in axes)


def _index_item(item: Any) -> indexing.Item:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, Tensor):
        return item.node
    if isinstance(item, bool):
        raise EngineError("a bool is not an index here", code="INDEX_KIND")
    if isinstance(item, int | np.integer):
        return int(item)
    array = compose.as_array(item, None)
    if array.size == 0:
        array = array.astype(np.int64)
    return graph.const(array, dtypes.from_numpy(array.dtype), array.shape)
