"""Flipped bits are found by their checksums, whatever the type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes
from flopmarket.engine.dtypes import DTYPES, DType
from flopmarket.jobs.checksums import checksum
from flopmarket.jobs.flip_words import (
    candidates,
    differences,
    farthest,
    flipped,
    nearest,
    rounded,
    seen_by,
    suspects,
    telling,
)

Flip = tuple[np.ndarray, int, tuple[int, ...]]


@st.composite
def flips(draw: st.DrawFn) -> Flip:
    """An array of any type, and one or two bits of one of its elements."""
    dtype: DType = draw(st.sampled_from(DTYPES))
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(
        draw(st.integers(1, 300)) * dtype.size_bytes
    )
    array = np.frombuffer(raw, dtypes.unsigned_of(dtype).numpy)
    array = (array % 2 if dtype.kind == "b" else array).view(dtype.numpy)
    array = dtypes.canonical(array)
    width = 1 if dtype.kind == "b" else dtype.bits
    bits = draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=min(2, width)))
    return array, draw(st.integers(0, array.size - 1)), tuple(sorted(bits))


@settings(max_examples=500)
@given(flips())
def test_a_flipped_word_is_among_the_candidates(flip: Flip) -> None:
    array, element, bits = flip
    wrong = flipped(array, element, bits)
    found = list(candidates(array, checksum(wrong)))
    if checksum(wrong) != checksum(array):
        assert any(
            at == element and flipped(array, at, some).tobytes() == wrong.tobytes()
            for at, some in found
        )
    else:
        folded = array.dtype.itemsize == 8 and len(bits) == 2 and bits[1] - bits[0] == 32
        assert folded or wrong.tobytes() == array.tobytes(), "a wide word folds, a NaN stays one"
    assert all(1 <= len(suspected) <= 2 for _, suspected in found)


@settings(max_examples=500)
@given(flips())
def test_a_flipped_element_is_found_beside_what_it_was(flip: Flip) -> None:
    """A NaN has no bits of its own: then any flips that give it are as good."""
    array, element, bits = flip
    wrong = flipped(array, element, bits)
    found = differences(array, wrong, 1)
    if wrong.tobytes() == array.tobytes():
        assert found == []
        return
    assert found is not None
    ((at, some),) = found
    assert at == element
    assert flipped(array, at, some).tobytes() == wrong.tobytes()
    assert seen_by(array, found, checksum(wrong)) in (tuple(found), ())
    if checksum(wrong) != checksum(array):
        assert seen_by(array, found, checksum(wrong)) == tuple(found)
        assert seen_by(array, found, checksum(array)) == ()
        assert seen_by(array, found, checksum(array) ^ 1) in (None, tuple(found))


def test_more_than_that_is_no_flip() -> None:
    array = np.arange(1, 9, dtype=np.float32)
    two = flipped(flipped(array, 1, (3,)), 5, (30, 31))
    assert differences(array, two, 2) == [(1, (3,)), (5, (30, 31))]
    assert differences(array, two, 1) is None
    assert differences(array, flipped(array, 1, (3, 4, 5)), 2) is None
    assert seen_by(array, [(1, (3,)), (5, (30, 31))], checksum(flipped(array, 5, (30, 31)))) == (
        (5, (30, 31)),
    )


@pytest.mark.parametrize(("bit", "most"), [(3, 1), (22, 25), (30, 5_100), (31, 10_000)])
def test_a_high_bit_leaves_more_candidates_and_the_end_tells_which(bit: int, most: int) -> None:
    rng = np.random.default_rng(2)
    array = rng.standard_normal(10_000).astype(np.float32)
    wrong = flipped(array, 4_321, (bit,))
    found = list(candidates(array, checksum(wrong)))
    singles = [item for item in found if len(item[1]) == 1]
    assert (4_321, (bit,)) in singles and len(singles) <= most
    assert (4_321, (bit,)) in set(candidates(array, checksum(wrong), [7, 4_321]))
    moved = rng.standard_normal(10_000).astype(np.float32) * np.float32(1e-4)
    wrong_way = moved + rng.standard_normal(10_000).astype(np.float32) * np.float32(1e-6)
    right, end = array + moved, wrong + wrong_way
    assert (4_321, (bit,)) in nearest(array, right, end, found)[:3]
    if bit >= 22:
        assert farthest(right, end, 1)[0] == 4_321
        first = next(iter(suspects({"w": array}, {"w": right}, {"w": end}, 4)))
        assert first == ("w", 4_321, (bit,))


def test_a_random_difference_has_hardly_a_candidate() -> None:
    array = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
    count = sum(len(list(candidates(array, claimed))) for claimed in range(20))
    assert count < 20  # 2.5 are expected


def test_elements_are_suspected_by_how_wrong_they_are() -> None:
    before = {"a": np.array([1, 1e-12, 1, 1], np.float32), "b": np.array([0, 2])}
    end = {"a": np.array([1, 3e-12, -3, np.nan], np.float32), "b": np.array([0, 3])}
    names = [(name, at) for name, at, _ in suspects(before, before, end, 8)]
    assert set(names) == {("a", 1), ("a", 2), ("a", 3), ("b", 1)}
    assert names[:2] == [("a", 3), ("a", 2)]
    assert set(names[:4]) == set(names), "the best bit of each comes before the second of any"
    assert len(names) == 3 * 32 + 64
    assert ("b", 1, (0,)) in list(suspects(before, before, end, 8))[:4]


def test_what_a_cheaper_step_would_have_given_too_tells_nothing() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((40, 40)).astype(np.float32) for _ in range(2))
    made, rough = a @ b, a @ rounded({"b": b})["b"]
    assert telling(made, rough, None, None) > 1_500
    assert telling(made, made, None, None) == 0
    assert telling(np.argmax(made, 1), np.argmax(rough, 1), None, None) == 0
    coarse = [it.astype(np.float16).astype(np.float32) for it in (made, rough)]
    assert telling(*coarse, None, None) == 0, "float16 in the clothes of float32"
    narrow = rounded({"b": b})["b"]
    assert telling(b, narrow, b, narrow) == 0, "nothing was done to it"
    after, ended = b - a * np.float32(1e-3), narrow - a * np.float32(1e-3)
    assert telling(after, ended, b, narrow) < 16, "the rounding of the operand itself"
