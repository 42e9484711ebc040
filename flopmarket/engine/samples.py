"""Values for probes and golden graphs: the same on every machine, whatever its NumPy.

NumPy may change the streams of its generators from version to version, and committed digests must
not move with them. So everything here is made of SplitMix64 on an index (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014) and of exact arithmetic.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.dtypes import DType

Array = np.ndarray[Any, Any]
Quadruple = tuple[Array, Array, Array, Array]

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

SPECIAL_FLOATS = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1.1754944e-38, 3.4028235e38, 1, -1],
    dtype=np.float32,
)


class Sampler:
    """A stream of values that depends on ``seed`` and on the calls so far, and on nothing else."""

    def __init__(self, seed: int) -> None:
        self._next = np.uint64(seed) * np.uint64(1 << 40)

    def words(self, count: int) -> Array:
        """uint64 [count], uniform."""
        with np.errstate(over="ignore"):
            z = (self._next + np.arange(1, count + 1, dtype=np.uint64)) * _GOLDEN_GAMMA
            self._next = self._next + np.uint64(count)
            z = (z ^ (z >> np.uint64(30))) * _FIRST
            z = (z ^ (z >> np.uint64(27))) * _SECOND
        return np.asarray(z ^ (z >> np.uint64(31)))

    def below(self, limit: int, count: int) -> Array:
        """int64 [count] in 0..limit-1; nearly uniform for small limits."""
        return (self.words(count) >> np.uint64(1)).astype(np.int64) % limit

    def chance(self, probability: float, count: int) -> Array:
        """bool [count], True with ``probability``."""
        return self.words(count) < np.uint64(int(probability * 2.0**64))

    def unit(self, count: int) -> Array:
        """float64 [count], uniform in [-1, 1), multiples of 2^-52."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0

    def bell(self, *shape: int, dtype: DType = dtypes.float32) -> Array:
        """Roughly normal floats of ``dtype`` [shape]: sums of three uniform ones."""
        count = prod(shape)
        total = self.unit(count) + self.unit(count) + self.unit(count)
        return np.asarray(total.astype(np.float32).astype(dtype.numpy).reshape(shape))

    def wide(self, count: int) -> Array:
        """float32 [count] over forty binary exponents."""
        exponents = self.below(40, count) - 20
        return np.asarray(np.ldexp(self.unit(count) * 2, exponents).astype(np.float32))

    def integers(self, dtype: DType, *shape: int) -> Array:
        """The whole range of an integer ``dtype`` [shape], its ends made frequent."""
        count = prod(shape)
        info = np.iinfo(dtype.numpy)
        # The low bytes of a little-endian word are a uniform value of any narrower type.
        narrow = self.words(count).astype(f"<u{dtype.size_bytes}").view(dtype.numpy)
        edges = np.array([info.min, info.max, 0, 1, info.max // 2], dtype=dtype.numpy)
        edge = edges[self.below(len(edges), count)]
        return np.asarray(np.where(self.chance(0.05, count), edge, narrow).reshape(shape))

    def choice(self, values: Array, count: int) -> Array:
        """Elements of a one-dimensional array, with repetition."""
        return np.asarray(values[self.below(len(values), count)])


def adversarial(count: int, seed: int = 1) -> Quadruple:
    """Four float32 [count] for which one rounding and two give different sums.

    c is close to -a*b (so that the rounding of the product shows), or 2^-60 beside a double
    rounding trap, or random; a part of everything is special.
    """
    sampler = Sampler(seed)
    a, b, d = (sampler.wide(count) for _ in range(3))
    c = (-(a.astype(np.float64) * b)).astype(np.float32)
    c = np.where(sampler.chance(0.3, count), sampler.wide(count), c)
    trap = sampler.chance(0.1, count)
    a = np.where(trap, np.float32(1 + 2.0**-12), a)
    b = np.where(trap, np.float32(1 + 2.0**-12), b)
    c = np.where(trap, np.float32(2.0**-60), c)

    def mixed(x: Array) -> Array:
        special = sampler.choice(SPECIAL_FLOATS, count)
        return np.where(sampler.chance(0.02, count), special, x).astype(np.float32)

    return mixed(a), mixed(b), mixed(c), mixed(d)


def adversarial_of(dtype: DType, count: int, seed: int) -> Quadruple:
    """:func:`adversarial` in a float type: c is often the rounded -a*b of that very type."""
    values = adversarial(count, seed)
    if dtype is dtypes.float32:
        return values
    with np.errstate(all="ignore"):
        if dtype is dtypes.float64:
            sampler = Sampler(seed)
            a, b, c, d = (
                x.astype(np.float64) * (1 + sampler.unit(count) * 2.0**-24) for x in values
            )
            c = np.where(sampler.chance(0.7, count), -(a * b), c)
            return a, b, c, d
        a, b, c, d = (x.astype(dtype.numpy) for x in values)
    return a, b, c, d


def subnormal(count: int) -> Quadruple:
    """Operands whose sums, products and quotients are subnormal, or that are so themselves."""
    sampler = Sampler(2)
    tiny = (1 + sampler.below(2**23 - 1, count)).astype(np.uint32).view(np.float32)
    fraction = np.abs(sampler.unit(count))
    normal = np.ldexp(1 + fraction, sampler.below(26, count) - 126).astype(np.float32)
    small = np.ldexp(1 + np.abs(sampler.unit(count)), sampler.below(27, count) - 24)
    return tiny, small.astype(np.float32), normal, -normal[::-1].copy()


def rounding_edges(target: DType) -> Array:
    """float32 values at, just below and just above every boundary of a 16-bit float ``target``.

    Every finite value of ``target``, the midpoints between neighbours (ties) and the one where
    overflow begins, each with both float32 neighbours; infinities and NaN. One-dimensional, about
    400,000 values.
    """
    bits = np.arange(1 << 16, dtype=np.uint16).view(target.numpy)
    wide = bits.astype(np.float32)
    exact = np.sort(wide[np.isfinite(wide)])
    above = 1.5 * exact[-1].astype(np.float64) - 0.5 * exact[-2]  # where overflow begins
    middles = (exact[1:].astype(np.float64) + exact[:-1]) / 2
    ties = np.concatenate([middles, [above, -above]]).astype(np.float32)
    values = np.concatenate([exact, ties])
    up = np.nextafter(values, np.float32(np.inf), dtype=np.float32)
    down = np.nextafter(values, np.float32(-np.inf), dtype=np.float32)
    rest = np.array([np.inf, -np.inf, np.nan, 3.4028235e38, 1e-45, -1e-45], dtype=np.float32)
    return np.concatenate([values, up, down, rest])
