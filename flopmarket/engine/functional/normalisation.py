"""Normalisations: variances as sums of products, one reciprocal square root a row."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor


class BatchStatistics(NamedTuple):
    """What ``batch_norm`` returns: the result, and the running mean and variance [C] after it."""

    output: Tensor
    running_mean: Tensor
    running_var: Tensor


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the trailing axes, times weight plus bias."""
    shape = tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise EngineError(
            f"layer_norm over {list(shape)} of a tensor {list(x.shape)}", code="SHAPE_MISMATCH"
        )
    node = graph.cast(x.node, float32)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    distance, variance = _moments(node, axes)
    result = Tensor(
        graph.mul(distance, _inverse_deviation(variance, eps, x.shape)), device=x.device
    )
    return _affine(result, weight, bias)


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> BatchStatistics:
    """Normalise [N, C, ..] per channel; all statistics and parameters are [C].

    In training by the batch's own moments (biased variance), and the running ones move toward them
    by ``momentum`` (unbiased variance); otherwise by the running ones, which stay.
    """
    if x.ndim < 2 or running_mean.shape != (x.shape[1],):
        raise EngineError(
            f"batch_norm of {list(x.shape)} with statistics {list(running_mean.shape)}",
            code="SHAPE_MISMATCH",
        )
    node = graph.cast(x.node, float32)
    per_channel = (1, x.shape[1], *(1,) * (x.ndim - 2))
    axes = (0, *range(2, x.ndim))
    count = prod(x.shape[axis] for axis in axes)
    if training:
        if count < 2:
            raise EngineError(
                f"batch_norm wants two values a channel, {list(x.shape)} has {count}",
                code="SHAPE_MISMATCH",
            )
        mean = compose.mean(node, axes, keep=True)
        distance, variance = _moments(node, axes)
        unbiased = Tensor(compose.detach(variance)).reshape(-1) * (count / (count - 1))
        batch_mean = Tensor(compose.detach(mean)).reshape(-1)
        running_mean = running_mean * (1 - momentum) + batch_mean * momentum
        running_var = running_var * (1 - momentum) + unbiased * momentum
    else:
        mean = graph.reshape(running_mean.node, per_channel)
        variance = graph.reshape(running_var.node, per_channel)
        distance = compose.subtract(node, graph.expand(mean, x.shape))
    result = Tensor(
        graph.mul(distance, _inverse_deviation(variance, eps, x.shape)), device=x.device
    )
    shaped = [p if p is None else p.reshape(per_channel) for p in (weight, bias)]
    return BatchStatistics(_affine(result, shaped[0], shaped[1]), running_mean, running_var)


def _moments(x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """Distance to the mean, and the biased variance with ``axes`` kept as 1."""
    distance = compose.subtract(x, graph.expand(compose.mean(x, axes, keep=True), x.shape))
    total = compose.keep_axes(graph.reduce("sumprod", distance, axes, distance), axes, x.shape)
    count = float(prod(x.shape[axis] for axis in axes))
    return distance, graph.div(total, compose.like(count, total))


def _inverse_deviation(variance: Node, eps: float, shape: tuple[int, ...]) -> Node:
    root = graph.sqrt(graph.add(variance, compose.like(eps, variance)))
    return graph.expand(graph.div(compose.like(1.0, root), root), shape)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias
