"""Ranges of activations: what calibration data shows, and the codes chosen for it.

One activation tensor has one scale. Values that are never negative take uint8 with 0 as code 0;
ranges that are far from symmetric take uint8 with a zero point; all others int8, symmetric. The
number 0 always has a code of its own, because padding is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.quantize import limits

Array = np.ndarray[Any, Any]
Method = Literal["mse", "percentile", "minmax"]

METHODS = ("mse", "percentile", "minmax")

_LOPSIDED = 0.5
"""A range whose smaller end is below this share of the larger one takes a zero point."""

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Coding:
    """value = (code - zero_point) * scale, codes clamped to ``dtype`` (int8 or uint8)."""

    dtype: DType
    scale: float
    zero_point: int

    def __str__(self) -> str:
        zero = f", zero at {self.zero_point}" if self.zero_point else ""
        return f"{self.dtype}{zero}, step {self.scale:.3g}"

    def rounded(self, values: Array) -> Array:
        """float64 values after coding and decoding."""
        info = np.iinfo(self.dtype.numpy)
        codes = np.clip(np.rint(values / self.scale) + self.zero_point, info.min, info.max)
        decoded: Array = (codes - self.zero_point) * self.scale
        return decoded


@dataclass(slots=True)
class Observer:
    """Ends and an even sample of all values of one activation, batch by batch."""

    name: str
    low: float = 0.0
    high: float = 0.0
    _samples: list[Array] = field(default_factory=list)
    _count: int = 0

    def see(self, values: Array) -> None:
        """Take a batch in; raises EngineError (QUANTIZE_VALUES) for NaN and infinity."""
        flat = np.asarray(values).astype(np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            raise EngineError(
                f"the activation that {self.name!r} reads is not finite on the calibration data",
                code="QUANTIZE_VALUES",
            )
        self.low = min(self.low, float(flat.min(initial=0.0)))
        self.high = max(self.high, float(flat.max(initial=0.0)))
        wanted = min(limits.MAX_SAMPLES_PER_BATCH, limits.MAX_SAMPLES - self._count)
        if wanted > 0 and len(flat):
            # An odd stride has no factor in common with usual layouts: no channel is missed.
            taken = flat[:: max(1, len(flat) // wanted) | 1][:wanted]
            self._samples.append(taken.astype(np.float64))
            self._count += len(taken)

    def coding(self, method: Method, symmetric: bool = False) -> Coding:
        """The codes for what was seen; ``symmetric`` forbids zero points."""
        low, high = self.low, self.high
        sample = np.concatenate(self._samples) if self._samples else np.zeros(1)
        if method == "percentile":
            end = float(np.percentile(np.abs(sample), limits.PERCENTILE))
            low, high = max(low, -end), min(high, end)
        full = coding_of(low, high, symmetric)
        if method != "mse":
            return full
        tried = [coding_of(low * r, high * r, symmetric) for r in limits.CLIP_RATIOS]
        errors = [float(np.sum(np.square(sample - c.rounded(sample)))) for c in tried]
        return tried[int(np.argmin(errors))]


def coding_of(low: float, high: float, symmetric: bool = False) -> Coding:
    """Codes for low..high, which holds 0."""
    top = max(-low, high)
    if top == 0:
        return Coding(dtypes.uint8, 1.0, 0)
    if low == 0:
        return Coding(dtypes.uint8, _step(high / 255), 0)
    if symmetric or min(-low, high) >= _LOPSIDED * top:
        return Coding(dtypes.int8, _step(top / 127), 0)
    step = _step((high - low) / 255)
    return Coding(dtypes.uint8, step, int(np.clip(np.rint(-low / step), 0, 255)))


def _step(width: float) -> float:
    """A scale that float32 holds, and whose reciprocal it holds."""
    return float(np.float32(max(width, _SMALLEST_SCALE)))
