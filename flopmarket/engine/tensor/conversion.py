"""Tensors under another dtype."""

from __future__ import annotations

from typing import Self

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int32,
    int64,
)
from flopmarket.engine.tensor.base import TensorBase


class ConversionMethods(TensorBase):
    """``to`` and its short forms."""

    __slots__ = ()

    def to(self, dtype: DType) -> Self:
        """Converted with one rounding; float to int is NaN -> 0, clamped, toward zero."""
        return self._wrap(graph.cast(self._node, dtype))

    def float(self) -> Self:
        """To float32."""
        return self.to(float32)

    def half(self) -> Self:
        """To float16."""
        return self.to(float16)

    def bfloat16(self) -> Self:
        """To bfloat16."""
        return self.to(bfloat16)

    def double(self) -> Self:
        """To float64."""
        return self.to(float64)

    def int(self) -> Self:
        """To int32."""
        return self.to(int32)

    def long(self) -> Self:
        """To int64."""
        return self.to(int64)

    def bool(self) -> Self:
        """To bool: not zero."""
        return self.to(bool_)

    def bitcast(self, dtype: DType) -> Self:
        """The same bits under another dtype of equal width."""
        return self._wrap(graph.bitcast(self._node, dtype))

    def detach(self) -> Self:
        """The same value as a constant for derivatives."""
        return self._wrap(compose.detach(self._node))
