"""The job that fakes compute: a counter, whose state after ``n`` steps is the number ``n``."""

from __future__ import annotations

import hashlib

import numpy as np

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.spec import NO_CLASS, DataOrder, JobKind, JobSpec, Mode, OrderKind
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.keys import KeyPair

COORDINATOR = KeyPair.from_seed(b"c" * 32)
BUYER = KeyPair.from_seed(b"b" * 32)


def state_after(step: int) -> bundle.Tensors:
    """The state of the fake engine's job."""
    return {"n": np.full((4,), step, np.float32)}


def checksums_of(first_step: int, steps: int) -> ChecksumList:
    """One word a step: the number of steps done after it."""
    words = np.arange(first_step + 1, first_step + steps + 1, dtype="<u4")
    return ChecksumList(first_step, 1, words.tobytes())


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec_for(steps: int, segment_steps: int, checkpoint_segments: int = 2) -> JobSpec:
    return JobSpec(
        kind=JobKind.TRAINING,
        program_digest=hashlib.sha256(b"program").digest(),
        profile=PROFILE,
        mode=Mode.EXACT,
        class_digest=NO_CLASS,
        frozen_root=bundle.EMPTY_ROOT,
        state_root=bundle.root(state_after(0)),
        data_root=bundle.EMPTY_ROOT,
        data_order=DataOrder(OrderKind.SEQUENTIAL, 8, 1),
        seed=1,
        steps=steps,
        segment_steps=segment_steps,
        checkpoint_segments=checkpoint_segments,
        max_memory_bytes=1 << 20,
        max_price_nano=10**9,
        order=MARKET_ORDER,
        verification=Level.DETER,
        deadline_us=2**62,
        buyer=BUYER.key_id,
        nonce=b"n" * 16,
    )
