"""Comparisons, logic, choice and limits."""

from __future__ import annotations

from typing import Self

from flopmarket.engine import arithmetic, compose, graph, rounding
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import bool_
from flopmarket.engine.tensor.base import Operand, TensorBase
from flopmarket.engine.tensor.shape import ShapeMethods


class ChoiceMethods(ShapeMethods):
    """What compares elements and picks between them."""

    __slots__ = ()

    def __eq__(self, other: object) -> Self:  # type: ignore[override]
        return self._binary(other, lambda a, b: graph.cmp("eq", a, b))  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Self:  # type: ignore[override]
        return ~(self == other)

    def __lt__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: graph.cmp("lt", a, b))

    def __gt__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: graph.cmp("lt", b, a))

    def __le__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.at_most)

    def __ge__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: arithmetic.at_most(b, a))

    def __invert__(self) -> Self:
        return self._wrap(rounding.bitwise_not(self._node))

    def __and__(self, other: Operand) -> Self:
        return self._bits("and", other)

    def __or__(self, other: Operand) -> Self:
        return self._bits("or", other)

    def __xor__(self, other: Operand) -> Self:
        return self._bits("xor", other)

    def __lshift__(self, other: Operand) -> Self:
        return self._bits("shl", other)

    def __rshift__(self, other: Operand) -> Self:
        return self._bits("shr", other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def _bits(self, kind: str, other: Operand) -> Self:
        """Bits of bool and integers; a shift of a signed integer to the right keeps its sign."""
        return self._binary(other, lambda a, b: rounding.bitwise(kind, a, b))

    def logical_and(self, other: Operand) -> Self:
        """Whether both are not zero."""
        return self.bool() & _truth(other)

    def logical_or(self, other: Operand) -> Self:
        """Whether one is not zero."""
        return self.bool() | _truth(other)

    def logical_xor(self, other: Operand) -> Self:
        """Whether exactly one is not zero."""
        return self.bool() ^ _truth(other)

    def logical_not(self) -> Self:
        """Whether the value is zero."""
        return ~self.bool()

    def isnan(self) -> Self:
        """Where the value is NaN."""
        return self != self

    def isinf(self) -> Self:
        """Where the value is infinite."""
        return self._magnitude_compared("eq")

    def isfinite(self) -> Self:
        """Where the value is neither infinite nor NaN."""
        return self._magnitude_compared("lt")

    def _magnitude_compared(self, kind: str) -> Self:
        if not self.dtype.is_float:
            return self._wrap(compose.literal(kind == "lt", bool_, self.shape))
        size = rounding.magnitude(self._node)
        return self._wrap(graph.cmp(kind, size, compose.like(float("inf"), size)))

    def nan_to_num(
        self, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
    ) -> Self:
        """NaN and infinities exchanged: None means the largest finite value of that sign."""
        if not self.dtype.is_float:
            return self
        largest = rounding.LARGEST[self.dtype]
        high, low = (largest if posinf is None else posinf, -largest if neginf is None else neginf)
        infinite, above = self.isinf(), self > 0
        replaced = self.masked_fill(infinite & above, high).masked_fill(infinite & ~above, low)
        return replaced.masked_fill(self.isnan(), nan)

    def maximum(self, other: Operand) -> Self:
        """The larger; NaN propagates. At ties the derivative goes to ``self``."""
        return self._binary(other, graph.max_)

    def minimum(self, other: Operand) -> Self:
        """The smaller; NaN propagates. At ties the derivative goes to ``self``."""
        return self._binary(other, compose.minimum)

    def clamp(self, min: Operand | None = None, max: Operand | None = None) -> Self:
        """Limited to [min, max], numbers or tensors; the derivative is 1 on the bounds."""
        result = self
        if min is not None:
            result = result._binary(min, graph.max_)
        if max is None:
            return result
        return result._binary(
            max, compose.minimum if isinstance(max, TensorBase) else compose.at_most
        )

    def where(self, condition: TensorBase, other: Operand) -> Self:
        """This value where ``condition`` (bool) holds, else ``other``."""
        a, b, device = self._pair(other)
        choice, a, b = compose.broadcast(condition.node, a, b)
        return type(self)(graph.where(choice, a, b), device=device)

    def masked_fill(self, mask: TensorBase, value: Scalar) -> Self:
        """``value`` where ``mask`` holds, else this value."""
        return self.where(self._wrap(compose.invert(mask.node), mask), value)


def _truth(value: Operand) -> Operand:
    if isinstance(value, TensorBase):
        return value._wrap(graph.cast(value.node, bool_))
    return bool(value)
