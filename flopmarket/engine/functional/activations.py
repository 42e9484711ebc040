"""Elementwise activations and the softmaxes; any shape in, the same shape out.

All of it is computed in float32 (float64 stays); a 16-bit argument is widened
first and the result rounded once, as in torch. Derivatives at kinks are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from flopmarket.engine.creation import where
from flopmarket.engine.dtypes import DType, float64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor

_Options = ParamSpec("_Options")

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
"""Constants of Klambauer et al., "Self-Normalizing Neural Networks", 2017."""


def _rounded_once(
    rule: Callable[Concatenate[Tensor, _Options], Tensor],
) -> Callable[Concatenate[Tensor, _Options], Tensor]:
    """``rule`` computed in float32 (float64 stays), its result in the float dtype of its input."""

    @wraps(rule)
    def apply(x: Tensor, /, *args: _Options.args, **options: _Options.kwargs) -> Tensor:
        if not x.dtype.is_narrow_float:
            return rule(x if x.dtype is float64 else x.float(), *args, **options)
        return rule(x.float(), *args, **options).to(x.dtype)

    return apply


# ---------------------------------------------------------------- piecewise


def relu(x: Tensor) -> Tensor:
    """max(0, x); derivative 0 at 0."""
    return x.relu()


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to [min_val, max_val]; derivative 0 on the bounds."""
    return _between(x, min_val, max_val)


def relu6(x: Tensor) -> Tensor:
    """x limited to [0, 6]."""
    return _between(x, 0.0, 6.0)


def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    """x above the threshold, ``value`` elsewhere."""
    return x.where(x > threshold, value)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above 0, negative_slope * x elsewhere."""
    return where(x > 0, x, x * negative_slope)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x above 0, weight * x elsewhere; one weight, or one for each channel (axis 1)."""
    if weight.numel() == 1:
        slope = weight.reshape(())
    elif x.ndim > 1 and weight.shape == (x.shape[1],):
        slope = weight.reshape(1, -1, *(1,) * (x.ndim - 2))
    else:
        raise EngineError(
            f"prelu of {list(x.shape)} with weights {list(weight.shape)}", code="SHAPE_MISMATCH"
        )
    return where(x > 0, x, x * slope)


@_rounded_once
def hardsigmoid(x: Tensor) -> Tensor:
    """(x + 3) / 6 limited to [0, 1]."""
    return _between(x + 3.0, 0.0, 6.0) / 6.0


@_rounded_once
def hardswish(x: Tensor) -> Tensor:
    """x times :func:`hardsigmoid` of x."""
    return x * _between(x + 3.0, 0.0, 6.0) / 6.0


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """0 in [-lambd, lambd], x elsewhere."""
    return where((x >= -lambd) & (x <= lambd), x * 0.0, x)


@_rounded_once
def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved toward 0 by lambd, 0 where it would pass it."""
    lowered = where(x > lambd, x - lambd, x * 0.0)
    return where(x < -lambd, x + lambd, lowered)


# ---------------------------------------------------------------- exponentials


@_rounded_once
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha * (e**x - 1) elsewhere."""
    return where(x > 0, x, _expm1_below(x) * alpha)


@_rounded_once
def selu(x: Tensor) -> Tensor:
    """A scaled :func:`elu` that keeps zero mean and unit variance."""
    return where(x > 0, x * _SELU_SCALE, _expm1_below(x) * (_SELU_SCALE * _SELU_ALPHA))


@_rounded_once
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha * (e**(x / alpha) - 1) elsewhere."""
    return where(x > 0, x, _expm1_below(x / alpha) * alpha)


@_rounded_once
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, at most 2 ulp."""
    return x.tanh()


@_rounded_once
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e**-x), at most 2 ulp."""
    return x.sigmoid()


@_rounded_once
def logsigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)) without its underflow."""
    return -(-x).softplus()


@_rounded_once
def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e**(beta * x)) / beta; x itself where beta * x is above ``threshold``."""
    scaled = x if beta == 1.0 else x * beta
    soft = scaled.softplus()
    return where(scaled > threshold, x, soft if beta == 1.0 else soft / beta)


@_rounded_once
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (x.abs() + 1.0)


@_rounded_once
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x * x.sigmoid()


swish = silu


@_rounded_once
def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x)), as x * w / (w + 2) with w = e**x * (e**x + 2)."""
    grown = x.clamp(max=20.0).exp()
    wide = grown * (grown + 2.0)
    return x * (wide / (wide + 2.0))


@_rounded_once
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * (1 + erf(x / sqrt 2)) / 2, or with "tanh" its approximation by Hendrycks and Gimpel.

    The exact form is computed without cancellation (its error is in docs/numerics.md §6).
    """
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * 0.7978845608028654
        return x * 0.5 * (inner.tanh() + 1.0)
    if approximate != "none":
        raise EngineError(
            f"no approximation {approximate!r} of gelu: none or tanh", code="ACTIVATION_OPTION"
        )
    return x.gelu()


@_rounded_once
def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x)."""
    return x - x.tanh()


@_rounded_once
def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half along ``dim`` times the sigmoid of the second."""
    axis = dim % x.ndim if x.ndim else 0
    if not x.ndim or x.shape[axis] % 2:
        raise EngineError(
            f"glu halves axis {dim} of {list(x.shape)}: its length is odd", code="SHAPE_MISMATCH"
        )
    half = x.shape[axis] // 2
    parts = x.reshape(*x.shape[:axis], 2, half, *x.shape[axis + 1 :])
    index = (slice(None),) * axis
    return parts[(*index, 0)] * parts[(*index, 1)].sigmoid()


# ---------------------------------------------------------------- along an axis


def softmax(x: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """e**x over its sum along ``dim``; the maximum is taken off first."""
    return (x if dtype is None else x.to(dtype)).softmax(dim)


def softmin(x: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """:func:`softmax` of -x."""
    return softmax(-x, dim, dtype)


def log_softmax(x: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """log of softmax without its underflow."""
    return (x if dtype is None else x.to(dtype)).log_softmax(dim)


# ---------------------------------------------------------------- parts


def _between(x: Tensor, low: float, high: float) -> Tensor:
    """x inside (low, high), else the bound, where the derivative is 0; NaN stays."""
    capped = x.where(~(x >= high), high)
    return capped.where(~(x <= low), low)


def _expm1_below(x: Tensor) -> Tensor:
    """e**x - 1 for x <= 0; what it gives above 0 is finite and unused."""
    return x.clamp(max=0.0).expm1()
