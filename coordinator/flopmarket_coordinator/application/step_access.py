"""Who may read and write which bytes because of a step audit."""

from __future__ import annotations

from flopmarket.errors import LimitExceeded
from flopmarket.limits import MAX_BUNDLE_BYTES
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES
from flopmarket_coordinator.store import identity, jobs, segments, step_audits, work
from flopmarket_coordinator.store.engine import Transaction


def may_upload(tx: Transaction, session: Session, size_bytes: int, lease_id: str) -> bool:
    """Whether the worker of a lease, which may have ended, is asked about steps of it; then it
    uploads one file. :class:`LimitExceeded` for one that is too long."""
    if not _is_asked(tx, session, lease_id):
        return False
    if size_bytes > MAX_BUNDLE_BYTES:
        raise LimitExceeded(f"a file of {size_bytes} bytes, at most {MAX_BUNDLE_BYTES}")
    return True


def may_read(tx: Transaction, session: Session, digest: str, lease_id: str) -> bool:
    """It reads what its segment is run again from: the job's files and durable states."""
    lease = work.lease(tx, lease_id) if _is_asked(tx, session, lease_id) else None
    job = None if lease is None else jobs.get(tx, lease.job_id)
    if job is None:
        return False
    inputs = (job.program_artifact, job.frozen_artifact, job.data_artifact, job.state_artifact)
    if digest in inputs:
        return True
    live = segments.of_job(tx, job.job_id, LIVE_SEGMENT_STATES)
    return any(row.checkpoint_artifact == digest for row in live)


def _is_asked(tx: Transaction, session: Session, lease_id: str) -> bool:
    lease = work.lease(tx, lease_id) if lease_id else None
    if lease is None or lease.device_key_id not in identity.answers_for(tx, session.key_id):
        return False
    return bool(step_audits.of_lease(tx, lease_id))
