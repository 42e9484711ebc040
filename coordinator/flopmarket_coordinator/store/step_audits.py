"""Step audits: which segments' workers answer for drawn steps, and what they said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.auditing import StepPhase
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_coordinator.store.rows import Rows, any_of, constant, constants

_step = schema.step_audit
_segment = schema.segment
_key = schema.account_key
_challenge = schema.challenge
_OPEN = sa.text(f"step_audit.{schema.OPEN_STEP_AUDIT}")
_ASKED = [StepPhase.ROOTS.value, StepPhase.STATES.value]
_LIVE_SEGMENT = [state.value for state in LIVE_SEGMENT_STATES]
_STEPS = "steps"
"""The house's task about a segment, from the beginning of its step audit to the end."""

_MOST = sa.bindparam("most", type_=sa.BigInteger)
_UNTOLD = (
    sa.select(_step)
    .where(sa.text(schema.UNTOLD_STEP_AUDIT))
    .order_by(_step.c.created_at_us)
    .limit(_MOST)
)
_OVER = (
    sa.select(_step)
    .join(_segment, _segment.c.segment_id == _step.c.segment_id)
    .join(_key, _key.c.key_id == _segment.c.device_key_id)
    .where(
        _OPEN,
        _step.c.phase.in_(_ASKED),
        sa.or_(_step.c.deadline_us <= sa.bindparam("now_us"), _key.c.revoked),
    )
    .order_by(_step.c.deadline_us)
    .limit(_MOST)
)
_POINTLESS = (
    sa.select(_step)
    .join(_segment, _segment.c.segment_id == _step.c.segment_id)
    .where(
        _OPEN,
        sa.or_(_segment.c.state.not_in(_LIVE_SEGMENT), _segment.c.house_task != _STEPS),
    )
    .order_by(_step.c.created_at_us)
    .limit(_MOST)
)
_OPEN_OF_SEGMENT = sa.select(_step).where(_OPEN, _step.c.segment_id == sa.bindparam("which"))
_ASKED_OF = (
    sa.select(_step)
    .join(_segment, _segment.c.segment_id == _step.c.segment_id)
    .where(_OPEN, _step.c.phase.in_(_ASKED), _segment.c.device_key_id == sa.bindparam("key_id"))
    .order_by(_step.c.created_at_us)
    .limit(_MOST)
)
_OF_LEASE = (
    sa.select(_step)
    .join(_segment, _segment.c.segment_id == _step.c.segment_id)
    .where(_OPEN, _step.c.phase.in_(_ASKED), _segment.c.lease_id == sa.bindparam("lease"))
)
_COUNT_CLAIMS = (
    sa.select(sa.func.coalesce(sa.func.max(_step.c.number), 0))
    .join(_segment, _segment.c.segment_id == _step.c.segment_id)
    .where(_segment.c.lease_id == sa.bindparam("lease"))
)
"""Asked in every round, or several times an audit, so built once."""


@dataclass(frozen=True, slots=True)
class StepAuditRow:
    """One step audit. ``claim`` and ``answer`` are envelopes, empty before they came; ``number``
    counts the claims of a lease from one, 0 before this one came, and ``value`` is the one of the
    lease's chain with this number. ``files`` are the artifacts that they name, one a line."""

    step_audit_id: str
    segment_id: int
    job_id: str
    phase: StepPhase
    number: int
    value: bytes
    with_values: bool
    claim: bytes
    answer: bytes
    files: str
    told: bool
    deadline_us: int
    outcome: str
    detail: str
    created_at_us: int
    ended_at_us: int


_SEGMENTS = Rows(SegmentRow, _segment)
_WAITING_FOR_HOUSE = (
    _SEGMENTS.select.join(_step, _step.c.segment_id == _segment.c.segment_id)
    .where(
        _OPEN,
        _step.c.phase == constant(StepPhase.HOUSE),
        _segment.c.house_task == constant(_STEPS),
        _segment.c.state.in_(constants(LIVE_SEGMENT_STATES)),
        _segment.c.job_id.not_in(any_of("exclude")),
    )
    .order_by(_step.c.created_at_us)
    .limit(1)
)


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new step audit."""
    tx.connection.execute(sa.insert(_step).values(**values))


def get(tx: Transaction, step_audit_id: str) -> StepAuditRow | None:
    """The step audit with this id."""
    found = _all(tx, sa.select(_step).where(_step.c.step_audit_id == step_audit_id))
    return found[0] if found else None


def update(tx: Transaction, step_audit_id: str, **values: Any) -> None:
    """Change columns."""
    tx.connection.execute(
        sa.update(_step).where(_step.c.step_audit_id == step_audit_id).values(**values)
    )


def open_of_segment(tx: Transaction, segment_id: int) -> StepAuditRow | None:
    """The step audit of a segment that lasts."""
    found = _all(tx, _OPEN_OF_SEGMENT, which=segment_id)
    return found[0] if found else None


def newest_of_segment(tx: Transaction, segment_id: int) -> StepAuditRow | None:
    """The last step audit of a segment that was answered."""
    query = sa.select(_step).where(
        _step.c.segment_id == segment_id, sa.func.length(_step.c.answer) > 0
    )
    found = _all(tx, query.order_by(_step.c.created_at_us.desc()).limit(1))
    return found[0] if found else None


def count_claims(tx: Transaction, lease_id: str) -> int:
    """How many claims about a lease's segments have come."""
    return int(tx.connection.execute(_COUNT_CLAIMS, {"lease": lease_id}).scalar_one())


def untold(tx: Transaction, limit: int) -> list[StepAuditRow]:
    """Those whose worker was not asked on its connection yet."""
    return _all(tx, _UNTOLD, most=limit)


def asked_of(tx: Transaction, device_key_id: str, limit: int) -> list[StepAuditRow]:
    """Those that wait for an answer of this key."""
    return _all(tx, _ASKED_OF, key_id=device_key_id, most=limit)


def over(tx: Transaction, limit: int) -> list[StepAuditRow]:
    """Those that nobody will answer any more: time is over, or the key may not act."""
    return _all(tx, _OVER, now_us=tx.now_us, most=limit)


def pointless(tx: Transaction, limit: int) -> list[StepAuditRow]:
    """Open ones of segments that count no more, or that nobody wants looked at."""
    return _all(tx, _POINTLESS, most=limit)


def extend(tx: Transaction, by_us: int) -> None:
    """The coordinator was away: time stood still."""
    tx.connection.execute(
        sa.update(_step).where(_OPEN).values(deadline_us=_step.c.deadline_us + by_us)
    )


def waiting_for_house(tx: Transaction, exclude: list[str]) -> SegmentRow | None:
    """The segment whose drawn steps wait longest to be run, outside these jobs."""
    return _SEGMENTS.first(tx, _WAITING_FOR_HOUSE, {"exclude": exclude})


def of_lease(tx: Transaction, lease_id: str) -> list[StepAuditRow]:
    """Step audits of a lease's segments that wait for its worker."""
    return _all(tx, _OF_LEASE, lease=lease_id)


def by_steps(tx: Transaction, segment_ids: list[int]) -> list[int]:
    """Those segments whose lease says that the house draws steps of them."""
    query = (
        sa.select(_segment.c.segment_id)
        .join(_challenge, _challenge.c.lease_id == _segment.c.lease_id)
        .where(_segment.c.segment_id.in_(segment_ids), _challenge.c.audit_steps > 0)
        .order_by(_segment.c.segment_id)
    )
    return list(tx.connection.execute(query).scalars())


def _all(tx: Transaction, query: sa.Select[Any], **given: int | str) -> list[StepAuditRow]:
    found = []
    for row in tx.connection.execute(query, given).mappings():
        values = dict(row)
        values["phase"] = StepPhase(values["phase"])
        found.append(StepAuditRow(**values))
    return found
