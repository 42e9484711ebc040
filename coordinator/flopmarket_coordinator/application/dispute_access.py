"""Who may read and write which bytes because of a dispute."""

from __future__ import annotations

from flopmarket.errors import Forbidden, LimitExceeded
from flopmarket.limits import MAX_DISPUTE_MOVE_BYTES
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.store import disputes, identity, jobs
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction


def check_may_upload(tx: Transaction, session: Session, size_bytes: int, dispute_id: str) -> None:
    """A party of a dispute that lasts uploads one list; Forbidden (NO_DISPUTE) or LimitExceeded."""
    row = disputes.get(tx, dispute_id)
    if row is None or row.ended_at_us or not _is_party(tx, row, session):
        raise Forbidden("a list is uploaded by a party of an open dispute", code="NO_DISPUTE")
    if size_bytes > MAX_DISPUTE_MOVE_BYTES:
        raise LimitExceeded(f"a list of {size_bytes} bytes, at most {MAX_DISPUTE_MOVE_BYTES}")


def may_read(tx: Transaction, session: Session, digest: str, dispute_id: str) -> bool:
    """Parties read what the segment is run again from, while the dispute lasts; they, their
    accounts and the buyer read its transcript."""
    row = disputes.get(tx, dispute_id)
    job = None if row is None else jobs.get(tx, row.job_id)
    if row is None or job is None:
        return False
    if digest == row.transcript_artifact:
        return bool(roles_of(row, job.buyer, session.account_id))
    if row.ended_at_us or not _is_party(tx, row, session):
        return False
    inputs = (job.program_artifact, job.frozen_artifact, job.data_artifact, row.replay_artifact)
    return digest in inputs


def roles_of(row: DisputeRow, buyer: str, account_id: str) -> tuple[str, ...]:
    """What an account is in a dispute."""
    found = (
        ("producer", row.producer_account),
        ("auditor", row.auditor_account),
        ("buyer", buyer),
    )
    return tuple(name for name, account in found if account and account == account_id)


def _is_party(tx: Transaction, row: DisputeRow, session: Session) -> bool:
    parties = {row.producer_key_id, row.auditor_key_id}
    return not parties.isdisjoint(identity.answers_for(tx, session.key_id))
