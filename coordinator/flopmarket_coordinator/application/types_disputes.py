"""Values of the use cases of disputes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute import REMEDIES
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeVerdict,
    Level,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import digest
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.ruling_records import RulingRecord
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.auditing import RulingKind
from flopmarket_coordinator.store.disputes import DisputeRow, EventRow
from flopmarket_coordinator.store.records import SegmentRow


@dataclass(frozen=True, slots=True)
class DisputeAsked:
    """One question to one party. ``level`` is None when the dispute is over."""

    device_key_id: str
    dispute_id: str
    opening: bytes
    party: Party
    level: Level | None
    place: Place
    deadline_us: int
    work: LeaseOffered
    lease_id: str = ""
    """Under which the party committed; empty for the house."""


@dataclass(frozen=True, slots=True)
class KeptList:
    """What a party kept of the segment when it ran: the secret behind its commitment, and the file
    of its checksum list, itself or as the artifact that it was uploaded as."""

    secret: Envelope
    checksums: bytes
    artifact: str


@dataclass(frozen=True, slots=True)
class DisputeMove:
    """A party's answer as it arrived: the list itself, or the artifact that it was uploaded as."""

    dispute_id: str
    envelope: Envelope
    payload: bytes
    payload_artifact: str
    kept: KeptList | None = None


@dataclass(frozen=True, slots=True)
class FlipClaim:
    """What a party kept, beside what it is held to: an excuse that the house may check.

    ``checkpoint_artifact`` is the end state as the party uploaded it, or empty;
    ``outputs_artifact`` the outputs likewise.
    """

    commitment: Envelope
    kept: KeptList
    checkpoint_artifact: str
    outputs_artifact: str


@dataclass(frozen=True, slots=True)
class RefereeTask:
    """A dispute with events that nobody has judged; ``events`` from ``row.handled_count`` on, or
    all of them where the referee asks for all."""

    row: DisputeRow
    spec: bytes
    program_artifact: str
    events: tuple[EventRow, ...]


@dataclass(frozen=True, slots=True)
class RefereeFinding:
    """What the events of a dispute come to.

    ``handled`` of its events were judged, those at ``refused`` were nobody's word. With a verdict:
    the transcript's digest and size (empty where none can be made), and what the wrong tile of each
    party looks like, where one was recomputed.
    """

    dispute_id: str
    handled: int
    refused: tuple[int, ...]
    level: Level
    place: Place
    deadline_us: int
    verdict: DisputeVerdict | None = None
    transcript_artifact: str = ""
    transcript_bytes: int = 0
    signatures: Mapping[Party, Signature] | None = None
    notes: tuple[str, ...] = ()
    """For the job's story."""

    @classmethod
    def undecided(cls, row: DisputeRow, reason: Reason, seen: str) -> RefereeFinding:
        """Nobody is found wrong. There is no transcript: nobody could replay it."""
        verdict = DisputeVerdict(
            digest(row.question),
            Outcome.THIRD_RUN,
            reason,
            *(NOWHERE,) * 3,
            0,
            0,
            0,
            0,
            seen[:1000],
            REMEDIES[reason],
        )
        return cls(
            row.dispute_id,
            row.event_count,
            (),
            Level(row.level),
            Place(),
            row.deadline_us,
            verdict,
        )


@dataclass(frozen=True, slots=True)
class DisputeView:
    """A dispute as its parties and the buyer see it."""

    row: DisputeRow
    segment_index: int
    first_step: int
    steps: int
    roles: tuple[str, ...]
    verdict: DisputeVerdict | None


@dataclass(frozen=True, slots=True)
class DisputePage:
    """Newest first."""

    disputes: tuple[DisputeView, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class RulingView:
    """What was decided without a dispute of lists, as those it concerns see it.

    ``reason`` is a code of :mod:`flopmarket.trust.reason_codes`; ``ended_at_us`` is 0 and
    ``record`` is None while others of a class are asked. ``unheard`` are those of them who were
    asked and gave no answer that counts: key and word. ``follows`` is what was decided because of
    it.
    """

    ruling_id: str
    kind: RulingKind
    row: SegmentRow
    roles: tuple[str, ...]
    opened_at_us: int
    ended_at_us: int
    outcome: str
    reason: str
    seen: str
    unheard: tuple[tuple[str, str], ...] = ()
    follows: tuple[str, ...] = ()
    record: RulingRecord | None = None


@dataclass(frozen=True, slots=True)
class RulingPage:
    """Newest first, without records."""

    rulings: tuple[RulingView, ...]
    next_page_token: str
