"""Losses over classes."""

from __future__ import annotations

from flopmarket.engine import functional
from flopmarket.engine.dtypes import float64
from flopmarket.engine.formats.onnx.ops.nn_attributes import optional
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.classification import IGNORED
from flopmarket.engine.tensor import Tensor


def _loss(node: OpNode, logarithms: Tensor, labels: Value, weights: Value | None) -> Tensor:
    return functional.nll_loss(
        logarithms,
        tensor(labels),
        optional(weights),
        int(node.get("ignore_index", IGNORED)),
        str(node.get("reduction", "mean")),
    )


@op("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood(
    node: OpNode, x: Value, labels: Value, weights: Value | None = None
) -> Tensor:
    """Minus the logarithm of the probability at every label."""
    return _loss(node, tensor(x), labels, weights)


@op("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy(
    node: OpNode, scores: Value, labels: Value, weights: Value | None = None
) -> tuple[Tensor, Tensor]:
    """Minus the logarithm of the softmax at every label; also all the logarithms."""
    data = tensor(scores)
    wide = data.float() if data.dtype is float64 else data
    logarithms = wide.log_softmax(1).to(data.dtype)
    return _loss(node, logarithms, labels, weights), logarithms
