"""Tolerances: honest runtimes stay inside, cheaper arithmetic does not, and what can be steered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.trust.tolerance import (
    LEAST_NORMAL,
    PROFILES,
    QUANTILES,
    SAFETY,
    UNIT,
    Array,
    Opinion,
    OpKind,
    Profile,
    judge,
    judge_product,
    most_steering,
    one_sided_bound,
    profile_of,
)
from tests.tools.calibrate_tolerance import (
    by_numpy,
    by_reference,
    magnitude_of,
    operands,
    relaxed_opencl,
)

CASES = [
    (OpKind.ROUNDED, 1),
    (OpKind.FUNCTION, 1),
    (OpKind.SUM, 100),
    (OpKind.SUM, 3000),
    (OpKind.DOT, 100),
    (OpKind.DOT, 1000),
]
FRESH = range(10_000, 10_006)
"""Seeds that calibration never saw."""


@pytest.fixture(scope="module")
def relaxed() -> Callable[[OpKind, Array, Array], Array]:
    return relaxed_opencl()


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("kind", "terms"), CASES)
def test_honest_runtimes_are_inside_of_each_other(
    relaxed: Callable[[OpKind, Array, Array], Array], kind: OpKind, terms: int, positive: bool
) -> None:
    """The reference, NumPy, and kernels that reorder and contract, on inputs never seen before."""
    for seed in FRESH:
        a, b = operands(kind, terms, seed, positive=positive)
        scale = magnitude_of(kind, a, b)
        results = [run(kind, a, b) for run in (by_numpy, relaxed)]
        if seed == FRESH[0]:  # the reference takes its time
            results.append(by_reference(kind, a, b))
        for claimed in results:
            for mine in results:
                found = judge(kind, claimed, mine, scale, terms)
                assert found.opinion is Opinion.INSIDE, (seed, found)
                assert found.of_bound_ppm < 1_000_000


def test_honest_products_pass_freivalds() -> None:
    rng = np.random.default_rng(7)
    for m, k, n in ((48, 100, 64), (256, 1024, 512), (1, 64, 1), (300, 4096, 20)):
        for draw in (rng.standard_normal, rng.random):
            a, b = draw((m, k)).astype(np.float32), draw((k, n)).astype(np.float32)
            assert judge_product(a, b, a @ b, seed=m).opinion is Opinion.INSIDE


def to_half(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def to_bfloat16(x: Array) -> Array:
    bits = (x.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def with_tile(y: Array, seed: int, relative: float) -> Array:
    """One tile of 8 x 8 changed by a share of its values."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, y.shape[0] - 8), rng.integers(0, y.shape[1] - 8)
    changed = y.copy()
    changed[row : row + 8, column : column + 8] *= np.float32(1 + relative)
    return changed


CHEATS: dict[str, Callable[[Array, Array, int], Array]] = {
    "operands in float16": lambda a, b, seed: to_half(a) @ to_half(b),
    "one operand in float16": lambda a, b, seed: a @ to_half(b),
    "operands in bfloat16": lambda a, b, seed: to_bfloat16(a) @ to_bfloat16(b),
    "a tile changed by 1 %": lambda a, b, seed: with_tile(a @ b, seed, 1e-2),
    "stale": lambda a, b, seed: (a * np.float32(0.999)) @ b,
    "half of the terms": lambda a, b, seed: a[:, ::2] @ b[::2] * np.float32(2),
}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("terms", [64, 256, 1024, 4096])
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheaper_products_are_never_inside(cheat: str, terms: int, positive: bool) -> None:
    """All of them are at least sent to a second opinion, by elements and by vectors."""
    for seed in range(1_000, 1_008):
        a, b = operands(OpKind.DOT, terms, seed, positive=positive)
        claimed = CHEATS[cheat](a, b, seed)
        found = judge(OpKind.DOT, claimed, a @ b, magnitude_of(OpKind.DOT, a, b), terms)
        assert found.opinion is not Opinion.INSIDE
        assert judge_product(a, b, claimed, seed).opinion is not Opinion.INSIDE


def test_gross_cheats_pass_the_sound_bound_and_fine_ones_need_the_profile() -> None:
    """What slashes and what only withholds pay: the bound grows with the terms."""
    verdicts: dict[tuple[str, int], Counter[Opinion]] = {}
    for terms in (64, 4096):
        a, b = operands(OpKind.DOT, terms, 5, positive=False)
        scale = magnitude_of(OpKind.DOT, a, b)
        for name in ("operands in float16", "a tile changed by 1 %"):
            opinion = judge(OpKind.DOT, CHEATS[name](a, b, 5), a @ b, scale, terms).opinion
            verdicts.setdefault((name, terms), Counter())[opinion] += 1
    assert verdicts["operands in float16", 64] == {Opinion.FAULT: 1}
    assert verdicts["operands in float16", 4096] == {Opinion.SECOND_OPINION: 1}
    assert verdicts["a tile changed by 1 %", 4096] == {Opinion.FAULT: 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_no_order_of_a_sum_passes_the_sound_bound(
    terms: int, seed: int, shuffled: bool, flushed: bool
) -> None:
    """Whatever the order and the flushing of small numbers: a fault is never honest."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((5, terms)) * 10.0 ** rng.integers(-38, 30)).astype(np.float32)
    exact = values.astype(np.float64).sum(axis=1)
    order = rng.permutation(terms) if shuffled else np.arange(terms)
    total = np.zeros(5, np.float32)
    for at in order:
        term = values[:, at]
        if flushed:
            term = np.where(np.abs(term) < LEAST_NORMAL, np.float32(0), term)
        total = (total + term).astype(np.float32)
    magnitude = np.abs(values.astype(np.float64)).sum(axis=1)
    bound = one_sided_bound(OpKind.SUM, magnitude, terms) + terms * LEAST_NORMAL
    assert (np.abs(total - exact) <= bound).all()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda item: f"{item.kind} {item.most_terms}")
def test_what_can_be_steered_is_bounded(profile: Profile) -> None:
    """Just inside is accepted, just outside is not, and the law of the page holds between them."""
    count = 10_000
    magnitude = np.ones(count)
    mine = np.zeros(count, np.float32)
    bound = 2 * float(one_sided_bound(profile.kind, np.ones(1), profile.most_terms)[0])
    limits = [min(SAFETY * milli / 1_000 * UNIT, bound) for milli in profile.quantiles_milli]
    edges = [0, *(math.ceil(quantile * (count - 1)) + 1 for quantile in QUANTILES)]
    steered = np.zeros(count, np.float64)
    for limit, first, last in zip(limits, edges, edges[1:], strict=False):
        steered[first:last] = limit * 0.999
    kind, terms = profile.kind, profile.most_terms
    assert profile_of(kind, terms) == profile
    found = judge(kind, steered.astype(np.float32), mine, magnitude, terms)
    assert found.opinion is Opinion.INSIDE
    rms = float(np.sqrt(np.mean(steered**2)))
    assert 0.9 * most_steering(profile) * UNIT < rms <= most_steering(profile) * UNIT
    beyond = judge(kind, (steered * 1.01).astype(np.float32), mine, magnitude, terms)
    assert beyond.opinion is not Opinion.INSIDE
    assert most_steering(profile) < 40, "a relative 2.4e-6 of the magnitude at most"


def test_what_is_only_moved_has_equal_bits() -> None:
    x = np.arange(8, dtype=np.float32)
    other = x.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    assert judge(OpKind.MOVE, x, x.copy(), x).opinion is Opinion.INSIDE
    assert judge(OpKind.MOVE, other, x, x).opinion is Opinion.FAULT


def test_infinities_and_nans_agree_or_get_a_second_opinion() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    scale = np.ones(4)
    assert judge(OpKind.SUM, x, x.copy(), scale, 4).opinion is Opinion.INSIDE
    for place, value in ((0, 1e38), (1, np.inf), (2, 0.0), (3, np.nan)):
        other = x.copy()
        other[place] = value
        assert judge(OpKind.SUM, other, x, scale, 4).opinion is Opinion.SECOND_OPINION
    a = np.full((2, 2), 3e38, np.float32)
    with np.errstate(over="ignore"):
        assert judge_product(a, a, a @ a, 1).opinion is Opinion.SECOND_OPINION


def test_what_was_never_calibrated_is_refused() -> None:
    x = np.ones((2, 2), np.float32)
    for call, code in (
        (lambda: judge(OpKind.DOT, x, x, x, 10**6), "TOLERANCE_UNCALIBRATED"),
        (lambda: judge(OpKind.DOT, x, x[:1], x, 4), "TOLERANCE_SHAPE"),
        (lambda: judge_product(x, x, x[:1], 1), "TOLERANCE_SHAPE"),
        (lambda: one_sided_bound(OpKind.DOT, np.ones(1), 2**24), "TOLERANCE_TERMS"),
    ):
        with pytest.raises(InvalidInput) as error:
            call()
        assert error.value.code == code
