"""What a party says it kept is held to what it signed before anybody asked, and flips that the
house finds in it excuse it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.questions import Flip
from flopmarket.trust.audit_policy import RULES, Signature, is_flip
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    Claim,
    DisputeOpening,
    DisputeVerdict,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.types_disputes import FlipClaim, KeptList
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.daemons.excusing import check_kept, excused
from flopmarket_coordinator.store.disputes import DisputeRow

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
    return FlipClaim(sealed(committed), KeptList(sealed(secret, key), b"", ""), "", "")


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


# --- what the house's engine finds ----------------------------------------------------------------

FLIPS = (
    Flip(2, "w", 5, (3, 30), summed=True),
    Flip(1, "loss", 0, (7,), output=True),
)


class House:
    """Finds these flips of everybody, or fails."""

    def __init__(self, flips: tuple[Flip, ...], error: FlopmarketError | None = None) -> None:
        self.flips = flips
        self.error = error
        self.asked: list[tuple[Party, bytes]] = []

    async def find_flips(
        self, row: DisputeRow, spec: bytes, party: Party, kept: bytes, claim: FlipClaim
    ) -> tuple[Flip, ...]:
        self.asked.append((party, kept))
        if self.error is not None:
            raise self.error
        return self.flips


def excuse(
    house: House, reason: Reason = Reason.WRONG_END, kept: FlipClaim | None = None
) -> tuple[dict[Party, Signature], tuple[str, ...]]:
    """What is made of a dispute that the producer lost, and that kept this."""

    async def query(ask: Callable[[None], Any]) -> Any:
        return ask(None)

    inline = claim()
    inline = replace(inline, kept=replace(inline.kept, checksums=LIST.to_bytes()))
    application = SimpleNamespace(flip_claim=lambda tx, dispute_id, party: kept or inline)
    backend = cast(Backend, SimpleNamespace(application=application, query=query))
    row = cast(DisputeRow, SimpleNamespace(dispute_id="d", question=OPENING))
    places = [NOWHERE] * 3
    verdict = DisputeVerdict(
        bytes(32), Outcome.PRODUCER_WRONG, reason, *places, 0, 0, 0, 0, "seen", "remedy"
    )
    return asyncio.run(excused(backend, house, row, b"spec", verdict))


def test_flips_that_the_house_finds_keep_the_stake_and_are_told() -> None:
    house = House(FLIPS)
    signatures, (note,) = excuse(house)
    assert signatures == {Party.PRODUCER: Signature(2, 2, follows=True)}
    assert is_flip(RULES, signatures[Party.PRODUCER])
    assert "bit 3 and 30 of element 5 of w after step 2" in note
    assert "bit 7 of element 0 of output loss in step 1" in note
    assert house.asked == [(Party.PRODUCER, LIST.to_bytes())]


@pytest.mark.parametrize(
    ("house", "reason", "kept"),
    [
        (House(()), Reason.WRONG_END, None),
        (House(FLIPS, Unavailable("no engine")), Reason.WRONG_END, None),
        (House(FLIPS), Reason.SILENT, None),
        (House(FLIPS), Reason.WRONG_START, None),
        (House(FLIPS), Reason.WRONG_END, claim(replace(SECRET, salt=bytes(32)))),
    ],
    ids=["none found", "an engine that fails", "silence", "another start", "another list"],
)
def test_nothing_else_excuses(house: House, reason: Reason, kept: FlipClaim | None) -> None:
    assert excuse(house, reason, kept) == ({}, ())
