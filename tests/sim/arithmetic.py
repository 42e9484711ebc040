"""Pretended work: what a job's steps come to, cheap enough for millions of them.

Every root is a function of the root before it, so that work which continues from a wrong state is
consistently wrong, as on a real device: whoever recomputes it from that state finds the same. Fast
kernels come to bits of their own for each ``kind`` of card; no kind, the bits of exact mode.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from flopmarket.trust.merkle import state_root

EMPTY = state_root({})


def named(name: str) -> bytes:
    """32 bytes that stand for something, the same for the same name."""
    return hashlib.sha256(name.encode()).digest()


@lru_cache(1 << 16)
def advance(root: bytes, first_step: int, steps: int, kind: str = "") -> bytes:
    """Root of the state that ``steps`` steps from ``first_step`` on make of the state ``root``."""
    how = kind.encode()
    for step in range(first_step, first_step + steps):
        root = hashlib.sha256(b"step %d " % step + how + root).digest()
    return root


def outputs(job_id: bytes, root: bytes, first_step: int, steps: int, kind: str = "") -> bytes:
    """Root of the outputs of these steps."""
    what = b"outputs %d %d " % (first_step, steps) + kind.encode()
    return hashlib.sha256(what + job_id + root).digest()


def inner(job_id: bytes, root: bytes, first_step: int, steps: int) -> bytes:
    """Digest of the steps' checksums, which only those who did the steps know."""
    return hashlib.sha256(b"inner %d %d " % (first_step, steps) + job_id + root).digest()


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a segment."""

    root_after: bytes
    outputs_root: bytes
    inner: bytes


def run(job_id: bytes, root: bytes, first_step: int, steps: int, kind: str = "") -> Ran:
    """Do the work of a segment. A program without a state keeps the empty one."""
    after = EMPTY if root == EMPTY else advance(root, first_step, steps, kind)
    return Ran(
        after,
        outputs(job_id, root, first_step, steps, kind),
        inner(job_id, root, first_step, steps),
    )


def is_right(job_id: bytes, before: bytes, first_step: int, steps: int, ran: Ran) -> bool:
    """Whether these are the bits that the steps come to from the state ``before``."""
    return run(job_id, before, first_step, steps) == ran
