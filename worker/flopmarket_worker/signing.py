"""Documents of a worker, sealed with its keys and turned into messages.

One place knows the lifetime and the audience of what a worker signs, and how an envelope becomes
protobuf and back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from flopmarket.limits import (
    ENVELOPE_NONCE_BYTES,
    WORKER_DOCUMENT_SECONDS,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import common_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_worker.week import Hour

Clock = Callable[[], int]
"""Wall clock, microseconds since the epoch."""
NonceSource = Callable[[], bytes]


def wall_clock_us() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000


def local_hour(now_us: int) -> Hour:
    """The hour of the week on the owner's own clock."""
    local = time.localtime(now_us / 1e6)
    return Hour(local.tm_wday, local.tm_hour)


def random_nonce() -> bytes:
    """16 bytes of the system's randomness."""
    return os.urandom(ENVELOPE_NONCE_BYTES)


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals documents for one audience (the coordinator's key id)."""

    audience: str
    now_us: Clock
    nonce: NonceSource

    def seal(
        self, body: Document, key: KeyPair, *, seconds: int = WORKER_DOCUMENT_SECONDS
    ) -> common_pb2.Envelope:
        """``body`` signed by ``key``, valid for ``seconds`` from now, as a message."""
        issued = self.now_us()
        envelope = seal(
            body,
            key,
            audience=self.audience,
            nonce=self.nonce(),
            issued_at_us=issued,
            expires_at_us=issued + seconds * 1_000_000,
        )
        return envelope_to_proto(envelope)
