"""Jobs, their segments and their stories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.events import Event, EventKind
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    LIVE_SEGMENT_STATES,
    SEGMENT_TRANSITIONS,
    JobState,
    SegmentState,
    check_transition,
)
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow, to_record

_job = schema.job
_segment = schema.segment
_event = schema.event


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new job."""
    tx.connection.execute(sa.insert(_job).values(**values))


def get(tx: Transaction, job_id: str) -> JobRow | None:
    """The job with this id."""
    row = tx.connection.execute(sa.select(_job).where(_job.c.job_id == job_id)).mappings().first()
    return None if row is None else to_record(JobRow, row)


def update(tx: Transaction, job_id: str, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(sa.update(_job).where(_job.c.job_id == job_id).values(**values))


def move(tx: Transaction, job: JobRow, target: JobState, **values: Any) -> None:
    """Change the state of a job as it was read; nothing to do when it is there already."""
    if job.state is target:
        return
    check_transition(
        JOB_TRANSITIONS, job.state, target, name=f"job {job.job_id}", story=_story(tx, job.job_id)
    )
    update(tx, job.job_id, state=target.value, **values)


def of_buyer(tx: Transaction, buyer: str, before_number: int, limit: int) -> list[JobRow]:
    """Jobs of an account, newest first."""
    query = (
        sa.select(_job)
        .where(_job.c.buyer == buyer, _job.c.number < before_number)
        .order_by(_job.c.number.desc())
        .limit(limit)
    )
    return [to_record(JobRow, row) for row in tx.connection.execute(query).mappings()]


def unfinished(tx: Transaction) -> list[JobRow]:
    """Jobs that have not ended, oldest first."""
    states = [state.value for state in JobState if state not in FINAL_JOB_STATES]
    query = sa.select(_job).where(_job.c.state.in_(states)).order_by(_job.c.number)
    return [to_record(JobRow, row) for row in tx.connection.execute(query).mappings()]


def count_unfinished(tx: Transaction, buyer: str) -> int:
    """Jobs of an account that have not ended."""
    states = [state.value for state in FINAL_JOB_STATES]
    query = (
        sa.select(sa.func.count())
        .select_from(_job)
        .where(_job.c.buyer == buyer, _job.c.state.not_in(states))
    )
    return int(tx.connection.execute(query).scalar_one())


def add_segment(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A committed segment."""
    tx.connection.execute(sa.insert(_segment).values(**values))


def segments(
    tx: Transaction, job_id: str, states: Collection[SegmentState] | None = None
) -> list[SegmentRow]:
    """Segments of a job in order of steps, then of commitment; of all states by default."""
    query = sa.select(_segment).where(_segment.c.job_id == job_id)
    if states is not None:
        query = query.where(_segment.c.state.in_([state.value for state in states]))
    query = query.order_by(_segment.c.first_step, _segment.c.segment_id)
    return [to_record(SegmentRow, row) for row in tx.connection.execute(query).mappings()]


def live_segments(tx: Transaction, job_id: str) -> list[SegmentRow]:
    """Committed, verified and settled segments in order of steps."""
    return segments(tx, job_id, LIVE_SEGMENT_STATES)


def segment(tx: Transaction, segment_id: int) -> SegmentRow | None:
    """The segment with this id."""
    query = sa.select(_segment).where(_segment.c.segment_id == segment_id)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def segment_of_commitment(tx: Transaction, digest: bytes) -> SegmentRow | None:
    """The segment that a commitment made."""
    query = sa.select(_segment).where(_segment.c.commitment_digest == digest)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def waiting_for_audit(tx: Transaction, exclude: Collection[str]) -> SegmentRow | None:
    """The committed segment that was waiting longest, the first of its job."""
    committed = SegmentState.COMMITTED.value
    # Of a job, only the first unaudited step counts: later ones are relative to it.
    first = (
        sa.select(_segment.c.job_id, sa.func.min(_segment.c.first_step).label("first_step"))
        .where(_segment.c.state == committed)
        .group_by(_segment.c.job_id)
        .subquery()
    )
    query = (
        sa.select(_segment)
        .join(
            first,
            (first.c.job_id == _segment.c.job_id) & (first.c.first_step == _segment.c.first_step),
        )
        .where(_segment.c.state == committed, _segment.c.job_id.not_in(list(exclude)))
        .order_by(_segment.c.segment_id)
        .limit(1)
    )
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def move_segment(tx: Transaction, row: SegmentRow, target: SegmentState, **values: Any) -> None:
    """Change the state of a segment as it was read."""
    check_transition(
        SEGMENT_TRANSITIONS,
        row.state,
        target,
        name=f"segment {row.segment_index} of job {row.job_id}",
        story=_story(tx, row.job_id),
    )
    tx.connection.execute(
        sa.update(_segment)
        .where(_segment.c.segment_id == row.segment_id)
        .values(state=target.value, **values)
    )


def mark_held(tx: Transaction, job_id: str, account_id: str, target: str) -> int:
    """Move the held pay of an account for a job to ``released`` or ``forfeited``; the sum."""
    mine = sa.and_(
        _segment.c.job_id == job_id,
        _segment.c.account_id == account_id,
        _segment.c.held_state == "held",
    )
    query = sa.select(sa.func.coalesce(sa.func.sum(_segment.c.to_held_nano), 0)).where(mine)
    total = int(tx.connection.execute(query).scalar_one())
    tx.connection.execute(sa.update(_segment).where(mine).values(held_state=target))
    return total


def holders_of_pay(tx: Transaction, job_id: str) -> list[str]:
    """Accounts with held pay of a job, in order of id."""
    query = (
        sa.select(_segment.c.account_id)
        .where(_segment.c.job_id == job_id, _segment.c.held_state == "held")
        .distinct()
        .order_by(_segment.c.account_id)
    )
    return list(tx.connection.execute(query).scalars())


def record(tx: Transaction, job_id: str, kind: EventKind, text: str, cause: str = "") -> None:
    """Add a line to the story of a job."""
    sequence = tx.connection.execute(
        sa.update(_job)
        .where(_job.c.job_id == job_id)
        .values(event_count=_job.c.event_count + 1)
        .returning(_job.c.event_count)
    ).scalar_one()
    tx.connection.execute(
        sa.insert(_event).values(
            job_id=job_id,
            sequence=sequence,
            time_us=tx.now_us,
            kind=kind.value,
            text=text,
            cause=cause,
        )
    )


def events(tx: Transaction, job_id: str, after_sequence: int, limit: int) -> Sequence[Event]:
    """Lines after a sequence number, oldest first."""
    query = (
        sa.select(_event)
        .where(_event.c.job_id == job_id, _event.c.sequence > after_sequence)
        .order_by(_event.c.sequence)
        .limit(limit)
    )
    return [
        Event(
            row["job_id"],
            row["sequence"],
            row["time_us"],
            EventKind(row["kind"]),
            row["text"],
            row["cause"],
        )
        for row in tx.connection.execute(query).mappings()
    ]


def _story(tx: Transaction, job_id: str) -> list[str]:
    """The last lines of a job's story, for an error that names a bug."""
    query = (
        sa.select(_event.c.sequence, _event.c.kind, _event.c.text)
        .where(_event.c.job_id == job_id)
        .order_by(_event.c.sequence.desc())
        .limit(20)
    )
    rows = tx.connection.execute(query).all()
    return [f"{row.sequence} {row.kind}: {row.text}" for row in reversed(rows)]
