"""What is compared with torch: calls that both understand, and the arrays they are called with.

A case is a function of (namespace, tensors). The namespace is torch.nn.functional beside torch's
module functions, or the engine's functional; the tensors are torch's or the engine's. The golden
file holds the results, and the derivatives of their weighted sum by every float input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """``call(functional, *tensors)`` gives a tensor or a tuple of them."""

    call: Callable[..., Any]
    arrays: tuple[Array, ...]
    gradient: bool = True


_random = np.random.default_rng(20)


def floats(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    """float32, uniform."""
    return _random.uniform(low, high, shape).astype(np.float32)


def ints(high: int, *shape: int, low: int = 0) -> Array:
    """int64, uniform."""
    return _random.integers(low, high, shape)


TIES = np.array([[3, 1, NAN, 1, -0.0, INF, 0.0, 3], [NAN, NAN, -INF, 2, 2, -1, 2, 0.5]], np.float32)
MASK = _random.random((2, 3, 4, 5)) < 0.7
MASK[..., 0] = True


CASES: dict[str, Case] = {
    # ------------------------------------------------------------ by index
    "gather": Case(lambda f, x, i: x.gather(1, i), (floats(3, 4, 5), ints(4, 2, 6, 5))),
    "gather_last": Case(lambda f, x, i: f.gather(x, -1, i), (floats(3, 4), ints(4, 3, 7))),
    "take_along_dim": Case(lambda f, x, i: x.take_along_dim(i, 1), (floats(3, 4), ints(4, 1, 2))),
    "take_along_flat": Case(lambda f, x, i: x.take_along_dim(i), (floats(3, 4), ints(12, 5))),
    "take": Case(lambda f, x, i: x.take(i), (floats(3, 4), ints(12, 2, 3))),
    "index_select": Case(lambda f, x, i: x.index_select(1, i), (floats(3, 4, 2), ints(4, 6))),
    "scatter": Case(
        lambda f, x, i, s: x.scatter(1, i, s),
        (floats(3, 4), np.array([[0, 2], [3, 1], [1, 0]]), floats(3, 2)),
    ),
    "scatter_number": Case(
        lambda f, x, i: x.scatter(0, i, 1.5), (floats(3, 4), np.array([[0, 2, 1]]))
    ),
    "scatter_add": Case(
        lambda f, x, i, s: x.scatter_add(0, i, s), (floats(3, 4), ints(3, 5, 3), floats(5, 3))
    ),
    **{
        f"scatter_reduce_{kind}_{own}": Case(
            lambda f, x, i, s, kind=kind, own=own: x.scatter_reduce(
                1, i, s, kind, include_self=own
            ),
            (floats(3, 4), ints(4, 3, 6), floats(3, 6)),
            gradient=kind != "prod",
        )
        for kind in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
    "index_add": Case(
        lambda f, x, i, s: x.index_add(1, i, s, alpha=2.0),
        (floats(3, 4, 2), ints(4, 5), floats(3, 5, 2)),
    ),
    "index_copy": Case(
        lambda f, x, i, s: x.index_copy(1, i, s),
        (floats(3, 4, 2), np.array([2, 0]), floats(3, 2, 2)),
    ),
    "masked_scatter": Case(
        lambda f, x, m, s: x.masked_scatter(m, s), (floats(3, 4), MASK[0, 0, :3, :4], floats(20))
    ),
    # ------------------------------------------------------------ order
    "sort": Case(lambda f, x: f.sort(x, dim=1, stable=True), (floats(3, 9),)),
    "sort_descending": Case(
        lambda f, x: f.sort(x, dim=0, descending=True, stable=True), (floats(7, 3),)
    ),
    "sort_ties": Case(lambda f, x: f.sort(x, stable=True), (TIES,), gradient=False),
    "sort_ties_descending": Case(
        lambda f, x: f.sort(x, descending=True, stable=True), (TIES,), gradient=False
    ),
    "argsort_integers": Case(
        lambda f, x: f.argsort(x, stable=True), (ints(4, 3, 11, low=-4),), gradient=False
    ),
    "topk": Case(lambda f, x: f.topk(x, 3), (floats(2, 9),)),
    "topk_smallest": Case(lambda f, x: x.topk(2, dim=0, largest=False), (floats(6, 2),)),
    "kthvalue": Case(lambda f, x: x.kthvalue(3, 1), (floats(2, 7),)),
    "median": Case(lambda f, x: x.median(1), (floats(2, 6),)),
    "cumsum": Case(lambda f, x: x.cumsum(1), (floats(2, 37),)),
    "cumsum_integers": Case(lambda f, x: x.cumsum(0), (ints(2**40, 19, 2),), gradient=False),
    "cumprod": Case(lambda f, x: f.cumprod(x, 1), (floats(2, 9),)),
    "cumprod_zero": Case(lambda f, x: x.cumprod(0), (np.array([2, 0, 3, 0, 4], np.float32),)),
    "cummax": Case(lambda f, x: x.cummax(1), (floats(3, 11),)),
    "cummin": Case(lambda f, x: x.cummin(0), (floats(11, 3),)),
    "cummax_ties": Case(lambda f, x: f.cummax(x, 1), (TIES,), gradient=False),
    "cummin_ties": Case(lambda f, x: f.cummin(x, 1), (TIES,), gradient=False),
    "logcumsumexp": Case(lambda f, x: x.logcumsumexp(1), (floats(3, 13, low=-40, high=40),)),
    "logcumsumexp_infinite": Case(
        lambda f, x: x.logcumsumexp(0),
        (np.array([-INF, -INF, 200, 3, INF, 5], np.float32),),
        gradient=False,
    ),
    "argmax": Case(lambda f, x: x.argmax(1), (TIES,), gradient=False),
    "argmin": Case(lambda f, x: x.argmin(1, keepdim=True), (TIES,), gradient=False),
    "argmax_flat": Case(lambda f, x: x.argmax(), (floats(3, 4),), gradient=False),
    "searchsorted": Case(
        lambda f, s, v: f.searchsorted(s, v),
        (np.sort(floats(2, 7), 1), floats(2, 3)),
        gradient=False,
    ),
    "bucketize": Case(
        lambda f, v, s: f.bucketize(v, s, right=True),
        (np.array([[0.5, 1, NAN], [2, 3, 9]], np.float32), np.array([1, 2, 2, 3], np.float32)),
        gradient=False,
    ),
    # ------------------------------------------------------------ shape
    "roll": Case(lambda f, x: x.roll((2, -1), (0, 1)), (floats(3, 4),)),
    "roll_flat": Case(lambda f, x: f.roll(x, 5), (floats(3, 4),)),
    "rot90": Case(lambda f, x: x.rot90(1, (0, 1)), (floats(3, 4, 2),)),
    "rot270": Case(lambda f, x: x.rot90(-1, (1, 2)), (floats(3, 4, 2),)),
    "tril": Case(lambda f, x: x.tril(1), (floats(2, 4, 5),)),
    "triu": Case(lambda f, x: f.triu(x, -1), (floats(4, 5),)),
    "diag": Case(lambda f, x: f.diag(x, -2), (floats(4),)),
    "diag_above": Case(lambda f, x: f.diag(x, 1), (floats(3),)),
    "diagonal": Case(lambda f, x: f.diagonal(x, 1, 2, 0), (floats(5, 2, 4),)),
    "meshgrid": Case(lambda f, x, y: f.meshgrid(x, y, indexing="xy"), (floats(3), floats(4))),
    "repeat": Case(lambda f, x: x.repeat(2, 1, 3), (floats(3, 2),)),
    "tile": Case(lambda f, x: x.tile(2), (floats(3, 2),)),
    "repeat_interleave": Case(lambda f, x: x.repeat_interleave(3, 1), (floats(2, 4),)),
    "movedim": Case(lambda f, x: f.movedim(x, (0, 2), (1, 0)), (floats(2, 3, 4),)),
    "unflatten": Case(lambda f, x: x.unflatten(1, (2, -1)), (floats(2, 6),)),
    "split": Case(lambda f, x: x.split([1, 3], 1), (floats(2, 4),)),
    "chunk": Case(lambda f, x: x.chunk(3, 0), (floats(7, 2),)),
    # ------------------------------------------------------------ products
    **{
        f"einsum_{at}": Case(lambda f, *x, e=equation: f.einsum(e, *x), arrays)
        for at, (equation, arrays) in enumerate(
            [
                ("ij,jk->ik", (floats(3, 4), floats(4, 5))),
                ("bij,bjk->bik", (floats(2, 3, 4), floats(2, 4, 5))),
                ("ij,ji->", (floats(3, 4), floats(4, 3))),
                ("ii->i", (floats(4, 4),)),
                ("iji->j", (floats(3, 4, 3),)),
                ("i,j", (floats(3), floats(4))),
                ("ij,jk,kl->il", (floats(2, 3), floats(3, 4), floats(4, 5))),
                ("...ij,...jk->...ik", (floats(2, 1, 3, 4), floats(5, 4, 2))),
                ("b...d,d->b...", (floats(2, 3, 4, 5), floats(5))),
                ("ba", (floats(3, 4),)),
                ("bhqd,bhkd->bhqk", (floats(2, 3, 4, 5), floats(2, 3, 6, 5))),
                ("ij,ij->ij", (floats(3, 4), floats(3, 4))),
                ("abc,cd,abe->de", (floats(2, 3, 4), floats(4, 2), floats(2, 3, 5))),
            ]
        )
    },
    "tensordot": Case(lambda f, a, b: f.tensordot(a, b, 2), (floats(2, 3, 4), floats(3, 4, 5))),
    "tensordot_pairs": Case(
        lambda f, a, b: f.tensordot(a, b, ([0, 2], [2, 0])), (floats(2, 3, 4), floats(4, 5, 2))
    ),
    "matmul_integers": Case(
        lambda f, a, b: a @ b,
        (ints(2**40, 2, 3, 4, low=-(2**40)), ints(2**40, 4, 5)),
        gradient=False,
    ),
    "outer": Case(lambda f, a, b: f.outer(a, b), (floats(3), floats(4))),
    "kron": Case(lambda f, a, b: f.kron(a, b), (floats(2, 3), floats(3, 2))),
    "cross": Case(lambda f, a, b: f.cross(a, b, dim=1), (floats(4, 3), floats(4, 3))),
    "addmm": Case(
        lambda f, x, a, b: f.addmm(x, a, b, beta=0.5, alpha=2.0),
        (floats(3, 5), floats(3, 4), floats(4, 5)),
    ),
    # ------------------------------------------------------------ folds and elements
    "norm": Case(lambda f, x: x.norm(2, 1), (floats(3, 5),)),
    "norm_three": Case(lambda f, x: x.norm(3, 1), (floats(3, 5),)),
    "norm_one": Case(lambda f, x: x.norm(1, (0, 1)), (floats(3, 5),)),
    "var_mean": Case(lambda f, x: f.var_mean(x, 1), (floats(3, 5),)),
    "lerp": Case(lambda f, a, b, w: a.lerp(b, w), (floats(7), floats(7), floats(7, low=0, high=1))),
    "clamp_tensors": Case(lambda f, x, a, b: x.clamp(a, b), (floats(9), floats(9) - 1, floats(9))),
    "fmod": Case(lambda f, a, b: f.fmod(a, b), (floats(40, low=-50, high=50), floats(40))),
    "remainder": Case(lambda f, a, b: a % b, (floats(40, low=-50, high=50), floats(40))),
    "fmod_integers": Case(
        lambda f, a, b: f.fmod(a, b), (ints(50, 40, low=-50), ints(7, 40, low=1)), gradient=False
    ),
    "round": Case(
        lambda f, x: (x.round(), x.floor(), x.ceil(), x.trunc(), x.frac()),
        (np.array([-2.5, -1.5, -0.5, -0.2, -0.0, 0.0, 0.5, 1.5, 2.7, 1e9, -INF], np.float32),),
        gradient=False,
    ),
    "bitwise": Case(
        lambda f, a, b: (a & b, a | b, a ^ b, ~a, a << 3, a >> 2),
        (ints(99, 9, low=-99), ints(99, 9, low=-99)),
        gradient=False,
    ),
    "logical": Case(
        lambda f, a, b: (a.logical_and(b), a.logical_or(b), a.logical_xor(b), a.logical_not()),
        (ints(2, 9), floats(9)),
        gradient=False,
    ),
    "classify": Case(
        lambda f, x: (x.isnan(), x.isinf(), x.isfinite(), x.nan_to_num(1.0, 2.0)),
        (TIES,),
        gradient=False,
    ),
    "pow": Case(lambda f, a, b: a**b, (floats(20, low=0.1, high=5), floats(20))),
    "pow_number": Case(lambda f, x: x**2.5, (floats(9, low=0.1, high=5),)),
    "rpow": Case(lambda f, x: 3.0**x, (floats(9),)),
    "pow_integers": Case(lambda f, a, b: a**b, (ints(9, 20, low=-9), ints(9, 20)), gradient=False),
    "atan2": Case(lambda f, a, b: f.atan2(a, b), (floats(40), floats(40))),
    "atan2_special": Case(
        lambda f, a, b: f.atan2(a, b),
        tuple(
            x.reshape(-1).astype(np.float32)
            for x in np.meshgrid([0.0, -0.0, 1, -1, INF, -INF, NAN], [0.0, -0.0, 1, -1, INF, -INF])
        ),
        gradient=False,
    ),
    "hypot": Case(lambda f, a, b: f.hypot(a, b), (floats(20), floats(20))),
    "logaddexp": Case(lambda f, a, b: f.logaddexp(a, b), (floats(20), floats(20))),
    # ------------------------------------------------------------ attention
    "attention": Case(
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v),
        (floats(2, 3, 4, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 6)),
    ),
    "attention_causal": Case(
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        (floats(2, 3, 5, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 8)),
    ),
    "attention_bool_mask": Case(
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m),
        (floats(2, 3, 4, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 8), MASK),
    ),
    "attention_float_mask": Case(
        lambda f, q, k, v, m: f.scaled_dot_product_attention(q, k, v, m),
        (floats(2, 3, 4, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 8), floats(4, 5)),
    ),
    "attention_grouped": Case(
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (floats(2, 6, 4, 8), floats(2, 2, 5, 8), floats(2, 2, 5, 8)),
    ),
}
