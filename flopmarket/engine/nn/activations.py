"""Activations as modules."""

from __future__ import annotations

from flopmarket.engine import functional
from flopmarket.engine.nn.initialisers import constant
from flopmarket.engine.nn.module import Module, Parameter
from flopmarket.engine.tensor import Tensor


class ReLU(Module):
    """max(0, x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class ReLU6(Module):
    """x limited to [0, 6]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(x)


class LeakyReLU(Module):
    """x above 0, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x above 0, alpha * (e**x - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(x, self.alpha)


class CELU(Module):
    """x above 0, alpha * (e**(x / alpha) - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return functional.celu(x, self.alpha)


class SELU(Module):
    """A scaled ELU that keeps zero mean and unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.selu(x)


class GELU(Module):
    """x * (1 + erf(x / sqrt 2)) / 2, or its "tanh" approximation."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x, self.approximate)


class SiLU(Module):
    """x * sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)


class Mish(Module):
    """x * tanh(softplus(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.mish(x)


class Sigmoid(Module):
    """1 / (1 + e**-x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.sigmoid(x)


class LogSigmoid(Module):
    """log(sigmoid(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.logsigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.tanh(x)


class Softplus(Module):
    """log(1 + e**(beta * x)) / beta."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(x, self.beta, self.threshold)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.softsign(x)


class Hardtanh(Module):
    """x limited to [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardtanh(x, self.min_val, self.max_val)


class Hardsigmoid(Module):
    """(x + 3) / 6 limited to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardsigmoid(x)


class Hardswish(Module):
    """x * hardsigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardswish(x)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.tanhshrink(x)


class Softshrink(Module):
    """x moved toward 0 by lambd."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return functional.softshrink(x, self.lambd)


class Hardshrink(Module):
    """0 in [-lambd, lambd], x elsewhere."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardshrink(x, self.lambd)


class Threshold(Module):
    """x above the threshold, value elsewhere."""

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold, self.value = threshold, value

    def forward(self, x: Tensor) -> Tensor:
        return functional.threshold(x, self.threshold, self.value)


class GLU(Module):
    """The first half along dim times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return functional.glu(x, self.dim)


class Softmax(Module):
    """e**x over its sum along dim."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(x, self.dim)


class Softmin(Module):
    """Softmax of -x."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmin(x, self.dim)


class LogSoftmax(Module):
    """log of softmax along dim."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return functional.log_softmax(x, self.dim)


class PReLU(Module):
    """x above 0, a learnt weight times x elsewhere; one weight, or one for each channel."""

    weight: Tensor

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        self.register("weight", Parameter((num_parameters,), constant(init)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.prelu(x, self.weight)
