"""Operators, powers and roots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from flopmarket.engine import arithmetic, compose, elementary, graph, rounding
from flopmarket.engine.compose import Scalar
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor.base import Operand, TensorBase
from flopmarket.engine.tensor.choice import ChoiceMethods

MAX_INTEGER_POWER = 64
"""Largest magnitude of an integer exponent in ``tensor ** n``; unrolled into multiplications."""


class ArithmeticMethods(ChoiceMethods):
    """Elementwise arithmetic."""

    __slots__ = ()

    def __add__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.add)

    def __sub__(self, other: Operand) -> Self:
        return self._binary(other, compose.subtract)

    def __mul__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.mul)

    def __truediv__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.divide)

    def __floordiv__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.floor_divide)

    def __mod__(self, other: Operand) -> Self:
        return self._binary(other, rounding.remainder)

    def __radd__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.add, reflected=True)

    def __rsub__(self, other: Operand) -> Self:
        return self._binary(other, compose.subtract, reflected=True)

    def __rmul__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.mul, reflected=True)

    def __rtruediv__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.divide, reflected=True)

    def __rfloordiv__(self, other: Operand) -> Self:
        return self._binary(other, arithmetic.floor_divide, reflected=True)

    def __neg__(self) -> Self:
        return self._wrap(compose.negative(self._node))

    def neg(self) -> Self:
        """-x."""
        return -self

    def __abs__(self) -> Self:
        return self.abs()

    def abs(self) -> Self:
        """|x|."""
        return self._wrap(compose.absolute(self._node))

    def sign(self) -> Self:
        """-1, 0 or 1."""
        return self._wrap(compose.sign(self._node))

    def floor(self) -> Self:
        """Largest whole number not above."""
        return self._whole(rounding.floor)

    def ceil(self) -> Self:
        """Smallest whole number not below."""
        return self._whole(rounding.ceil)

    def trunc(self) -> Self:
        """Toward zero."""
        return self._whole(rounding.trunc)

    def round(self, decimals: int = 0) -> Self:
        """Nearest whole number, ties to the even one; or of ``decimals`` places, as in torch."""
        if not decimals:
            return self._whole(rounding.half_even)
        scale = 10.0 ** abs(decimals)
        if decimals > 0:
            return (self * scale)._whole(rounding.half_even) / scale
        return (self / scale)._whole(rounding.half_even) * scale

    def frac(self) -> Self:
        """x - trunc(x)."""
        return self - self.trunc()

    def _whole(self, rule: Callable[[Node], Node]) -> Self:
        return self._wrap(rule(self._node) if self.dtype.is_float else self._node)

    def floor_divide(self, other: Operand) -> Self:
        """The quotient rounded down; integers by 0 give 0."""
        return self // other

    def remainder(self, other: Operand) -> Self:
        """x - other * floor(x / other), the sign of ``other``; exact, see ``rounding.fmod``."""
        return self % other

    def fmod(self, other: Operand) -> Self:
        """x - other * trunc(x / other), the sign of x; exact, see ``rounding.fmod``."""
        return self._binary(other, rounding.fmod)

    def lerp(self, end: TensorBase, weight: Operand) -> Self:
        """self + weight * (end - self), from the nearer of the two ends."""
        start, stop, _ = self._pair(end)
        share = (
            weight.node
            if isinstance(weight, TensorBase)
            else compose.literal(weight, start.dtype, ())
        )
        others = (end, weight) if isinstance(weight, TensorBase) else (end,)
        a, b, w = compose.broadcast(start, stop, graph.cast(share, start.dtype))
        return self._wrap(arithmetic.lerp(a, b, w), *others)

    def addcmul(self, a: TensorBase, b: TensorBase, value: Scalar = 1) -> Self:
        """self + value * a * b."""
        return self + self._wrap(a.node, a) * b * value

    def addcdiv(self, a: TensorBase, b: TensorBase, value: Scalar = 1) -> Self:
        """self + value * a / b."""
        return self + self._wrap(a.node, a) / b * value

    def __pow__(self, exponent: Operand) -> Self:
        return self.pow(exponent)

    def __rpow__(self, base: Operand) -> Self:
        return self._analytic(base, elementary.power, reflected=True)

    def pow(self, exponent: Operand) -> Self:
        """x**exponent: whole numbers of up to 64 by squaring, +-0.5 by the root, anything else as
        IEEE 754's pow (its errors are stated in ``elementary.py`` and ``doubles``).

        Integers to a tensor of integers wrap; a negative power of theirs is 0 unless x is 1 or -1.
        """
        if isinstance(exponent, TensorBase):
            a, b, device = self._pair(exponent)
            if a.dtype.is_float:
                return self._analytic(exponent, elementary.power)
            return type(self)(elementary.integer_power(a, b), device=device)
        if exponent in (0.5, -0.5):
            root = self.sqrt()
            return root if exponent > 0 else 1.0 / root
        if not float(exponent).is_integer() or abs(exponent) > MAX_INTEGER_POWER:
            return self._analytic(float(exponent), elementary.power)
        result = self._wrap(arithmetic.power(self._node, abs(int(exponent))))
        return result if exponent >= 0 else 1.0 / result

    def square(self) -> Self:
        """x * x."""
        return self * self

    def sqrt(self) -> Self:
        """Correctly rounded square root."""
        return self._wrap(graph.sqrt(self._node if self.dtype.is_float else self._wide()))

    def rsqrt(self) -> Self:
        """1 / sqrt(x)."""
        return 1.0 / self.sqrt()

    def reciprocal(self) -> Self:
        """1 / x."""
        return 1.0 / self
