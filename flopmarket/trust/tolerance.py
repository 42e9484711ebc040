"""Comparing results that need not have equal bits: what rounding can explain, and what it cannot.

For devices that compute no exact mode. One operation is judged at a time, **from the inputs that
the producer committed to**: so errors of earlier operations are not in the difference, and nothing
accumulates over a step. Two measures, both relative to the *magnitude* of a result, the same
operation on the absolute values of its operands (``|a| @ |b|`` for a product):

- the *sound bound*: no two honest devices differ by more, whatever the order of their sums,
  contraction, flushed subnormals and the accuracy that OpenCL asks of functions;
- the *profile*: quantiles of the differences that honest runtimes showed, times a safety factor.

Inside the profile: accepted. Outside of it and within the bound: a second opinion, unpaid until
then. Outside of the bound: a fault. Large products are checked by Freivalds' method with Gaussian
vectors (:func:`judge_product`). No coordinator decides by this yet; the figures are in
docs/tolerance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flopmarket.errors import InvalidInput

Array: TypeAlias = npt.NDArray[Any]
Float64s: TypeAlias = npt.NDArray[np.float64]

UNIT = 2.0**-24
"""Half a unit in the last place of 1.0: the relative error of one rounding to float32."""

LEAST_NORMAL = 2.0**-126
SAFETY = 4
"""A quantile may be this many times the calibrated one."""

QUANTILES = (0.5, 0.9, 0.99, 1.0)
LEAST_ABOVE = 8
"""A quantile is judged where at least so many elements lie above it; the largest always is."""

FUNCTION_ULPS = 16
"""The worst that OpenCL's full profile allows a function that programs use (erf, pow)."""

QUOTIENT_ULPS = 2.5
VECTORS = 2
"""Independent Gaussian vectors of a check of a product."""


class OpKind(StrEnum):
    """How an operation may differ between honest devices."""

    MOVE = "move"
    """Not at all: copies, integers, comparisons of equal inputs."""
    ROUNDED = "rounded"
    """Sum, difference, product, quotient, root of float32."""
    FUNCTION = "function"
    SUM = "sum"
    DOT = "dot"


class Opinion(StrEnum):
    """What a difference leads to, from best to worst."""

    INSIDE = "inside"
    SECOND_OPINION = "second-opinion"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Profile:
    """Quantiles of honest differences, in thousandths of ``UNIT * magnitude``.

    Holds for operations of at most ``most_terms`` terms.
    """

    kind: OpKind
    most_terms: int
    quantiles_milli: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found: quantiles as in :class:`Profile`, and the worst share of the sound bound."""

    opinion: Opinion
    quantiles_milli: tuple[int, int, int, int]
    of_bound_ppm: int


def roundings(kind: OpKind, terms: int) -> float:
    """How many roundings to float32 one result of this kind may have been through."""
    if kind is OpKind.MOVE:
        return 0.0
    if kind is OpKind.ROUNDED:
        return 2 * QUOTIENT_ULPS
    if kind is OpKind.FUNCTION:
        return 2.0 * FUNCTION_ULPS
    return float(terms if kind is OpKind.DOT else max(terms - 1, 1))


def one_sided_bound(kind: OpKind, magnitude: Float64s, terms: int) -> Float64s:
    """How far an honest result is from the true one at most: Higham's ``n u / (1 - n u)``."""
    count = roundings(kind, terms)
    if count * UNIT >= 0.5:
        raise InvalidInput(
            f"{terms} terms are too many for a bound in float32", code="TOLERANCE_TERMS"
        )
    gamma = count * UNIT / (1.0 - count * UNIT)
    return gamma * magnitude + count * LEAST_NORMAL


def judge(
    kind: OpKind, claimed: Array, recomputed: Array, magnitude: Array, terms: int = 1
) -> Judgement:
    """Compare one operation's result with one's own, from the same inputs.

    ``magnitude``: the operation on absolute values, not below ``|result|``; ``terms`` of a sum or
    product. Raises InvalidInput ``TOLERANCE_SHAPE``, ``TOLERANCE_TERMS`` or
    ``TOLERANCE_UNCALIBRATED``.
    """
    if not claimed.shape == recomputed.shape == magnitude.shape:
        raise InvalidInput(
            f"shapes {claimed.shape}, {recomputed.shape} and {magnitude.shape} differ",
            code="TOLERANCE_SHAPE",
        )
    if kind is OpKind.MOVE:
        same = claimed.tobytes() == recomputed.tobytes()
        return Judgement(
            Opinion.INSIDE if same else Opinion.FAULT, (0, 0, 0, 0), 0 if same else 10**9
        )
    ours, theirs = recomputed.astype(np.float64), claimed.astype(np.float64)
    finite = np.isfinite(ours) & np.isfinite(theirs)
    with np.errstate(invalid="ignore"):
        odd = ~finite & ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    scale = magnitude.astype(np.float64)
    found = _judge_differences(
        np.abs(ours[finite] - theirs[finite]),
        scale[finite],
        2.0 * one_sided_bound(kind, scale[finite], terms),
        profile_of(kind, terms),
    )
    if not odd.any():
        return found
    # An overflow on the way depends on the order of a sum; a NaN from finite inputs does as well.
    worst = max(found.opinion, Opinion.SECOND_OPINION, key=list(Opinion).index)
    return Judgement(worst, found.quantiles_milli, found.of_bound_ppm)


def judge_product(a: Array, b: Array, c: Array, seed: int, vectors: int = VECTORS) -> Judgement:
    """Check a claimed product ``c = a @ b`` ([m, k] x [k, n]) in O(mk + kn + mn) operations.

    ``c x`` is compared with ``a (b x)`` for Gaussian ``x`` in float64, whose own error is 2^29
    times smaller than float32's. ``seed`` is drawn after the commitment. The worst of all
    ``vectors`` counts. Bounds are for one side: float64 stands for the true product.
    """
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2 or c.shape != (m, n):
        raise InvalidInput(
            f"{a.shape} x {b.shape} is no product of shape {c.shape}", code="TOLERANCE_SHAPE"
        )
    if not np.isfinite(c).all():
        return Judgement(Opinion.SECOND_OPINION, (0, 0, 0, 0), 0)
    profile = profile_of(OpKind.DOT, k)
    x = np.random.Generator(np.random.Philox(seed)).standard_normal((n, vectors))
    found = c.astype(np.float64) @ x
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    residuals = np.abs(found - wide_a @ (wide_b @ x))
    magnitudes = np.abs(wide_a, out=wide_a) @ (np.abs(wide_b, out=wide_b) @ np.abs(x))
    bounds = one_sided_bound(OpKind.DOT, magnitudes, k)
    # n independent errors of either sign add up to sqrt(n) times one, not to n times.
    typical = magnitudes / np.sqrt(n)
    judged = [
        _judge_differences(residuals[:, at], typical[:, at], bounds[:, at], profile)
        for at in range(vectors)
    ]
    return max(judged, key=lambda item: list(Opinion).index(item.opinion))


def profile_of(kind: OpKind, terms: int) -> Profile:
    """The tightest profile for so many terms; InvalidInput ``TOLERANCE_UNCALIBRATED``."""
    for profile in PROFILES:
        if profile.kind is kind and terms <= profile.most_terms:
            return profile
    raise InvalidInput(
        f"{kind} of {terms} terms was never calibrated", code="TOLERANCE_UNCALIBRATED"
    )


def most_steering(profile: Profile) -> float:
    """The largest root mean square of differences that stays inside, in ``UNIT * magnitude``.

    Whoever knows the profile can place every element just below the next quantile: this is what
    tolerance gives away, in every operation of every step.
    """
    total = below = 0.0
    for quantile, milli in zip(QUANTILES, profile.quantiles_milli, strict=True):
        total += (quantile - below) * (SAFETY * milli / 1_000) ** 2
        below = quantile
    return float(np.sqrt(total))


def quantiles_milli(units: Float64s) -> tuple[int, int, int, int]:
    """Quantiles of differences in ``UNIT * magnitude``, in thousandths, rounded up.

    One above which fewer than ``LEAST_ABOVE`` elements lie says nothing: it is 0.
    """
    found = [0, 0, 0, 0]
    for at, quantile in enumerate(QUANTILES):
        if units.size and (quantile == 1.0 or units.size * (1.0 - quantile) >= LEAST_ABOVE):
            value = float(np.quantile(units, quantile, method="higher"))
            found[at] = int(np.ceil(min(value, 1e12) * 1_000))
    return found[0], found[1], found[2], found[3]


def _judge_differences(
    differences: Float64s, scale: Float64s, bound: Float64s, profile: Profile
) -> Judgement:
    allowance = UNIT * scale + LEAST_NORMAL
    found = quantiles_milli(differences / allowance)
    share = float(np.max(differences / bound, initial=0.0))
    if share > 1.0:
        opinion = Opinion.FAULT
    elif all(
        seen <= SAFETY * known for seen, known in zip(found, profile.quantiles_milli, strict=True)
    ):
        opinion = Opinion.INSIDE
    else:
        opinion = Opinion.SECOND_OPINION
    return Judgement(opinion, found, int(np.ceil(min(share, 1e3) * 1e6)))


PROFILES: tuple[Profile, ...] = (
    Profile(OpKind.ROUNDED, 1, (500, 1509, 1954, 3572)),
    Profile(OpKind.FUNCTION, 1, (500, 1713, 2155, 3168)),
    Profile(OpKind.SUM, 64, (500, 1955, 2311, 3993)),
    Profile(OpKind.SUM, 256, (500, 1988, 3817, 4175)),
    Profile(OpKind.SUM, 1024, (1009, 2021, 3972, 5998)),
    Profile(OpKind.SUM, 4096, (1979, 3970, 5958, 8120)),
    Profile(OpKind.DOT, 64, (1723, 3625, 5559, 7998)),
    Profile(OpKind.DOT, 256, (2240, 6368, 10184, 15459)),
    Profile(OpKind.DOT, 1024, (2240, 6368, 10184, 15459)),
    Profile(OpKind.DOT, 4096, (2240, 6368, 10184, 15459)),
)
"""Measured by ``tests/tools/calibrate_tolerance.py``: the largest over all pairs of the reference,
NumPy with OpenBLAS, torch with oneDNN, and relaxed kernels on PoCL, signed and positive data. Never
below half a unit (a pair that mostly agrees says nothing of others), and never falling with the
number of terms."""
