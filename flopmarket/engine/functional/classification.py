"""Losses over classes: scores [N, C] or [N, C, *places] against labels or probabilities."""

from __future__ import annotations

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.layers import one_hot_mask
from flopmarket.engine.functional.losses import check_reduction, reduced
from flopmarket.engine.tensor import Tensor, common_device

IGNORED = -100
"""torch's label for what does not count."""


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax of logits [N, C, *places] (or [C]) at integer labels [N, *places] (or []).

    A ``target`` of floats holds probabilities, of the shape of the logits. ``weight`` [C] rescales
    classes, and a mean is then the weighted one. ``label_smoothing`` mixes the target with the even
    distribution. Labels equal to ``ignore_index`` do not count; others outside 0..C-1 count as a
    loss of 0. Raises EngineError (SHAPE_MISMATCH, DTYPE_MISMATCH, REDUCTION_UNKNOWN).
    """
    check_reduction(reduction)
    axis = _class_axis(logits)
    logarithms = logits.log_softmax(axis)
    if target.dtype.is_float and target.shape == logits.shape:
        classes = logits.shape[axis]
        mixed = target * (1.0 - label_smoothing) + label_smoothing / classes
        terms = logarithms * (mixed if label_smoothing else target)
        if weight is not None:
            terms = terms * _along(weight, logits, axis)
        return reduced(-terms.sum(axis), reduction)
    labels = _Labels(logarithms, target, weight, ignore_index, axis)
    losses = labels.losses()
    if label_smoothing:
        even = labels.even_losses() * (label_smoothing / logits.shape[axis])
        losses = losses * (1.0 - label_smoothing) + even
    return labels.mean(losses) if reduction == "mean" else reduced(losses, reduction)


def nll_loss(
    log_probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
) -> Tensor:
    """Minus log_probabilities [N, C, *places] (or [C]) at integer labels [N, *places] (or []).

    Options as in :func:`cross_entropy`. A mean divides by the number of labels that count, or by
    the sum of their classes' weights.
    """
    check_reduction(reduction)
    axis = _class_axis(log_probabilities)
    labels = _Labels(log_probabilities, target, weight, ignore_index, axis)
    losses = labels.losses()
    return labels.mean(losses) if reduction == "mean" else reduced(losses, reduction)


class _Labels:
    """Labels beside the logarithms of probabilities that they pick."""

    def __init__(
        self,
        logarithms: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        axis: int,
    ) -> None:
        shape = logarithms.shape
        if shape[:axis] + shape[axis + 1 :] != target.shape:
            raise EngineError(
                f"labels {list(target.shape)} do not fit scores {list(shape)}",
                code="SHAPE_MISMATCH",
                hint="scores are [N, C, ..], labels are integers [N, ..]",
            )
        last = one_hot_mask(target.node, shape[axis])
        order = (*range(axis), len(shape) - 1, *range(axis, len(shape) - 1))
        self._mask = graph.permute(last, order)
        self._axis, self._ndim = axis, len(shape)
        self._device = common_device(logarithms, target)
        self._weight = None if weight is None else _along(weight, logarithms, axis)
        self._scaled = logarithms if self._weight is None else logarithms * self._weight
        info = np.iinfo(target.dtype.numpy)
        known = int(info.min) <= ignore_index <= int(info.max)
        self._counted = target != ignore_index if known else None

    def losses(self) -> Tensor:
        """Minus the weighted logarithm at every label, 0 where a label does not count."""
        values = self._scaled.node
        picked = graph.where(self._mask, values, compose.like(0.0, values))
        losses = compose.negative(graph.reduce("sum", picked, (self._axis,)))
        return self._where_counted(Tensor(losses, device=self._device))

    def even_losses(self) -> Tensor:
        """Minus the sum of the weighted logarithms of all classes, 0 where a label does not
        count."""
        return self._where_counted(-self._scaled.sum(self._axis))

    def mean(self, losses: Tensor) -> Tensor:
        """``losses`` over the number or the weight of the labels that count."""
        if self._weight is not None:
            chosen = self._weight.expand(*self._mask.shape).where(Tensor(self._mask), 0.0)
            return losses.sum() / self._where_counted(chosen.sum(self._axis)).sum()
        if self._counted is None:
            return losses.mean()
        return losses.sum() / self._counted.sum().to(losses.dtype)

    def _where_counted(self, values: Tensor) -> Tensor:
        return values if self._counted is None else values.where(self._counted, 0.0)


def _class_axis(scores: Tensor) -> int:
    if not scores.ndim:
        raise EngineError("scores want an axis of classes", code="SHAPE_MISMATCH")
    return 0 if scores.ndim == 1 else 1


def _along(weight: Tensor, scores: Tensor, axis: int) -> Tensor:
    """Weights [C] beside the scores."""
    if weight.shape != (scores.shape[axis],):
        raise EngineError(
            f"weights {list(weight.shape)} for {scores.shape[axis]} classes", code="SHAPE_MISMATCH"
        )
    return weight.reshape(*(-1 if at == axis else 1 for at in range(scores.ndim)))
