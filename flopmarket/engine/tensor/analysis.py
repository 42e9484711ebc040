"""The functions of analysis, elementwise and along an axis.

They compute in float32, or in float64 where the argument is that; a 16-bit argument gives float32's
result rounded once.
"""

from __future__ import annotations

from typing import Self

from flopmarket.engine import compose, graph
from flopmarket.engine.analytic import apply
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor.arithmetic import ArithmeticMethods
from flopmarket.engine.tensor.base import Axes, without


class AnalysisMethods(ArithmeticMethods):
    """exp, log, tanh, softmax and their relatives."""

    __slots__ = ()

    def exp(self) -> Self:
        """e**x."""
        return self._function("exp")

    def exp2(self) -> Self:
        """2**x."""
        return self._function("exp2")

    def log(self) -> Self:
        """Natural logarithm."""
        return self._function("log")

    def log2(self) -> Self:
        """Base-2 logarithm."""
        return self._function("log2")

    def tanh(self) -> Self:
        """Hyperbolic tangent."""
        return self._function("tanh")

    def sigmoid(self) -> Self:
        """1 / (1 + e**-x)."""
        return self._function("sigmoid")

    def erf(self) -> Self:
        """Error function."""
        return self._function("erf")

    def relu(self) -> Self:
        """max(0, x); derivative 0 at 0."""
        return self._wrap(graph.max_(compose.like(0, self._node), self._node))

    def softmax(self, dim: int) -> Self:
        """e**x over its sum along ``dim``."""
        shifted, axes = self._shifted(dim)
        grown = apply("exp", shifted)
        total = compose.fold("sum", grown, axes, keep=True)
        share = graph.expand(graph.div(compose.like(1.0, total), total), grown.shape)
        return self._narrowed(graph.mul(grown, share))

    def log_softmax(self, dim: int) -> Self:
        """log(softmax(x)) along ``dim``, without the underflow."""
        shifted, axes = self._shifted(dim)
        total = compose.fold("sum", apply("exp", shifted), axes, keep=True)
        logarithm = graph.expand(apply("log", total), shifted.shape)
        return self._narrowed(compose.subtract(shifted, logarithm))

    def logsumexp(self, dim: Axes, keepdim: bool = False) -> Self:
        """log(sum(e**x)) along ``dim``."""
        shifted, axes = self._shifted(dim)
        total = apply("log", compose.fold("sum", apply("exp", shifted), axes, keep=True))
        top = compose.detach(compose.fold("max", self._wide(), axes, keep=True))
        result = graph.add(top, total)
        kept = result if keepdim else graph.reshape(result, without(self.shape, axes))
        return self._narrowed(kept)

    def _shifted(self, dim: Axes) -> tuple[Node, tuple[int, ...]]:
        """x minus its maximum along ``dim``, the maximum counting as a constant for derivatives."""
        x, axes = self._wide(), compose.axes_of(dim, self.ndim)
        top = compose.detach(compose.fold("max", x, axes, keep=True))
        return compose.subtract(x, graph.expand(top, x.shape)), axes
