"""Draws beside audits: whether an audit is itself audited, and whether a canary goes out."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.trust.canaries import CanaryRecord
from flopmarket.trust.cross_draws import CrossRecord
from flopmarket.trust.encoding import encode
from flopmarket_coordinator.core.auditing import AuditPurpose
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows

_cross = schema.cross_draw
_day = schema.canary_day
_draw = schema.canary_draw
_audit = schema.audit
_OPEN = sa.text(f"audit.{schema.OPEN_AUDIT}")


@dataclass(frozen=True, slots=True)
class CrossRow:
    """A draw about an auditor's answer. ``audit_id`` is the second audit's, empty without one."""

    segment_id: int
    lease_id: str
    number: int
    document: bytes
    answer: bytes
    auditor_key_id: str
    audit_id: str


@dataclass(frozen=True, slots=True)
class CanaryRow:
    """A draw beside an audit. ``known`` names the list that the canary was chosen from."""

    day: int
    number: int
    document: bytes
    known: bytes | None
    audit_id: str


_CROSSES = Rows(CrossRow, _cross)
_CANARIES = Rows(CanaryRow, _draw)


# --- cross-audits ---------------------------------------------------------------------------------


def next_cross(tx: Transaction, lease_id: str) -> int:
    """Number of the next draw about answers to a lease's segments."""
    query = sa.select(sa.func.count()).where(_cross.c.lease_id == lease_id)
    return int(tx.connection.execute(query).scalar_one()) + 1


def cross_of(tx: Transaction, segment_id: int) -> CrossRow | None:
    """What was drawn about the answer to a drawn segment."""
    query = _CROSSES.select.where(_cross.c.segment_id == segment_id)
    return _CROSSES.first(tx, query)


def add_cross(
    tx: Transaction,
    segment_id: int,
    lease_id: str,
    record: CrossRecord,
    *,
    answer: bytes,
    auditor_key_id: str,
    audit_id: str,
) -> None:
    """Keep a draw about an auditor's answer."""
    tx.connection.execute(
        sa.insert(_cross).values(
            segment_id=segment_id,
            lease_id=lease_id,
            number=record.index,
            document=encode(record),
            answer=answer,
            auditor_key_id=auditor_key_id,
            audit_id=audit_id,
        )
    )


def crossed_now(tx: Transaction, job_id: str) -> bool:
    """Whether an audit of the job is being audited at this moment."""
    query = sa.select(_audit.c.audit_id).where(
        _audit.c.job_id == job_id, _audit.c.purpose == AuditPurpose.CROSS.value, _OPEN
    )
    return tx.connection.execute(query.limit(1)).first() is not None


# --- canaries -------------------------------------------------------------------------------------


def canary_terms(tx: Transaction, day: int) -> bytes | None:
    """The signed terms of a day."""
    query = sa.select(_day.c.envelope).where(_day.c.day == day)
    found = tx.connection.execute(query).scalar()
    return None if found is None else bytes(found)


def put_canary_terms(tx: Transaction, day: int, envelope: bytes) -> None:
    """Keep the terms of a day that has none."""
    values = {"day": day, "envelope": envelope, "created_at_us": tx.now_us}
    tx.connection.execute(sa.insert(_day).values(**values))


def next_canary(tx: Transaction, day: int) -> int:
    """Number of the day's next draw."""
    query = sa.select(sa.func.coalesce(sa.func.max(_draw.c.number), 0)).where(_draw.c.day == day)
    return int(tx.connection.execute(query).scalar_one()) + 1


def add_canary(
    tx: Transaction, record: CanaryRecord, *, known: bytes | None, audit_id: str
) -> None:
    """Keep a draw."""
    tx.connection.execute(
        sa.insert(_draw).values(
            day=record.day,
            number=record.index,
            document=encode(record),
            known=known,
            audit_id=audit_id,
        )
    )


def canaries(tx: Transaction, day: int, after: int, limit: int) -> list[CanaryRow]:
    """A day's draws, from behind a number on."""
    query = (
        _CANARIES.select.where(_draw.c.day == day, _draw.c.number > after)
        .order_by(_draw.c.number)
        .limit(limit)
    )
    return _CANARIES.all(tx, query)


def canary_is_out(tx: Transaction, day: int) -> bool:
    """Whether a canary of the day did not end yet."""
    query = (
        sa.select(_draw.c.number)
        .join(_audit, _audit.c.audit_id == _draw.c.audit_id)
        .where(_draw.c.day == day, _OPEN)
    )
    return tx.connection.execute(query.limit(1)).first() is not None
