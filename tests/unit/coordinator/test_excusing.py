"""What a party says it kept is held to what it signed before anybody asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.trust.dispute_documents import Claim, DisputeOpening, Party
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.types_disputes import FlipClaim, KeptList
from flopmarket_coordinator.daemons.excusing import check_kept

KEY, OTHER = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1]) * 32)
LIST = ChecksumList(0, 2, bytes(range(16)))
SECRET = InnerSecret(KEY.key_id, bytes([5]) * 32, LIST.inner())
OPENING = DisputeOpening(
    audience="coordinator",
    job_id=bytes(32),
    segment_index=0,
    first_step=0,
    steps=2,
    state_root_before=bytes(32),
    producer=Claim(KEY.public.raw, bytes([2]) * 32, bytes(32), bytes(32)),
    auditor=Claim(OTHER.public.raw, bytes([3]) * 32, bytes(32), bytes(32)),
    opened_at_us=1,
    answer_us=1,
)


def sealed(body: Document, key: KeyPair = KEY) -> Envelope:
    return seal(body, key, audience="coordinator", nonce=bytes(16), issued_at_us=1, expires_at_us=2)


def claim(secret: InnerSecret = SECRET, key: KeyPair = KEY) -> FlipClaim:
    committed = Commitment(
        job_id=bytes(32),
        lease_id="lease",
        fence=1,
        device_key_id=KEY.key_id,
        segment_index=0,
        first_step=0,
        steps_done=2,
        state_root_before=bytes(32),
        state_root_after=bytes([2]) * 32,
        outputs_root=bytes(32),
        sealed_inner=seal_inner(SECRET),
    )
    return FlipClaim(sealed(committed), KeptList(sealed(secret, key), b"", ""), "")


def test_the_list_that_was_sealed_is_taken() -> None:
    check_kept(OPENING, Party.PRODUCER, claim(), LIST.to_bytes())


@pytest.mark.parametrize(
    ("kept", "data"),
    [
        (claim(), replace(LIST, data=bytes(16)).to_bytes()),
        (claim(), b"no list"),
        (claim(replace(SECRET, salt=bytes(32))), LIST.to_bytes()),
        (claim(replace(SECRET, inner=bytes(32))), LIST.to_bytes()),
        (claim(key=OTHER), LIST.to_bytes()),
    ],
    ids=["another list", "no list", "another salt", "another inner", "another signer"],
)
def test_anything_else_is_not(kept: FlipClaim, data: bytes) -> None:
    with pytest.raises(FlopmarketError):
        check_kept(OPENING, Party.PRODUCER, kept, data)
