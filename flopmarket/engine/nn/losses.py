"""Losses as modules; options as ``functional`` has them. Weights of classes or elements are
tensors: call the function with them."""

from __future__ import annotations

from flopmarket.engine import functional
from flopmarket.engine.nn.module import Module
from flopmarket.engine.tensor import Tensor


class MSELoss(Module):
    """Squared difference."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(prediction, target, reduction=self.reduction)


class L1Loss(Module):
    """Magnitude of the difference."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.l1_loss(prediction, target, reduction=self.reduction)


class SmoothL1Loss(Module):
    """Quadratic below beta, linear above."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        self.reduction, self.beta = reduction, beta

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(
            prediction, target, reduction=self.reduction, beta=self.beta
        )


class HuberLoss(Module):
    """Quadratic below delta, linear above."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self.reduction, self.delta = reduction, delta

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.huber_loss(prediction, target, reduction=self.reduction, delta=self.delta)


class BCELoss(Module):
    """Cross entropy of probabilities."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy(prediction, target, reduction=self.reduction)


class BCEWithLogitsLoss(Module):
    """Cross entropy of sigmoid(logits)."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, target, reduction=self.reduction)


class NLLLoss(Module):
    """Minus the logarithm of a probability at the label."""

    def __init__(self, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        return functional.nll_loss(
            log_probabilities, target, ignore_index=self.ignore_index, reduction=self.reduction
        )


class CrossEntropyLoss(Module):
    """-log softmax at the label, or against probabilities."""

    def __init__(
        self, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        self.ignore_index, self.reduction, self.label_smoothing = (
            ignore_index,
            reduction,
            label_smoothing,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class KLDivLoss(Module):
    """Relative entropy, of logarithms of probabilities."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        self.reduction, self.log_target = reduction, log_target

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.kl_div(
            prediction, target, reduction=self.reduction, log_target=self.log_target
        )


class PoissonNLLLoss(Module):
    """Negative log likelihood of counts."""

    def __init__(
        self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        self.log_input, self.full, self.eps, self.reduction = log_input, full, eps, reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return functional.poisson_nll_loss(
            prediction,
            target,
            log_input=self.log_input,
            full=self.full,
            eps=self.eps,
            reduction=self.reduction,
        )


class GaussianNLLLoss(Module):
    """Negative log likelihood of normal variables."""

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        self.full, self.eps, self.reduction = full, eps, reduction

    def forward(self, prediction: Tensor, target: Tensor, var: Tensor) -> Tensor:
        return functional.gaussian_nll_loss(
            prediction, target, var, full=self.full, eps=self.eps, reduction=self.reduction
        )


class HingeEmbeddingLoss(Module):
    """x, or its distance to the margin."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return functional.hinge_embedding_loss(
            x, target, margin=self.margin, reduction=self.reduction
        )


class MarginRankingLoss(Module):
    """Which of two is larger, by a margin."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        return functional.margin_ranking_loss(
            a, b, target, margin=self.margin, reduction=self.reduction
        )


class SoftMarginLoss(Module):
    """log(1 + exp(-y x))."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return functional.soft_margin_loss(x, target, reduction=self.reduction)


class CosineEmbeddingLoss(Module):
    """Angles between vectors."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        return functional.cosine_embedding_loss(
            a, b, target, margin=self.margin, reduction=self.reduction
        )


class TripletMarginLoss(Module):
    """Nearer to the positive than to the negative."""

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        self.margin, self.p, self.eps, self.swap, self.reduction = margin, p, eps, swap, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return functional.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )
