"""Disputes and their events; what is asked follows from the events, the rest is bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket.trust.dispute_documents import DisputeOpening, Level, Outcome
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows, constant, constants, given

KEPT_LIST = "kept"
"""An event beside those of a transcript: what a party kept of its segment when that ran."""

_dispute = schema.dispute
_event = schema.dispute_event
_artifact = schema.artifact
_job = schema.job
_key = schema.account_key
_segment = schema.segment


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """A dispute. ``level`` and the place are of the question that is open; -1 is nowhere."""

    number: int
    dispute_id: str
    job_id: str
    segment_id: int
    audit_id: str
    opening: bytes
    producer_key_id: str
    producer_account: str
    auditor_key_id: str
    auditor_account: str
    auditor_device_id: str
    replay_artifact: str
    replay_step: int
    replay_root: bytes
    level: str
    step: int
    operation: int
    tile: int
    deadline_us: int
    event_count: int
    handled_count: int
    asked_again: int
    opened_at_us: int
    ended_at_us: int
    outcome: str
    reason: str
    verdict: bytes | None
    transcript_artifact: str

    @property
    def question(self) -> DisputeOpening:
        """The opening, decoded."""
        return decode(DisputeOpening, self.opening)

    @property
    def settled_level(self) -> Level:
        """The level that is asked."""
        return Level(self.level)


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a dispute. ``payload`` is empty where the list is an artifact."""

    dispute_id: str
    sequence: int
    kind: str
    party: str
    at_us: int
    envelope: bytes
    payload: bytes
    payload_artifact: str


_DISPUTES = Rows(DisputeRow, _dispute)
_OPEN = _DISPUTES.select.where(_dispute.c.ended_at_us == constant(0)).order_by(_dispute.c.number)
_OPEN_OF_KEY = _OPEN.where(
    sa.or_(
        _dispute.c.producer_key_id == given("which"), _dispute.c.auditor_key_id == given("which")
    )
)
_POINTLESS = _OPEN.join(_segment, _segment.c.segment_id == _dispute.c.segment_id).where(
    _segment.c.state.not_in(constants(LIVE_SEGMENT_STATES)),
    _segment.c.house_task == constant(""),
)
_OF_BANNED = _OPEN.where(
    sa.exists().where(
        _key.c.key_id.in_((_dispute.c.producer_key_id, _dispute.c.auditor_key_id)), _key.c.revoked
    )
)
_IS_DISPUTED_BY = (
    sa.select(_dispute.c.number)
    .where(
        _dispute.c.segment_id == given("which"),
        _dispute.c.auditor_key_id == given("auditor"),
        _dispute.c.ended_at_us == constant(0),
    )
    .limit(1)
)
_EVENTS = Rows(EventRow, _event)


def add(tx: Transaction, values: dict[str, Any]) -> None:
    """A new dispute."""
    tx.connection.execute(sa.insert(_dispute).values(**values))


def get(tx: Transaction, dispute_id: str) -> DisputeRow | None:
    """The dispute with this id."""
    query = _DISPUTES.select.where(_dispute.c.dispute_id == dispute_id)
    return _DISPUTES.first(tx, query)


def count_open(tx: Transaction) -> int:
    """Disputes that last."""
    query = sa.select(sa.func.count()).select_from(_dispute).where(_dispute.c.ended_at_us == 0)
    return int(tx.connection.execute(query).scalar_one())


def open_ones(tx: Transaction, key_id: str = "") -> list[DisputeRow]:
    """Disputes that last, of one party's key where it is given; oldest first."""
    if key_id:
        return _DISPUTES.all(tx, _OPEN_OF_KEY, {"which": key_id})
    return _DISPUTES.all(tx, _OPEN, {})


def is_disputed_by(tx: Transaction, segment_id: int, auditor_key_id: str) -> bool:
    """Whether a dispute between this key and the segment's worker lasts."""
    values = {"which": segment_id, "auditor": auditor_key_id}
    return tx.connection.execute(_IS_DISPUTED_BY, values).first() is not None


def lost_by(tx: Transaction, segment_id: int, auditor_key_id: str) -> int:
    """How many disputes about a segment this key lost against its worker."""
    query = (
        sa.select(sa.func.count())
        .select_from(_dispute)
        .where(
            _dispute.c.segment_id == segment_id,
            _dispute.c.auditor_key_id == auditor_key_id,
            _dispute.c.outcome == Outcome.AUDITOR_WRONG.value,
        )
    )
    return int(tx.connection.execute(query).scalar_one())


def pointless(tx: Transaction) -> list[DisputeRow]:
    """Disputes that last though their segment counts no more."""
    return _DISPUTES.all(tx, _POINTLESS, {})


def of_banned(tx: Transaction) -> list[DisputeRow]:
    """Disputes that last though the key of one party may not act any more."""
    return _DISPUTES.all(tx, _OF_BANNED, {})


def won_by_producer(tx: Transaction, job_id: str) -> frozenset[int]:
    """Segments of a job whose auditor was found wrong."""
    query = sa.select(_dispute.c.segment_id).where(
        _dispute.c.job_id == job_id, _dispute.c.outcome == Outcome.AUDITOR_WRONG.value
    )
    return frozenset(tx.connection.execute(query).scalars())


def page(tx: Transaction, account_id: str, before: int, limit: int) -> list[DisputeRow]:
    """Disputes of an account as a party or as the buyer of the job, newest first."""
    query = (
        _DISPUTES.select.join(_job, _job.c.job_id == _dispute.c.job_id)
        .where(
            _dispute.c.number < before,
            sa.or_(
                _dispute.c.producer_account == account_id,
                _dispute.c.auditor_account == account_id,
                _job.c.buyer == account_id,
            ),
        )
        .order_by(_dispute.c.number.desc())
        .limit(limit)
    )
    return _DISPUTES.all(tx, query)


def update(tx: Transaction, dispute_id: str, **values: Any) -> None:
    """Change columns."""
    tx.connection.execute(
        sa.update(_dispute).where(_dispute.c.dispute_id == dispute_id).values(**values)
    )


def add_event(
    tx: Transaction,
    row: DisputeRow,
    kind: str,
    *,
    party: str = "",
    envelope: bytes = b"",
    payload: bytes = b"",
    payload_artifact: str = "",
) -> None:
    """Append an event at this moment, or at the last one's where the clock went back."""
    last = sa.select(sa.func.max(_event.c.at_us)).where(_event.c.dispute_id == row.dispute_id)
    latest = tx.connection.execute(last).scalar() or row.opened_at_us
    tx.connection.execute(
        sa.insert(_event).values(
            dispute_id=row.dispute_id,
            sequence=row.event_count,
            kind=kind,
            party=party,
            at_us=max(tx.now_us, latest),
            envelope=envelope,
            payload=payload,
            payload_artifact=payload_artifact,
        )
    )
    update(tx, row.dispute_id, event_count=row.event_count + 1)


def events(tx: Transaction, dispute_id: str, first: int = 0) -> list[EventRow]:
    """Events from a sequence number on, in order."""
    query = _EVENTS.select.where(
        _event.c.dispute_id == dispute_id, _event.c.sequence >= first
    ).order_by(_event.c.sequence)
    return _EVENTS.all(tx, query)


def moves(tx: Transaction, dispute_id: str) -> list[tuple[int, str]]:
    """Sequence number and sender of every list that counts, in order."""
    query = (
        sa.select(_event.c.sequence, _event.c.party)
        .where(_event.c.dispute_id == dispute_id, _event.c.kind == "move")
        .order_by(_event.c.sequence)
    )
    return [(sequence, party) for sequence, party in tx.connection.execute(query)]


def kept(tx: Transaction, dispute_id: str, party: str) -> EventRow | None:
    """What a party kept of its segment, as it sent it first."""
    query = (
        _EVENTS.select.where(
            _event.c.dispute_id == dispute_id, _event.c.party == party, _event.c.kind == KEPT_LIST
        )
        .order_by(_event.c.sequence)
        .limit(1)
    )
    return _EVENTS.first(tx, query)


def refuse_events(tx: Transaction, dispute_id: str, sequences: Sequence[int]) -> None:
    """These moves were nobody's word; their lists are forgotten."""
    tx.connection.execute(
        sa.update(_event)
        .where(_event.c.dispute_id == dispute_id, _event.c.sequence.in_(list(sequences)))
        .values(kind="refused", payload=b"", payload_artifact="")
    )


def forget_lists(tx: Transaction, dispute_id: str) -> None:
    """The transcript has them: what the parties sent is not kept twice."""
    tx.connection.execute(
        sa.update(_event)
        .where(_event.c.dispute_id == dispute_id)
        .values(payload=b"", payload_artifact="")
    )


def add_artifact(tx: Transaction, digest: str, size_bytes: int) -> None:
    """These bytes are stored, and are no account's upload: who may read them, the dispute says."""
    known = sa.select(_artifact.c.digest).where(_artifact.c.digest == digest)
    if tx.connection.execute(known).first() is None:
        tx.connection.execute(
            sa.insert(_artifact).values(
                digest=digest, size_bytes=size_bytes, created_at_us=tx.now_us
            )
        )
