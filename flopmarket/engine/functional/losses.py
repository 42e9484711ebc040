"""Losses between numbers, distances and rankings; the mean over all elements by default.

``reduction`` is 'mean', 'sum' or 'none'. Losses over classes are in ``classification.py``.
"""

from __future__ import annotations

from math import pi

from flopmarket.engine import graph
from flopmarket.engine.creation import where
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.activations import softplus
from flopmarket.engine.functional.powers import pairwise_distance
from flopmarket.engine.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def mse_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared difference of two tensors of one shape."""
    check_same(prediction, target)
    check_reduction(reduction)
    difference = prediction - target
    if reduction == "none":
        return difference.square()
    node = difference.node
    total = Tensor(
        graph.reduce("sumprod", node, range(len(node.shape)), node), device=difference.device
    )
    return total if reduction == "sum" else total / float(node.elements)


def l1_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Magnitude of the difference."""
    check_same(prediction, target)
    return reduced((prediction - target).abs(), reduction)


def smooth_l1_loss(
    prediction: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2."""
    check_same(prediction, target)
    if beta == 0.0:
        return l1_loss(prediction, target, reduction)
    size = (prediction - target).abs()
    return reduced(where(size < beta, size * size * (0.5 / beta), size - 0.5 * beta), reduction)


def huber_loss(
    prediction: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """d^2 / 2 where |d| < delta, else delta * (|d| - delta / 2)."""
    check_same(prediction, target)
    size = (prediction - target).abs()
    losses = where(size < delta, size * size * 0.5, (size - 0.5 * delta) * delta)
    return reduced(losses, reduction)


def binary_cross_entropy(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)) of probabilities p; logarithms stop at -100."""
    check_same(prediction, target)
    hit, missed = (_bounded_log(p) for p in (prediction, 1.0 - prediction))
    return reduced(_weighted(-(target * hit + (1.0 - target) * missed), weight), reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """:func:`binary_cross_entropy` of sigmoid(logits), without its underflow; ``pos_weight``
    multiplies the losses of positives and broadcasts."""
    check_same(logits, target)
    losses = (1.0 - target) * logits
    soft = softplus(-logits)
    if pos_weight is not None:
        soft = soft * (target * (pos_weight - 1.0) + 1.0)
    return reduced(_weighted(losses + soft, weight), reduction)


def kl_div(
    prediction: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target * (log target - prediction), ``prediction`` being logarithms of probabilities.

    A target of 0 gives 0. 'batchmean' divides the sum by the length of the first axis.
    """
    check_same(prediction, target)
    if log_target:
        losses = target.exp() * (target - prediction)
    else:
        known = target > 0
        logarithm = target.where(known, 1.0).log()
        losses = where(known, target * logarithm, target * 0.0) - target * prediction
    if reduction == "batchmean":
        return losses.sum() / float(prediction.shape[0])
    return reduced(losses, reduction)


def poisson_nll_loss(
    prediction: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - y x, or x - y log(x + eps) without ``log_input``; ``full`` adds Stirling's
    approximation of log(y!) where y > 1."""
    check_same(prediction, target)
    if log_input:
        losses = prediction.exp() - target * prediction
    else:
        losses = prediction - target * (prediction + eps).log()
    if full:
        large = target > 1
        safe = target.where(large, 1.0)
        stirling = safe * safe.log() - safe + (safe * (2 * pi)).log() * 0.5
        losses = losses + stirling.where(large, 0.0)
    return reduced(losses, reduction)


def gaussian_nll_loss(
    prediction: Tensor,
    target: Tensor,
    var: Tensor,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log v + (x - y)^2 / v) / 2 with v = max(var, eps), whose clamping has no derivative; ``var``
    has the prediction's shape, or 1 or nothing as its last axis."""
    check_same(prediction, target)
    if var.shape == prediction.shape[:-1]:
        var = var.unsqueeze(-1)
    if var.shape not in (prediction.shape, (*prediction.shape[:-1], 1)):
        raise EngineError(
            f"variances {list(var.shape)} for predictions {list(prediction.shape)}",
            code="SHAPE_MISMATCH",
        )
    bounded = var + (var.clamp(min=eps) - var).detach()
    losses = (bounded.log() + (prediction - target).square() / bounded) * 0.5
    return reduced(losses + 0.9189385332046727 if full else losses, reduction)


def hinge_embedding_loss(
    x: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    check_same(x, target)
    missed = (margin - x).relu()
    losses = where(target == 1, x, x * 0.0) + where(target == -1, missed, x * 0.0)
    return reduced(losses, reduction)


def margin_ranking_loss(
    a: Tensor, b: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(0, -y (a - b) + margin) for y of 1 or -1."""
    return reduced((-target * (a - b) + margin).relu(), reduction)


def soft_margin_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-y x)) for y of 1 or -1."""
    check_same(x, target)
    return reduced(softplus(-target * x), reduction)


def cosine_embedding_loss(
    a: Tensor, b: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cos(a, b) where the target is 1, max(0, cos(a, b) - margin) where it is -1; a and b are
    [N, D] and the target [N], or [D] and a scalar."""
    product, size_a, size_b = (a * b).sum(-1), (a * a).sum(-1), (b * b).sum(-1)
    cosine = product / ((size_a + 1e-12) * (size_b + 1e-12)).sqrt()
    zero = cosine * 0.0
    losses = where(target == 1, 1.0 - cosine, zero) + where(
        target == -1, (cosine - margin).relu(), zero
    )
    return reduced(losses, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(0, |a - p| - |a - n| + margin) by p-norms of the last axis; ``swap`` takes the nearer of
    anchor and positive to the negative."""
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = far.minimum(pairwise_distance(positive, negative, p, eps))
    return reduced((near - far + margin).relu(), reduction)


# ---------------------------------------------------------------- parts


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of ``losses``, or all of them."""
    check_reduction(reduction)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def check_reduction(reduction: str) -> None:
    """Raise EngineError (REDUCTION_UNKNOWN) for a word that is none."""
    if reduction not in REDUCTIONS:
        raise EngineError(
            f"no reduction {reduction!r}: {', '.join(REDUCTIONS)}", code="REDUCTION_UNKNOWN"
        )


def check_same(prediction: Tensor, target: Tensor) -> None:
    """Raise EngineError (SHAPE_MISMATCH) unless both have one shape: broadcasting a target is
    nearly always a mistake."""
    if prediction.shape != target.shape:
        raise EngineError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} differ",
            code="SHAPE_MISMATCH",
        )


def _weighted(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses if weight is None else losses * weight


def _bounded_log(p: Tensor) -> Tensor:
    return p.log().clamp(min=-100.0)
