"""Jobs, their segments and their stories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.changes import JobChanged, SegmentChanged, SegmentSettled
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
from flopmarket_coordinator.store import schema, webhooks
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, JobSums, SegmentRow, to_record
from flopmarket_coordinator.store.schema.base import HOUSE_TASK, LIVE_SEGMENT

_job = schema.job
_segment = schema.segment
_event = schema.event
_dispute = schema.dispute
# As the partial index over live segments spells it, so that the index serves these queries.
_IS_LIVE = sa.text(f"segment.{LIVE_SEGMENT}")
_UNFINISHED = [state.value for state in JobState if state not in FINAL_JOB_STATES]
_COLUMNS = [column for column in _job.c if column is not _job.c.receipt]
"""A receipt may have 64 MiB; only who asks for it reads it."""
# Asked for by nearly every command: building a statement costs more than running it.
_BY_ID = sa.select(*_COLUMNS).where(_job.c.job_id == sa.bindparam("name"))
_ONE_EVENT_MORE = (
    sa.update(_job)
    .where(_job.c.job_id == sa.bindparam("name"))
    .values(event_count=_job.c.event_count + 1)
    .returning(_job.c.event_count)
)
_SEGMENT_BY_ID = sa.select(_segment).where(_segment.c.segment_id == sa.bindparam("number"))


def add(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new job."""
    tx.connection.execute(sa.insert(_job).values(**values))
    tx.note(JobChanged(values["job_id"]))


def get(tx: Transaction, job_id: str) -> JobRow | None:
    """The job with this id."""
    row = tx.connection.execute(_BY_ID, {"name": job_id}).mappings().first()
    return None if row is None else to_record(JobRow, row)


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
    tx.connection.execute(sa.update(_job).where(_job.c.job_id == job_id).values(**values))
    tx.note(JobChanged(job_id))


def move(tx: Transaction, job: JobRow, target: JobState, **values: Any) -> None:
    """Change the state of a job as it was read; nothing to do when it is there already."""
    if job.state is target:
        return
    check_transition(
        JOB_TRANSITIONS, job.state, target, name=f"job {job.job_id}", story=_story(tx, job.job_id)
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
    query = sa.select(*_COLUMNS).where(_job.c.buyer == buyer, _job.c.number < before_number)
    if states:
        query = query.where(_job.c.state.in_([state.value for state in states]))
    query = query.order_by(_job.c.number.desc()).limit(limit)
    return [to_record(JobRow, row) for row in tx.connection.execute(query).mappings()]


def unfinished(tx: Transaction) -> list[JobRow]:
    """Jobs that have not ended, oldest first."""
    query = sa.select(*_COLUMNS).where(_job.c.state.in_(_UNFINISHED)).order_by(_job.c.number)
    return [to_record(JobRow, row) for row in tx.connection.execute(query).mappings()]


def unfinished_ids(tx: Transaction) -> list[str]:
    """Names of jobs that have not ended, oldest first."""
    query = sa.select(_job.c.job_id).where(_job.c.state.in_(_UNFINISHED)).order_by(_job.c.number)
    return list(tx.connection.execute(query).scalars())


def overdue_ids(tx: Transaction) -> list[str]:
    """Names of jobs whose deadline is over and that are not ending yet, oldest first."""
    query = (
        sa.select(_job.c.job_id)
        .where(sa.text(schema.UNFINISHED_JOB), _job.c.deadline_us <= tx.now_us, _job.c.ending == "")
        .order_by(_job.c.number)
    )
    return list(tx.connection.execute(query).scalars())


def taken(tx: Transaction, job_id: str, from_step: int = 0) -> list[tuple[int, int, int]]:
    """First step, steps, and what is still owed of every live segment from a step on."""
    settled = _segment.c.state == SegmentState.SETTLED.value
    query = sa.select(
        _segment.c.first_step,
        _segment.c.steps,
        sa.case((settled, 0), else_=_segment.c.price_nano + _segment.c.surcharge_nano),
    ).where(_segment.c.job_id == job_id, _segment.c.first_step >= from_step, _IS_LIVE)
    return [(first, steps, owed) for first, steps, owed in tx.connection.execute(query)]


def count_reasons(tx: Transaction, job_id: str) -> dict[str, int]:
    """How many segments of a job were rejected, void or left unpaid for each reason."""
    query = (
        sa.select(_segment.c.reason, sa.func.count())
        .where(_segment.c.job_id == job_id, _segment.c.reason != "")
        .group_by(_segment.c.reason)
    )
    return {reason: int(count) for reason, count in tx.connection.execute(query)}


def count_by_state(tx: Transaction) -> dict[str, int]:
    """How many jobs are in each state."""
    query = sa.select(_job.c.state, sa.func.count()).group_by(_job.c.state)
    return {state: int(count) for state, count in tx.connection.execute(query)}


def count_unaudited(tx: Transaction) -> int:
    """How many segments wait to be recomputed."""
    query = (
        sa.select(sa.func.count())
        .select_from(_segment)
        .where(_segment.c.state == SegmentState.COMMITTED.value)
    )
    return int(tx.connection.execute(query).scalar_one())


def count_unfinished(tx: Transaction, buyer: str) -> int:
    """Jobs of an account that have not ended."""
    states = [state.value for state in FINAL_JOB_STATES]
    query = (
        sa.select(sa.func.count())
        .select_from(_job)
        .where(_job.c.buyer == buyer, _job.c.state.not_in(states))
    )
    return int(tx.connection.execute(query).scalar_one())


def add_segment(tx: Transaction, values: Mapping[str, Any]) -> int:
    """A committed segment; its id."""
    query = sa.insert(_segment).values(**values).returning(_segment.c.segment_id)
    segment_id: int = tx.connection.execute(query).scalar_one()
    _count(tx, values["job_id"], live_steps=values["steps"], unaudited=1)
    tx.note(SegmentChanged(segment_id, values["job_id"]))
    return segment_id


def _count(tx: Transaction, job_id: str, *, live_steps: int, unaudited: int) -> None:
    """Keep a job's sums in step with its segments."""
    if live_steps or unaudited:
        tx.connection.execute(
            sa.update(_job)
            .where(_job.c.job_id == job_id)
            .values(
                live_steps=_job.c.live_steps + live_steps,
                unaudited_segments=_job.c.unaudited_segments + unaudited,
            )
        )


def cut(tx: Transaction, job_id: str, first_step: int) -> None:
    """A segment that begins at this step counts no more: the job is verified and paid without a
    gap up to it at most."""
    for column in (_job.c.checked_steps, _job.c.settled_steps):
        tx.connection.execute(
            sa.update(_job)
            .where(_job.c.job_id == job_id, column > first_step)
            .values({column.name: first_step})
        )


def segments(
    tx: Transaction, job_id: str, states: Collection[SegmentState] | None = None
) -> list[SegmentRow]:
    """Segments of a job in order of steps, then of commitment; of all states by default."""
    query = sa.select(_segment).where(_segment.c.job_id == job_id)
    if states is not None:
        query = query.where(_segment.c.state.in_([state.value for state in states]))
    query = query.order_by(_segment.c.first_step, _segment.c.segment_id)
    return [to_record(SegmentRow, row) for row in tx.connection.execute(query).mappings()]


def segment_page(
    tx: Transaction, job_id: str, after: tuple[int, int], limit: int
) -> list[SegmentRow]:
    """Segments of all states in order of steps, from after ``(first step, segment id)``."""
    position = sa.tuple_(_segment.c.first_step, _segment.c.segment_id)
    query = (
        sa.select(_segment)
        .where(_segment.c.job_id == job_id, position > sa.tuple_(*after))
        .order_by(_segment.c.first_step, _segment.c.segment_id)
        .limit(limit)
    )
    return [to_record(SegmentRow, row) for row in tx.connection.execute(query).mappings()]


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


def live_segments(tx: Transaction, job_id: str) -> list[SegmentRow]:
    """Committed, verified and settled segments in order of steps."""
    return segments(tx, job_id, LIVE_SEGMENT_STATES)


def live_from(
    tx: Transaction, job_id: str, first_step: int, limit: int | None = None
) -> list[SegmentRow]:
    """Live segments from a step on, in order of steps; at most ``limit``. By an index alone."""
    query = (
        sa.select(_segment)
        .where(_segment.c.job_id == job_id, _segment.c.first_step >= first_step, _IS_LIVE)
        .order_by(_segment.c.first_step)
        .limit(limit)
    )
    return [to_record(SegmentRow, row) for row in tx.connection.execute(query).mappings()]


def newest_checkpoint(
    tx: Transaction, job_id: str, before_step: int, *, checked: bool
) -> SegmentRow | None:
    """The last live segment, begun before a step, whose end state is durable; ``checked``: and
    whose file was read and holds what was committed."""
    query = sa.select(_segment).where(
        _segment.c.job_id == job_id,
        _segment.c.first_step < before_step,
        _segment.c.checkpoint_artifact != "",
        _IS_LIVE,
    )
    if checked:
        query = query.where(_segment.c.files_checked)
    query = query.order_by(_segment.c.first_step.desc()).limit(1)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def segment(tx: Transaction, segment_id: int) -> SegmentRow | None:
    """The segment with this id."""
    row = tx.connection.execute(_SEGMENT_BY_ID, {"number": segment_id}).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def segment_of_commitment(tx: Transaction, digest: bytes) -> SegmentRow | None:
    """The segment that a commitment made."""
    query = sa.select(_segment).where(_segment.c.commitment_digest == digest)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def waiting_for_files(tx: Transaction, exclude: Collection[str]) -> SegmentRow | None:
    """The committed segment that was waiting longest for somebody to read its files."""
    query = (
        sa.select(_segment)
        .where(
            sa.text(f"segment.{HOUSE_TASK}"),
            _segment.c.state == SegmentState.COMMITTED.value,
            sa.not_(_segment.c.files_checked),
            _segment.c.job_id.not_in(list(exclude)),
        )
        .order_by(_segment.c.segment_id)
        .limit(1)
    )
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(SegmentRow, row)


def unread_before(tx: Transaction, job_id: str, step: int) -> bool:
    """Whether nobody has read the files of the live segment that ends at a step."""
    query = sa.select(_segment.c.segment_id).where(
        _segment.c.job_id == job_id,
        _segment.c.first_step < step,
        _segment.c.first_step + _segment.c.steps == step,
        sa.not_(_segment.c.files_checked),
        _IS_LIVE,
    )
    return tx.connection.execute(query).first() is not None


def update_segment(tx: Transaction, row: SegmentRow, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(
        sa.update(_segment).where(_segment.c.segment_id == row.segment_id).values(**values)
    )
    tx.note(SegmentChanged(row.segment_id, row.job_id))


def path_between(
    tx: Transaction, job_id: str, first_step: int, end_step: int, limit: int
) -> list[tuple[int, int, int, bytes, bytes, str]]:
    """Live segments that begin between two steps, in order, without their documents: id, first
    step, steps, root after, root of the outputs, who recomputed it."""
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
            _IS_LIVE,
        )
        .order_by(_segment.c.first_step)
        .limit(limit)
    )
    return [(*row,) for row in tx.connection.execute(query)]


def waiting_for_audit(
    tx: Transaction, exclude: Collection[str], house_key_id: str
) -> SegmentRow | None:
    """The segment that was waiting longest for the house to recompute it, the first of its job.

    One that the house disputes waits for the outcome, and so do later segments of its chain.
    """
    disputed = _segment.alias()
    in_dispute = (
        sa.select(_dispute.c.number)
        .join(disputed, disputed.c.segment_id == _dispute.c.segment_id)
        .join(_job, _job.c.job_id == _dispute.c.job_id)
        .where(
            _dispute.c.ended_at_us == 0,
            _dispute.c.auditor_key_id == house_key_id,
            _dispute.c.job_id == _segment.c.job_id,
            sa.or_(
                disputed.c.segment_id == _segment.c.segment_id,
                sa.and_(sa.not_(_job.c.stateless), disputed.c.first_step < _segment.c.first_step),
            ),
        )
        .correlate(_segment)
        .exists()
    )
    mine = sa.and_(
        _segment.c.house_task == "recompute",
        sa.text(f"segment.{HOUSE_TASK}"),
        _IS_LIVE,
        sa.not_(in_dispute),
    )
    # Of a job, only the first unaudited step counts: later ones are relative to it.
    first = (
        sa.select(_segment.c.job_id, sa.func.min(_segment.c.first_step).label("first_step"))
        .where(mine)
        .group_by(_segment.c.job_id)
        .subquery()
    )
    query = (
        sa.select(_segment)
        .join(
            first,
            (first.c.job_id == _segment.c.job_id) & (first.c.first_step == _segment.c.first_step),
        )
        .where(mine, _segment.c.job_id.not_in(list(exclude)))
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
    waits_on = target in LIVE_SEGMENT_STATES and row.state is not SegmentState.COMMITTED
    dropped = {} if waits_on else {"house_task": ""}
    tx.connection.execute(
        sa.update(_segment)
        .where(_segment.c.segment_id == row.segment_id)
        .values(**{**dropped, **values, "state": target.value})
    )
    _count(
        tx,
        row.job_id,
        live_steps=0 if target in LIVE_SEGMENT_STATES else -row.steps,
        unaudited=-1 if row.state is SegmentState.COMMITTED else 0,
    )
    tx.note(SegmentChanged(row.segment_id, row.job_id))
    if target is SegmentState.SETTLED:
        tx.note(SegmentSettled(row.segment_id))


def record(tx: Transaction, job_id: str, kind: EventKind, text: str, cause: str = "") -> None:
    """Add a line to the story of a job."""
    sequence = tx.connection.execute(_ONE_EVENT_MORE, {"name": job_id}).scalar_one()
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
