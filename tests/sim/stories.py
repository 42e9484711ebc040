"""What a segment came to, step by step: states, outputs, and the list of checksums over them.

The checksum of a pretended tensor is the first word of its root. A story may be wrong in some of
its steps and consistent everywhere else, as the work of a cheat is who skips a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from flopmarket.jobs.checksums import WORD_BYTES, ChecksumList
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran


@dataclass(frozen=True, slots=True)
class Story:
    """One segment of a job: the root of the state before each step and after the last, and of the
    outputs of each step."""

    job_id: bytes
    first_step: int
    roots: tuple[bytes, ...]
    rows: tuple[bytes, ...]

    @property
    def sums(self) -> ChecksumList:
        """What the commitment hides the hash of."""
        entries = [entry(after, row) for after, row in zip(self.roots[1:], self.rows, strict=True)]
        width = len(entries[0]) // WORD_BYTES
        return ChecksumList(self.first_step, width, b"".join(entries))

    @property
    def ran(self) -> Ran:
        """What the segment says that it came to."""
        return Ran(self.roots[-1], self._outputs_root(), self.sums.inner())

    def _outputs_root(self) -> bytes:
        steps = len(self.rows)
        right = right_story(self.job_id, self.roots[0], self.first_step, steps)
        if self.rows == right.rows:
            return arithmetic.outputs(self.job_id, self.roots[0], self.first_step, steps)
        return hashlib.sha256(b"rows " + b"".join(self.rows)).digest()

    def wrong_steps(self) -> frozenset[int]:
        """The steps that do not lead where the story says."""
        return frozenset(
            self.first_step + place
            for place, row in enumerate(self.rows)
            if one_step(self.job_id, self.roots[place], self.first_step + place)
            != (self.roots[place + 1], row)
        )


def one_step(job_id: bytes, root: bytes, step: int) -> tuple[bytes, bytes]:
    """Roots of the state after a step and of its outputs."""
    after = EMPTY if root == EMPTY else arithmetic.advance(root, step, 1)
    return after, hashlib.sha256(b"row %d " % step + job_id + root).digest()


def state_words(root: bytes) -> bytes:
    """Checksums of the state with this root: none where there is no state."""
    return b"" if root == EMPTY else root[:WORD_BYTES]


def entry(after: bytes, row: bytes) -> bytes:
    """What a step adds to a list."""
    return state_words(after) + row[:WORD_BYTES]


@lru_cache(1 << 12)
def right_story(job_id: bytes, before: bytes, first_step: int, steps: int) -> Story:
    """What these steps come to from a state."""
    roots, rows = [before], []
    for step in range(first_step, first_step + steps):
        after, row = one_step(job_id, roots[-1], step)
        roots.append(after)
        rows.append(row)
    return Story(job_id, first_step, tuple(roots), tuple(rows))


def signed_wrong(job_id: bytes, roots: Sequence[bytes], sums: ChecksumList) -> frozenset[int]:
    """The steps of which a signed list and signed roots do not agree with what a step comes to."""
    found = set()
    for place, step in enumerate(range(sums.first_step, sums.end_step)):
        after, row = one_step(job_id, roots[place], step)
        told = state_words(roots[place])
        before = sums.entry(step - 1)[: len(told)] if place else told
        if (after, entry(after, row), told) != (roots[place + 1], sums.entry(step), before):
            found.add(step)
    return frozenset(found)
