"""ai.onnx.preview.training: one update of Adagrad, Adam and Momentum for any number of tensors.

Inputs after the rate and the update count come in groups: all parameters, all gradients, then each
kind of state; outputs are all new parameters, then each kind of new state.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import elementary
from flopmarket.engine.compose import like
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.tensor import Tensor

_DOMAIN = "ai.onnx.preview.training"

Update = Callable[..., tuple[Tensor, ...]]


def _each(values: tuple[Value, ...], groups: int, update: Update) -> tuple[Tensor, ...]:
    """``update`` on the i-th member of every group, its results in groups again."""
    if not values or len(values) % groups:
        raise OnnxIllegal(f"{len(values)} tensors do not come in {groups} equal groups")
    count = len(values) // groups
    members = [[tensor(v) for v in values[at::count]] for at in range(count)]
    results = [update(*member) for member in members]
    return tuple(value for group in zip(*results, strict=True) for value in group)


def _regularised(node: OpNode, x: Tensor, gradient: Tensor) -> Tensor:
    return x * float(node.get("norm_coefficient", 0.0)) + gradient


@op("Adagrad", domain=_DOMAIN)
def adagrad(node: OpNode, rate: Value, count: Value, *values: Value) -> tuple[Tensor, ...]:
    """Duchi, Hazan and Singer, 2011."""
    decayed = 1.0 + tensor(count).float() * float(node.get("decay_factor", 0.0))
    step = tensor(rate) / decayed.to(tensor(rate).dtype)
    epsilon = float(node.get("epsilon", 1e-6))

    def update(x: Tensor, gradient: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        slope = _regularised(node, x, gradient)
        squares = squares + slope * slope
        return x - step * slope / (squares.sqrt() + epsilon), squares

    return _each(values, 3, update)


@op("Adam", domain=_DOMAIN)
def adam(node: OpNode, rate: Value, count: Value, *values: Value) -> tuple[Tensor, ...]:
    """Kingma and Ba, 2015, with regularisation before and after the update."""
    alpha, beta = float(node.get("alpha", 0.9)), float(node.get("beta", 0.999))
    epsilon = float(node.get("epsilon", 1e-6))
    after = 1.0 - float(node.get("norm_coefficient_post", 0.0))
    given, times = tensor(rate), tensor(count).float()
    corrected = given * (1.0 - _power(beta, times)).sqrt().to(given.dtype)
    corrected = corrected / (1.0 - _power(alpha, times)).to(given.dtype)
    step = corrected.where(times > 0.0, given)

    def update(x: Tensor, gradient: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        slope = _regularised(node, x, gradient)
        mean = mean * alpha + slope * (1.0 - alpha)
        squares = squares * beta + slope * slope * (1.0 - beta)
        moved = x - step * mean / (squares.sqrt() + epsilon)
        return moved * after, mean, squares

    return _each(values, 4, update)


def _power(base: float, exponent: Tensor) -> Tensor:
    """base ** exponent for a scalar tensor."""
    return Tensor(elementary.power(like(base, exponent.node), exponent.node))


@op("Momentum", domain=_DOMAIN)
def momentum(node: OpNode, rate: Value, count: Value, *values: Value) -> tuple[Tensor, ...]:
    """Gradient descent with standard or Nesterov's momentum."""
    alpha, beta = float(node.get("alpha")), float(node.get("beta"))
    step, later = tensor(rate), tensor(count) > 0
    nesterov = node.get("mode") == "nesterov"

    def update(x: Tensor, gradient: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        slope = _regularised(node, x, gradient)
        velocity = velocity * alpha + (slope * beta).where(later, slope)
        direction = slope + velocity * alpha if nesterov else velocity
        return x - step * direction, velocity

    return _each(values, 3, update)
