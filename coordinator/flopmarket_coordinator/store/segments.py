"""Segments: what was committed of each job, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.changes import SegmentChanged, SegmentSettled
from flopmarket_coordinator.core.lifecycle import (
    LIVE_SEGMENT_STATES,
    SEGMENT_TRANSITIONS,
    SegmentState,
    check_transition,
)
from flopmarket_coordinator.store import jobs, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobSums, SegmentRow
from flopmarket_coordinator.store.rows import Rows, any_of, constant, given
from flopmarket_coordinator.store.schema.base import HOUSE_TASK, LIVE_SEGMENT

_job = schema.job
_segment = schema.segment
_dispute = schema.dispute
# As the partial index over live segments spells it, so that the index serves these queries.
_IS_LIVE = sa.text(f"segment.{LIVE_SEGMENT}")
_SEGMENTS = Rows(SegmentRow, _segment)
_OF_JOB = _segment.c.job_id == given("which")
_ADD = sa.insert(_segment).returning(_segment.c.segment_id)
_UPDATE = sa.update(_segment).where(_segment.c.segment_id == given("which"))
_BY_ID = _SEGMENTS.select.where(_segment.c.segment_id == given("which"))
_BY_DIGEST = _SEGMENTS.select.where(_segment.c.commitment_digest == given("which"))
_IN_ORDER = _SEGMENTS.select.where(_OF_JOB).order_by(_segment.c.first_step, _segment.c.segment_id)
_IN_ORDER_BY_STATE = _IN_ORDER.where(_segment.c.state.in_(any_of("states")))
_TAKEN = sa.select(
    _segment.c.first_step,
    _segment.c.steps,
    sa.case(
        (_segment.c.state == constant(SegmentState.SETTLED), 0),
        else_=_segment.c.price_nano + _segment.c.surcharge_nano,
    ),
).where(_OF_JOB, _segment.c.first_step >= given("from_step"), _IS_LIVE)
_LIVE_FROM = _SEGMENTS.select.where(
    _OF_JOB, _segment.c.first_step >= given("first_step"), _IS_LIVE
).order_by(_segment.c.first_step)
_FIRST_LIVE_FROM = _LIVE_FROM.limit(given("most"))
_NEWEST_CHECKPOINT = (
    _SEGMENTS.select.where(
        _OF_JOB,
        _segment.c.first_step < given("before_step"),
        _segment.c.checkpoint_artifact != "",
        _IS_LIVE,
    )
    .order_by(_segment.c.first_step.desc())
    .limit(1)
)
_NEWEST_CHECKED = _NEWEST_CHECKPOINT.where(_segment.c.files_checked)
_WAITING_FOR_FILES = (
    _SEGMENTS.select.where(
        sa.text(f"segment.{HOUSE_TASK}"),
        _segment.c.state == constant(SegmentState.COMMITTED),
        sa.not_(_segment.c.files_checked),
        _segment.c.job_id.not_in(any_of("exclude")),
    )
    .order_by(_segment.c.segment_id)
    .limit(1)
)
_UNREAD_BEFORE = sa.select(_segment.c.segment_id).where(
    _OF_JOB,
    _segment.c.first_step < given("step"),
    _segment.c.first_step + _segment.c.steps == given("step"),
    sa.not_(_segment.c.files_checked),
    _IS_LIVE,
)


def _waiting_for_audit() -> sa.Select[Any]:
    """The query of :func:`waiting_for_audit`."""
    disputed = _segment.alias()
    in_dispute = (
        sa.select(_dispute.c.number)
        .join(disputed, disputed.c.segment_id == _dispute.c.segment_id)
        .join(_job, _job.c.job_id == _dispute.c.job_id)
        .where(
            _dispute.c.ended_at_us == constant(0),
            _dispute.c.auditor_key_id == given("house_key_id"),
            _dispute.c.job_id == _segment.c.job_id,
            sa.or_(
                disputed.c.segment_id == _segment.c.segment_id,
                sa.and_(sa.not_(_job.c.stateless), disputed.c.first_step < _segment.c.first_step),
            ),
        )
        .correlate(_segment)
        .exists()
    )
    # The house's engine computes FX1 and nothing else.
    exact = (
        sa.exists()
        .where(_job.c.job_id == _segment.c.job_id, _job.c.mode == constant(Mode.EXACT))
        .correlate(_segment)
    )
    mine = sa.and_(
        _segment.c.house_task == constant("recompute"),
        sa.text(f"segment.{HOUSE_TASK}"),
        sa.or_(_IS_LIVE, _segment.c.state == constant(SegmentState.VOID)),
        exact,
        sa.not_(in_dispute),
    )
    # Of a job, only the first unaudited step counts: later ones are relative to it.
    first = (
        sa.select(_segment.c.job_id, sa.func.min(_segment.c.first_step).label("first_step"))
        .where(mine)
        .group_by(_segment.c.job_id)
        .subquery()
    )
    return (
        _SEGMENTS.select.join(
            first,
            (first.c.job_id == _segment.c.job_id) & (first.c.first_step == _segment.c.first_step),
        )
        .where(mine, _segment.c.job_id.not_in(any_of("exclude")))
        .order_by(_segment.c.segment_id)
        .limit(1)
    )


_WAITING_FOR_AUDIT = _waiting_for_audit()


def add(tx: Transaction, values: Mapping[str, Any]) -> int:
    """A committed segment; its id."""
    segment_id: int = tx.connection.execute(_ADD, values).scalar_one()
    jobs.add_to_sums(tx, values["job_id"], live_steps=values["steps"], unaudited=1)
    tx.note(SegmentChanged(segment_id, values["job_id"]))
    return segment_id


def get(tx: Transaction, segment_id: int) -> SegmentRow | None:
    """The segment with this id."""
    return _SEGMENTS.first(tx, _BY_ID, {"which": segment_id})


def of_commitment(tx: Transaction, digest: bytes) -> SegmentRow | None:
    """The segment that a commitment made."""
    return _SEGMENTS.first(tx, _BY_DIGEST, {"which": digest})


def update(tx: Transaction, row: SegmentRow, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(_UPDATE, {"which": row.segment_id, **values})
    tx.note(SegmentChanged(row.segment_id, row.job_id))


def move(tx: Transaction, row: SegmentRow, target: SegmentState, **values: Any) -> None:
    """Change the state of a segment as it was read."""
    check_transition(
        SEGMENT_TRANSITIONS,
        row.state,
        target,
        name=f"segment {row.segment_index} of job {row.job_id}",
        story=jobs.last_lines(tx, row.job_id),
    )
    waits_on = target in LIVE_SEGMENT_STATES and row.state is not SegmentState.COMMITTED
    lost = row.state in LIVE_SEGMENT_STATES and target not in LIVE_SEGMENT_STATES
    dropped = {} if waits_on else {"house_task": ""}
    changed = {**dropped, **values, "which": row.segment_id, "state": target.value}
    tx.connection.execute(_UPDATE, changed)
    jobs.add_to_sums(
        tx,
        row.job_id,
        live_steps=-row.steps if lost else 0,
        unaudited=-1 if row.state is SegmentState.COMMITTED else 0,
    )
    tx.note(SegmentChanged(row.segment_id, row.job_id))
    if target is SegmentState.SETTLED:
        tx.note(SegmentSettled(row.segment_id))


def of_job(
    tx: Transaction, job_id: str, states: Collection[SegmentState] | None = None
) -> list[SegmentRow]:
    """Segments of a job in order of steps, then of commitment; of all states by default."""
    if states is None:
        return _SEGMENTS.all(tx, _IN_ORDER, {"which": job_id})
    values = {"which": job_id, "states": [state.value for state in states]}
    return _SEGMENTS.all(tx, _IN_ORDER_BY_STATE, values)


def page(tx: Transaction, job_id: str, after: tuple[int, int], limit: int) -> list[SegmentRow]:
    """Segments of all states in order of steps, from after ``(first step, segment id)``."""
    position = sa.tuple_(_segment.c.first_step, _segment.c.segment_id)
    query = (
        _SEGMENTS.select.where(_segment.c.job_id == job_id, position > sa.tuple_(*after))
        .order_by(_segment.c.first_step, _segment.c.segment_id)
        .limit(limit)
    )
    return _SEGMENTS.all(tx, query)


def live(tx: Transaction, job_id: str) -> list[SegmentRow]:
    """Committed, verified and settled segments in order of steps."""
    return of_job(tx, job_id, LIVE_SEGMENT_STATES)


def live_from(
    tx: Transaction, job_id: str, first_step: int, limit: int | None = None
) -> list[SegmentRow]:
    """Live segments from a step on, in order of steps; at most ``limit``. By an index alone."""
    values = {"which": job_id, "first_step": first_step}
    if limit is None:
        return _SEGMENTS.all(tx, _LIVE_FROM, values)
    return _SEGMENTS.all(tx, _FIRST_LIVE_FROM, {**values, "most": limit})


def taken(tx: Transaction, job_id: str, from_step: int = 0) -> list[tuple[int, int, int]]:
    """First step, steps, and what is still owed of every live segment from a step on."""
    found = tx.connection.execute(_TAKEN, {"which": job_id, "from_step": from_step})
    return [(first, steps, owed) for first, steps, owed in found]


def newest_checkpoint(
    tx: Transaction, job_id: str, before_step: int, *, checked: bool
) -> SegmentRow | None:
    """The last live segment, begun before a step, whose end state is durable; ``checked``: and
    whose file was read and holds what was committed."""
    query = _NEWEST_CHECKED if checked else _NEWEST_CHECKPOINT
    return _SEGMENTS.first(tx, query, {"which": job_id, "before_step": before_step})


def newest_of_lease(tx: Transaction, lease_id: str, before_step: int) -> SegmentRow | None:
    """The last segment of a lease, begun before a step, whose end state is stored and was read."""
    query = (
        _SEGMENTS.select.where(
            _segment.c.lease_id == lease_id,
            _segment.c.first_step < before_step,
            _segment.c.checkpoint_artifact != "",
            _segment.c.files_checked,
        )
        .order_by(_segment.c.first_step.desc())
        .limit(1)
    )
    return _SEGMENTS.first(tx, query)


def path_between(
    tx: Transaction,
    job_id: str,
    first_step: int,
    end_step: int,
    limit: int,
    lease_id: str = "",
) -> list[tuple[int, int, int, bytes, bytes, str]]:
    """Live segments that begin between two steps, in order, without their documents: id, first
    step, steps, root after, root of the outputs, who recomputed it. With a lease: its segments,
    live or not."""
    query = (
        sa.select(
            _segment.c.segment_id,
            _segment.c.first_step,
            _segment.c.steps,
            _segment.c.root_after,
            _segment.c.outputs_root,
            _segment.c.auditor,
        )
        .where(
            _segment.c.job_id == job_id,
            _segment.c.first_step >= first_step,
            _segment.c.first_step < end_step,
            _segment.c.lease_id == lease_id if lease_id else _IS_LIVE,
        )
        .order_by(_segment.c.first_step)
        .limit(limit)
    )
    return [(*row,) for row in tx.connection.execute(query)]


def unread_before(tx: Transaction, job_id: str, step: int) -> bool:
    """Whether nobody has read the files of the live segment that ends at a step."""
    found = tx.connection.execute(_UNREAD_BEFORE, {"which": job_id, "step": step})
    return found.first() is not None


def progress(tx: Transaction, job_id: str) -> JobSums:
    """What a job's segments add up to, without reading them one by one."""
    live = [state.value for state in LIVE_SEGMENT_STATES]
    checked = [SegmentState.VERIFIED.value, SegmentState.SETTLED.value]

    def steps_in(states: list[str]) -> sa.ColumnElement[int]:
        counted = sa.case((_segment.c.state.in_(states), _segment.c.steps), else_=0)
        return sa.func.coalesce(sa.func.sum(counted), 0)

    mine = _segment.c.job_id == job_id
    sums = sa.select(sa.func.count(), steps_in(live), steps_in(checked)).where(mine)
    count, committed, verified = tx.connection.execute(sums).one()
    newest = (
        sa.select(_segment.c.checkpoint_artifact, _segment.c.root_after)
        .where(mine, _segment.c.state.in_(checked), _segment.c.checkpoint_artifact != "")
        .order_by(_segment.c.first_step.desc(), _segment.c.segment_id.desc())
        .limit(1)
    )
    durable = tx.connection.execute(newest).first()
    artifact, root = ("", b"") if durable is None else durable
    return JobSums(int(count), int(committed), int(verified), artifact, root)


def count_reasons(tx: Transaction, job_id: str) -> dict[str, int]:
    """How many segments of a job were rejected, void or left unpaid for each reason."""
    query = (
        sa.select(_segment.c.reason, sa.func.count())
        .where(_segment.c.job_id == job_id, _segment.c.reason != "")
        .group_by(_segment.c.reason)
    )
    return {reason: int(count) for reason, count in tx.connection.execute(query)}


def offers_with(tx: Transaction, job_id: str, reasons: Collection[str]) -> set[str]:
    """Offers that have a segment of a job which counts for nothing for one of these reasons."""
    query = sa.select(_segment.c.offer_id).where(
        _segment.c.job_id == job_id, _segment.c.reason.in_(list(reasons))
    )
    return set(tx.connection.execute(query.distinct()).scalars())


def count_unaudited(tx: Transaction) -> int:
    """How many segments wait to be recomputed."""
    query = (
        sa.select(sa.func.count())
        .select_from(_segment)
        .where(_segment.c.state == SegmentState.COMMITTED.value)
    )
    return int(tx.connection.execute(query).scalar_one())


def claims_of_lease(tx: Transaction, lease_id: str) -> list[SegmentRow]:
    """Void segments of a lease that the house is to look at."""
    return _claims(tx, _segment.c.lease_id == lease_id)


def claims_of_job(tx: Transaction, job_id: str) -> list[SegmentRow]:
    """Void segments of a job that the house is to look at."""
    return _claims(tx, _segment.c.job_id == job_id)


def _claims(tx: Transaction, where: sa.ColumnElement[bool]) -> list[SegmentRow]:
    query = _SEGMENTS.select.where(
        where,
        sa.text(f"segment.{HOUSE_TASK}"),
        _segment.c.state == SegmentState.VOID.value,
    )
    return _SEGMENTS.all(tx, query)


def waiting_for_files(tx: Transaction, exclude: Collection[str]) -> SegmentRow | None:
    """The committed segment that was waiting longest for somebody to read its files."""
    return _SEGMENTS.first(tx, _WAITING_FOR_FILES, {"exclude": list(exclude)})


def waiting_for_audit(
    tx: Transaction, exclude: Collection[str], house_key_id: str
) -> SegmentRow | None:
    """The segment that was waiting longest for the house to recompute it, the first of its job.

    One that the house disputes waits for the outcome, and so do later segments of its chain.
    """
    values = {"house_key_id": house_key_id, "exclude": list(exclude)}
    return _SEGMENTS.first(tx, _WAITING_FOR_AUDIT, values)
