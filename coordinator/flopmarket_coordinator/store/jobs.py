"""Jobs, their sums, receipts and stories. Their segments: :mod:`.segments`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.changes import JobChanged
from flopmarket_coordinator.core.events import Event, EventKind
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    JobState,
    check_transition,
)
from flopmarket_coordinator.store import schema, webhooks
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow
from flopmarket_coordinator.store.rows import Rows, constants, given

_job = schema.job
_segment = schema.segment
_event = schema.event
_UNFINISHED = [state.value for state in JobState if state not in FINAL_JOB_STATES]
# Asked for by nearly every command: building a statement costs more than running it.
_JOBS = Rows(JobRow, _job)
"""Without receipts: one may have 64 MiB, and only who asks for it reads it."""
_BY_ID = _JOBS.select.where(_job.c.job_id == given("which"))
_ADD = sa.insert(_job)
_UPDATE = sa.update(_job).where(_job.c.job_id == given("which"))
_ONE_EVENT_MORE = _UPDATE.values(event_count=_job.c.event_count + 1).returning(_job.c.event_count)
_ADD_EVENT = sa.insert(_event)
_LAST_EVENTS = (
    sa.select(_event.c.sequence, _event.c.kind, _event.c.text)
    .where(_event.c.job_id == given("which"))
    .order_by(_event.c.sequence.desc())
    .limit(20)
)
_UNFINISHED_IDS = (
    sa.select(_job.c.job_id).where(_job.c.state.in_(constants(_UNFINISHED))).order_by(_job.c.number)
)
_OVERDUE_IDS = (
    sa.select(_job.c.job_id)
    .where(
        sa.text(schema.UNFINISHED_JOB), _job.c.deadline_us <= given("now_us"), _job.c.ending == ""
    )
    .order_by(_job.c.number)
)
_COUNT = _UPDATE.values(
    live_steps=_job.c.live_steps + given("more_steps"),
    unaudited_segments=_job.c.unaudited_segments + given("more_segments"),
)
_CUTS = tuple(
    sa.update(_job)
    .where(_job.c.job_id == given("which"), column > given("step"))
    .values({column.name: given("step")})
    for column in (_job.c.checked_steps, _job.c.settled_steps)
)


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new job."""
    tx.connection.execute(_ADD, values)
    tx.note(JobChanged(values["job_id"]))


def get(tx: Transaction, job_id: str) -> JobRow | None:
    """The job with this id."""
    return _JOBS.first(tx, _BY_ID, {"which": job_id})


def receipt_file(tx: Transaction, job_id: str) -> bytes:
    """The receipt of a job that has ended, all of it."""
    query = sa.select(_job.c.receipt).where(_job.c.job_id == job_id)
    return bytes(tx.connection.execute(query).scalar_one())


def receipt_bytes(tx: Transaction, job_id: str) -> int:
    """Length of a job's receipt; 0 when it has none yet."""
    query = sa.select(sa.func.coalesce(sa.func.length(_job.c.receipt), 0))
    return int(tx.connection.execute(query.where(_job.c.job_id == job_id)).scalar() or 0)


def receipt_part(tx: Transaction, job_id: str, offset: int, size_bytes: int) -> bytes:
    """``size_bytes`` of a job's receipt from ``offset``, fewer at its end."""
    part = sa.func.substr(_job.c.receipt, offset + 1, size_bytes, type_=sa.LargeBinary)
    return bytes(tx.connection.execute(sa.select(part).where(_job.c.job_id == job_id)).scalar_one())


def update(tx: Transaction, job_id: str, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(_UPDATE, {"which": job_id, **values})
    tx.note(JobChanged(job_id))


def move(tx: Transaction, job: JobRow, target: JobState, **values: Any) -> None:
    """Change the state of a job as it was read; nothing to do when it is there already."""
    if job.state is target:
        return
    check_transition(
        JOB_TRANSITIONS,
        job.state,
        target,
        name=f"job {job.job_id}",
        story=last_lines(tx, job.job_id),
    )
    update(tx, job.job_id, state=target.value, **values)


def of_buyer(
    tx: Transaction,
    buyer: str,
    before_number: int,
    limit: int,
    states: Collection[JobState] = (),
) -> list[JobRow]:
    """Jobs of an account, newest first; in these states, or in any."""
    query = _JOBS.select.where(_job.c.buyer == buyer, _job.c.number < before_number)
    if states:
        query = query.where(_job.c.state.in_([state.value for state in states]))
    query = query.order_by(_job.c.number.desc()).limit(limit)
    return _JOBS.all(tx, query)


def unfinished(tx: Transaction) -> list[JobRow]:
    """Jobs that have not ended, oldest first."""
    query = _JOBS.select.where(_job.c.state.in_(_UNFINISHED)).order_by(_job.c.number)
    return _JOBS.all(tx, query)


def unfinished_ids(tx: Transaction) -> list[str]:
    """Names of jobs that have not ended, oldest first."""
    return list(tx.connection.execute(_UNFINISHED_IDS).scalars())


def overdue_ids(tx: Transaction) -> list[str]:
    """Names of jobs whose deadline is over and that are not ending yet, oldest first."""
    return list(tx.connection.execute(_OVERDUE_IDS, {"now_us": tx.now_us}).scalars())


def count_by_state(tx: Transaction) -> dict[str, int]:
    """How many jobs are in each state."""
    query = sa.select(_job.c.state, sa.func.count()).group_by(_job.c.state)
    return {state: int(count) for state, count in tx.connection.execute(query)}


def count_unfinished(tx: Transaction, buyer: str) -> int:
    """Jobs of an account that have not ended."""
    states = [state.value for state in FINAL_JOB_STATES]
    query = (
        sa.select(sa.func.count())
        .select_from(_job)
        .where(_job.c.buyer == buyer, _job.c.state.not_in(states))
    )
    return int(tx.connection.execute(query).scalar_one())


def add_to_sums(tx: Transaction, job_id: str, *, live_steps: int, unaudited: int) -> None:
    """Keep a job's sums in step with its segments."""
    if live_steps or unaudited:
        tx.connection.execute(
            _COUNT, {"which": job_id, "more_steps": live_steps, "more_segments": unaudited}
        )


def cut(tx: Transaction, job_id: str, first_step: int) -> None:
    """A segment that begins at this step counts no more: the job is verified and paid without a
    gap up to it at most."""
    for statement in _CUTS:
        tx.connection.execute(statement, {"which": job_id, "step": first_step})


def record(tx: Transaction, job_id: str, kind: EventKind, text: str, cause: str = "") -> None:
    """Add a line to the story of a job."""
    sequence = tx.connection.execute(_ONE_EVENT_MORE, {"which": job_id}).scalar_one()
    tx.connection.execute(
        _ADD_EVENT,
        {
            "job_id": job_id,
            "sequence": sequence,
            "time_us": tx.now_us,
            "kind": kind.value,
            "text": text,
            "cause": cause,
        },
    )
    webhooks.announce(tx, job_id, sequence, kind, text)


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


def last_lines(tx: Transaction, job_id: str) -> list[str]:
    """The last lines of a job's story, for an error that names a bug."""
    rows = tx.connection.execute(_LAST_EVENTS, {"which": job_id}).all()
    return [f"{row.sequence} {row.kind}: {row.text}" for row in reversed(rows)]
