"""Elementary functions: circular, hyperbolic, their inverses, and those of two operands.

They compute in float32; a 16-bit argument gives that result rounded once, float64 is refused. The
errors are in docs/numerics.md and, for two operands, in ``planar.py``.
"""

from __future__ import annotations

from typing import Self

from flopmarket.engine import macros, planar
from flopmarket.engine.tensor.analysis import AnalysisMethods
from flopmarket.engine.tensor.base import Operand


class ElementaryMethods(AnalysisMethods):
    """sin, atan, sinh, log1p and their relatives; atan2, hypot, logaddexp."""

    __slots__ = ()

    def sin(self) -> Self:
        """Sine of radians; NaN at infinities."""
        return self._narrowed(macros.sin(self._float()))

    def cos(self) -> Self:
        """Cosine of radians; NaN at infinities."""
        return self._narrowed(macros.cos(self._float()))

    def tan(self) -> Self:
        """Tangent of radians; NaN at infinities."""
        return self._narrowed(macros.tan(self._float()))

    def erfc(self) -> Self:
        """1 - erf(x), with all its digits where erf(x) is near 1."""
        return self._narrowed(macros.erfc(self._float()))

    def normal_cdf(self) -> Self:
        """Share of a standard normal variable below x (``torch.special.ndtr``), all digits kept."""
        return self._narrowed(macros.normal_cdf(self._float()))

    def gelu(self) -> Self:
        """x * normal_cdf(x), all digits kept."""
        return self._narrowed(macros.gelu(self._float()))

    def softplus(self) -> Self:
        """log(1 + e**x) without overflow."""
        return self._narrowed(macros.softplus(self._float()))

    def log1p(self) -> Self:
        """log(1 + x)."""
        return self._narrowed(macros.log1p(self._float()))

    def expm1(self) -> Self:
        """e**x - 1."""
        return self._narrowed(macros.expm1(self._float()))

    def log10(self) -> Self:
        """Base-10 logarithm."""
        return self._narrowed(macros.log10(self._float()))

    def sinh(self) -> Self:
        """Hyperbolic sine."""
        return self._narrowed(macros.sinh(self._float()))

    def cosh(self) -> Self:
        """Hyperbolic cosine."""
        return self._narrowed(macros.cosh(self._float()))

    def asinh(self) -> Self:
        """Inverse hyperbolic sine."""
        return self._narrowed(macros.asinh(self._float()))

    def acosh(self) -> Self:
        """Inverse hyperbolic cosine; NaN below 1."""
        return self._narrowed(macros.acosh(self._float()))

    def atanh(self) -> Self:
        """Inverse hyperbolic tangent; NaN beyond +-1."""
        return self._narrowed(macros.atanh(self._float()))

    def asin(self) -> Self:
        """Inverse sine; NaN beyond +-1."""
        return self._narrowed(macros.asin(self._float()))

    def acos(self) -> Self:
        """Inverse cosine; NaN beyond +-1."""
        return self._narrowed(macros.acos(self._float()))

    def atan(self) -> Self:
        """Inverse tangent."""
        return self._narrowed(macros.atan(self._float()))

    def atan2(self, other: Operand) -> Self:
        """The angle of the point (other, self) in [-pi, pi]."""
        return self._analytic(other, planar.atan2)

    def hypot(self, other: Operand) -> Self:
        """sqrt(self^2 + other^2) without overflow."""
        return self._analytic(other, planar.hypot)

    def logaddexp(self, other: Operand) -> Self:
        """log(e**self + e**other)."""
        return self._analytic(other, planar.logaddexp)
