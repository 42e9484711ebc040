"""Which stored bytes nothing needs any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.lifecycle import LIVE_LEASE_STATES
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction

_artifact = schema.artifact
_grant = schema.artifact_grant
_job = schema.job
_segment = schema.segment
_lease = schema.lease
_dispute = schema.dispute
_dispute_event = schema.dispute_event
_step = schema.step_audit
CONVICTING = ("DIFFERS", "FAULT")
"""Outcomes of step audits whose files are kept as long as their job's."""

_INPUTS = (_job.c.program_artifact, _job.c.frozen_artifact, _job.c.state_artifact,
           _job.c.data_artifact)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Artifacts that nothing needed when it was made; ``last_job`` is the newest job it knew."""

    digests: tuple[str, ...]
    size_bytes: int
    last_job: int
    unused_before_us: int


def plan(tx: Transaction, *, unused_before_us: int, ended_before_us: int, most: int) -> Plan:
    """At most so many artifacts that were last uploaded before one instant, and that no unfinished
    job and no job that ended after the other instant has to do with."""
    last_job = tx.connection.execute(sa.select(sa.func.coalesce(sa.func.max(_job.c.number), 0)))
    kept = _needed(tx, ended_before_us)
    newest = sa.func.coalesce(sa.func.max(_grant.c.created_at_us), _artifact.c.created_at_us)
    query = (
        sa.select(_artifact.c.digest, _artifact.c.size_bytes)
        .outerjoin(_grant, _grant.c.digest == _artifact.c.digest)
        .group_by(_artifact.c.digest, _artifact.c.size_bytes, _artifact.c.created_at_us)
        .having(newest < unused_before_us)
        .order_by(_artifact.c.digest)
    )
    digests: list[str] = []
    size_bytes = 0
    for digest, size in tx.connection.execute(query):
        if digest in kept:
            continue
        digests.append(digest)
        size_bytes += size
        if len(digests) == most:
            break
    return Plan(tuple(digests), size_bytes, last_job.scalar_one(), unused_before_us)


def drop(tx: Transaction, made: Plan) -> list[str]:
    """Forget what a plan names, except what a job or an upload has needed since; their digests."""
    wanted = set(made.digests)
    newer = sa.select(*_INPUTS).where(_job.c.number > made.last_job)
    for row in tx.connection.execute(newer):
        wanted.difference_update(row)
    renewed = sa.select(_grant.c.digest).where(
        _grant.c.digest.in_(wanted), _grant.c.created_at_us >= made.unused_before_us
    )
    wanted.difference_update(tx.connection.execute(renewed).scalars())
    for table in (_grant, _artifact):
        tx.connection.execute(sa.delete(table).where(table.c.digest.in_(wanted)))
    return sorted(wanted)


def unknown(tx: Transaction, digests: Collection[str]) -> list[str]:
    """Those of the digests that have no row."""
    known = sa.select(_artifact.c.digest).where(_artifact.c.digest.in_(digests))
    return sorted(set(digests) - set(tx.connection.execute(known).scalars()))


def release(tx: Transaction, digests: Collection[str], account_id: str) -> None:
    """An account's uploads that served their purpose: the next collection drops them, unless
    somebody else has them or a job needs them."""
    tx.connection.execute(
        sa.delete(_grant).where(_grant.c.digest.in_(digests), _grant.c.account_id == account_id)
    )
    granted = sa.select(_grant.c.digest).where(_grant.c.digest.in_(digests))
    tx.connection.execute(
        sa.update(_artifact)
        .where(_artifact.c.digest.in_(digests), _artifact.c.digest.not_in(granted))
        .values(created_at_us=0)
    )


def _stepped(tx: Transaction, recent: sa.ColumnElement[bool]) -> set[str]:
    """Files of step audits that last, and of those that convicted somebody in such jobs."""
    query = (
        sa.select(_step.c.files)
        .join(_job, _job.c.job_id == _step.c.job_id)
        .where(
            sa.or_(
                sa.text(schema.OPEN_STEP_AUDIT),
                sa.and_(recent, _step.c.outcome.in_(CONVICTING)),
            )
        )
    )
    return {name for files in tx.connection.execute(query).scalars() for name in files.split()}


def _disputed(recent: sa.ColumnElement[bool]) -> tuple[sa.Select[Any], ...]:
    """Transcripts of such jobs; states and uploaded lists of disputes that last."""
    lasts = _dispute.c.ended_at_us == 0
    return (
        sa.select(_dispute.c.transcript_artifact)
        .join(_job, _job.c.job_id == _dispute.c.job_id)
        .where(recent),
        sa.select(_dispute.c.replay_artifact).where(lasts),
        sa.select(_dispute_event.c.payload_artifact)
        .join(_dispute, _dispute.c.dispute_id == _dispute_event.c.dispute_id)
        .where(lasts),
    )


def _needed(tx: Transaction, ended_before_us: int) -> set[str]:
    """Artifacts of jobs that run, or ended a short time ago."""
    recent = sa.or_(_job.c.ended_at_us == 0, _job.c.ended_at_us >= ended_before_us)
    needed: set[str] = set()
    for inputs in tx.connection.execute(sa.select(*_INPUTS).where(recent)):
        needed.update(inputs)
    segments = (
        sa.select(_segment.c.outputs_artifact, _segment.c.checkpoint_artifact)
        .join(_job, _job.c.job_id == _segment.c.job_id)
        .where(recent)
    )
    for row in tx.connection.execute(segments):
        needed.update(row)
    for query in _disputed(recent):
        needed.update(tx.connection.execute(query).scalars())
    needed |= _stepped(tx, recent)
    live = [state.value for state in LIVE_LEASE_STATES]
    leases = sa.select(_lease.c.state_artifact).where(_lease.c.state.in_(live))
    needed.update(tx.connection.execute(leases).scalars())
    return needed
