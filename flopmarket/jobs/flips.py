"""One bit that flipped in memory once: where it was, shown by the checksums kept since.

A worker whose memory failed for a moment cannot show how it came to its end: run again, the segment
ends right. But it kept the checksums of its steps, as they were, and its commitment binds them. At
the first step where they are not the right ones, a flipped word of one state tensor leaves the
difference ``delta * (2 i + 1)`` modulo 2^32 in one word of the list. An odd number has an inverse,
so each element ``i`` has one ``delta``, and few of these are one or two bits of its value; each is
tried. A bit that flipped after its checksum shows first in what the next step makes of it; then the
element is looked for among those that are most wrong at the end, where that was uploaded.

Where the whole list is right and the end is not, nothing that was kept speaks for the worker: it is
no flip, though it may have been one after the last checksum.

Nothing of this convicts or excuses by itself. The segment is run again from there with the bit
flipped, and must come to every checksum of the list, the committed state and the committed outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from flopmarket.engine import dtypes
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import ChecksumList, words_of
from flopmarket.jobs.questions import Flip, FlipQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.limits import MAX_FLIP_ELEMENTS, MAX_FLIP_REPLAYS

MOST_BITS = 2
_CHUNK = 1 << 20
_SUSPECTS = 1 << 16

Words = NDArray[np.uint32]


# --- one word -------------------------------------------------------------------------------------


def flipped(array: Array, element: int, bits: tuple[int, ...]) -> Array:
    """A copy with these bits of one element, counted in row-major order, the other way round."""
    copy = np.array(array, order="C")
    words = copy.reshape(-1).view(dtypes.unsigned_of(dtypes.from_numpy(copy.dtype)).numpy)
    for bit in bits:
        words[element] ^= words.dtype.type(1 << bit)
    return copy


def candidates(
    right: Array, claimed: int, among: Sequence[int] | None = None
) -> Iterator[tuple[int, tuple[int, ...]]]:
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
    for start in range(0, len(every), _CHUNK):
        places = every[start : start + _CHUNK]
        old = words[places]
        new = old + difference * _inverse(weights[places])
        changed = old ^ new
        if dtype.bits < 32:
            changed = _narrow(dtype, new, changed)
        count = np.bitwise_count(changed)
        for at in np.flatnonzero((count > 0) & (count <= MOST_BITS)):
            for bits in _bits_of(int(changed[at]), dtype.bits):
                yield int(places[at]), bits


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


def _bits_of(changed: int, width: int) -> Iterator[tuple[int, ...]]:
    """The bits of an element that change its word so; a word of 64 bits folds onto 32."""
    bits = [bit for bit in range(32) if changed >> bit & 1]
    if width < 64:
        yield tuple(bits)
        return
    for high in range(1 << len(bits)):
        yield tuple(sorted(bit + 32 * (high >> at & 1) for at, bit in enumerate(bits)))


def most_wrong(right: Tensors, end: Tensors, most: int) -> list[tuple[str, int]]:
    """Tensors and elements in which two states differ most, first the most; none that are equal."""
    found: list[tuple[float, str, int]] = []
    for name, ours in right.items():
        bits = dtypes.unsigned_of(dtypes.from_numpy(ours.dtype)).numpy
        flat, theirs = (np.ascontiguousarray(it).reshape(-1) for it in (ours, end[name]))
        differ = flat.view(bits) != theirs.view(bits)
        with np.errstate(all="ignore"):
            size = np.abs(flat.astype(np.float64) - theirs.astype(np.float64))
        size = np.where(differ, np.nan_to_num(size, nan=np.inf), -1.0)
        first = np.argsort(-size, kind="stable")[:most]
        found += [(-float(size[at]), name, int(at)) for at in first if size[at] >= 0]
    return [(name, at) for _, name, at in sorted(found)[:most]]


# --- the replay -----------------------------------------------------------------------------------


class FlipSearch:
    """Looks for a flip by running a segment again."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._program = replay.program
        self._from: Tensors = {}

    def find(self, asked: FlipQuestion) -> Flip | None:
        """The flip after which honest work comes to exactly what was kept and committed, if any."""
        kept = ChecksumList.from_bytes(asked.kept_path.read_bytes())
        if (kept.first_step, kept.steps) != (asked.first_step, asked.steps):
            raise InvalidInput("the list is of another segment", code="CHECKSUM_LIST")
        self._begin(asked)
        step = next(
            (step for step in _steps(kept) if self._replay.step(step)[1] != kept.entry(step)),
            None,
        )
        if step is None:  # the end is not what the worker itself computed: nothing excuses that
            return None
        wrong = self._wrong_at_the_end(asked)
        self._begin(asked)
        outputs = [self._replay.step(each)[0] for each in range(asked.first_step, step)]
        before = self._replay.state()
        for flip in islice(self._in_what_a_step_made(kept, step, outputs, wrong), MAX_FLIP_REPLAYS):
            if self._leads_on(asked, kept, flip, outputs):
                return flip
        del outputs[step - asked.first_step :]
        self._from = before
        for name, element in wrong:  # flipped after its checksum: any bit of it
            for bit in range(_width(before[name])):
                flip = Flip(step, name, element, (bit,))
                if self._leads_on(asked, kept, flip, outputs):
                    return flip
        return None

    # --- suspects -----------------------------------------------------------------------------

    def _wrong_at_the_end(self, asked: FlipQuestion) -> list[tuple[str, int]]:
        """Elements that are most wrong in the uploaded end; none without it. Runs the segment."""
        if asked.end_path is None:
            return []
        end = bundle.read(asked.end_path)
        bundle.check_specs(end, self._program.state, "state")
        self._begin(asked)
        for each in range(asked.first_step, asked.first_step + asked.steps):
            self._replay.step(each)
        return most_wrong(self._replay.state(), end, MAX_FLIP_ELEMENTS)

    def _in_what_a_step_made(
        self,
        kept: ChecksumList,
        step: int,
        outputs: list[Tensors],
        wrong: Sequence[tuple[str, int]],
    ) -> Iterator[Flip]:
        """Bits that flipped before their checksum: one word of one state tensor is another. Runs
        the step, whose outputs are right."""
        found, entry = self._replay.step(step)
        outputs.append(found)
        ours, theirs = (np.frombuffer(words, "<u4") for words in (entry, kept.entry(step)))
        differing = np.flatnonzero(ours != theirs)
        if len(differing) != 1 or differing[0] >= len(self._program.state):
            return
        name = self._program.state[differing[0]].name
        self._from = self._replay.state()
        array, claimed = self._from[name], int(theirs[differing[0]])
        first = [element for tensor, element in wrong if tensor == name]
        for element, bits in candidates(array, claimed, first):
            yield Flip(step + 1, name, element, bits)
        others = islice(candidates(array, claimed), _SUSPECTS)
        for element, bits in sorted(others, key=lambda item: (len(item[1]), item[0])):
            if element not in first:
                yield Flip(step + 1, name, element, bits)

    # --- work ---------------------------------------------------------------------------------

    def _leads_on(
        self, asked: FlipQuestion, kept: ChecksumList, flip: Flip, outputs: list[Tensors]
    ) -> bool:
        """Whether all that follows a flip is honest work, up to the committed end."""
        state = dict(self._from)
        state[flip.tensor] = flipped(state[flip.tensor], flip.element, flip.bits)
        self._replay.load(state)
        after = list(outputs)
        for step in range(flip.step, kept.end_step):
            found, entry = self._replay.step(step)
            if entry != kept.entry(step):
                return False
            after.append(found)
        stacked = {
            spec.name: np.stack([found[spec.name] for found in after])
            for spec in self._program.outputs
        }
        ends = self._replay.root(), bundle.root(stacked)
        return ends == (asked.state_root, asked.outputs_root)

    def _begin(self, asked: FlipQuestion) -> None:
        """The state before the segment."""
        self._replay.begin(asked.path, asked.step, asked.first_step)


def _steps(kept: ChecksumList) -> range:
    return range(kept.first_step, kept.end_step)


def _width(array: Array) -> int:
    """Bits of an element that can flip; of a bool, one has a meaning."""
    dtype = dtypes.from_numpy(array.dtype)
    return 1 if dtype.kind == "b" else dtype.bits
