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
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_coordinator.store.rows import Rows, any_of, constant, constants, given

_audit = schema.audit
_commitment = schema.audit_commitment
_segment = schema.segment
_job = schema.job
_key = schema.account_key
_OPEN = sa.text(f"audit.{schema.OPEN_AUDIT}")
_EXCHANGED = [
    phase.value
    for phase in AuditPhase
    if phase not in (AuditPhase.HOUSE, AuditPhase.DISPUTE, AuditPhase.ARBITRATION, AuditPhase.ENDED)
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
    parent_id: str = ""
    """Of an arbiter's: the audit whose difference it decides."""
    until_us: int = 0
    """How long auditors are asked again and again, where nobody else can look."""
    arbitrated_at_us: int = 0
    """Since when nobody but its class decides, as two of it differ, or nobody came; else 0."""

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


_AUDITS = Rows(AuditRow, _audit)
_COMMITMENTS = Rows(AuditCommitmentRow, _commitment)
_SEGMENTS = Rows(SegmentRow, _segment)
_OLDEST_FIRST = _AUDITS.select.order_by(_audit.c.created_at_us, _audit.c.audit_id)
_ADD = sa.insert(_audit)
_UPDATE = sa.update(_audit).where(_audit.c.audit_id == given("which"))
_BY_ID = _AUDITS.select.where(_audit.c.audit_id == given("which"))
_DUE = (
    _AUDITS.select.join(_segment, _segment.c.segment_id == _audit.c.segment_id)
    .where(
        _OPEN,
        _audit.c.deadline_us <= given("now_us"),
        _audit.c.phase.in_(any_of("waiting")),
        sa.or_(_audit.c.phase != constant(AuditPhase.DELAYED), _segment.c.files_checked),
    )
    .order_by(_audit.c.deadline_us, _audit.c.audit_id)
    .limit(given("most"))
)
_ASKING = (
    _AUDITS.select.where(_OPEN, _audit.c.phase == constant(AuditPhase.ASKING))
    .order_by(_audit.c.deadline_us, _audit.c.audit_id)
    .limit(given("most"))
)
_question = _segment.alias()
_POINTLESS = (
    _OLDEST_FIRST.join(_segment, _segment.c.segment_id == _audit.c.segment_id)
    .join(_question, _question.c.segment_id == _audit.c.question_id)
    .where(
        _OPEN,
        sa.or_(
            _segment.c.state.not_in(constants(LIVE_SEGMENT_STATES)),
            _question.c.state.not_in(constants(LIVE_SEGMENT_STATES)),
        ),
    )
    .limit(given("most"))
)
_OF_BANNED = (
    _OLDEST_FIRST.join(_segment, _segment.c.segment_id == _audit.c.question_id)
    .join(_key, _key.c.key_id == _segment.c.device_key_id)
    .where(_OPEN, _audit.c.phase == constant(AuditPhase.WORKER_OPENS), _key.c.revoked)
    .limit(given("most"))
)
_UNTOLD = _OLDEST_FIRST.where(sa.text(schema.UNTOLD_AUDIT)).limit(given("most"))
_WAITING_FOR_KEY = _OLDEST_FIRST.join(
    _segment, _segment.c.segment_id == _audit.c.question_id
).where(
    _OPEN,
    sa.or_(
        sa.and_(
            _audit.c.phase == constant(AuditPhase.AUDITOR_OPENS),
            _audit.c.auditor_key_id == given("which"),
        ),
        sa.and_(
            _audit.c.phase == constant(AuditPhase.WORKER_OPENS),
            _segment.c.device_key_id == given("which"),
        ),
    ),
)
_OPEN_OF_SEGMENT = _OLDEST_FIRST.where(_OPEN, _audit.c.question_id == given("which"))
_OPEN_OF_SEGMENT_IN = _OPEN_OF_SEGMENT.where(_audit.c.phase == given("of_phase"))
_OF_SEGMENT = _OLDEST_FIRST.where(_audit.c.segment_id == given("which"))
_ARBITERS = _OLDEST_FIRST.where(_audit.c.parent_id == given("which"), _audit.c.parent_id != "")
_COMPARING = _OLDEST_FIRST.where(
    _audit.c.question_id == given("which"), _audit.c.phase == AuditPhase.ENDED.value
)
_IS_OPEN = sa.select(_audit.c.audit_id).where(_OPEN, _audit.c.segment_id == given("which")).limit(1)
_SEGMENT_AT = _SEGMENTS.select.where(
    _segment.c.lease_id == given("which"), _segment.c.segment_index == given("at")
)
_ADD_COMMITMENT = sa.insert(_commitment)
_COMMITMENT = _COMMITMENTS.select.where(_commitment.c.commitment_digest == given("which"))
_COMMITMENTS_OF = _COMMITMENTS.select.where(_commitment.c.lease_id == given("which")).order_by(
    _commitment.c.segment_index
)
_HOUSE_KEYS = (
    sa.select(_key.c.key_id)
    .where(
        _key.c.account_id.in_(any_of("accounts")),
        _key.c.role == KeyRole.DEVICE.value,
        sa.not_(_key.c.revoked),
    )
    .order_by(_key.c.key_id)
)


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new audit."""
    tx.connection.execute(_ADD, values)


def get(tx: Transaction, audit_id: str) -> AuditRow | None:
    """The audit with this id."""
    return _AUDITS.first(tx, _BY_ID, {"which": audit_id})


def update(tx: Transaction, audit_id: str, **values: Any) -> None:
    """Change columns."""
    tx.connection.execute(_UPDATE, {"which": audit_id, **values})


def due(tx: Transaction, limit: int, *, begin: bool) -> list[AuditRow]:
    """Audits whose deadline is over, those first that waited longest.

    One that did not begin yet waits for the look at its segment's files. Without ``begin`` nobody
    new is asked.
    """
    waiting = [phase for phase in _EXCHANGED if begin or phase not in ("delayed", "asking")]
    return _AUDITS.all(tx, _DUE, {"now_us": tx.now_us, "waiting": waiting, "most": limit})


def asking(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits whose auditor in charge had no free device yet."""
    return _AUDITS.all(tx, _ASKING, {"most": limit})


def pointless(tx: Transaction, limit: int) -> list[AuditRow]:
    """Open audits of segments that count no more."""
    return _AUDITS.all(tx, _POINTLESS, {"most": limit})


def of_banned(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits that wait for a worker's opening whose key may not act any more."""
    return _AUDITS.all(tx, _OF_BANNED, {"most": limit})


def untold(tx: Transaction, limit: int) -> list[AuditRow]:
    """Audits whose party that is to open was not asked on its connection yet."""
    return _AUDITS.all(tx, _UNTOLD, {"most": limit})


def waiting_for_key(tx: Transaction, device_key_id: str) -> list[AuditRow]:
    """Audits in which this key is to open now."""
    return _AUDITS.all(tx, _WAITING_FOR_KEY, {"which": device_key_id})


def open_of_segment(
    tx: Transaction, question_id: int, phase: AuditPhase | None = None
) -> list[AuditRow]:
    """Open audits that compare this segment, in this phase or in any."""
    if phase is None:
        return _AUDITS.all(tx, _OPEN_OF_SEGMENT, {"which": question_id})
    values = {"which": question_id, "of_phase": phase.value}
    return _AUDITS.all(tx, _OPEN_OF_SEGMENT_IN, values)


def of_segment(tx: Transaction, segment_id: int) -> list[AuditRow]:
    """All audits of a segment, oldest first."""
    return _AUDITS.all(tx, _OF_SEGMENT, {"which": segment_id})


def arbiters(tx: Transaction, parent_id: str) -> list[AuditRow]:
    """Everybody who was asked to decide an audit's difference, in order of asking."""
    return _AUDITS.all(tx, _ARBITERS, {"which": parent_id})


def comparing(tx: Transaction, question_id: int) -> list[AuditRow]:
    """Ended audits that compared this segment, arbiters' among them, oldest first."""
    return _AUDITS.all(tx, _COMPARING, {"which": question_id})


def is_open(tx: Transaction, segment_id: int) -> bool:
    """Whether an audit of the segment lasts."""
    return tx.connection.execute(_IS_OPEN, {"which": segment_id}).first() is not None


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
        sa.update(_audit)
        .where(_OPEN)
        .values(deadline_us=_audit.c.deadline_us + by_us, until_us=_audit.c.until_us + by_us)
    )


def count_open(tx: Transaction) -> dict[str, int]:
    """Audits that did not end, by phase."""
    query = sa.select(_audit.c.phase, sa.func.count()).where(_OPEN).group_by(_audit.c.phase)
    return {phase: int(count) for phase, count in tx.connection.execute(query)}


def segment_at(tx: Transaction, lease_id: str, segment_index: int) -> SegmentRow | None:
    """What a lease committed as its segment of this index."""
    return _SEGMENTS.first(tx, _SEGMENT_AT, {"which": lease_id, "at": segment_index})


def known_right(tx: Transaction, house: str, limit: int) -> list[SegmentRow]:
    """Segments that the house recomputed itself, of jobs that could still run; newest first."""
    right = [SegmentState.VERIFIED.value, SegmentState.SETTLED.value]
    query = (
        _SEGMENTS.select.join(_job, _job.c.job_id == _segment.c.job_id)
        .where(
            _segment.c.auditor.in_([house, "house"]),
            _segment.c.state.in_(right),
            _segment.c.house_task == "",
            _job.c.deadline_us > tx.now_us,
        )
        .order_by(_segment.c.segment_id.desc())
        .limit(limit)
    )
    return _SEGMENTS.all(tx, query)


def add_commitment(tx: Transaction, values: Mapping[str, Any]) -> None:
    """An auditor's claim about a segment."""
    tx.connection.execute(_ADD_COMMITMENT, values)


def commitment(tx: Transaction, commitment_digest: bytes) -> AuditCommitmentRow | None:
    """The auditor's claim with this digest."""
    return _COMMITMENTS.first(tx, _COMMITMENT, {"which": commitment_digest})


def commitments(tx: Transaction, lease_id: str) -> list[AuditCommitmentRow]:
    """What one auditor claimed, in order of steps."""
    return _COMMITMENTS.all(tx, _COMMITMENTS_OF, {"which": lease_id})


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
    if not accounts:
        return ()
    return tuple(tx.connection.execute(_HOUSE_KEYS, {"accounts": accounts}).scalars())


def _record(row: Mapping[Any, Any]) -> AuditRow:
    values = dict(row)
    values["purpose"] = AuditPurpose(values["purpose"])
    values["phase"] = AuditPhase(values["phase"])
    return AuditRow(**values)
