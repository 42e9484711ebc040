"""p-norms and what is made of them: powers of magnitudes, roots, normalising, distances."""

from __future__ import annotations

from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor


def magnitude_power(x: Tensor, p: float) -> Tensor:
    """|x|^p for p > 0."""
    if p <= 0:
        raise EngineError(f"the power of a norm is positive, not {p}", code="NORM_POWER")
    if p == 2:
        return x * x
    return x.abs() if p == 1 else x.abs().pow(p)


def root(x: Tensor, p: float) -> Tensor:
    """x^(1/p) for x >= 0; the derivative at 0 is 0 where it would be infinite."""
    if p == 1:
        return x
    zero = x == 0
    safe = x.masked_fill(zero, 1.0)
    return safe.pow(1.0 / p).masked_fill(zero, 0.0)


def vector_norm(x: Tensor, p: float = 2.0, dim: int = -1, keepdim: bool = False) -> Tensor:
    """(sum of |x|^p along ``dim``)^(1/p); p may be infinite (the largest magnitude) or 0 (how many
    elements are not 0)."""
    if p == float("inf"):
        return x.abs().amax(dim, keepdim)
    if p == float("-inf"):
        return x.abs().amin(dim, keepdim)
    if p == 0:
        return (x != 0).to(x.dtype).sum(dim, keepdim)
    return root(magnitude_power(x, p).sum(dim, keepdim), p)


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x over the larger of its p-norm along ``dim`` and ``eps``."""
    return x / vector_norm(x, p, dim, keepdim=True).clamp(min=eps)


def cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The dot product along ``dim`` over the product of both 2-norms, none below ``eps``."""
    product = (a * b).sum(dim)
    sizes = [vector_norm(x, 2.0, dim).clamp(min=eps) for x in (a, b)]
    return product / (sizes[0] * sizes[1])


def pairwise_distance(
    a: Tensor, b: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of a - b + eps along the last axis."""
    return vector_norm(a - b + eps, p, -1, keepdim)
