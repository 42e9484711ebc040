"""Whether a party that cannot show how it came to its own end had a bit flip in its memory once.

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
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Header, open_envelope
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
    """Port: the house's engine looks for the bit."""

    async def find_flip(
        self, row: DisputeRow, spec: bytes, party: Party, kept: bytes, end_artifact: str
    ) -> Flip | None:
        """The flip after which honest work comes to all that a party kept and committed to."""
        ...


async def excused(
    backend: Backend, engine: FindsFlips, row: DisputeRow, spec: bytes, verdict: DisputeVerdict
) -> tuple[dict[Party, Signature], tuple[str, ...]]:
    """What flips of losing parties look like, and words about them for the job's story."""
    signatures: dict[Party, Signature] = {}
    notes = []
    for party in _LOSERS.get(verdict.outcome, ()) if verdict.reason is Reason.WRONG_END else ():
        flip = await _flip_of(backend, engine, row, spec, party)
        if flip is not None:
            signatures[party] = Signature(1, len(flip.bits), follows=True)
            notes.append(
                f"the {party}: bit {' and '.join(map(str, flip.bits))} of element {flip.element} "
                f"of {flip.tensor} flipped after step {flip.step}; what follows from that is what "
                "was kept and committed, so no work was saved"
            )
    return signatures, tuple(notes)


async def _flip_of(
    backend: Backend, engine: FindsFlips, row: DisputeRow, spec: bytes, party: Party
) -> Flip | None:
    application = backend.application
    claim = await backend.query(lambda tx: application.flip_claim(tx, row.dispute_id, party))
    if claim is None:
        return None
    try:
        data = claim.kept.checksums
        if claim.kept.artifact:
            data = backend.artifacts.read(claim.kept.artifact, MAX_CHECKSUM_LIST_BYTES + 1)
        check_kept(row.question, party, claim, data)
        return await engine.find_flip(row, spec, party, data, claim.checkpoint_artifact)
    except FlopmarketError as error:
        _log.warning("dispute %s: no flip of the %s: %s", row.dispute_id, party, error)
        return None


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
    committed = decode(Commitment, decode(Header, claim.commitment.payload).body)
    if secret.device_key_id != key.key_id or seal_inner(secret) != committed.sealed_inner:
        raise InvalidInput("the secret is not what was sealed", code="OPENING_DIFFERS")
    if ChecksumList.from_bytes(data).inner() != secret.inner:
        raise InvalidInput("the list is not the one that was sealed", code="OPENING_DIFFERS")
