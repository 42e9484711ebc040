"""What was decided about segments without a dispute of lists, as those it concerns may see it.

Differences that a class decided, step audits that were held against their worker, and segments that
the house alone found wrong. They are rows of other tables; here is who may read which.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket_coordinator.core.auditing import AuditPhase, RulingKind
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import constant, constants, given

_audit = schema.audit
_segment = schema.segment
_job = schema.job
_step = schema.step_audit
_dispute = schema.dispute
_decision = schema.decision
_arbiter = _audit.alias("arbiter")
_ALONE = [
    VerdictCode.STATE_DIFFERS,
    VerdictCode.OUTPUTS_DIFFER,
    VerdictCode.CHECKPOINT_FILE_DIFFERS,
    VerdictCode.OUTPUTS_FILE_DIFFERS,
]
"""Reasons for which the house rejects a segment by itself."""


@dataclass(frozen=True, slots=True)
class RulingName:
    """Which one, and where it stands among all, newest first. ``name`` is the id of the audit or
    the step audit, or for the house's own word the number of the segment."""

    opened_at_us: int
    kind: RulingKind
    name: str


def _selected(
    opened: sa.Column[int], kind: RulingKind, name: sa.ColumnElement[str]
) -> sa.Select[int, str, str]:
    return sa.select(
        opened.label("opened_at_us"),
        sa.cast(constant(kind), sa.Text).label("kind"),
        name.label("name"),
    )


def _all() -> sa.CompoundSelect[int, str, str]:
    """Of one account: its devices' work, its audits, its jobs. An arbiter learns that it was one
    when the difference is decided."""
    whose = given("account_id")
    mine = sa.or_(_segment.c.account_id == whose, _job.c.buyer == whose)
    spoke = sa.exists().where(
        _arbiter.c.parent_id == _audit.c.audit_id,
        _arbiter.c.parent_id != constant(""),
        _arbiter.c.auditor_account_id == whose,
        sa.func.length(_arbiter.c.auditor_secret) > 0,
    )
    answered = sa.and_(
        _audit.c.auditor_account_id == whose, sa.func.length(_audit.c.auditor_secret) > 0
    )
    ended = _audit.c.phase == constant(AuditPhase.ENDED)
    arbitrations = (
        _selected(_audit.c.arbitrated_at_us, RulingKind.ARBITRATION, _audit.c.audit_id)
        .join(_segment, _segment.c.segment_id == _audit.c.question_id)
        .join(_job, _job.c.job_id == _audit.c.job_id)
        .where(
            sa.text(schema.ARBITRATED),
            sa.or_(mine, answered, sa.and_(ended, spoke)),
        )
    )
    steps = (
        _selected(_step.c.created_at_us, RulingKind.STEPS, _step.c.step_audit_id)
        .join(_segment, _segment.c.segment_id == _step.c.segment_id)
        .join(_job, _job.c.job_id == _step.c.job_id)
        .where(sa.text(f"step_audit.{schema.STEPS_AGAINST}"), mine)
    )
    disputed = sa.exists().where(
        _dispute.c.job_id == _segment.c.job_id,  # which has an index
        _dispute.c.segment_id == _segment.c.segment_id,
    )
    alone = (
        _selected(
            _segment.c.committed_at_us,
            RulingKind.HOUSE,
            sa.cast(_segment.c.segment_id, sa.Text),
        )
        .join(_job, _job.c.job_id == _segment.c.job_id)
        .where(
            _segment.c.state == constant(SegmentState.REJECTED),
            _segment.c.reason.in_(constants(_ALONE)),
            sa.not_(disputed),
            mine,
        )
    )
    return sa.union_all(arbitrations, steps, alone)


_UNION = _all().subquery()
_place = sa.tuple_(_UNION.c.opened_at_us, _UNION.c.kind, _UNION.c.name)
_PAGE = (
    sa.select(_UNION.c.opened_at_us, _UNION.c.kind, _UNION.c.name)
    .where(_place < sa.tuple_(given("before_us"), given("before_kind"), given("before_name")))
    .order_by(_UNION.c.opened_at_us.desc(), _UNION.c.kind.desc(), _UNION.c.name.desc())
    .limit(given("most"))
)
_ONE = sa.select(_UNION.c.opened_at_us, _UNION.c.kind, _UNION.c.name).where(
    _UNION.c.name == given("which"), _UNION.c.kind == given("of_kind")
)
_CAUSED = (
    sa.select(_decision.c.kind, _decision.c.detail)
    .where(_decision.c.cause == given("which"))
    .order_by(_decision.c.number)
    .limit(given("most"))
)
_NEWEST = (2**62, "", "")


def page(
    tx: Transaction, account_id: str, before: RulingName | None, limit: int
) -> list[RulingName]:
    """Those of an account, newest first, after one of them."""
    place = _NEWEST if before is None else (before.opened_at_us, before.kind.value, before.name)
    names = ("before_us", "before_kind", "before_name")
    values = {"account_id": account_id, "most": limit, **dict(zip(names, place, strict=True))}
    found = tx.connection.execute(_PAGE, values)
    return [RulingName(opened, RulingKind(kind), name) for opened, kind, name in found]


def find(tx: Transaction, account_id: str, kind: RulingKind, name: str) -> RulingName | None:
    """One of them, if it concerns this account."""
    values = {"account_id": account_id, "which": name, "of_kind": kind.value}
    row = tx.connection.execute(_ONE, values).first()
    return None if row is None else RulingName(row[0], RulingKind(row[1]), row[2])


def consequences(tx: Transaction, segment_id: int, limit: int) -> list[tuple[str, str]]:
    """What was decided because of a segment: kind and detail, oldest first."""
    values = {"which": f"segment {segment_id}", "most": limit}
    return [(kind, detail) for kind, detail in tx.connection.execute(_CAUSED, values)]
