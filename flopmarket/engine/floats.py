"""The float types of profile FX1 in NumPy: exact widening, single rounding, fused multiply-add.

``reference.py`` computes with these, and ``compose.py`` makes literals with them. A 16-bit float is
widened to float32, computed with, and rounded once more (docs/numerics.md §1); no conversion goes
through an intermediate type that rounds.
"""

from __future__ import annotations

from fractions import Fraction
from math import isfinite
from typing import Any

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.dtypes import DType

Array = np.ndarray[Any, Any]


def wide(x: Array) -> Array:
    """``x`` in the type its arithmetic runs in: 16-bit floats as float32, exactly."""
    if dtypes.from_numpy(x.dtype).is_narrow_float:
        return x.astype(np.float32)
    return x


def fit(x: Array, dtype: DType) -> Array:
    """``x``, computed in the wide type of ``dtype``, rounded to ``dtype``."""
    return narrow(x, dtype) if dtype.is_narrow_float else x


def narrow(x: Array, dtype: DType) -> Array:
    """float32 or float64 rounded once, to nearest even, to float16 or bfloat16."""
    x = np.asarray(x)
    with np.errstate(over="ignore", under="ignore"):
        if dtype is dtypes.float16:
            return x.astype(np.float16)
        if x.dtype == np.float64:
            x = _to_odd(x)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    halves = np.where(np.isnan(x), dtypes.CANONICAL_NAN[dtypes.bfloat16], rounded)
    return np.asarray(halves.astype(np.uint16)).view(dtypes.bfloat16.numpy)


def convert(x: Array, target: DType) -> Array:
    """A number array cast to a float ``target`` with one rounding from its own type."""
    x = wide(x)
    if not target.is_narrow_float:
        return x.astype(target.numpy)
    if x.dtype.kind in "iu":
        x = _sticky(x)
    elif x.dtype.kind == "b":
        x = x.astype(np.float32)
    return narrow(x, target)


def literal(value: Any, dtype: DType) -> Array:
    """A Python number, or numbers, as an array of ``dtype``; floats are rounded once."""
    if not dtype.is_narrow_float:
        return np.asarray(value, dtype=dtype.numpy)
    array = np.asarray(value)
    if array.dtype == dtype.numpy:
        return array
    return narrow(np.asarray(array, dtype=np.float64), dtype)


def _to_odd(x: Array) -> Array:
    """float64 to float32, toward zero, with the last bit set where that was inexact.

    Rounding the result to nearest in a type at least two bits narrower is rounding ``x`` itself.
    """
    near = np.asarray(x.astype(np.float32))
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    bits = np.where(np.abs(back) > np.abs(x), bits - np.uint32(1), bits)
    inexact = (back != x) & ~np.isnan(x)
    return np.asarray(np.where(inexact, bits | np.uint32(1), bits)).view(np.float32)


def _sticky(x: Array) -> Array:
    """An integer array as float64; beyond 2^53 the low 11 bits are one bit that is their or."""
    size = x.astype(np.uint64)
    if x.dtype.kind == "i":
        size = np.where(x < 0, np.uint64(0) - size, size)
    low = np.uint64(0x7FF)
    joined = (size & ~low) | np.where((size & low) != 0, np.uint64(0x800), np.uint64(0))
    value = np.where(size >= np.uint64(2**53), joined, size).astype(np.float64)
    return np.where(x < 0, -value, value) if x.dtype.kind == "i" else value


# ---------------------------------------------------------------- fused multiply-add


def fma(a: Array, b: Array, c: Array) -> Array:
    """Correctly rounded a * b + c of float32 or of float64 arrays; broadcasts."""
    return fma64(a, b, c) if np.asarray(a).dtype == np.float64 else fma32(a, b, c)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Correctly rounded float32 a * b + c, elementwise; broadcasts.

    The product is exact in float64; the sum is rounded to odd and then once to float32.
    """
    product = np.multiply(a, b, dtype=np.float64)
    return _odd_sum(product, np.asarray(c, dtype=np.float64)).astype(np.float32)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """Correctly rounded float64 a * b + c, elementwise; broadcasts.

    Where no partial result can overflow or be subnormal, error-free transformations (Boldo and
    Melquiond, "Emulation of a FMA and correctly rounded sums", 2008); elsewhere rationals.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    safe = _moderate(a) & _moderate(b) & (_moderate(c, 900) | (c == 0))
    one = np.float64(1)
    left, right, addend = np.where(safe, a, one), np.where(safe, b, one), np.where(safe, c, one)
    product, rest = _two_product(left, right)
    low, low_rest = _two_sum(addend, rest)
    high, high_rest = _two_sum(product, low)
    result = np.asarray(high + _odd_sum(low_rest, high_rest))
    flat, rest_a, rest_b, rest_c = (x.reshape(-1) for x in (result, a, b, c))
    for at in np.flatnonzero(~safe):
        flat[at] = _fma_of_fractions(float(rest_a[at]), float(rest_b[at]), float(rest_c[at]))
    return flat.reshape(result.shape)


def _moderate(x: Array, exponent: int = 400) -> Array:
    size = np.abs(x)
    return np.asarray((size >= 2.0**-exponent) & (size <= 2.0**exponent))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum and its exact error (Knuth)."""
    total = np.asarray(a + b)
    virtual = total - a
    return total, np.asarray((a - (total - virtual)) + (b - virtual))


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded product and its exact error (Veltkamp, Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(x: Array) -> tuple[Array, Array]:
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high


def _odd_sum(a: Array, b: Array) -> Array:
    """a + b in float64, rounded to odd: of the two neighbours of an inexact sum the odd one."""
    total, error = _two_sum(a, b)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    return np.asarray(np.where(inexact, bits + toward, bits)).view(np.float64)


def _fma_of_fractions(a: float, b: float, c: float) -> float:
    """One float64 FMA by exact rationals; Python divides integers with one rounding."""
    if not (isfinite(a) and isfinite(b)) or 0.0 in (a, b):
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    if not isfinite(c):
        return c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if not exact:
        return 0.0  # equal and opposite, neither of them zero
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")
