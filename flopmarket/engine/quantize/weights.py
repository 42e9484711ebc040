"""Weights as integers and scales, in NumPy: rows of one output channel, symmetric around 0.

A matrix here is [..., N, K]: one row of K terms for each of N output channels. At 8 bits a row has
one scale; at 4 bits every group of neighbours in a row has, and two codes share a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine.errors import EngineError
from flopmarket.engine.quantize import limits

Array = np.ndarray[Any, Any]

INT8_TOP = 127
"""Codes of 8-bit weights are -127..127, so that a weight and its negative are equally exact."""

INT4_ZERO = 8
"""A stored nibble is the code -8..7 plus this."""

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Channels:
    """8-bit weights: ``codes`` int8 [..., N, K], ``scales`` float32 [..., N]."""

    codes: Array
    scales: Array

    def restored(self) -> Array:
        """The float32 values that the codes stand for."""
        return self.codes.astype(np.float32) * self.scales[..., None]


@dataclass(frozen=True, slots=True)
class Groups:
    """4-bit weights: ``packed`` uint8 [..., N, G, group / 2], ``scales`` float32 [..., N, G].

    K is filled up with code 0 to G * group. The low nibbles of a group are the codes of its first
    half, the high ones those of its second half.
    """

    packed: Array
    scales: Array
    terms: int

    @property
    def group(self) -> int:
        """Terms under one scale."""
        return 2 * int(self.packed.shape[-1])

    def codes(self) -> Array:
        """int8 [..., N, G, group] in -8..7."""
        halves = np.concatenate([self.packed & 15, self.packed >> 4], axis=-1)
        return halves.astype(np.int8) - np.int8(INT4_ZERO)

    def restored(self) -> Array:
        """The float32 values [..., N, K] that the codes stand for."""
        values = self.codes().astype(np.float32) * self.scales[..., None]
        return values.reshape(*values.shape[:-2], -1)[..., : self.terms]


def by_channel(weight: Array, name: str) -> Channels:
    """``weight`` [..., N, K] in 8 bits. A channel of zeros has scale 1.

    Raises EngineError (QUANTIZE_VALUES) for weights that are not finite.
    """
    weight = _finite(weight, name)
    top = np.max(np.abs(weight), axis=-1, initial=0.0).astype(np.float32)
    scales = np.where(top > 0, np.maximum(top / INT8_TOP, _SMALLEST_SCALE), 1).astype(np.float32)
    codes = np.clip(np.rint(weight / scales[..., None]), -INT8_TOP, INT8_TOP).astype(np.int8)
    return Channels(codes, scales)


def by_group(weight: Array, group: int, name: str) -> Groups:
    """``weight`` [..., N, K] in 4 bits, ``group`` (even) terms a scale.

    Every scale is the one of :data:`limits.GROUP_RATIOS` with the least squared error. Raises
    EngineError (QUANTIZE_VALUES) for weights that are not finite.
    """
    weight = _finite(weight, name)
    terms = weight.shape[-1]
    group = min(group, terms + terms % 2)
    missing = -terms % group
    padded = np.pad(weight, [*[(0, 0)] * (weight.ndim - 1), (0, missing)])
    rows = padded.reshape(*weight.shape[:-1], -1, group)
    scales, codes = _best_scales(rows)
    nibbles = (codes + INT4_ZERO).astype(np.uint8)
    low, high = nibbles[..., : group // 2], nibbles[..., group // 2 :]
    return Groups(low | (high << 4), scales, terms)


def _best_scales(rows: Array) -> tuple[Array, Array]:
    """(float32 scales, codes -8..7) of rows [..., group]."""
    top = np.max(np.abs(rows), axis=-1, keepdims=True)
    # The end of larger magnitude is put on -8, the code that has no counterpart.
    flip = np.where(np.max(rows, axis=-1, keepdims=True) >= top, -1.0, 1.0).astype(np.float32)
    best_error = np.full(top.shape, np.inf)
    best_scale = np.ones(top.shape, np.float32)
    for ratio in limits.GROUP_RATIOS:
        for end, sign in ((INT4_ZERO, flip), (INT4_ZERO - 1, np.float32(1))):
            scale = np.maximum(top * np.float32(ratio / end), _SMALLEST_SCALE).astype(np.float32)
            scale = np.where(top > 0, scale, 1).astype(np.float32) * sign
            distance = rows - np.clip(np.rint(rows / scale), -8, 7) * scale
            error = np.sum(np.square(distance, dtype=np.float64), axis=-1, keepdims=True)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, scale, best_scale)
    codes = np.clip(np.rint(rows / best_scale), -8, 7).astype(np.int8)
    return best_scale[..., 0], codes


def _finite(weight: Array, name: str) -> Array:
    weight = np.asarray(weight).astype(np.float32)
    if not np.isfinite(weight).all():
        raise EngineError(f"{name!r} has weights that are not finite", code="QUANTIZE_VALUES")
    return weight
