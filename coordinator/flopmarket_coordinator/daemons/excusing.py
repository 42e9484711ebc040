"""Whether a party that cannot show how it came to its own end had bits flip in its memory once.

What it kept when the segment ran is held to its commitment; the house's engine does the rest
(:mod:`flopmarket.jobs.flips`). No answer of either is a verdict: the party has lost, and what is
decided here is whether it loses its stake.
"""

from __future__ import annotations

import logging
from typing import Protocol

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.questions import Flip
from flopmarket.limits import MAX_CHECKSUM_LIST_BYTES
from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute_documents import (
    DisputeOpening,
    DisputeVerdict,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.documents import Commitment
from flopmarket.trust.envelope import open_envelope, unverified_body
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.types_disputes import FlipClaim
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.store.disputes import DisputeRow

_log = logging.getLogger(__name__)

_LOSERS = {
    Outcome.PRODUCER_WRONG: (Party.PRODUCER,),
    Outcome.AUDITOR_WRONG: (Party.AUDITOR,),
    Outcome.BOTH_WRONG: (Party.PRODUCER, Party.AUDITOR),
}


class FindsFlips(Protocol):
    """Port: the house's engine looks for the bits."""

    async def find_flips(
        self, row: DisputeRow, spec: bytes, party: Party, kept: bytes, claim: FlipClaim
    ) -> tuple[Flip, ...]:
        """The flips after which honest work comes to all that a party kept and committed to; none
        where there are no such."""
        ...


async def excused(
    backend: Backend, engine: FindsFlips, row: DisputeRow, spec: bytes, verdict: DisputeVerdict
) -> tuple[dict[Party, Signature], tuple[str, ...]]:
    """What flips of losing parties look like, and words about them for the job's story."""
    signatures: dict[Party, Signature] = {}
    notes = []
    for party in _LOSERS.get(verdict.outcome, ()) if verdict.reason is Reason.WRONG_END else ():
        flips = await _flips_of(backend, engine, row, spec, party)
        if flips:
            most = max(len(flip.bits) for flip in flips)
            signatures[party] = Signature(len(flips), most, follows=True)
            notes.append(
                f"the {party}: flipped in memory: {' and '.join(map(str, flips))}; what follows "
                "from that is what was kept and committed, so no work was saved"
            )
    return signatures, tuple(notes)


async def _flips_of(
    backend: Backend, engine: FindsFlips, row: DisputeRow, spec: bytes, party: Party
) -> tuple[Flip, ...]:
    application = backend.application
    claim = await backend.query(lambda tx: application.flip_claim(tx, row.dispute_id, party))
    if claim is None:
        return ()
    try:
        data = claim.kept.checksums
        if claim.kept.artifact:
            data = backend.artifacts.read(claim.kept.artifact, MAX_CHECKSUM_LIST_BYTES + 1)
        check_kept(row.question, party, claim, data)
        return await engine.find_flips(row, spec, party, data, claim)
    except FlopmarketError as error:
        _log.warning("dispute %s: no flip of the %s: %s", row.dispute_id, party, error)
        return ()


def check_kept(opening: DisputeOpening, party: Party, claim: FlipClaim, data: bytes) -> None:
    """InvalidInput or EnvelopeError unless this is the list that the party's commitment hides."""
    key = PublicKey(opening.claim(party).key)
    secret = open_envelope(
        claim.kept.secret,
        InnerSecret,
        keys={key.key_id: key},
        audience=opening.audience,
        now_us=None,
        replay=None,
    ).body
    committed = unverified_body(claim.commitment, Commitment)
    if secret.device_key_id != key.key_id or seal_inner(secret) != committed.sealed_inner:
        raise InvalidInput("the secret is not what was sealed", code="OPENING_DIFFERS")
    if ChecksumList.from_bytes(data).inner() != secret.inner:
        raise InvalidInput("the list is not the one that was sealed", code="OPENING_DIFFERS")
