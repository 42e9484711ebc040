"""Normalisations: variances as sums of products, one reciprocal square root a row.

All of it is computed in float32 (float64 stays); a 16-bit input gives that result rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from flopmarket.engine import compose, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import result_dtype, working_dtype
from flopmarket.engine.functional.pooling import avg_pool
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

MACHINE_EPSILON = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}
"""Distance from 1 to the next number, by name of the dtype."""


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
    axes = _trailing(x, normalized_shape, "layer_norm")
    return _affine(_standardised(x, axes, eps), weight, bias).to(result_dtype(x.dtype))


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean of x^2 + eps) over the trailing axes, times weight; ``eps`` defaults to the
    machine epsilon of x's dtype."""
    axes = _trailing(x, normalized_shape, "rms_norm")
    node = graph.cast(x.node, working_dtype(x.dtype))
    total = compose.keep_axes(graph.reduce("sumprod", node, axes, node), axes, x.shape)
    count = float(prod(x.shape[axis] for axis in axes))
    mean = graph.div(total, compose.like(count, total))
    floor = MACHINE_EPSILON[result_dtype(x.dtype).name] if eps is None else eps
    scaled = graph.mul(node, _inverse_deviation(mean, floor, x.shape))
    return _affine(Tensor(scaled, device=x.device), weight, None).to(result_dtype(x.dtype))


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise [N, C, ..] over the channels of each group and all places; weight, bias are [C]."""
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise EngineError(
            f"group_norm of {list(x.shape)} in {num_groups} groups", code="SHAPE_MISMATCH"
        )
    split = x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])
    axes = tuple(range(2, split.ndim))
    result = _standardised(split, axes, eps).reshape(x.shape)
    scaled = _affine(result, _per_channel(weight, x), _per_channel(bias, x))
    return scaled.to(result_dtype(x.dtype))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise every channel of every sample of [N, C, ..] over its places; weight, bias are [C].

    Without ``use_input_stats`` by the running statistics [C]. Nothing updates those: ``momentum``
    is there for torch's signature.
    """
    if use_input_stats:
        if x.ndim < 3:
            raise EngineError(
                f"instance_norm wants [N, C, ..], not {list(x.shape)}", code="SHAPE_MISMATCH"
            )
        result = _standardised(x, tuple(range(2, x.ndim)), eps)
        scaled = _affine(result, _per_channel(weight, x), _per_channel(bias, x))
        return scaled.to(result_dtype(x.dtype))
    if running_mean is None or running_var is None:
        raise EngineError("instance_norm without statistics", code="SHAPE_MISMATCH")
    return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps).output


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
    node = graph.cast(x.node, working_dtype(x.dtype))
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
        running_mean = _moved(running_mean, batch_mean, momentum)
        running_var = _moved(running_var, unbiased, momentum)
    else:
        mean = graph.cast(graph.reshape(running_mean.node, per_channel), node.dtype)
        variance = graph.cast(graph.reshape(running_var.node, per_channel), node.dtype)
        distance = compose.subtract(node, graph.expand(mean, x.shape))
    scaled = graph.mul(distance, _inverse_deviation(variance, eps, x.shape))
    result = Tensor(scaled, device=x.device)
    output = _affine(result, _per_channel(weight, x), _per_channel(bias, x))
    return BatchStatistics(output.to(result_dtype(x.dtype)), running_mean, running_var)


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha * mean of x^2 over ``size`` neighbouring channels)^beta of [N, C, ..].

    Channels beyond the first and last count as zeros. (Krizhevsky et al., 2012.)
    """
    return response_norm(x, size // 2, (size - 1) // 2, alpha, beta, k)


def response_norm(
    x: Tensor, before: int, after: int, alpha: float, beta: float, k: float
) -> Tensor:
    """:func:`local_response_norm` over a channel, those ``before`` it and those ``after`` it."""
    size = before + 1 + after
    if x.ndim < 3 or min(before, after) < 0:
        raise EngineError(
            f"local_response_norm of {list(x.shape)} over {size} channels", code="SHAPE_MISMATCH"
        )
    rows = (x * x).reshape(x.shape[0], 1, x.shape[1], prod(x.shape[2:]))
    borders = [(before, after), (0, 0)]
    mean = avg_pool(rows, (size, 1), 1, borders, 1, False, True, None, dims=2).reshape(x.shape)
    return x / (mean * alpha + k).pow(beta)


def _moved(running: Tensor, seen: Tensor, momentum: float) -> Tensor:
    return (running * (1 - momentum) + seen * momentum).to(running.dtype)


def _trailing(x: Tensor, normalized_shape: Sequence[int], function: str) -> tuple[int, ...]:
    """The axes that a trailing shape names."""
    shape = tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise EngineError(
            f"{function} over {list(shape)} of a tensor {list(x.shape)}", code="SHAPE_MISMATCH"
        )
    return tuple(range(x.ndim - len(shape), x.ndim))


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """x with mean 0 and variance 1 over ``axes``, in the working dtype."""
    node = graph.cast(x.node, working_dtype(x.dtype))
    distance, variance = _moments(node, axes)
    scaled = graph.mul(distance, _inverse_deviation(variance, eps, x.shape))
    return Tensor(scaled, device=x.device)


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


def _per_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    """A parameter [C] beside [N, C, ..]."""
    if parameter is None:
        return None
    if parameter.shape != (x.shape[1],):
        raise EngineError(
            f"a parameter {list(parameter.shape)} for {x.shape[1]} channels", code="SHAPE_MISMATCH"
        )
    return parameter.reshape(1, -1, *(1,) * (x.ndim - 2))
