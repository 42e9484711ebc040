"""Bits that flipped in memory once: where they were, shown by what was kept and uploaded since.

A worker whose memory failed for a moment cannot show how it came to its end: run again, the segment
ends right. But it kept the checksums of its steps, as they were, and its commitment binds them. The
segment is run again beside that list. Where they part, a state tensor flipped before its checksum
(the difference names the few words that it can have been), or after it and before the next step
read it: then every element is flipped at once where the step uses each for its own place alone, and
elsewhere the element is looked for among those that are most wrong at the end. Outputs, and the end
itself, are compared with what was uploaded, element by element. From what is found the search goes
on, to a second flip at most.

All of that only guesses. What is guessed is then proved from the start of the segment: steps that
are computed, with nothing but these bits flipped on the way, lead to every checksum of the list, to
the committed state and to the committed outputs. Where a checksum is that of a wrong value, a step
that was left out or computed in a lower precision could look the same if nearly all that the step
makes came out right by chance; so the step must tell: rounded operands lead it elsewhere in many
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flopmarket.engine.program import TensorSpec
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import ChecksumList, checksum, words_per_step
from flopmarket.jobs.flip_words import (
    Place,
    alone,
    candidates,
    differences,
    farthest,
    flipped,
    flipped_everywhere,
    nearest,
    rounded,
    seen_by,
    suspects,
    telling,
    width,
)
from flopmarket.jobs.questions import Flip, FlipQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.limits import (
    MAX_FLIP_ELEMENTS,
    MAX_FLIP_PASSES,
    MAX_FLIP_REPLAYS,
    MAX_FLIP_SUSPECTS,
    MAX_FLIPS,
)
from flopmarket.trust import merkle

LEAST_TELLING = 32
"""Numbers that a step must make otherwise from rounded operands, or no flip in it is believed."""
_MOST_CANDIDATES = 1 << 14
_FEW_WORDS = 3

Words = NDArray[np.uint32]
Sums = dict[str, tuple[int, int]]
"""Of state tensors whose checksums after a step differ: ours, and the kept one."""
Flips = tuple[Flip, ...]


class _SpentError(Exception):
    """As many steps were run as a search may."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """What is supposed so far: these ``flips``, and after them this state before ``step``."""

    step: int
    state: Tensors
    flips: Flips = ()


class FlipSearch:
    """Looks for the flips of one segment by running it again."""

    def __init__(self, replay: Replay, asked: FlipQuestion) -> None:
        """InvalidInput (CHECKSUM_LIST, BUNDLE_*) when what was kept or uploaded is of another
        segment."""
        program = replay.program
        self._replay = replay
        self._asked = asked
        self._state = program.state
        self._kept = ChecksumList.from_bytes(asked.kept_path.read_bytes())
        wanted = asked.first_step, asked.steps, words_per_step(program)
        if (self._kept.first_step, self._kept.steps, self._kept.words) != wanted:
            raise InvalidInput("the list is of another segment", code="CHECKSUM_LIST")
        stacked = tuple(
            TensorSpec(spec.name, spec.dtype, (asked.steps, *spec.shape))
            for spec in program.outputs
        )
        self._outputs = _uploaded(asked.outputs_path, stacked, "outputs")
        self._end = _uploaded(asked.end_path, program.state, "state") if program.state else {}
        self._places = {
            name: at
            for at, name in enumerate(
                [(False, spec.name) for spec in program.state]
                + [(True, spec.name) for spec in program.outputs]
            )
        }
        self._left = MAX_FLIP_REPLAYS + MAX_FLIP_PASSES * asked.steps
        self._start: Tensors = {}

    @property
    def _steps(self) -> range:
        return range(self._kept.first_step, self._kept.end_step)

    def find(self) -> Flips:
        """The flips after which honest work comes to exactly what was kept and committed; none
        where there are no such, or they are not found within the limits."""
        asked = self._asked
        self._replay.begin(asked.path, asked.step, asked.first_step)
        self._start = self._replay.state()
        try:
            for flips in self._explanations(_Branch(asked.first_step, self._start)):
                if flips and self._lead_there(flips) and self._show_work(flips):
                    return flips
        except _SpentError:
            pass
        return ()

    # --- proof --------------------------------------------------------------------------------

    def _lead_there(self, flips: Flips) -> bool:
        """Whether honest work with these flips comes to everything that was kept and committed."""
        replay, collected = self._replay, []
        replay.load(self._start)
        for step in self._steps:
            self._flip_state([it for it in _of_state(flips, step) if not it.summed])
            outputs, entry = self._step(step)
            words = _words(entry)
            summed = [it for it in _of_state(flips, step + 1) if it.summed]
            words = self._summed(words, summed, self._flip_state(summed))
            own = sorted(
                (it for it in flips if it.output and it.step == step), key=lambda it: not it.summed
            )
            for flip in own:
                outputs[flip.tensor] = flipped(outputs[flip.tensor], flip.element, flip.bits)
                words = self._summed(words, [flip] if flip.summed else [], outputs)
            if words.tobytes() != self._kept.entry(step):
                return False
            collected.append(outputs)
        self._flip_state([it for it in _of_state(flips, self._kept.end_step) if not it.summed])
        stacked = {
            spec.name: np.stack([outputs[spec.name] for outputs in collected])
            for spec in replay.program.outputs
        }
        ends = replay.root(), bundle.root(stacked)
        return ends == (self._asked.state_root, self._asked.outputs_root)

    def _flip_state(self, flips: Sequence[Flip]) -> Tensors:
        """Flip bits of the present state, which is returned where there are some."""
        if not flips:
            return {}
        state = _with(self._replay.state(), flips)
        self._replay.load(state)
        return state

    def _summed(self, words: Words, flips: Sequence[Flip], tensors: Tensors) -> Words:
        """Checksums of a step in which these flips were there when theirs were taken."""
        words = words.copy()
        for flip in flips:
            words[self._places[flip.output, flip.tensor]] = checksum(tensors[flip.tensor])
        return words

    def _show_work(self, flips: Flips) -> bool:
        """Whether each step whose kept checksums are not the right ones tells cheaper work."""
        end = self._kept.end_step
        doubted = {step for flip in flips for step in _doubted(flip) if step < end}
        self._replay.load(self._start)
        for step in self._steps:
            if step > max(doubted, default=-1):
                break
            before = self._replay.state() if step in doubted else {}
            outputs, _ = self._step(step)
            if step in doubted and not self._tells(step, before, outputs):
                return False
        return True

    def _tells(self, step: int, before: Tensors, outputs: Tensors) -> bool:
        """Whether rounded operands lead this step elsewhere; the state stays that after it."""
        replay, after = self._replay, self._replay.state()
        rough = rounded(before)
        replay.load(rough, rounded(replay.frozen))
        roughly, _ = self._step(step)
        ended = replay.state()
        count = sum(telling(outputs[name], roughly[name], None, None) for name in outputs)
        count += sum(telling(after[it], ended[it], before[it], rough[it]) for it in after)
        replay.load(after)
        return count >= LEAST_TELLING

    # --- guesses ------------------------------------------------------------------------------

    def _explanations(self, branch: _Branch) -> Iterator[Flips]:
        """Flips that may explain all that was kept and claimed, if those of the branch are true."""
        self._replay.load(branch.state)
        flips = branch.flips
        for step in range(branch.step, self._kept.end_step):
            outputs, entry = self._step(step)
            ours, kept = _words(entry), _words(self._kept.entry(step))
            room = MAX_FLIPS - len(flips)
            wrong = {
                spec.name: (int(ours[at]), int(kept[at]))
                for at, spec in enumerate(self._state)
                if ours[at] != kept[at]
            }
            there = self._in_outputs(step, outputs, ours, kept, room)
            if there is not None:
                room -= len(there)
                if step + 1 == self._kept.end_step and self._end is not None:
                    last = self._in_the_end(ours, kept, room)
                    if last is not None:
                        yield (*flips, *there, *last)
                elif not wrong:
                    flips = (*flips, *there)
                    continue
                elif len(wrong) <= room:
                    yield from self._in_what_it_made(step, (*flips, *there), wrong)
            if len(flips) < MAX_FLIPS and (step > branch.step or not branch.flips):
                few = {} if there is None or len(wrong) > _FEW_WORDS else wrong
                yield from self._in_what_it_read(branch, step, flips, few)
            return
        yield flips

    def _in_outputs(
        self, step: int, outputs: Tensors, ours: Words, kept: Words, most: int
    ) -> list[Flip] | None:
        """Flips of a step's outputs, by what was uploaded; None where they are otherwise wrong."""
        at, first = step - self._kept.first_step, len(self._state)
        claimed = None if self._outputs is None else {n: a[at] for n, a in self._outputs.items()}
        found: list[Flip] = []
        for place, spec in enumerate(self._replay.program.outputs, first):
            sums = int(ours[place]), int(kept[place])
            theirs = None if claimed is None else claimed[spec.name]
            more = _between(outputs[spec.name], theirs, sums, most - len(found))
            if more is None:
                return None
            found += [Flip(step, spec.name, *it[0], output=True, summed=it[1]) for it in more]
        return found

    def _in_the_end(self, ours: Words, kept: Words, most: int) -> list[Flip] | None:
        """Flips of the end state, likewise."""
        assert self._end is not None, "it was uploaded"
        state, step = self._replay.state(), self._kept.end_step
        found: list[Flip] = []
        for place, spec in enumerate(self._state):
            sums = int(ours[place]), int(kept[place])
            more = _between(state[spec.name], self._end[spec.name], sums, most - len(found))
            if more is None:
                return None
            found += [Flip(step, spec.name, *it[0], summed=it[1]) for it in more]
        return found

    def _in_what_it_made(self, step: int, flips: Flips, wrong: Sums) -> Iterator[Flips]:
        """Bits that flipped before their checksums: one word each of these state tensors."""
        after = self._replay.state()
        ends = step + 1 == self._kept.end_step
        roots = {name: bundle.tensor_root(array) for name, array in after.items() if ends}
        options = [self._ranked(step, name, after, kept) for name, (_, kept) in wrong.items()]
        for places in product(*options):
            made = [
                Flip(step + 1, name, *place, summed=True)
                for name, place in zip(wrong, places, strict=True)
            ]
            state = _with(after, made)
            if not ends:
                yield from self._explanations(_Branch(step + 1, state, (*flips, *made)))
                continue
            self._spend()
            roots |= {name: bundle.tensor_root(state[name]) for name in wrong}
            if merkle.state_root(roots) == self._asked.state_root:
                yield (*flips, *made)

    def _ranked(self, step: int, name: str, after: Tensors, claimed: int) -> list[Place]:
        """Flips that give a checksum; where they are many, first those that fit the end."""
        array = after[name]
        found = list(islice(candidates(array, claimed), _MOST_CANDIDATES))
        if self._end is None or len(found) <= MAX_FLIP_ELEMENTS:
            return sorted(found, key=lambda place: (len(place[1]), place[0]))
        self._replay.load(after)
        right, end = self._run_on(step + 1)[name], self._end[name]
        if len(found) == _MOST_CANDIDATES:
            found = list(candidates(array, claimed, farthest(right, end, _MOST_CANDIDATES)))
        return nearest(array, right, end, found)

    def _in_what_it_read(
        self, branch: _Branch, step: int, flips: Flips, wrong: Sums
    ) -> Iterator[Flips]:
        """A bit that flipped after its checksum, in the state before a step."""
        self._replay.load(branch.state)
        for each in range(branch.step, step):
            self._step(each)
        before = self._replay.state()
        if wrong:
            self._step(step)
            after = self._replay.state()
            for flip in self._in_its_own_place(step, before, after, wrong):
                yield from self._explanations(_Branch(step, _with(before, [flip]), (*flips, flip)))
            self._replay.load(before)
        if not self._end:
            return
        right = self._run_on(step)
        looked_at = suspects(before, right, self._end, MAX_FLIP_ELEMENTS)
        for name, element, bits in islice(looked_at, MAX_FLIP_SUSPECTS):
            flip = Flip(step, name, element, bits)
            yield from self._explanations(_Branch(step, _with(before, [flip]), (*flips, flip)))

    def _in_its_own_place(
        self, step: int, before: Tensors, after: Tensors, wrong: Sums
    ) -> Iterator[Flip]:
        """Of a tensor of which a step uses every element for the same place alone, like an
        optimizer's: all of them are flipped at once, and each has a difference of its own."""
        if len({after[name].size for name in wrong}) > 1:
            return
        for name in wrong:
            for bit in range(width(before[name])):
                self._replay.load({**before, name: flipped_everywhere(before[name], bit)})
                self._step(step)
                moved = self._replay.state()
                fits = [
                    alone(after[it], moved[it], (kept - ours) % 2**32)
                    for it, (ours, kept) in wrong.items()
                ]
                for element in np.flatnonzero(np.logical_and.reduce(fits)):
                    yield Flip(step, name, int(element), (bit,))

    # --- work ---------------------------------------------------------------------------------

    def _run_on(self, step: int) -> Tensors:
        """The end that the present state, before a step, leads to."""
        for each in range(step, self._kept.end_step):
            self._step(each)
        return self._replay.state()

    def _step(self, step: int) -> tuple[Tensors, bytes]:
        self._spend()
        return self._replay.step(step)

    def _spend(self) -> None:
        if not self._left:
            raise _SpentError
        self._left -= 1


def _uploaded(path: Path | None, specs: tuple[TensorSpec, ...], what: str) -> Tensors | None:
    """The tensors of a file; None without one."""
    if path is None:
        return None
    found = bundle.read(path)
    bundle.check_specs(found, specs, what)
    return found


def _between(
    ours: Array, claimed: Array | None, sums: tuple[int, int], most: int
) -> list[tuple[Place, bool]] | None:
    """The flips that make ``claimed`` of ``ours``, and whether each was there when the kept
    checksum was taken; ``sums`` are ours and that. None where nothing explains both."""
    places = [] if claimed is None else differences(ours, claimed, most)
    if not places:
        return [] if places is not None and sums[0] == sums[1] else None
    seen = seen_by(ours, places, sums[1])
    return None if seen is None else [(place, place in seen) for place in places]


def _with(tensors: Tensors, flips: Sequence[Flip]) -> Tensors:
    changed = dict(tensors)
    for flip in flips:
        changed[flip.tensor] = flipped(changed[flip.tensor], flip.element, flip.bits)
    return changed


def _of_state(flips: Flips, step: int) -> list[Flip]:
    return [flip for flip in flips if not flip.output and flip.step == step]


def _doubted(flip: Flip) -> tuple[int, ...]:
    """The step of the job whose kept checksums a flip made wrong, if it made any."""
    if flip.output:
        return (flip.step,) if flip.summed else ()
    return (flip.step - 1,) if flip.summed else (flip.step,)


def _words(entry: bytes) -> Words:
    return np.frombuffer(entry, "<u4").astype(np.uint32)
