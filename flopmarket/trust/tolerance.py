"""Comparing results that need not have equal bits: what rounding can explain, and what it cannot.

For devices that run the kernels of exact mode, with their prescribed order of sums, but round in
ways of their own. One operation is judged at a time, **from the inputs that the producer claimed**:
so errors of earlier operations are not in the difference, and nothing accumulates over a step. Two
measures, both relative to the *magnitude* of a result, the same operation on the absolute values of
its operands (``|a| @ |b|`` for a product):

- the *sound bound*: no two devices that keep the order differ by more, whatever they contract,
  flush, or divide with;
- the *profile*: quantiles of the differences that honest devices showed, times a safety factor.

Inside the profile: accepted. Outside of it and within the bound: a second opinion. Outside of the
bound: a fault. Large products are checked by Freivalds' method with Gaussian vectors
(:func:`judge_product`). What a whole step is judged by is ``jobs/judging_steps.py``; the figures
are in docs/tolerance.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flopmarket.errors import InvalidInput

Array: TypeAlias = npt.NDArray[Any]
Float64s: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

SAFETY = 2
"""A quantile may be this many times the calibrated one."""

QUANTILES = (0.5, 0.9, 0.99, 1.0)
LEAST_ABOVE = 8
"""A quantile is judged where at least so many elements lie above it; the largest always is."""

VECTORS = 2
"""Independent Gaussian vectors of a check of a product."""


@dataclass(frozen=True, slots=True)
class Format:
    """A float type: relative error of one rounding, least normal and largest finite value.

    ``is_narrow``: 16 bits, computed in float32 and rounded once more.
    """

    unit: float
    least_normal: float
    largest: float
    is_narrow: bool = False


FORMATS = {
    "float32": Format(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "float64": Format(2.0**-53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
    "float16": Format(2.0**-11, 2.0**-14, 65504.0, is_narrow=True),
    "bfloat16": Format(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, is_narrow=True),
}


class OpKind(StrEnum):
    """How an operation may differ between honest devices."""

    MOVE = "move"
    """Not at all: copies, integers, choices and comparisons of equal inputs."""
    ROUNDED = "rounded"
    """Sum, product and conversion: one rounding, and the same one everywhere."""
    FUSED = "fused"
    """Multiply-add: one rounding, or two."""
    DIVIDED = "divided"
    """Quotient and root."""
    SUM = "sum"
    """Sums and products of many terms."""
    DOT = "dot"
    """Sums of products."""
    PRODUCT = "product"
    """A matrix product against the true one: what :func:`judge_product` sees."""


class Opinion(StrEnum):
    """What a difference leads to, from best to worst."""

    INSIDE = "inside"
    SECOND_OPINION = "second-opinion"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Profile:
    """Quantiles of honest differences, in thousandths of ``unit * magnitude``.

    Holds for operations of at most ``most_terms`` terms.
    """

    kind: OpKind
    most_terms: int
    quantiles_milli: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found: quantiles as in :class:`Profile`, and the worst share of the sound bound.

    ``element`` is the row-major position of the worst element (of the worst row for a product),
    ``seen`` and ``expected`` its values; -1 where no element was judged.
    """

    opinion: Opinion
    quantiles_milli: tuple[int, int, int, int] = (0, 0, 0, 0)
    of_bound_ppm: int = 0
    element: int = -1
    seen: float = 0.0
    expected: float = 0.0


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """The worst opinion, and of equal ones that nearest to its bound; INSIDE of none."""
    ranked = list(Opinion)
    return max(
        judgements,
        key=lambda item: (ranked.index(item.opinion), item.of_bound_ppm),
        default=Judgement(Opinion.INSIDE),
    )


def one_sided_bound(
    roundings: float, magnitude: Float64s, form: Format = FORMATS["float32"]
) -> Float64s:
    """How far an honest result is from the true one at most: Higham's ``n u / (1 - n u)``.

    ``roundings``: how many one term went through. Raises InvalidInput ``TOLERANCE_TERMS``.
    """
    base = FORMATS["float32"] if form.is_narrow else form
    if roundings * base.unit >= 0.5:
        raise InvalidInput(
            f"{roundings} roundings are too many for a bound", code="TOLERANCE_TERMS"
        )
    gamma = roundings * base.unit / (1.0 - roundings * base.unit)
    bound = gamma * magnitude + roundings * base.least_normal
    if form.is_narrow:
        bound = bound + form.unit * (magnitude + form.least_normal)
    return np.asarray(bound)


@dataclass(frozen=True, slots=True)
class Expected:
    """An operation as the judge computed it.

    ``values``: its result, and the same with subnormal operands taken for zero where there are any:
    a device may do either, element by element. ``magnitude``: the operation on absolute values, not
    below ``|result|``. ``terms`` of a sum or product choose the profile, ``roundings`` the bound.
    """

    kind: OpKind
    form: Format
    values: Sequence[Array]
    magnitude: Array
    terms: int = 1
    roundings: float = 1.0


def judge_equal(claimed: Array, values: Sequence[Array]) -> Judgement:
    """A result that must be one of ``values``, element by element.

    Where there are several, something was flushed, and zeros have lost their sign.
    """
    words = f"u{claimed.itemsize}"
    same = np.zeros(claimed.shape, np.bool_)
    for value in values:
        same |= claimed.view(words) == np.ascontiguousarray(value).view(words)
        if len(values) > 1:
            same |= claimed == value
    if same.all():
        return Judgement(Opinion.INSIDE)
    at = int(np.argmin(same))
    seen, wanted = float(claimed.reshape(-1)[at]), float(values[0].reshape(-1)[at])
    return Judgement(Opinion.FAULT, (0, 0, 0, 0), 10**9, at, seen, wanted)


def judge(claimed: Array, expected: Expected) -> Judgement:
    """Compare one operation's result with one's own, from the same inputs.

    Raises InvalidInput ``TOLERANCE_SHAPE``, ``TOLERANCE_TERMS`` or ``TOLERANCE_UNCALIBRATED``.
    """
    shapes = {claimed.shape, expected.magnitude.shape, *(v.shape for v in expected.values)}
    if len(shapes) != 1:
        raise InvalidInput(f"shapes {sorted(shapes)} differ", code="TOLERANCE_SHAPE")
    if expected.kind is OpKind.MOVE:
        return judge_equal(claimed, expected.values)
    form = expected.form
    theirs = claimed.astype(np.float64).reshape(-1)
    scale = expected.magnitude.astype(np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        options = [value.astype(np.float64).reshape(-1) for value in expected.values]
        ours, differences = _nearest(theirs, options)
        finite = np.isfinite(differences)
        bound = 2.0 * one_sided_bound(expected.roundings, scale, form)
        found = _judge_differences(
            np.where(finite, differences, 0.0),
            scale,
            bound,
            _profile(expected),
            form,
            expected.roundings,
        )
        if finite.all():
            return _placed(found, found.element, theirs, ours)
        # An overflow on the way depends on how it was rounded, near the end of the range only.
        near = ~(scale + bound < form.largest)
    at = int(np.argmax(~finite & ~near)) if (~finite & ~near).any() else int(np.argmin(finite))
    opinion = Opinion.FAULT if not near[at] else Opinion.SECOND_OPINION
    other = replace(found, opinion=opinion, of_bound_ppm=10**9 if opinion is Opinion.FAULT else 0)
    return worst([_placed(found, found.element, theirs, ours), _placed(other, at, theirs, ours)])


def _nearest(theirs: Float64s, options: Sequence[Float64s]) -> tuple[Float64s, Float64s]:
    """Of the judge's values the nearest to each claimed one, and how far that is: infinitely, where
    only one of both is finite."""
    ours = options[0]
    differences = _distance(theirs, ours)
    for other in options[1:]:
        further = _distance(theirs, other)
        nearer = further < differences
        ours, differences = np.where(nearer, other, ours), np.where(nearer, further, differences)
    return ours, differences


def _distance(one: Float64s, other: Float64s) -> Float64s:
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    difference = np.abs(one - other)
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _placed(found: Judgement, at: int, theirs: Float64s, ours: Float64s) -> Judgement:
    if not theirs.size:
        return found
    return replace(found, element=at, seen=float(theirs[at]), expected=float(ours[at]))


def _profile(expected: Expected) -> Profile:
    """A 16-bit result differs where float32's lay next to a tie: seldom, and by one place."""
    if expected.form.is_narrow:
        return NARROW
    return profile_of(expected.kind, expected.terms)


def judge_product(
    a: Array, b: Array, c: Array, seed: int, *, roundings: float, vectors: int = VECTORS
) -> Judgement:
    """Check a claimed float32 product ``c = a @ b`` ([m, k] x [k, n]) in O(mk + kn + mn).

    ``c x`` is compared with ``a (b x)`` for Gaussian ``x`` in float64, whose own error is 2^29
    times smaller than float32's. ``seed`` is drawn after the commitment. The worst of all
    ``vectors`` counts. Bounds are for one side: float64 stands for the true product.
    """
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2 or c.shape != (m, n):
        raise InvalidInput(
            f"{a.shape} x {b.shape} is no product of shape {c.shape}", code="TOLERANCE_SHAPE"
        )
    if not c.size:
        return Judgement(Opinion.INSIDE)
    residuals, typical, magnitudes, (found, wanted) = product_residuals(a, b, c, seed, vectors)
    form, profile = FORMATS["float32"], profile_of(OpKind.PRODUCT, k)
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        near = not bool((magnitudes[row] < form.largest).all())
        opinion = Opinion.SECOND_OPINION if near else Opinion.FAULT
        element = row * n + int(np.argmin(np.isfinite(c[row])))
        return Judgement(opinion, (0, 0, 0, 0), 0, element, float(c.reshape(-1)[element]), 0.0)
    bounds = one_sided_bound(roundings, magnitudes)
    judged = []
    for at in range(vectors):
        one = _judge_differences(
            residuals[:, at], typical[:, at], bounds[:, at], profile, form, roundings * n
        )
        row = one.element
        seen, true = float(found[row, at]), float(wanted[row, at])
        judged.append(replace(one, element=row * n, seen=seen, expected=true))
    return worst(judged)


def product_residuals(
    a: Array, b: Array, c: Array, seed: int, vectors: int
) -> tuple[Float64s, Float64s, Float64s, tuple[Float64s, Float64s]]:
    """What :func:`judge_product` looks at, each [m, vectors]: the differences of ``c x`` and
    ``a (b x)``, their typical and their largest magnitudes, and both sides.

    n independent errors of either sign add up to sqrt(n) times one, not to n times.
    """
    n = c.shape[1]
    x = np.random.Generator(np.random.Philox(seed)).standard_normal((n, vectors))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        found, wanted = c.astype(np.float64) @ x, wide_a @ (wide_b @ x)
        magnitudes = np.abs(wide_a, out=wide_a) @ (np.abs(wide_b, out=wide_b) @ np.abs(x))
        return _distance(found, wanted), magnitudes / np.sqrt(n), magnitudes, (found, wanted)


def profile_of(kind: OpKind, terms: int) -> Profile:
    """The tightest profile for so many terms; InvalidInput ``TOLERANCE_UNCALIBRATED``."""
    for profile in PROFILES:
        if profile.kind is kind and terms <= profile.most_terms:
            return profile
    raise InvalidInput(
        f"{kind} of {terms} terms was never calibrated", code="TOLERANCE_UNCALIBRATED"
    )


def most_steering(profile: Profile) -> float:
    """The largest root mean square of differences that stays inside, in ``unit * magnitude``.

    Whoever knows the profile can place every element just below the next quantile: this is what
    tolerance gives away, in every operation of every step.
    """
    total = below = 0.0
    for quantile, milli in zip(QUANTILES, profile.quantiles_milli, strict=True):
        total += (quantile - below) * (SAFETY * milli / 1_000) ** 2
        below = quantile
    return float(np.sqrt(total))


def quantiles_milli(units: Float64s) -> tuple[int, int, int, int]:
    """Quantiles of differences in ``unit * magnitude``, in thousandths, rounded up.

    One above which fewer than ``LEAST_ABOVE`` elements lie says nothing: it is 0.
    """
    found = [0, 0, 0, 0]
    for at, quantile in enumerate(QUANTILES):
        if units.size and (quantile == 1.0 or units.size * (1.0 - quantile) >= LEAST_ABOVE):
            value = float(np.quantile(units, quantile, method="higher"))
            found[at] = int(np.ceil(min(value, 1e12) * 1_000))
    return found[0], found[1], found[2], found[3]


def units_of(
    differences: Float64s, scale: Float64s, form: Format, roundings: float = 1.0
) -> Float64s:
    """Differences in ``unit * magnitude``; what flushing each result alone explains is none."""
    base = FORMATS["float32"] if form.is_narrow else form
    beyond = np.maximum(differences - roundings * base.least_normal, 0.0)
    with np.errstate(all="ignore"):
        units = beyond / (form.unit * np.maximum(scale, base.least_normal))
    return np.nan_to_num(units, nan=0.0, posinf=1e12)


def _judge_differences(
    differences: Float64s,
    scale: Float64s,
    bound: Float64s,
    profile: Profile,
    form: Format,
    roundings: float,
) -> Judgement:
    found = quantiles_milli(units_of(differences, scale, form, roundings))
    shares = np.nan_to_num(differences / bound, nan=0.0)
    at = int(np.argmax(shares)) if shares.size else -1
    share = float(shares[at]) if shares.size else 0.0
    if share > 1.0:
        opinion = Opinion.FAULT
    elif all(
        seen <= SAFETY * known for seen, known in zip(found, profile.quantiles_milli, strict=True)
    ):
        opinion = Opinion.INSIDE
    else:
        opinion = Opinion.SECOND_OPINION
    return Judgement(opinion, found, int(np.ceil(min(share, 1e3) * 1e6)), at)


NARROW = Profile(OpKind.ROUNDED, 1, (0, 0, 0, 2_000))
"""16-bit results, in their own units: at least 99 of 100 elements are equal."""

PROFILES: tuple[Profile, ...] = (
    Profile(OpKind.ROUNDED, 1, (0, 0, 0, 0)),
    Profile(OpKind.FUSED, 1, (1_000, 1_500, 2_000, 2_000)),
    Profile(OpKind.DIVIDED, 1, (1_100, 1_800, 2_200, 3_500)),
    Profile(OpKind.SUM, 65_536, (0, 0, 0, 0)),
    Profile(OpKind.DOT, 65_536, (1_000, 2_500, 3_000, 5_000)),
    Profile(OpKind.PRODUCT, 65_536, (3_500, 8_500, 15_000, 18_000)),
)
"""From ``tests/tools/calibrate_tolerance.py``: the largest over all relaxed compilers of the
devices in docs/tolerance.md, over signed, positive and widely spread data, rounded up. A median is
never below one unit where anything may differ: in few elements it says little."""
