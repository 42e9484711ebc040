"""Roots of all states of a segment, kept while it runs.

Where the house may look at drawn steps of a segment, it asks for the root of every state first
(:mod:`flopmarket.trust.step_audit`). Whoever took them as it went has them; whoever did not runs
the segment again. Taking one costs a copy of the state and its hash at every step, always; a replay
costs the step as well, but only when it is asked for: :func:`worth_keeping`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_SEGMENT_ROOTS_BYTES
from flopmarket.market.price import PARTS_PER_MILLION

ROOT_BYTES = 32

_MAGIC = b"FMROOT1\x00"
_HEADER = struct.Struct("<8sQ")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class StateRoots:
    """32 bytes for the state before step ``first_step`` of the job, and after each step."""

    first_step: int
    data: bytes

    def __post_init__(self) -> None:
        whole = len(self.data) % ROOT_BYTES == 0 and len(self.data) >= 2 * ROOT_BYTES
        if not whole or not 0 <= self.first_step < 2**63:
            raise _malformed()

    def to_bytes(self) -> bytes:
        """The roots as a file that shows whether it was kept well: a wrong one would convict."""
        body = _HEADER.pack(_MAGIC, self.first_step) + self.data
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, file: bytes) -> StateRoots:
        """The roots of a file; InvalidInput (STATE_ROOTS) for anything else."""
        body, told = file[:-_DIGEST_BYTES], file[-_DIGEST_BYTES:]
        if len(body) < _HEADER.size or hashlib.sha256(body).digest() != told:
            raise _malformed()
        magic, first_step = _HEADER.unpack_from(body)
        if magic != _MAGIC:
            raise _malformed()
        return cls(first_step, body[_HEADER.size :])


class RootsKeeper:
    """Roots of a segment as it runs; let go when they cost more than they save, or are too many.

    ``chance_ppm`` is the chance that somebody asks for them, ``before`` the root of the state that
    the segment begins with.
    """

    def __init__(self, first_step: int, before: bytes, chance_ppm: int) -> None:
        self._first_step = first_step
        self._chance_ppm = chance_ppm
        self._roots: bytearray | None = bytearray(before) if chance_ppm else None
        self._step_us = self._root_us = 0.0

    @property
    def wants_more(self) -> bool:
        """Whether the root after the next step is to be taken."""
        return self._roots is not None

    @property
    def root_us(self) -> float:
        """What all roots together took."""
        return self._root_us

    def add(self, root: bytes, step_us: float, root_us: float) -> None:
        """The root after the next step, and how long this step and its root took."""
        assert self._roots is not None, "nobody wants it"
        self._step_us += step_us
        self._root_us += root_us
        self._roots += root
        if len(self._roots) > MAX_SEGMENT_ROOTS_BYTES or not worth_keeping(
            self._chance_ppm, self._step_us, self._root_us
        ):
            self._roots = None

    def roots(self) -> StateRoots | None:
        """All of them, of at least one step; None where they were let go."""
        return None if self._roots is None else StateRoots(self._first_step, bytes(self._roots))


def worth_keeping(chance_ppm: int, step_us: float, root_us: float) -> bool:
    """Whether taking a root at every step costs no more than taking it in a replay, which runs the
    step too, with the chance that one is asked for."""
    replayed_us = (step_us + root_us) * chance_ppm
    return root_us * PARTS_PER_MILLION <= replayed_us


def roots_path(outputs_path: Path) -> Path:
    """Where an engine writes the roots of the segment whose outputs it writes there."""
    return outputs_path.with_suffix(".roots")


def _malformed() -> InvalidInput:
    return InvalidInput("not the roots of a segment", code="STATE_ROOTS")
