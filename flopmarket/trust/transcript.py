"""A dispute as one file that anybody replays: what was asked, who signed which list, and when.

The file is a magic word and frames, each a 64-bit big-endian length and so many bytes: the opening,
the signed job specification, the program, then a :class:`Record` and its list for every message,
and the verdict last. Lengths are checked before anything is read; nothing refers to anything else
by position, so a file cannot lead a reader in circles. Arrival times are the referee's word: it
signs the verdict. Everything else is proved by signatures and hashes.

Pure: bytes in, values out. ``flopmarket.jobs.dispute_replay`` joins it with the job.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from flopmarket.errors import FlopmarketError, InvalidInput, LimitExceeded
from flopmarket.limits import (
    MAX_DISPUTE_MOVE_BYTES,
    MAX_DISPUTE_MOVES,
    MAX_DISPUTE_PROGRAM_BYTES,
    MAX_DISPUTE_TRANSCRIPT_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_ENVELOPE_BYTES,
)
from flopmarket.trust.dispute import Answered, AskedAgain, Clock, Dispute, Event, Unreadable
from flopmarket.trust.dispute_documents import (
    PAYLOADS,
    DisputeMove,
    DisputeOpening,
    DisputeVerdict,
    Level,
    Party,
)
from flopmarket.trust.dispute_port import Problem
from flopmarket.trust.encoding import MaxLength, decode, digest, document, encode, tagged_hash
from flopmarket.trust.envelope import Envelope, open_envelope, seal
from flopmarket.trust.keys import KeyPair, PublicKey

MAGIC = b"FLOPDISP\x01"
_PAYLOAD_DOMAIN = "flopmarket.dispute-payload.v1"
_MOVE_LIFETIME_US = 365 * 24 * 3600 * 1_000_000


class RecordKind(StrEnum):
    """A message of a party, or the referee's word: time passed; it was away and asks again."""

    MOVE = "move"
    CLOCK = "clock"
    AGAIN = "again"


@document("flopmarket.dispute-record.v1", max_bytes=MAX_ENVELOPE_BYTES + 4096)
class Record:
    """One event as the referee met it; ``envelope`` and ``party`` are a move's, else empty."""

    kind: RecordKind
    party: Party
    at_us: int
    envelope: Annotated[bytes, MaxLength(MAX_ENVELOPE_BYTES)]


@dataclass(frozen=True, slots=True)
class Move:
    """A record with the bytes of its list."""

    record: Record
    payload: bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """A dispute from its opening to its verdict."""

    opening: DisputeOpening
    spec: bytes
    program: bytes
    moves: tuple[Move, ...]
    verdict: DisputeVerdict

    def to_bytes(self) -> bytes:
        """The file."""
        frames = [encode(self.opening), self.spec, self.program]
        for move in self.moves:
            frames += [encode(move.record), move.payload]
        frames.append(encode(self.verdict))
        data = MAGIC + b"".join(len(frame).to_bytes(8, "big") + frame for frame in frames)
        if len(data) > MAX_DISPUTE_TRANSCRIPT_BYTES:
            raise LimitExceeded(f"a transcript has at most {MAX_DISPUTE_TRANSCRIPT_BYTES} bytes")
        return data

    @staticmethod
    def from_bytes(data: bytes) -> Transcript:
        """Read a file from anyone; raises InvalidInput or LimitExceeded, and reads no list yet."""
        if len(data) > MAX_DISPUTE_TRANSCRIPT_BYTES:
            raise LimitExceeded(f"a transcript has at most {MAX_DISPUTE_TRANSCRIPT_BYTES} bytes")
        if not data.startswith(MAGIC):
            raise _malformed("it does not begin like a transcript")
        frames = _frames(memoryview(data)[len(MAGIC) :])
        if len(frames) < 4 or len(frames) % 2:
            raise _malformed(f"{len(frames)} frames; moves come with their lists")
        opening = decode(DisputeOpening, _bounded(frames[0], MAX_DOCUMENT_BYTES))
        spec = _bounded(frames[1], MAX_DOCUMENT_BYTES)
        program = _bounded(frames[2], MAX_DISPUTE_PROGRAM_BYTES)
        pairs = zip(frames[3:-1:2], frames[4:-1:2], strict=True)
        moves = tuple(
            Move(
                decode(Record, _bounded(record, MAX_ENVELOPE_BYTES + 4096)),
                _bounded(payload, MAX_DISPUTE_MOVE_BYTES),
            )
            for record, payload in pairs
        )
        verdict = decode(DisputeVerdict, _bounded(frames[-1], MAX_DOCUMENT_BYTES))
        return Transcript(opening, spec, program, moves, verdict)


def seal_move(
    opening: DisputeOpening,
    level: Level,
    list_digest: bytes,
    key: KeyPair,
    nonce: bytes,
    at_us: int,
) -> Envelope:
    """The envelope of a list with this :func:`payload_digest`."""
    return seal(
        DisputeMove(digest(opening), level, list_digest),
        key,
        audience=opening.audience,
        nonce=nonce,
        issued_at_us=at_us,
        expires_at_us=at_us + _MOVE_LIFETIME_US,
    )


def payload_digest(payload: bytes) -> bytes:
    """What a move says of its list."""
    return tagged_hash(_PAYLOAD_DOMAIN, hashlib.sha256(payload).digest())


def event_of(dispute: Dispute, move: Move) -> Event:
    """The event that a record stands for, its signature verified.

    A list that its sender signed and that cannot be read is :class:`Unreadable` (its sender loses).
    What nobody signed is refused (EnvelopeError, or InvalidInput DISPUTE_MOVE): it is not a
    party's word.
    """
    record = move.record
    if record.kind is not RecordKind.MOVE:
        if record.envelope or move.payload or record.party is not Party.PRODUCER:
            raise InvalidInput(f"a {record.kind} record holds a time alone", code="DISPUTE_MOVE")
        return Clock(record.at_us) if record.kind is RecordKind.CLOCK else AskedAgain(record.at_us)
    opening = dispute.opening
    key = PublicKey(opening.claim(record.party).key)
    opened = open_envelope(
        Envelope.from_bytes(record.envelope),
        DisputeMove,
        keys={key.key_id: key},
        audience=opening.audience,
        now_us=None,
        replay=None,
    ).body
    if opened.dispute_id != dispute.dispute_id or opened.level is not dispute.level:
        raise InvalidInput(
            f"the move is for the level {opened.level} of a dispute "
            f"{opened.dispute_id.hex()[:16]}, not the level {dispute.level} of this one",
            code="DISPUTE_MOVE",
        )
    if opened.payload_digest != payload_digest(move.payload):
        raise InvalidInput("the list is not the one that was signed", code="DISPUTE_MOVE")
    try:
        return Answered(record.party, decode(PAYLOADS[opened.level], move.payload), record.at_us)
    except FlopmarketError as error:
        return Unreadable(record.party, error.message[:500], record.at_us)


class Recorder:
    """A referee's side of a live dispute: events go in signed, and the file comes out."""

    def __init__(
        self, opening: DisputeOpening, problem: Problem, spec: bytes, program: bytes
    ) -> None:
        self.dispute = Dispute(opening, problem)
        self.instructions = self.dispute.begin()
        self._spec, self._program = spec, program
        self._moves: list[Move] = []

    def receive(self, party: Party, envelope: Envelope, payload: bytes, at_us: int) -> None:
        """Take a party's message; :attr:`instructions` is what follows from it."""
        self._take(Move(Record(RecordKind.MOVE, party, at_us, envelope.to_bytes()), payload))

    def tick(self, at_us: int) -> None:
        """Time passed; recorded only where it ends the dispute."""
        before = len(self._moves)
        self._take(Move(Record(RecordKind.CLOCK, Party.PRODUCER, at_us, b""), b""))
        if self.dispute.verdict is None:
            del self._moves[before:]

    def ask_again(self, at_us: int) -> None:
        """The referee was away: the present level's time begins anew."""
        self._take(Move(Record(RecordKind.AGAIN, Party.PRODUCER, at_us, b""), b""))

    def transcript(self) -> Transcript:
        """The file's content; raises InvalidInput (DISPUTE_UNFINISHED) before the verdict."""
        if self.dispute.verdict is None:
            raise InvalidInput("the dispute has no verdict yet", code="DISPUTE_UNFINISHED")
        return Transcript(
            self.dispute.opening,
            self._spec,
            self._program,
            tuple(self._moves),
            self.dispute.verdict,
        )

    def _take(self, move: Move) -> None:
        self.instructions = self.dispute.handle(event_of(self.dispute, move))
        self._moves.append(move)


def replay(transcript: Transcript, problem: Problem) -> Dispute:
    """Play a transcript again; returns the finished dispute.

    Raises InvalidInput (DISPUTE_UNFINISHED, DISPUTE_VERDICT) when it reaches no verdict, or
    another one than the file says, and Conflict when a record does not fit.
    """
    dispute = Dispute(transcript.opening, problem)
    dispute.begin()
    for move in transcript.moves:
        dispute.handle(event_of(dispute, move))
    if dispute.verdict is None:
        raise InvalidInput("the transcript ends before a verdict", code="DISPUTE_UNFINISHED")
    if dispute.verdict != transcript.verdict:
        raise InvalidInput(
            f"the file says {transcript.verdict.outcome} ({transcript.verdict.reason}), its "
            f"records lead to {dispute.verdict.outcome} ({dispute.verdict.reason})",
            code="DISPUTE_VERDICT",
            hint="whoever made this file did not judge by its records",
        )
    return dispute


def _frames(data: memoryview) -> list[memoryview]:
    frames: list[memoryview] = []
    at = 0
    while at < len(data):
        if len(frames) > 2 * MAX_DISPUTE_MOVES + 4:
            raise _malformed(f"more than {MAX_DISPUTE_MOVES} moves")
        if len(data) - at < 8:
            raise _malformed("it ends inside a length")
        length = int.from_bytes(data[at : at + 8], "big")
        at += 8
        if length > len(data) - at:
            raise _malformed(f"a frame of {length} bytes where {len(data) - at} are left")
        frames.append(data[at : at + length])
        at += length
    return frames


def _bounded(frame: memoryview, limit: int) -> bytes:
    if len(frame) > limit:
        raise LimitExceeded(f"a frame of {len(frame)} bytes, at most {limit}")
    return bytes(frame)


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(f"not a dispute transcript: {why}", code="DISPUTE_TRANSCRIPT")
