"""Use cases of looking at jobs: how they stand, their segments, their story, their receipt.

Everything is read in pieces, so that a job of 50,000 segments is looked at like one of five.
"""

from __future__ import annotations

from collections.abc import Collection

from flopmarket.errors import Conflict, LimitExceeded, NotFound
from flopmarket.limits import ARTIFACT_CHUNK_BYTES, MAX_INLINE_RECEIPT_BYTES
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import JobEvent, JobPage, JobView, SegmentPage
from flopmarket_coordinator.application.views import FIRST_SEGMENT, job_view, segment_view
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.store import jobs, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow


class LookingUseCases(UseCases):
    """Jobs of the caller, as they are now. Changes nothing."""

    def get_job(self, tx: Transaction, session: Session, job_id: str) -> JobView:
        """A job of the caller, with its first segments."""
        return job_view(tx, self._own_job(tx, session, job_id), with_segments=True)

    def list_jobs(
        self,
        tx: Transaction,
        session: Session,
        asked_size: int,
        page_token: str,
        states: Collection[JobState] = (),
    ) -> JobPage:
        """Jobs of the caller in these states (none: all), newest first, without segments."""
        query = f"jobs/{session.account_id}/{','.join(sorted(states))}"
        size = page_size(asked_size)
        before = self._page_position(query, page_token) or 2**62
        rows = jobs.of_buyer(tx, session.account_id, before, size + 1, states)
        views = tuple(job_view(tx, row, with_segments=False) for row in rows[:size])
        more = len(rows) > size
        return JobPage(views, self._page_token(query, rows[size - 1].number) if more else "")

    def list_segments(
        self, tx: Transaction, session: Session, job_id: str, asked_size: int, page_token: str
    ) -> SegmentPage:
        """All segments of a job, in order of steps."""
        self._own_job(tx, session, job_id)
        query = f"segments/{job_id}"
        size = page_size(asked_size)
        first_step, segment_id = self._page_position(query, page_token) or FIRST_SEGMENT
        rows = segments.page(tx, job_id, (first_step, segment_id), size + 1)
        more = len(rows) > size
        last = rows[size - 1] if more else None
        return SegmentPage(
            tuple(segment_view(row) for row in rows[:size]),
            self._page_token(query, [last.first_step, last.segment_id]) if last else "",
        )

    def job_events(
        self, tx: Transaction, session: Session, job_id: str, after_sequence: int, limit: int
    ) -> tuple[JobEvent, ...]:
        """Lines of a job's story after a sequence number."""
        self._own_job(tx, session, job_id)
        return tuple(
            JobEvent(event.sequence, event.time_us, event.kind, event.text, event.cause)
            for event in jobs.events(tx, job_id, after_sequence, page_size(limit))
        )

    def get_receipt(self, tx: Transaction, session: Session, job_id: str) -> bytes:
        """The signed receipt file of a job that has ended, if it fits one message."""
        size_bytes = self.receipt_bytes(tx, session, job_id)
        if size_bytes > MAX_INLINE_RECEIPT_BYTES:
            raise LimitExceeded(
                f"the receipt has {size_bytes} bytes, {MAX_INLINE_RECEIPT_BYTES} fit one message",
                code="RECEIPT_TOO_LARGE",
                hint="download it in chunks",
                details={"size_bytes": str(size_bytes)},
            )
        return jobs.receipt_part(tx, job_id, 0, size_bytes)

    def receipt_bytes(self, tx: Transaction, session: Session, job_id: str) -> int:
        """Length of the receipt; Conflict ``JOB_NOT_ENDED`` while there is none."""
        job = self._own_job(tx, session, job_id)
        size_bytes = jobs.receipt_bytes(tx, job_id)
        if not size_bytes:
            raise Conflict(
                f"job {job_id} is {job.state}; its receipt comes when it ends",
                code="JOB_NOT_ENDED",
                retryable=True,
            )
        return size_bytes

    def receipt_chunk(self, tx: Transaction, session: Session, job_id: str, offset: int) -> bytes:
        """The next piece of the receipt from ``offset``; empty at its end."""
        self._own_job(tx, session, job_id)
        return jobs.receipt_part(tx, job_id, offset, ARTIFACT_CHUNK_BYTES)

    def _own_job(self, tx: Transaction, session: Session, job_id: str) -> JobRow:
        job = jobs.get(tx, job_id)
        if job is None or job.buyer != session.account_id:
            raise NotFound(f"there is no job {job_id[:80]}", code="JOB_UNKNOWN")
        return job
