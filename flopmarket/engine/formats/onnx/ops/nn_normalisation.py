"""Normalisations over batches, channels, groups and trailing axes; dropout."""

from __future__ import annotations

from math import prod

import numpy as np

from flopmarket.engine import compose, functional, graph, random
from flopmarket.engine.dtypes import bool_, float32, float64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.nn_attributes import analytic, optional
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.normalisation import response_norm
from flopmarket.engine.functional.powers import vector_norm
from flopmarket.engine.tensor import Tensor

MICROSOFT = "com.microsoft"


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is float64 else x.to(float32)


@op("BatchNormalization")
def batch_normalization(
    node: OpNode, x: Value, scale: Value, bias: Value, mean: Value, var: Value
) -> Tensor | tuple[Tensor | None, ...]:
    """Per channel, by the given statistics, or in training by the batch's own (biased variance),
    toward which the given ones move by 1 - momentum.

    Training is an attribute from opset 14 on; before that it is what asks for more outputs.
    ``spatial`` = 0 (before opset 9) keeps statistics for every place.
    """
    data = tensor(x)
    shape = (1, -1, *(1,) * (data.ndim - 2))
    axes: tuple[int, ...] = (0, *range(2, data.ndim))
    if node.opset < 9 and not node.get("spatial", 1):
        shape, axes = (1, *data.shape[1:]), (0,)
    epsilon = float(node.get("epsilon", 1e-5))
    if node.opset >= 14:
        training = bool(node.get("training_mode", 0))
    elif node.opset < 7:
        training = not node.get("is_test", 0)
    else:
        training = len(node.outputs) > 1
    wide = _wide(data)
    given = [tensor(mean), tensor(var)]
    statistics = [value.to(wide.dtype).reshape(shape) for value in given]
    if training:
        statistics = [
            wide.mean(axes, keepdim=True),
            wide.var(axes, correction=0, keepdim=True),
        ]
    scaled = (wide - statistics[0]) / (statistics[1] + epsilon).sqrt()
    factor, offset = (tensor(value).to(wide.dtype).reshape(shape) for value in (scale, bias))
    result = (scaled * factor + offset).to(data.dtype)
    if not training:
        return result
    keep = float(node.get("momentum", 0.9))
    own = [value.reshape(given[0].shape) for value in statistics]
    moved = tuple(
        (old * keep + new * (1 - keep)).to(old.dtype) for old, new in zip(given, own, strict=True)
    )
    if node.opset >= 14:
        return (result, *moved)
    return (result, *moved, *(value.to(given[0].dtype) for value in own))


@op("InstanceNormalization")
def instance_normalization(node: OpNode, x: Value, scale: Value, bias: Value) -> Tensor:
    """Per channel of each sample."""
    epsilon = float(node.get("epsilon", 1e-5))
    return functional.instance_norm(tensor(x), None, None, tensor(scale), tensor(bias), eps=epsilon)


@op("GroupNormalization", since=18)
def group_normalization(node: OpNode, x: Value, scale: Value, bias: Value) -> Tensor:
    """Over groups of channels; scale and bias are one for each group, from opset 21 on one for
    each channel."""
    data, factor, offset = tensor(x), tensor(scale), tensor(bias)
    groups = int(node.get("num_groups", 1))
    if node.opset < 21 and factor.shape == (groups,):
        size = data.shape[1] // groups
        factor, offset = (v.unsqueeze(1).expand(groups, size).reshape(-1) for v in (factor, offset))
    return functional.group_norm(data, groups, factor, offset, float(node.get("epsilon", 1e-5)))


def _trailing_norm(
    x: Tensor, axis: int, epsilon: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(standardised, mean, inverse deviation) over the axes from ``axis`` on, wide."""
    wide = _wide(x)
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = wide.mean(axes, keepdim=True)
    distance = wide - mean if centred else wide
    square = graph.reduce("sumprod", distance.node, axes, distance.node)
    count = float(prod(x.shape[at] for at in axes))
    variance = Tensor(compose.keep_axes(square, axes, x.shape), device=x.device) / count
    inverse = 1.0 / (variance + epsilon).sqrt()
    return distance * inverse, mean, inverse


@op("LayerNormalization")
def layer_normalization(
    node: OpNode, x: Value, scale: Value, bias: Value | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Over the axes from ``axis`` on; also the mean and the inverse deviation."""
    data = tensor(x)
    epsilon, axis = float(node.get("epsilon", 1e-5)), int(node.get("axis", -1))
    scaled, mean, inverse = _trailing_norm(data, axis, epsilon, centred=True)
    result = scaled.to(data.dtype) * tensor(scale)
    if bias is not None:
        result = result + tensor(bias)
    return result, mean, inverse


@op("RMSNormalization", since=23)
def rms_normalization(node: OpNode, x: Value, scale: Value) -> Tensor:
    """By the root of the mean square over the axes from ``axis`` on."""
    data = tensor(x)
    epsilon, axis = float(node.get("epsilon", 1e-5)), int(node.get("axis", -1))
    scaled, _, _ = _trailing_norm(data, axis, epsilon, centred=False)
    return (scaled.to(data.dtype) * tensor(scale)).to(tensor(scale).dtype)


@op("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: OpNode, x: Value, scale: Value) -> tuple[Tensor, Tensor]:
    """RMSNormalization under the name that exporters gave it before it was one; also the inverse
    deviation."""
    data = tensor(x)
    epsilon, axis = float(node.get("epsilon", 1e-5)), int(node.get("axis", -1))
    scaled, _, inverse = _trailing_norm(data, axis, epsilon, centred=False)
    return scaled.to(data.dtype) * tensor(scale), inverse


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    node: OpNode,
    x: Value,
    skip: Value,
    gamma: Value,
    beta: Value | None = None,
    bias: Value | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Layer normalisation of x + skip + bias over the last axis; also that sum."""
    total = _skip_sum(x, skip, bias)
    scaled, mean, inverse = _trailing_norm(total, -1, float(node.get("epsilon", 1e-12)), True)
    result = scaled.to(total.dtype) * tensor(gamma)
    return (result if beta is None else result + tensor(beta)), mean, inverse, total


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    node: OpNode, x: Value, skip: Value, gamma: Value, bias: Value | None = None
) -> tuple[Tensor, None, Tensor, Tensor]:
    """RMS normalisation of x + skip + bias over the last axis; also that sum."""
    total = _skip_sum(x, skip, bias)
    scaled, _, inverse = _trailing_norm(total, -1, float(node.get("epsilon", 1e-12)), False)
    return scaled.to(total.dtype) * tensor(gamma), None, inverse, total


def _skip_sum(x: Value, skip: Value, bias: Value | None) -> Tensor:
    total = tensor(x) + tensor(skip)
    return total if bias is None else total + tensor(bias)


@op("LRN")
def local_response(node: OpNode, x: Value) -> Tensor:
    """By a power of the mean square over neighbouring channels."""
    size = int(node.get("size", 1))
    alpha, beta = float(node.get("alpha", 1e-4)), float(node.get("beta", 0.75))
    bias = float(node.get("bias", 1.0))
    before = (size - 1) // 2
    return analytic(
        lambda data: response_norm(data, before, size - 1 - before, alpha, beta, bias), x
    )


@op("MeanVarianceNormalization")
def mean_variance(node: OpNode, x: Value) -> Tensor:
    """(x - mean) / deviation over ``axes``; opset 1 has ``across_channels`` instead."""
    data = tensor(x)
    axes = node.ints("axes", (0, 2, 3)) or ()
    if node.opset < 9:
        axes = tuple(range(data.ndim)) if node.get("across_channels", 0) else (0, 2, 3)
    wide = _wide(data)
    distance = wide - wide.mean(axes, keepdim=True)
    if node.opset < 9 and not node.get("normalize_variance", 1):
        return distance.to(data.dtype)
    deviation = wide.var(axes, correction=0, keepdim=True).sqrt()
    return (distance / (deviation + 1e-9)).to(data.dtype)


@op("LpNormalization")
def lp_normalization(node: OpNode, x: Value) -> Tensor:
    """x over its p-norm along ``axis``; 0 where that is 0."""
    axis, p = int(node.get("axis", -1)), float(node.get("p", 2))

    def normed(data: Tensor) -> Tensor:
        size = vector_norm(data, p, axis, keepdim=True)
        zero = size == 0
        return (data / size.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)

    return analytic(normed, x)


# ---------------------------------------------------------------- dropout


@op("Dropout", since=12)
def dropout(
    node: OpNode, x: Value, ratio: Value | None = None, training: Value | None = None
) -> tuple[Tensor, Tensor]:
    """Zeros with probability ``ratio`` in training, the rest scaled; also what stayed.

    Numbers come from the scope that the model runs in, or with a ``seed`` attribute from that.
    """
    data = tensor(x)
    trains = optional(training) is not None and bool(node.host(training, "training_mode").any())
    share = 0.5 if ratio is None else float(np.asarray(node.host(ratio, "the ratio")).reshape(()))
    if not 0.0 <= share < 1.0:
        raise OnnxIllegal(f"a dropout ratio of {share}")
    if not trains or share == 0.0:
        return data, Tensor(compose.literal(True, bool_, data.shape), device=data.device)
    seed, step, ordinal = random.draw()
    if "seed" in node.attributes:
        seed = random.key(int(node.get("seed")) % 2**64)
    keep = Tensor(random.keep_mask(seed, step, ordinal, data.shape, 1.0 - share))
    return (data * (1.0 / (1.0 - share))).where(keep, 0.0), keep


@op("Dropout")
def dropout_attribute(node: OpNode, x: Value) -> tuple[Tensor, Tensor]:
    """Before opset 12 dropout is for inference here: the identity."""
    data = tensor(x)
    mask = Tensor(compose.literal(True, bool_, data.shape), device=data.device)
    return data, (mask if node.opset >= 10 else mask.to(data.dtype))
