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
    MAX_ENVELOPE_PAYLOAD_BYTES,
    MAX_ENVELOPE_SIGNATURES,
    WORKER_DOCUMENT_SECONDS,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, Signature, seal
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import common_pb2

Clock = Callable[[], int]
"""Wall clock, microseconds since the epoch."""
NonceSource = Callable[[], bytes]


def wall_clock_us() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000


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


def envelope_to_proto(envelope: Envelope) -> common_pb2.Envelope:
    """The message form of an envelope."""
    return common_pb2.Envelope(
        payload=envelope.payload,
        payload_type=envelope.payload_type,
        signatures=[
            common_pb2.Signature(key_id=item.key_id_hint, signature=item.signature)
            for item in envelope.signatures
        ],
    )


def envelope_from_proto(message: common_pb2.Envelope) -> Envelope:
    """The envelope in a message; :class:`EnvelopeError` when it passes a length limit."""
    if (
        len(message.payload) > MAX_ENVELOPE_PAYLOAD_BYTES
        or len(message.signatures) > MAX_ENVELOPE_SIGNATURES
    ):
        raise EnvelopeError("the envelope passes a length limit", code=EnvelopeCode.MALFORMED)
    return Envelope(
        payload_type=message.payload_type,
        payload=message.payload,
        signatures=tuple(Signature(item.key_id, item.signature) for item in message.signatures),
    )
