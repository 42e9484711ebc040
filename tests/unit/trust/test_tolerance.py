"""Tolerances: what rounding explains is no fault, cheaper arithmetic is outside, and what a cheat
that knows the profile can still steer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.errors import InvalidInput
from flopmarket.jobs.judging_steps import magnitude_of, roundings_of
from flopmarket.jobs.operations import Operation, Part, blocks
from flopmarket.jobs.tracing import by_reference
from flopmarket.trust.tolerance import (
    FORMATS,
    PROFILES,
    QUANTILES,
    SAFETY,
    Array,
    Expected,
    Judgement,
    Opinion,
    OpKind,
    Profile,
    judge,
    judge_equal,
    judge_product,
    most_steering,
    one_sided_bound,
    profile_of,
    worst,
)

F32 = FORMATS["float32"]
ROWS, COLUMNS = 48, 64


def dot_of(a: Array, b: Array) -> graph.Node:
    leaves = [
        graph.input_("input", name, dtypes.float32, (1, *value.shape))
        for name, value in (("a", a), ("b", b))
    ]
    return graph.dot(*leaves)


def product(a: Array, b: Array) -> Array:
    """``a @ b`` under FX1."""
    node = dot_of(a, b)
    op = Operation(Part.NODE, node, node.dtype, node.shape, (0, 1), blocks(node.elements))
    return by_reference(0, 0, op, [a[None], b[None]])[0]


def split_product(a: Array, b: Array) -> Array:
    """The prescribed order without fused multiply-add: what an honest device may do."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for start in range(0, a.shape[1], DOT_CHUNK):
        chunk = np.zeros_like(total)
        for k in range(start, min(start + DOT_CHUNK, a.shape[1])):
            chunk = chunk + a[:, k, None] * b[None, k]
        total = total + chunk
    return total


def operands(terms: int, seed: int, *, positive: bool = False) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    draw = rng.random if positive else rng.standard_normal
    return draw((ROWS, terms)).astype(np.float32), draw((terms, COLUMNS)).astype(np.float32)


def judged(a: Array, b: Array, claimed: Array, law: Array | None = None) -> Judgement:
    """A claimed product, by elements."""
    node = dot_of(a, b)
    law = product(a, b) if law is None else law
    scale = magnitude_of(node, [a[None], b[None]])[0]
    terms = a.shape[1]
    return judge(claimed, Expected(OpKind.DOT, F32, [law], scale, terms, roundings_of(node)))


def judged_by_vectors(a: Array, b: Array, claimed: Array, seed: int) -> Judgement:
    return judge_product(a, b, claimed, seed, roundings=roundings_of(dot_of(a, b)))


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("terms", [1, 7, 100, 1000, 3000])
def test_honest_products_are_inside_of_each_other(terms: int, positive: bool) -> None:
    """Fused or not, on data that calibration never saw; also products of a few elements."""
    for seed in range(10_000, 10_003):
        a, b = operands(terms, seed, positive=positive)
        for rows in (slice(None), slice(0, 1)):
            part = np.ascontiguousarray(a[rows])
            law, split = product(part, b), split_product(part, b)
            assert judged(part, b, split, law).opinion is Opinion.INSIDE
            assert judged(part, b, law, law).of_bound_ppm == 0
            for claimed in (law, split):
                assert judged_by_vectors(part, b, claimed, seed).opinion is Opinion.INSIDE


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
    "a tile changed by 1 %": lambda a, b, seed: with_tile(product(a, b), seed, 1e-2),
    "stale": lambda a, b, seed: (a * np.float32(0.999)) @ b,
    "half of the terms": lambda a, b, seed: a[:, ::2] @ b[::2] * np.float32(2),
}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("terms", [64, 1024, 4096])
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheaper_products_are_never_inside(cheat: str, terms: int, positive: bool) -> None:
    """All of them are at least sent to a second opinion, by elements and by vectors."""
    for seed in range(1_000, 1_002):
        a, b = operands(terms, seed, positive=positive)
        claimed = CHEATS[cheat](a, b, seed)
        assert judged(a, b, claimed).opinion is not Opinion.INSIDE
        assert judged_by_vectors(a, b, claimed, seed).opinion is not Opinion.INSIDE


def test_gross_cheats_pass_the_sound_bound_and_fine_ones_need_the_profile() -> None:
    """What slashes and what only withholds pay."""
    verdicts: dict[tuple[str, int], Counter[Opinion]] = {}
    for terms in (64, 4096):
        a, b = operands(terms, 5)
        law = product(a, b)
        for name in ("operands in float16", "a tile changed by 1 %"):
            opinion = judged(a, b, CHEATS[name](a, b, 5), law).opinion
            verdicts.setdefault((name, terms), Counter())[opinion] += 1
    assert verdicts["operands in float16", 64] == {Opinion.FAULT: 1}
    assert verdicts["operands in float16", 4096] == {Opinion.SECOND_OPINION: 1}
    assert verdicts["a tile changed by 1 %", 4096] == {Opinion.FAULT: 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_no_order_of_a_sum_passes_the_bound_of_all_orders(
    terms: int, seed: int, shuffled: bool, flushed: bool
) -> None:
    """With as many roundings as there are terms: a fault is never honest."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((5, terms)) * 10.0 ** rng.integers(-38, 30)).astype(np.float32)
    exact = values.astype(np.float64).sum(axis=1)
    order = rng.permutation(terms) if shuffled else np.arange(terms)
    total = np.zeros(5, np.float32)
    for at in order:
        term = values[:, at]
        if flushed:
            term = np.where(np.abs(term) < F32.least_normal, np.float32(0), term)
        total = total + term
        if flushed:
            total = np.where(np.abs(total) < F32.least_normal, np.float32(0), total)
    scale = np.abs(values.astype(np.float64)).sum(axis=1)
    assert (np.abs(total - exact) <= one_sided_bound(terms, scale)).all()


@pytest.mark.parametrize(
    "profile",
    [p for p in PROFILES if p.quantiles_milli[3] and p.kind is not OpKind.PRODUCT],
    ids=lambda profile: profile.kind.value,
)
def test_steering_is_bounded_by_the_profile(profile: Profile) -> None:
    """Whoever knows the profile reaches its root mean square, and one per cent more is refused."""
    count, terms = 10_000, profile.most_terms
    magnitude, mine = np.ones(count), np.zeros(count)
    levels = [SAFETY * milli / 1_000 for milli in profile.quantiles_milli]
    ranks = np.arange(count) / count
    units = np.select([ranks <= q for q in QUANTILES], levels)
    roundings = 300.0
    expected = Expected(profile.kind, F32, [mine], magnitude, terms, roundings)
    steered = units * F32.unit * 0.999
    assert judge(steered, expected).opinion is Opinion.INSIDE
    rms = float(np.sqrt(np.mean(steered**2)))
    assert 0.9 * most_steering(profile) * F32.unit < rms <= most_steering(profile) * F32.unit
    assert judge(steered * 1.02, expected).opinion is not Opinion.INSIDE
    assert most_steering(profile) < 10, "a relative 6e-7 of the magnitude at most"


def test_what_only_moves_has_equal_bits() -> None:
    x = np.arange(8, dtype=np.float32)
    other = x.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    assert judge_equal(x, [x.copy()]).opinion is Opinion.INSIDE
    found = judge_equal(other, [x])
    assert (found.opinion, found.element, found.expected) == (Opinion.FAULT, 3, 3.0)
    negative = np.array([-0.0], np.float32)
    assert judge_equal(negative, [np.zeros(1, np.float32)]).opinion is Opinion.FAULT
    either = [np.zeros(1, np.float32), np.array([1e-40], np.float32)]
    assert judge_equal(negative, either).opinion is Opinion.INSIDE, "flushed: zeros lose the sign"


def test_infinities_and_nans_agree_or_are_explained_by_magnitude() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    small, large = np.ones(4), np.full(4, 3.5e38)
    for scale in (small, large):
        expected = Expected(OpKind.SUM, F32, [x], scale, 4, 3.0)
        assert judge(x.copy(), expected).opinion is Opinion.INSIDE
    for place, value in ((0, 1e38), (1, np.inf), (2, 0.0), (3, np.nan)):
        other = x.copy()
        other[place] = value
        near = judge(other, Expected(OpKind.SUM, F32, [x], large, 4, 3.0))
        assert (near.opinion, near.element) == (Opinion.SECOND_OPINION, place)
        far = judge(other, Expected(OpKind.SUM, F32, [x], small, 4, 3.0))
        assert (far.opinion, far.element) == (Opinion.FAULT, place)
    a = np.full((2, 2), 3e38, np.float32)
    with np.errstate(over="ignore"):
        assert judged_by_vectors(a, a, a @ a, 1).opinion is Opinion.SECOND_OPINION
    ones = np.ones((2, 2), np.float32)
    claimed = np.array([[2, 2], [2, np.nan]], np.float32)
    assert judged_by_vectors(ones, ones, claimed, 1).opinion is Opinion.FAULT


def test_narrow_results_differ_seldom_and_by_one_place() -> None:
    form = FORMATS["float16"]
    mine = np.linspace(1, 2, 2_000).astype(np.float16)
    scale = mine.astype(np.float64)
    expected = Expected(OpKind.FUSED, form, [mine], scale, 1, 2.0)
    seldom, often, far = mine.copy(), mine.copy(), mine.copy()
    seldom[::400] = np.nextafter(seldom[::400], np.float16(9))
    often[::20] = np.nextafter(often[::20], np.float16(9))
    far[7] = far[7] + np.float16(0.01)
    assert judge(seldom, expected).opinion is Opinion.INSIDE
    assert judge(often, expected).opinion is Opinion.SECOND_OPINION
    assert judge(far, expected).opinion is Opinion.FAULT


def test_flushed_operands_are_one_of_two_answers() -> None:
    """A root of a subnormal is 1e-20, or 0 where the operand was flushed; nothing between."""
    values = [np.array([1e-20], np.float32), np.array([0.0], np.float32)]
    expected = Expected(OpKind.DIVIDED, F32, values, np.array([1e-20]), 1, 6.0)
    for claimed, opinion in (
        (1e-20, Opinion.INSIDE),
        (0.0, Opinion.INSIDE),
        (5e-21, Opinion.FAULT),
    ):
        assert judge(np.array([claimed], np.float32), expected).opinion is opinion


def test_the_worst_of_several_counts() -> None:
    inside = Judgement(Opinion.INSIDE, of_bound_ppm=900_000)
    second = Judgement(Opinion.SECOND_OPINION, of_bound_ppm=5)
    assert worst([]) == Judgement(Opinion.INSIDE)
    assert worst([inside, second, replace(second, of_bound_ppm=4)]) is second


def test_what_was_never_calibrated_is_refused() -> None:
    x = np.ones((2, 2), np.float32)
    good = Expected(OpKind.DOT, F32, [x], x, 2, 2.0)
    for call, code in (
        (lambda: judge(x, replace(good, terms=10**6)), "TOLERANCE_UNCALIBRATED"),
        (lambda: judge(x, replace(good, values=[x[:1]])), "TOLERANCE_SHAPE"),
        (lambda: judged_by_vectors(x, x, x[:1], 1), "TOLERANCE_SHAPE"),
        (lambda: one_sided_bound(2**24, np.ones(1)), "TOLERANCE_TERMS"),
    ):
        with pytest.raises(InvalidInput) as error:
            call()
        assert error.value.code == code


def test_profiles_cover_every_length_that_is_taken() -> None:
    for kind in OpKind:
        if kind is not OpKind.MOVE:
            terms = 65_536 if kind in (OpKind.SUM, OpKind.DOT, OpKind.PRODUCT) else 1
            assert math.isfinite(most_steering(profile_of(kind, terms)))
