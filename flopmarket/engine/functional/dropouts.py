"""Dropout and its variants; all draw from the running random scope (a trace has one)."""

from __future__ import annotations

from flopmarket.engine import graph, random
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Shape
from flopmarket.engine.tensor import Tensor

_ALPHA = -1.7580993408473766
"""The value that SELU saturates at: -scale * alpha of Klambauer et al., "Self-Normalizing Neural
Networks", 2017."""


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeros with probability ``p``, the rest scaled by 1 / (1 - p); the identity in evaluation.

    Raises EngineError (RANDOM_SCOPE, DROPOUT_RANGE).
    """
    return _dropped(x, x.shape, p, training)


def dropout1d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """:func:`dropout` of whole channels of [N, C, L] or [C, L]."""
    return _channels(x, 1, p, training)


def dropout2d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """:func:`dropout` of whole channels of [N, C, H, W] or [C, H, W]."""
    return _channels(x, 2, p, training)


def dropout3d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """:func:`dropout` of whole channels of [N, C, D, H, W] or [C, D, H, W]."""
    return _channels(x, 3, p, training)


def alpha_dropout(x: Tensor, p: float = 0.5, training: bool = False) -> Tensor:
    """SELU's saturation value with probability ``p``, then scaled and shifted so that zero mean and
    unit variance stay."""
    return _alpha_dropped(x, x.shape, p, training)


def feature_alpha_dropout(x: Tensor, p: float = 0.5, training: bool = False) -> Tensor:
    """:func:`alpha_dropout` of whole channels of [N, C, ..]."""
    return _alpha_dropped(x, (*x.shape[:2], *(1,) * (x.ndim - 2)), p, training)


def _channels(x: Tensor, dims: int, p: float, training: bool) -> Tensor:
    if x.ndim not in (dims + 1, dims + 2):
        raise EngineError(
            f"dropout{dims}d wants [N, C] and {dims} spatial axes, not {list(x.shape)}",
            code="SHAPE_MISMATCH",
        )
    return _dropped(x, (*x.shape[: x.ndim - dims], *(1,) * dims), p, training)


def _checked(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise EngineError(f"dropout probability {p} is not in 0..1", code="DROPOUT_RANGE")
    return p


def _dropped(x: Tensor, drawn: Shape, p: float, training: bool) -> Tensor:
    """``x`` with one draw for every element of the shape ``drawn``, which expands to that of x."""
    if not training or _checked(p) == 0.0:
        return x
    keep = _keep(x, drawn, p)
    if p == 1.0:
        return x * 0.0
    return (x * (1 / (1 - p))).where(keep, 0.0)


def _alpha_dropped(x: Tensor, drawn: Shape, p: float, training: bool) -> Tensor:
    if not training or _checked(p) == 0.0:
        return x
    keep = _keep(x, drawn, p)
    if p == 1.0:
        return x * 0.0
    scale: float = ((1 - p) * (1 + p * _ALPHA**2)) ** -0.5
    return x.where(keep, _ALPHA) * scale + (-scale * _ALPHA * p)


def _keep(x: Tensor, drawn: Shape, p: float) -> Tensor:
    """bool of x's shape: which elements stay."""
    seed, step, ordinal = random.draw()
    mask = random.keep_mask(seed, step, ordinal, drawn, 1.0 - p)
    return Tensor(graph.expand(mask, x.shape), device=x.device)
