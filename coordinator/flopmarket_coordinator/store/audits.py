"""Audits by workers of other accounts: where each stands, and what its auditor committed to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, SegmentState
from flopmarket_coordinator.store import schema, settings
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow, to_record

_audit = schema.audit
_commitment = schema.audit_commitment
_segment = schema.segment
_job = schema.job
_key = schema.account_key
_OPEN = sa.text(f"audit.{schema.OPEN_AUDIT}")
_EXCHANGED = [
    phase.value
    for phase in AuditPhase
    if phase not in (AuditPhase.HOUSE, AuditPhase.DISPUTE, AuditPhase.ENDED)
]
_LIVE_SEGMENT = [state.value for state in LIVE_SEGMENT_STATES]
_HOUSE_ACCOUNT = "house/"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One audit. ``question_id`` is the segment that is compared, ``lease_id`` that of the auditor
    in charge; ``seal_number`` counts the answers to one producing lease, 0 before there is one."""

    audit_id: str
    purpose: AuditPurpose
    segment_id: int
    job_id: str
    question_id: int
    phase: AuditPhase
    auditors: str
    asked: int
    deadline_us: int
    lease_id: str
    auditor_key_id: str
    auditor_account_id: str
    auditor_inner: bytes
    auditor_secret: bytes
    worker_secret: bytes
    seal_number: int
    told: bool
    outcome: str
    finding: str
    created_at_us: int
    ended_at_us: int

    @property
    def order(self) -> tuple[str, ...]:
        """Device keys of the auditors, as drawn."""
        return tuple(self.auditors.split())


@dataclass(frozen=True, slots=True)
class AuditCommitmentRow:
    """What an auditor committed to about one segment."""

    commitment_digest: bytes
    audit_id: str
    lease_id: str
    segment_index: int
    first_step: int
    steps: int
    price_nano: int
    root_before: bytes
    root_after: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str
    sealed_inner: bytes
    commitment: bytes
    rate_ppm: int
    audited: bool
    challenge_value: bytes
    committed_at_us: int


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new audit."""
    tx.connection.execute(sa.insert(_audit).values(**values))


def get(tx: Transaction, audit_id: str) -> AuditRow | None:
    """The audit with this id."""
    return _first(tx, sa.select(_audit).where(_audit.c.audit_id == audit_id))


def update(tx: Transaction, audit_id: str, **values: Any) -> None:
    """Change columns."""
    tx.connection.execute(sa.update(_audit).where(_audit.c.audit_id == audit_id).values(**values))


def due(tx: Transaction, limit: int, *, begin: bool) -> list[AuditRow]:
    """Audits whose deadline is over, those first that waited longest.

    One that did not begin yet waits for the look at its segment's files. Without ``begin`` nobody
    new is asked.
    """
    waiting = [phase for phase in _EXCHANGED if begin or phase not in ("delayed", "asking")]
    ready = sa.or_(_audit.c.phase != AuditPhase.DELAYED.value, _segment.c.files_checked)
    return _all(
        tx,
        sa.select(_audit)
        .join(_segment, _segment.c.segment_id == _audit.c.segment_id)
        .where(_OPEN, _audit.c.deadline_us <= tx.now_us, _audit.c.phase.in_(waiting), ready)
        .order_by(_audit.c.deadline_us, _audit.c.audit_id)
        .limit(limit),
    )


def asking(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits whose auditor in charge had no free device yet."""
    return _all(
        tx,
        sa.select(_audit)
        .where(_OPEN, _audit.c.phase == AuditPhase.ASKING.value)
        .order_by(_audit.c.deadline_us, _audit.c.audit_id)
        .limit(limit),
    )


def pointless(tx: Transaction, limit: int) -> list[AuditRow]:
    """Open audits of segments that count no more."""
    question = _segment.alias()
    dead = sa.or_(_segment.c.state.not_in(_LIVE_SEGMENT), question.c.state.not_in(_LIVE_SEGMENT))
    return _all(
        tx,
        sa.select(_audit)
        .join(_segment, _segment.c.segment_id == _audit.c.segment_id)
        .join(question, question.c.segment_id == _audit.c.question_id)
        .where(_OPEN, dead)
        .order_by(_audit.c.created_at_us, _audit.c.audit_id)
        .limit(limit),
    )


def of_banned(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits that wait for a worker's opening whose key may not act any more."""
    return _all(
        tx,
        sa.select(_audit)
        .join(_segment, _segment.c.segment_id == _audit.c.question_id)
        .join(_key, _key.c.key_id == _segment.c.device_key_id)
        .where(_OPEN, _audit.c.phase == AuditPhase.WORKER_OPENS.value, _key.c.revoked)
        .order_by(_audit.c.created_at_us, _audit.c.audit_id)
        .limit(limit),
    )


def untold(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits whose party that is to open was not asked on its connection yet."""
    query = sa.select(_audit).where(sa.text(schema.UNTOLD_AUDIT))
    return _all(tx, query.order_by(_audit.c.created_at_us, _audit.c.audit_id).limit(limit))


def waiting_for_key(tx: Transaction, device_key_id: str) -> list[AuditRow]:
    """Audits in which this key is to open now."""
    auditor = sa.and_(
        _audit.c.phase == AuditPhase.AUDITOR_OPENS.value,
        _audit.c.auditor_key_id == device_key_id,
    )
    worker = sa.and_(
        _audit.c.phase == AuditPhase.WORKER_OPENS.value,
        _segment.c.device_key_id == device_key_id,
    )
    return _all(
        tx,
        sa.select(_audit)
        .join(_segment, _segment.c.segment_id == _audit.c.question_id)
        .where(_OPEN, sa.or_(auditor, worker))
        .order_by(_audit.c.created_at_us, _audit.c.audit_id),
    )


def open_of_segment(
    tx: Transaction, question_id: int, phase: AuditPhase | None = None
) -> list[AuditRow]:
    """Open audits that compare this segment, in this phase or in any."""
    query = sa.select(_audit).where(_OPEN, _audit.c.question_id == question_id)
    if phase is not None:
        query = query.where(_audit.c.phase == phase.value)
    return _all(tx, query.order_by(_audit.c.created_at_us, _audit.c.audit_id))


def of_segment(tx: Transaction, segment_id: int) -> list[AuditRow]:
    """All audits of a segment, oldest first."""
    return _all(
        tx,
        sa.select(_audit)
        .where(_audit.c.segment_id == segment_id)
        .order_by(_audit.c.created_at_us, _audit.c.audit_id),
    )


def is_open(tx: Transaction, segment_id: int) -> bool:
    """Whether an audit of the segment lasts."""
    query = sa.select(_audit.c.audit_id).where(_OPEN, _audit.c.segment_id == segment_id)
    return tx.connection.execute(query.limit(1)).first() is not None


def opening_of(tx: Transaction, question_id: int) -> bytes:
    """The worker's opening of a segment, if an audit of it brought one; else empty."""
    query = (
        sa.select(_audit.c.worker_secret)
        .where(
            _audit.c.question_id == question_id,
            sa.func.length(_audit.c.worker_secret) > 0,
        )
        .limit(1)
    )
    return tx.connection.execute(query).scalar() or b""


def count_seals(tx: Transaction, producing_lease_id: str) -> int:
    """How many audits of a lease's segments were answered so far."""
    query = (
        sa.select(sa.func.coalesce(sa.func.max(_audit.c.seal_number), 0))
        .join(_segment, _segment.c.segment_id == _audit.c.segment_id)
        .where(_segment.c.lease_id == producing_lease_id)
    )
    return int(tx.connection.execute(query).scalar_one())


def extend(tx: Transaction, by_us: int) -> None:
    """The coordinator was away: time stood still for audits."""
    tx.connection.execute(
        sa.update(_audit).where(_OPEN).values(deadline_us=_audit.c.deadline_us + by_us)
    )


def count_open(tx: Transaction) -> dict[str, int]:
    """Audits that did not end, by phase."""
    query = sa.select(_audit.c.phase, sa.func.count()).where(_OPEN).group_by(_audit.c.phase)
    return {phase: int(count) for phase, count in tx.connection.execute(query)}


def segment_at(tx: Transaction, lease_id: str, segment_index: int) -> SegmentRow | None:
    """What a lease committed as its segment of this index."""
    query = sa.select(_segment).where(
        _segment.c.lease_id == lease_id, _segment.c.segment_index == segment_index
    )
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def known_right(tx: Transaction, house: str, limit: int) -> list[SegmentRow]:
    """Segments that the house recomputed itself, of jobs that could still run; newest first."""
    right = [SegmentState.VERIFIED.value, SegmentState.SETTLED.value]
    query = (
        sa.select(_segment)
        .join(_job, _job.c.job_id == _segment.c.job_id)
        .where(
            _segment.c.auditor.in_([house, "house"]),
            _segment.c.state.in_(right),
            _segment.c.house_task == "",
            _job.c.deadline_us > tx.now_us,
        )
        .order_by(_segment.c.segment_id.desc())
        .limit(limit)
    )
    return [to_record(SegmentRow, row) for row in tx.connection.execute(query).mappings()]


def add_commitment(tx: Transaction, values: Mapping[str, Any]) -> None:
    """An auditor's claim about a segment."""
    tx.connection.execute(sa.insert(_commitment).values(**values))


def commitment(tx: Transaction, commitment_digest: bytes) -> AuditCommitmentRow | None:
    """The auditor's claim with this digest."""
    query = sa.select(_commitment).where(_commitment.c.commitment_digest == commitment_digest)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(AuditCommitmentRow, row)


def commitments(tx: Transaction, lease_id: str) -> list[AuditCommitmentRow]:
    """What one auditor claimed, in order of steps."""
    query = (
        sa.select(_commitment)
        .where(_commitment.c.lease_id == lease_id)
        .order_by(_commitment.c.segment_index)
    )
    return [to_record(AuditCommitmentRow, row) for row in tx.connection.execute(query).mappings()]


def answers(tx: Transaction, segment_id: int) -> list[tuple[AuditRow, bytes]]:
    """Ended audits of a segment that its auditor answered about it, oldest first, each with the
    envelope of that commitment. Of the audits that a draw began: no second looks, no canaries."""
    first = [AuditPurpose.AUDIT.value, AuditPurpose.DUAL.value]
    query = (
        sa.select(_audit, _commitment.c.commitment)
        .join(_segment, _segment.c.segment_id == _audit.c.segment_id)
        .join(
            _commitment,
            sa.and_(
                _commitment.c.lease_id == _audit.c.lease_id,
                _commitment.c.segment_index == _segment.c.segment_index,
            ),
        )
        .where(
            _audit.c.segment_id == segment_id,
            _audit.c.question_id == segment_id,
            _audit.c.purpose.in_(first),
            _audit.c.phase == AuditPhase.ENDED.value,
        )
        .order_by(_audit.c.created_at_us, _audit.c.audit_id)
    )
    found = []
    for row in tx.connection.execute(query).mappings():
        values = dict(row)
        envelope = bytes(values.pop("commitment"))
        found.append((_record(values), envelope))
    return found


def house_accounts(tx: Transaction) -> tuple[str, ...]:
    """Accounts of the operator whose workers audit for the house, by id."""
    return tuple(sorted(settings.with_prefix(tx, _HOUSE_ACCOUNT)))


def put_house_account(tx: Transaction, account_id: str) -> None:
    """Mark an account as the house's."""
    settings.put(tx, _HOUSE_ACCOUNT + account_id, str(tx.now_us))


def drop_house_account(tx: Transaction, account_id: str) -> bool:
    """It is not the house's any more; whether it was."""
    return settings.drop(tx, _HOUSE_ACCOUNT + account_id)


def house_keys(tx: Transaction, without: Collection[str] = ()) -> tuple[str, ...]:
    """Device keys of the house's accounts, those in ``without`` left out, by id."""
    accounts = [item for item in house_accounts(tx) if item not in without]
    query = (
        sa.select(_key.c.key_id)
        .where(
            _key.c.account_id.in_(accounts),
            _key.c.role == KeyRole.DEVICE.value,
            sa.not_(_key.c.revoked),
        )
        .order_by(_key.c.key_id)
    )
    return tuple(tx.connection.execute(query).scalars())


def _first(tx: Transaction, query: sa.Select[Any]) -> AuditRow | None:
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else _record(row)


def _all(tx: Transaction, query: sa.Select[Any]) -> list[AuditRow]:
    return [_record(row) for row in tx.connection.execute(query).mappings()]


def _record(row: Mapping[Any, Any]) -> AuditRow:
    values = dict(row)
    values["purpose"] = AuditPurpose(values["purpose"])
    values["phase"] = AuditPhase(values["phase"])
    return AuditRow(**values)
