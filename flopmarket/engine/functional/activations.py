"""Elementwise activations and the softmaxes; any shape in, the same shape out, float32."""

from __future__ import annotations

from flopmarket.engine.creation import where
from flopmarket.engine.tensor import Tensor


def relu(x: Tensor) -> Tensor:
    """max(0, x); derivative 0 at 0."""
    return x.relu()


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above 0, negative_slope * x elsewhere."""
    return where(x > 0, x, x * negative_slope)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, at most 2 ulp."""
    return x.tanh()


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e**-x), at most 2 ulp."""
    return x.sigmoid()


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x * x.sigmoid()


def gelu(x: Tensor) -> Tensor:
    """x * (1 + erf(x / sqrt 2)) / 2, the exact form.

    Below -1 the sum cancels: the error is absolute there, at most 2^-24 * |x|.
    """
    return x * 0.5 * ((x * 0.7071067811865476).erf() + 1.0)


def softmax(x: Tensor, dim: int) -> Tensor:
    """e**x over its sum along ``dim``; the maximum is taken off first."""
    return x.softmax(dim)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """log of softmax without its underflow."""
    return x.log_softmax(dim)
