"""The checksum lists of segments: what a commitment's hidden ``inner`` is the hash of.

Every step of the instrumented program (:mod:`flopmarket.jobs.instrument`) puts out one 32-bit word
for each state tensor, then one for each output. A segment's words in the order of its steps are its
list. A worker keeps the lists of its segments as they were when the segment ran: with them it can
answer for single steps of a segment, long after the tensors are gone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flopmarket.engine import dtypes
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.jobs.bundle import Array
from flopmarket.limits import MAX_CHECKSUM_LIST_BYTES

WORD_BYTES = 4

_MAGIC = b"FMCHKS1\x00"
_HEADER = struct.Struct("<8sQII")
_INNER = b"flopmarket.inner.v1\x00"


@dataclass(frozen=True, slots=True)
class ChecksumList:
    """The words of a segment that begins with step ``first_step`` of the job; ``words`` a step."""

    first_step: int
    words: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 < self.words < 2**32 or not 0 <= self.first_step < 2**63:
            raise _malformed("numbers of its header")
        if not self.data or len(self.data) % (self.words * WORD_BYTES):
            raise _malformed("it is not a whole number of steps")

    @property
    def steps(self) -> int:
        """How many steps it covers."""
        return len(self.data) // (self.words * WORD_BYTES)

    @property
    def end_step(self) -> int:
        """The step after the last one."""
        return self.first_step + self.steps

    def entry(self, step: int) -> bytes:
        """The words of one step of the job, little-endian; InvalidInput when it is none of its."""
        if not self.first_step <= step < self.end_step:
            raise InvalidInput(f"step {step} is not in the list", code="CHECKSUM_LIST")
        size = self.words * WORD_BYTES
        start = (step - self.first_step) * size
        return self.data[start : start + size]

    def inner(self) -> bytes:
        """What a commitment hides: the hash over steps and words."""
        built = ListBuilder(self.first_step)
        for step in range(self.first_step, self.end_step):
            built.add(self.entry(step))
        return built.inner()

    def to_bytes(self) -> bytes:
        """The list as a file, whose SHA-256 names it; LimitExceeded beyond its limit."""
        if file_bytes(self.steps, self.words) > MAX_CHECKSUM_LIST_BYTES:
            raise LimitExceeded(f"a checksum list of more than {MAX_CHECKSUM_LIST_BYTES} bytes")
        return _HEADER.pack(_MAGIC, self.first_step, self.steps, self.words) + self.data

    @classmethod
    def from_bytes(cls, file: bytes) -> ChecksumList:
        """The list of a file; InvalidInput (CHECKSUM_LIST) for anything else."""
        if not _HEADER.size < len(file) <= MAX_CHECKSUM_LIST_BYTES:
            raise _malformed(f"{len(file)} bytes")
        magic, first_step, steps, words = _HEADER.unpack_from(file)
        found = cls(first_step, words, bytes(file[_HEADER.size :]))
        if magic != _MAGIC or found.steps != steps:
            raise _malformed("its header is another file's")
        return found


class ListBuilder:
    """A list as it grows, and its hash; the words are let go when they pass the limit of a file."""

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._steps = 0
        self._hash = hashlib.sha256(_INNER)
        self._words: bytearray | None = bytearray()

    def add(self, entry: bytes) -> None:
        """The words of the next step."""
        self._hash.update((self._first_step + self._steps).to_bytes(8, "little"))
        self._hash.update(entry)
        self._steps += 1
        if self._words is not None:
            self._words += entry
            if _HEADER.size + len(self._words) > MAX_CHECKSUM_LIST_BYTES:
                self._words = None

    def inner(self) -> bytes:
        """See :meth:`ChecksumList.inner`."""
        return self._hash.digest()

    def list(self) -> ChecksumList | None:
        """The list so far, of at least one step; None when it passed the limit."""
        if self._words is None:
            return None
        width = len(self._words) // (self._steps * WORD_BYTES)
        return ChecksumList(self._first_step, width, bytes(self._words))


def file_bytes(steps: int, words: int) -> int:
    """How large the file of a list is."""
    return _HEADER.size + steps * words * WORD_BYTES


def words_per_step(program: Program) -> int:
    """Words that each step of an (uninstrumented) program has in a list."""
    return len(program.state) + len(program.outputs)


def checksums_path(outputs_path: Path) -> Path:
    """Where an engine writes the list of the segment whose outputs it writes there."""
    return outputs_path.with_suffix(".checksums")


def checksum(array: Array) -> int:
    """What the device computes of a tensor: sum of word[i] * (2 i + 1) modulo 2^32."""
    words = words_of(array)
    weights = (2 * np.arange(words.size, dtype=np.uint64) + 1).astype(np.uint32)
    return int(np.sum(words * weights, dtype=np.uint32))


def words_of(array: Array) -> NDArray[np.uint32]:
    """The words of a tensor that its checksum is over, in row-major order."""
    flat = np.ascontiguousarray(dtypes.canonical(np.asarray(array))).reshape(-1)
    dtype = dtypes.from_numpy(flat.dtype)
    if dtype.bits == 64:
        wide = flat.view(np.uint64)
        return (wide ^ (wide >> np.uint64(32))).astype(np.uint32)
    if dtype.bits == 32:
        return flat.view(np.uint32)
    if dtype.is_float:
        return flat.view(np.uint16).astype(np.uint32)
    return flat.astype(np.int64).astype(np.uint32)  # signed ones keep their sign


def entry_of(specs: Sequence[TensorSpec], tensors: Mapping[str, Array]) -> bytes:
    """The words of tensors in the order of ``specs``, as they stand in a list."""
    words = [checksum(tensors[spec.name]) for spec in specs]
    return np.array(words, dtype="<u4").tobytes()


def _malformed(what: str) -> InvalidInput:
    return InvalidInput(f"not a checksum list: {what}", code="CHECKSUM_LIST")
