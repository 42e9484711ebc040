"""Elementary functions: circular, hyperbolic, their inverses, and those of two operands.

They compute in float32, or in float64 where the argument is that; a 16-bit argument gives float32's
result rounded once. The errors are in docs/numerics.md and in ``planar.py`` and ``doubles``.
"""

from __future__ import annotations

from typing import Self

from flopmarket.engine import planar
from flopmarket.engine.tensor.analysis import AnalysisMethods
from flopmarket.engine.tensor.base import Operand


class ElementaryMethods(AnalysisMethods):
    """sin, atan, sinh, log1p and their relatives; atan2, hypot, logaddexp."""

    __slots__ = ()

    def sin(self) -> Self:
        """Sine of radians; NaN at infinities, and of float64 from 2^50 on."""
        return self._function("sin")

    def cos(self) -> Self:
        """Cosine of radians; NaN at infinities, and of float64 from 2^50 on."""
        return self._function("cos")

    def tan(self) -> Self:
        """Tangent of radians; NaN at infinities, and of float64 from 2^50 on."""
        return self._function("tan")

    def erfc(self) -> Self:
        """1 - erf(x), with all its digits where erf(x) is near 1."""
        return self._function("erfc")

    def normal_cdf(self) -> Self:
        """Share of a standard normal variable below x (``torch.special.ndtr``), all digits kept."""
        return self._function("normal_cdf")

    def gelu(self) -> Self:
        """x * normal_cdf(x), all digits kept."""
        return self._function("gelu")

    def softplus(self) -> Self:
        """log(1 + e**x) without overflow."""
        return self._function("softplus")

    def log1p(self) -> Self:
        """log(1 + x)."""
        return self._function("log1p")

    def expm1(self) -> Self:
        """e**x - 1."""
        return self._function("expm1")

    def log10(self) -> Self:
        """Base-10 logarithm."""
        return self._function("log10")

    def sinh(self) -> Self:
        """Hyperbolic sine."""
        return self._function("sinh")

    def cosh(self) -> Self:
        """Hyperbolic cosine."""
        return self._function("cosh")

    def asinh(self) -> Self:
        """Inverse hyperbolic sine."""
        return self._function("asinh")

    def acosh(self) -> Self:
        """Inverse hyperbolic cosine; NaN below 1."""
        return self._function("acosh")

    def atanh(self) -> Self:
        """Inverse hyperbolic tangent; NaN beyond +-1."""
        return self._function("atanh")

    def asin(self) -> Self:
        """Inverse sine; NaN beyond +-1."""
        return self._function("asin")

    def acos(self) -> Self:
        """Inverse cosine; NaN beyond +-1."""
        return self._function("acos")

    def atan(self) -> Self:
        """Inverse tangent."""
        return self._function("atan")

    def atan2(self, other: Operand) -> Self:
        """The angle of the point (other, self) in [-pi, pi]."""
        return self._analytic(other, planar.atan2)

    def hypot(self, other: Operand) -> Self:
        """sqrt(self^2 + other^2) without overflow."""
        return self._analytic(other, planar.hypot)

    def logaddexp(self, other: Operand) -> Self:
        """log(e**self + e**other)."""
        return self._analytic(other, planar.logaddexp)
