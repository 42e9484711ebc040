"""Connectionist temporal classification: a label sequence's probability over all alignments."""

from __future__ import annotations

from flopmarket.engine import compose, graph
from flopmarket.engine.creation import cat, where
from flopmarket.engine.dtypes import int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.control import scan
from flopmarket.engine.functional.losses import check_reduction, reduced
from flopmarket.engine.tensor import Tensor, common_device

IMPOSSIBLE = -1e30
"""Stands for log(0), so that sums of nothing have a derivative."""


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus log of the probability of ``targets`` [N, S] under log_probs [T, N, C], by the forward
    algorithm of Graves et al. (2006); lengths are integers [N].

    Targets are no blanks; what lies beyond a length does not count. A mean divides each loss by its
    target's length (at least 1) first. An impossible target costs infinity, or with
    ``zero_infinity`` 0. Raises EngineError (SHAPE_MISMATCH).
    """
    check_reduction(reduction)
    steps, batch, classes = log_probs.shape if log_probs.ndim == 3 else (0, 0, 0)
    fits = input_lengths.shape == target_lengths.shape == (batch,)
    if not steps or not fits or targets.ndim != 2 or targets.shape[0] != batch:
        raise EngineError(
            f"ctc_loss of {list(log_probs.shape)} with targets {list(targets.shape)} and lengths "
            f"{list(input_lengths.shape)}, {list(target_lengths.shape)}",
            code="SHAPE_MISMATCH",
            hint="log_probs are [T, N, C], targets [N, S], lengths [N]",
        )
    common_device(log_probs, targets, input_lengths, target_lengths)
    labels, skips = _extended(targets.to(int32), blank)
    places = labels.shape[1]
    rows = Tensor(graph.iota(0, (steps * batch, places))) * classes
    spread = labels.unsqueeze(0).expand(steps, batch, places).reshape(steps * batch, places)
    scores = log_probs.reshape(-1).gather_rows(rows + spread).reshape(steps, batch, places)
    start = Tensor(graph.iota(1, (batch, places))) < 2
    first = scores[0].where(start, IMPOSSIBLE)
    lengths = input_lengths.to(int32).reshape(batch, 1)

    def advance(
        carries: tuple[Tensor, ...], slices: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        number, before = carries
        one, two = _shifted(before, 1), _shifted(before, 2).where(skips, IMPOSSIBLE)
        after = (_log_sum(before, one, two) + slices[0]).maximum(IMPOSSIBLE)
        return (number + 1, where(number < lengths, after, before)), ()

    number = Tensor(compose.literal(1, int32, ()))
    (_, last), _ = scan(advance, (number, first), (scores[1:],), length=steps - 1)
    ends = target_lengths.to(int32).reshape(batch, 1) * 2
    place = Tensor(graph.iota(1, (batch, places)))
    ending = (place == ends) | (place == ends - 1)
    losses = -last.where(ending, IMPOSSIBLE).logsumexp(1)
    impossible = losses > -IMPOSSIBLE / 2
    losses = losses.masked_fill(impossible, 0.0 if zero_infinity else float("inf"))
    if reduction == "mean":
        losses = losses / target_lengths.to(losses.dtype).clamp(min=1.0)
    return reduced(losses, reduction)


def _extended(targets: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Labels with blanks around and between them [N, 2 S + 1], and where one may be reached from
    the label before the blank before it: labels that differ."""
    batch, length = targets.shape
    blanks = targets * 0 + blank
    woven = cat([blanks.unsqueeze(2), targets.unsqueeze(2)], 2).reshape(batch, 2 * length)
    labels = cat([woven, blanks[:, :1] if length else _no_target(batch, blank)], 1)
    before = cat([labels[:, :2] * 0 + blank, labels], 1)[:, : 2 * length + 1]
    return labels, (labels != blank) & (labels != before)


def _no_target(batch: int, blank: int) -> Tensor:
    return Tensor(compose.literal(blank, int32, (batch, 1)))


def _shifted(x: Tensor, by: int) -> Tensor:
    """Each place what the one ``by`` before it was; the first ones are impossible."""
    return x.pad((by, 0), IMPOSSIBLE)[:, : x.shape[1]]


def _log_sum(*terms: Tensor) -> Tensor:
    """log of the sum of exponentials."""
    return cat([term.unsqueeze(0) for term in terms]).logsumexp(0)
