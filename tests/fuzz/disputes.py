"""Targets: the file of a dispute, and the lists that its parties sign."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flopmarket.trust.dispute_documents import (
    NOWHERE,
    PAYLOADS,
    Claim,
    DisputeMove,
    DisputeOpening,
    DisputeVerdict,
    Level,
    OpRoots,
    Outcome,
    Party,
    Reason,
    StepRoots,
)
from flopmarket.trust.encoding import digest, encode
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.transcript import (
    Move,
    Record,
    RecordKind,
    Transcript,
    event_of,
    payload_digest,
    sign_move,
)
from tests.fuzz.target import Target, check_same

PRODUCER, AUDITOR, COORDINATOR = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
OPENING = DisputeOpening(
    audience=COORDINATOR.key_id,
    job_id=bytes(32),
    segment_index=0,
    first_step=0,
    steps=2,
    state_root_before=bytes(32),
    producer=Claim(PRODUCER.public.raw, b"p" * 32, b"o" * 32, b"i" * 32),
    auditor=Claim(AUDITOR.public.raw, b"a" * 32, b"o" * 32, b"j" * 32),
    opened_at_us=1_000,
    answer_us=500,
)
STEPS = StepRoots(states=(bytes(32),) * 3, outputs=(bytes(32),) * 2, stacked=())
VERDICT = DisputeVerdict(
    dispute_id=digest(OPENING), outcome=Outcome.PRODUCER_WRONG, reason=Reason.SILENT, step=NOWHERE,
    operation=NOWHERE, tile=NOWHERE, tiles=0, differing_tiles=0, producer_wrong_bits=0,
    auditor_wrong_bits=0, seen="", remedy="",
)  # fmt: skip


def _at(opening: DisputeOpening, level: Level) -> Any:
    """All that a move is held against: whose dispute it is, and how far it has come."""
    return SimpleNamespace(opening=opening, dispute_id=digest(opening), level=level)


def read_transcript(data: bytes) -> object:
    """A file, and its messages with their signatures, whatever they then lead to."""
    transcript = Transcript.from_bytes(data)
    check_same(transcript.to_bytes(), data)
    return [event_of(_at(transcript.opening, Level.STEPS), move) for move in transcript.moves]


def read_list(data: bytes) -> object:
    """A list that a party has signed: one byte for the level, then anything."""
    level = list(Level)[(data[:1] or b"\0")[0] % len(Level)]
    body = DisputeMove(digest(OPENING), level, payload_digest(data[1:]))
    envelope = seal(
        body, PRODUCER, audience=OPENING.audience, nonce=bytes(16), issued_at_us=1, expires_at_us=2
    )
    record = Record(RecordKind.MOVE, Party.PRODUCER, 1_001, envelope.to_bytes())
    return event_of(_at(OPENING, level), Move(record, data[1:]))


def transcript_seeds() -> dict[str, bytes]:
    envelope, data = sign_move(OPENING, Level.STEPS, STEPS, AUDITOR, bytes(16), 1_001)
    answered = Move(Record(RecordKind.MOVE, Party.AUDITOR, 1_001, envelope.to_bytes()), data)
    silent = Move(Record(RecordKind.CLOCK, Party.PRODUCER, 1_500, b""), b"")
    return {
        "silent": Transcript(OPENING, b"s", b"p", (answered, silent), VERDICT).to_bytes(),
        "nothing": Transcript(OPENING, b"", b"", (), VERDICT).to_bytes(),
    }


def list_seeds() -> dict[str, bytes]:
    assert list(PAYLOADS) == list(Level)
    return {
        "steps": b"\0" + encode(STEPS),
        "operations": b"\1" + encode(OpRoots(1, (bytes(32),) * 3)),
    }


TARGETS = (
    Target("transcript", read_transcript, transcript_seeds),
    Target("dispute-list", read_list, list_seeds),
)
