"""Discrete Fourier transforms of any length as matrix products.

Short lengths and small primes are one product with the matrix of roots of unity; composite lengths
split into two factors (Cooley and Tukey, 1965); large primes become a convolution of a length that
splits (Bluestein, 1970). Roots are computed in float64 and are literals of the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node

LARGEST_DIRECT = 64
"""Lengths up to this are one matrix product."""

LARGEST_DIRECT_PRIME = 257
"""Primes up to this are one matrix product too."""


@dataclass(frozen=True, slots=True)
class Complex:
    """Real and imaginary parts of one shape; float32 or float64."""

    real: Node
    imaginary: Node

    def __mul__(self, other: Complex) -> Complex:
        return Complex(
            graph.fma(
                self.real,
                other.real,
                compose.negative(graph.mul(self.imaginary, other.imaginary)),
            ),
            graph.fma(self.real, other.imaginary, graph.mul(self.imaginary, other.real)),
        )

    def conjugate(self) -> Complex:
        """The mirrored number."""
        return Complex(self.real, compose.negative(self.imaginary))

    def reshape(self, *shape: int) -> Complex:
        """Both parts under another shape."""
        return Complex(graph.reshape(self.real, shape), graph.reshape(self.imaginary, shape))

    def permute(self, *axes: int) -> Complex:
        """Both parts with their axes in another order."""
        return Complex(graph.permute(self.real, axes), graph.permute(self.imaginary, axes))

    def part(self, axis: int, start: int, count: int, step: int = 1) -> Complex:
        """``count`` elements along one axis."""
        return Complex(
            compose.part(self.real, axis, start, count, step),
            compose.part(self.imaginary, axis, start, count, step),
        )


def literal(values: np.ndarray[Any, Any], dtype: DType) -> Complex:
    """A complex array as two literals."""
    return Complex(
        graph.const(values.real, dtype, values.shape),
        graph.const(values.imag, dtype, values.shape),
    )


def transform(x: Complex) -> Complex:
    """sum over n of x[.., n] e^(-2 pi i n k / N) for [B, N]; unscaled."""
    length = x.real.shape[1]
    if length <= LARGEST_DIRECT:
        return _direct(x)
    factor = _factor(length)
    if factor > 1:
        return _split(x, factor)
    return _direct(x) if length <= LARGEST_DIRECT_PRIME else _bluestein(x)


def inverse(x: Complex) -> Complex:
    """The inverse of :func:`transform`, scaled by 1/N."""
    back = transform(x.conjugate()).conjugate()
    scale = like(1.0 / x.real.shape[1], back.real)
    return Complex(graph.mul(back.real, scale), graph.mul(back.imaginary, scale))


def _roots(exponents: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """e^(-2 pi i exponent / length), exponents reduced first; quarter turns are exact."""
    roots = np.exp(-2j * np.pi * (exponents % length) / length)
    real, imaginary = (np.where(np.abs(p) < 1e-15, 0.0, p) for p in (roots.real, roots.imag))
    found: np.ndarray[Any, Any] = real + 1j * imaginary
    return found


def _factor(length: int) -> int:
    """The largest divisor up to the square root."""
    return next(d for d in range(isqrt(length), 0, -1) if length % d == 0)


def _direct(x: Complex) -> Complex:
    batch, length = x.real.shape
    ramp = np.arange(length)
    roots = _roots(np.outer(ramp, ramp), length)
    matrix = np.block([[roots.real, roots.imag], [-roots.imag, roots.real]])
    right = graph.const(matrix[None], x.real.dtype, (1, 2 * length, 2 * length))
    left = graph.reshape(graph.concat([x.real, x.imaginary], 1), (1, batch, 2 * length))
    product = graph.reshape(graph.dot(left, right), (batch, 2 * length))
    return Complex(compose.part(product, 1, 0, length), compose.part(product, 1, length, length))


def _split(x: Complex, first: int) -> Complex:
    """N = first * second: transforms over each factor with a twist between them."""
    batch, length = x.real.shape
    second = length // first
    inner = x.reshape(batch, first, second).permute(0, 2, 1).reshape(batch * second, first)
    inner = transform(inner).reshape(batch, second, first)
    twist = literal(_roots(np.outer(np.arange(second), np.arange(first)), length), x.real.dtype)
    turned = inner * _expanded(twist, (batch, second, first))
    outer = turned.permute(0, 2, 1).reshape(batch * first, second)
    outer = transform(outer).reshape(batch, first, second)
    return outer.permute(0, 2, 1).reshape(batch, length)


def _expanded(x: Complex, shape: tuple[int, ...]) -> Complex:
    return Complex(compose.broadcast_to(x.real, shape), compose.broadcast_to(x.imaginary, shape))


def _bluestein(x: Complex) -> Complex:
    """n k = (n^2 + k^2 - (k - n)^2) / 2 turns the transform into a circular convolution."""
    batch, length = x.real.shape
    size = 1 << (2 * length - 2).bit_length()
    ramp = np.arange(length)
    chirp = _roots(ramp * ramp, 2 * length)
    kernel = np.zeros(size, dtype=np.complex128)
    kernel[:length] = chirp.conj()
    kernel[size - length + 1 :] = chirp[:0:-1].conj()
    dtype = x.real.dtype
    wave = _expanded(literal(chirp, dtype), (batch, length))
    turned = x * wave
    room = ((0, 0), (0, size - length))
    padded = Complex(graph.pad(turned.real, room), graph.pad(turned.imaginary, room))
    spectrum = transform(padded) * _expanded(literal(np.fft.fft(kernel), dtype), (batch, size))
    return inverse(spectrum).part(1, 0, length) * wave
