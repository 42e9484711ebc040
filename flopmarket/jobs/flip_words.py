"""Flipped bits in the words of a tensor: which ones explain a difference, and what shows work.

A checksum is linear, so a flipped word of a tensor leaves the difference ``delta * (2 i + 1)``
modulo 2^32 in it. An odd number has an inverse: each element ``i`` has one ``delta``, and few of
these are one or two bits of its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from flopmarket.engine import dtypes
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import checksum, words_of

MOST_BITS = 2
_CHUNK = 1 << 20
_FEW_ULPS = 2.0
_FRACTION_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_WIDE = ("float32", "float64")

Words = NDArray[np.uint32]
Bits = tuple[int, ...]
Place = tuple[int, Bits]
"""An element, in row-major order, and bits of it."""


def flipped(array: Array, element: int, bits: Bits) -> Array:
    """A canonical copy with these bits of one element the other way round."""
    copy = np.array(array, order="C")
    words = copy.reshape(-1).view(dtypes.unsigned_of(dtypes.from_numpy(copy.dtype)).numpy)
    for bit in bits:
        words[element] ^= words.dtype.type(1 << bit)
    return dtypes.canonical(copy)


def flipped_everywhere(array: Array, bit: int) -> Array:
    """A canonical copy with this bit of every element the other way round."""
    bits = _bits(array)
    return dtypes.canonical(
        (bits ^ bits.dtype.type(1 << bit)).view(array.dtype).reshape(array.shape)
    )


def width(array: Array) -> int:
    """Bits of an element that can flip; of a bool, one has a meaning."""
    dtype = dtypes.from_numpy(array.dtype)
    return 1 if dtype.kind == "b" else dtype.bits


# --- two arrays -----------------------------------------------------------------------------------


def differences(ours: Array, theirs: Array, most: int) -> list[Place] | None:
    """The flips that make ``theirs`` of ``ours``; None for more than ``most`` elements, or where
    one of them has more than two bits otherwise. Both are canonical."""
    flat, other = _bits(ours), _bits(theirs)
    places = np.flatnonzero(flat != other)
    if len(places) > most:
        return None
    dtype = dtypes.from_numpy(ours.dtype)
    found = [(int(at), bits_between(int(flat[at]), int(other[at]), dtype)) for at in places]
    return [(at, bits) for at, bits in found if bits] if all(bits for _, bits in found) else None


def bits_between(old: int, new: int, dtype: dtypes.DType) -> Bits:
    """One or two bits that make the word ``new`` of ``old``; none if there are no such bits. Every
    NaN is the canonical one, so of several flips that give one the first is taken."""
    changed = old ^ new
    if 0 < changed.bit_count() <= MOST_BITS:
        return tuple(bit for bit in range(dtype.bits) if changed >> bit & 1)
    if changed and dtype.is_float and new == dtypes.CANONICAL_NAN[dtype]:
        for bits in _one_or_two(dtype.bits):
            if _is_nan(old ^ sum(1 << bit for bit in bits), dtype):
                return bits
    return ()


def seen_by(array: Array, found: Sequence[Place], claimed: int) -> tuple[Place, ...] | None:
    """Those of these flips of ``array`` that had happened when the checksum ``claimed`` was taken;
    None where no such moment explains it."""
    for some in chain.from_iterable(combinations(found, n) for n in range(len(found) + 1)):
        changed = array
        for element, bits in some:
            changed = flipped(changed, element, bits)
        if checksum(changed) == claimed:
            return some
    return None


def _bits(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(dtypes.unsigned_of(dtypes.from_numpy(flat.dtype)).numpy)


def _one_or_two(bits: int) -> Iterator[Bits]:
    yield from ((bit,) for bit in range(bits))
    yield from combinations(range(bits), MOST_BITS)


def _is_nan(word: int, dtype: dtypes.DType) -> bool:
    fraction = _FRACTION_BITS[dtype.name]
    exponent = (1 << (dtype.bits - 1 - fraction)) - 1
    return word >> fraction & exponent == exponent and word & ((1 << fraction) - 1) != 0


# --- one checksum ---------------------------------------------------------------------------------


def candidates(
    right: Array, claimed: int, among: Sequence[int] | NDArray[np.int64] | None = None
) -> Iterator[Place]:
    """Elements and one or two bits of each that, flipped in ``right``, give the checksum
    ``claimed``; in the order of elements, or of those ``among`` all.

    For a low bit there is one. A high one is known by fewer bits of the difference: bit ``b`` of a
    word has a candidate in every ``2^(31 - b)`` elements.
    """
    flat = np.ascontiguousarray(dtypes.canonical(np.asarray(right))).reshape(-1)
    dtype = dtypes.from_numpy(flat.dtype)
    words = words_of(flat)
    weights = (2 * np.arange(words.size, dtype=np.uint64) + 1).astype(np.uint32)
    difference = np.uint32((claimed - int(np.sum(words * weights, dtype=np.uint32))) % 2**32)
    if not difference:
        return
    every = np.arange(words.size) if among is None else np.array(among, np.int64)
    nan = _nan_word(dtype)
    for start in range(0, len(every), _CHUNK):
        places = every[start : start + _CHUNK]
        old = words[places]
        new = old + difference * _inverse(weights[places])
        changed = old ^ new
        if dtype.bits < 32:
            changed = _narrow(dtype, new, changed)
        count = np.bitwise_count(changed)
        fits = (count > 0) & (count <= MOST_BITS)
        to_nan = np.zeros(len(places), np.bool_) if nan is None else (new == nan) & ~fits
        for at in np.flatnonzero(fits | to_nan):
            place = int(places[at])
            if to_nan[at]:
                bits = bits_between(int(_bits(flat)[place]), dtypes.CANONICAL_NAN[dtype], dtype)
                yield from [(place, bits)] if bits else []
                continue
            for bits in _bits_of(int(changed[at]), dtype.bits):
                yield place, bits


def alone(right: Array, moved: Array, difference: int) -> NDArray[np.bool_]:
    """Elements that, were each the only one that ``moved``, would change the checksum by this."""
    old, new = words_of(right), words_of(moved)
    weights = (2 * np.arange(old.size, dtype=np.uint64) + 1).astype(np.uint32)
    return np.asarray((new - old) * weights == np.uint32(difference))


def _nan_word(dtype: dtypes.DType) -> np.uint32 | None:
    """The word of a checksum that stands for a NaN."""
    if not dtype.is_float:
        return None
    nan = dtypes.CANONICAL_NAN[dtype]
    return np.uint32((nan ^ nan >> 32) & 0xFFFFFFFF)


def _inverse(odd: Words) -> Words:
    """Inverses modulo 2^32, by Newton's iteration: each turn doubles the right bits."""
    found = (np.uint32(3) * odd) ^ np.uint32(2)
    for _ in range(3):
        found *= np.uint32(2) - odd * found
    return found


def _narrow(dtype: dtypes.DType, new: Words, changed: Words) -> Words:
    """Which bits of values below 32 bits changed; zero where no value has the new word."""
    mask = np.uint32((1 << dtype.bits) - 1)
    low = new & mask
    valid = new == low
    if dtype.kind == "i":
        sign = np.uint32(1 << (dtype.bits - 1))
        valid = new == (low ^ sign) - sign
    elif dtype.kind == "b":
        valid = new <= 1
    return np.where(valid, changed & mask, np.uint32(0))


def _bits_of(changed: int, bits_of_value: int) -> Iterator[Bits]:
    """The bits of an element that change its word so; a word of 64 bits folds onto 32."""
    bits = [bit for bit in range(32) if changed >> bit & 1]
    if bits_of_value < 64:
        yield tuple(bits)
        return
    for high in range(1 << len(bits)):
        yield tuple(sorted(bit + 32 * (high >> at & 1) for at, bit in enumerate(bits)))


# --- what an end says -----------------------------------------------------------------------------


def nearest(array: Array, right: Array, end: Array, found: Sequence[Place]) -> list[Place]:
    """Flips of ``array`` in the order of how well the end, where ``right`` was due, fits them."""
    moved = _differences(right, end)

    def key(place: Place) -> tuple[float, int, int]:
        element, bits = place
        return (_miss(array, place, float(moved[element])), len(bits), element)

    return sorted(found, key=key)


def farthest(right: Array, end: Array, most: int) -> NDArray[np.int64]:
    """Elements in which two arrays differ most, first the most; none that are equal."""
    size = _wrongness(right, end)
    first = np.argsort(-size, kind="stable")[:most]
    return first[size[first] >= 0]


def suspects(
    before: Tensors, right: Tensors, end: Tensors, most: int
) -> Iterator[tuple[str, int, Bits]]:
    """Single bits of a state ``before`` that may have led to ``end`` where ``right`` was due.

    Elements are the ``most`` that differ most at the end, and as many that do by their own
    precision; first the bit of each that fits best, then the second of each, and so on.
    """
    ranked: list[tuple[int, float, str, int]] = []
    for by_precision in (False, True):
        found = []
        for name, array in before.items():
            size = _wrongness(right[name], end[name])
            if by_precision and dtypes.from_numpy(array.dtype).is_float:
                size = np.where(size > 0, size / _spacing(array).reshape(-1), size)
            first = np.argsort(-size, kind="stable")[:most]
            found += [(-float(size[at]), name, int(at)) for at in first if size[at] >= 0]
        found.sort()
        ranked += [(rank, *item) for rank, item in enumerate(found[:most])]
    elements = dict.fromkeys((name, at) for _, _, name, at in sorted(ranked))
    bits: list[list[Bits]] = []
    for name, at in elements:
        moved = float(_differences(right[name], end[name])[at])
        array = before[name].reshape(-1)[at : at + 1]
        each: list[Bits] = [(bit,) for bit in range(width(array))]
        bits.append(sorted(each, key=lambda one: _miss(array, (0, one), moved)))
    for turn in range(max(map(len, bits), default=0)):
        for (name, at), own in zip(elements, bits, strict=True):
            if turn < len(own):
                yield name, at, own[turn]


def _miss(array: Array, place: Place, moved: float) -> float:
    """How far what an element moved is from a flip of it, relative to the flip."""
    element, bits = place
    one = np.ascontiguousarray(array).reshape(-1)[element : element + 1]
    delta = float(_differences(one, flipped(one, 0, bits))[0])
    with np.errstate(all="ignore"):
        miss = np.abs(np.float64(moved) - delta) / np.abs(delta)
    return float(miss) if np.isfinite(miss) else float("inf")


def _differences(old: Array, new: Array) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        one, other = (it.reshape(-1).astype(np.float64) for it in (old, new))
        return np.asarray(other - one)


def _wrongness(right: Array, end: Array) -> NDArray[np.float64]:
    """How much elements differ; -1 for none, infinity where one is no number."""
    size = np.nan_to_num(np.abs(_differences(right, end)), nan=np.inf, posinf=np.inf)
    return np.where(_bits(right) != _bits(end), size, -1.0)


# --- what shows work ------------------------------------------------------------------------------


def rounded(tensors: Tensors) -> Tensors:
    """Floats with the upper half of their fraction only; other types as they are."""
    found = {}
    for name, array in tensors.items():
        dtype = dtypes.from_numpy(array.dtype)
        if dtype.is_float:
            mask = ~((1 << ((_FRACTION_BITS[dtype.name] + 1) // 2)) - 1) & ((1 << dtype.bits) - 1)
            bits = _bits(array)
            array = (bits & bits.dtype.type(mask)).view(array.dtype).reshape(array.shape)
        found[name] = array
    return found


def telling(made: Array, roughly: Array, before: Array | None, rough: Array | None) -> int:
    """How many elements of what a step ``made`` a cheaper step would not have come to.

    ``roughly`` is what it makes of rounded operands. Only numbers of 32 bits and more that use
    them count, and of a state only those that the step changed; there the rounding itself, from
    ``before`` to ``rough``, is taken off.
    """
    dtype = dtypes.from_numpy(made.dtype)
    if dtype.name not in _WIDE:
        return 0
    low = (1 << ((_FRACTION_BITS[dtype.name] + 1) // 2)) - 1
    bits = _bits(made)
    counts = (bits & bits.dtype.type(low)) != 0
    moved = _differences(made, roughly)
    if before is not None and rough is not None:
        counts &= bits != _bits(before)
        moved = moved - _differences(before, rough)
    with np.errstate(all="ignore"):
        counts &= np.abs(moved) > _FEW_ULPS * _spacing(made).reshape(-1)
    return int(np.count_nonzero(counts & np.isfinite(moved)))


def _spacing(array: Array) -> NDArray[np.float64]:
    """The least difference that each float can show."""
    dtype = dtypes.from_numpy(array.dtype)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(np.abs(array.astype(np.float64)))
        return np.asarray(np.ldexp(1.0, exponent - 1 - _FRACTION_BITS[dtype.name]))
