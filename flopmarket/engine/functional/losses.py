"""Losses: scalars by default, the mean over the samples as in torch."""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.layers import one_hot_mask
from flopmarket.engine.tensor import Tensor, common_device

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """-log softmax of logits [N, C] at integer labels [N].

    A label outside 0..C-1 counts as a loss of 0.
    """
    return nll_loss(logits.log_softmax(-1), labels, reduction)


def nll_loss(log_probabilities: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Minus log_probabilities [N, C] at integer labels [N]."""
    values, index = log_probabilities.node, labels.node
    if values.shape[:-1] != index.shape or not values.shape:
        raise EngineError(
            f"labels {list(index.shape)} do not fit scores {list(values.shape)}",
            code="SHAPE_MISMATCH",
            hint="scores are [N, C], labels are integers [N]",
        )
    picked = graph.where(one_hot_mask(index, values.shape[-1]), values, compose.like(0.0, values))
    losses = compose.negative(graph.reduce("sum", picked, (len(values.shape) - 1,)))
    return _reduced(Tensor(losses, device=common_device(log_probabilities, labels)), reduction)


def mse_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared difference of two tensors of one shape."""
    if prediction.shape != target.shape:
        raise EngineError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} differ",
            code="SHAPE_MISMATCH",
        )
    _check(reduction)
    difference = prediction - target
    if reduction == "none":
        return difference.square()
    node = difference.node
    total = Tensor(
        graph.reduce("sumprod", node, range(len(node.shape)), node), device=difference.device
    )
    return total if reduction == "sum" else total / float(node.elements)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    _check(reduction)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _check(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise EngineError(
            f"no reduction {reduction!r}: {', '.join(REDUCTIONS)}", code="REDUCTION_UNKNOWN"
        )
