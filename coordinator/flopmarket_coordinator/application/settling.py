"""What follows from a change of a job's segments or leases: pay, roll back, end.

The other rooms change one thing and then call :meth:`SettlingUseCases._refresh`, which pays what
has become payable and moves the job to the state its leases and segments imply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import SEGMENTS_READ_AT_ONCE
from flopmarket.market.money import Nano
from flopmarket.market.price import PriceTerms, price_bound
from flopmarket.trust.encoding import decode
from flopmarket.trust.receipt import Outcome
from flopmarket_coordinator.application.paying import PayingUseCases
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import (
    Checked,
    RevokeReason,
    StartPoint,
    checked_run,
    restart_point,
)
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JobState,
    LeaseState,
    SegmentState,
)
from flopmarket_coordinator.core.verification import VoidReason
from flopmarket_coordinator.store import jobs, ledger, prediction, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow

ENDINGS = {
    JobState.SUCCEEDED: (Outcome.COMPLETED, EventKind.SUCCEEDED),
    JobState.CANCELLED: (Outcome.CANCELLED, EventKind.CANCELLED),
    JobState.FAILED: (Outcome.FAILED, EventKind.FAILED),
}


class SettlingUseCases(PayingUseCases):
    """Consequences. Nothing here is called from outside the application."""

    def _refresh(self, tx: Transaction, job_id: str) -> None:
        """Pay what is payable, and move the job to the state that leases and segments imply."""
        job = self._job(tx, job_id)
        if job.state in FINAL_JOB_STATES:
            return
        self._pay_ready(tx, job)
        job = self._job(tx, job_id)
        if job.ending:
            if job.unaudited_segments:
                jobs.move(tx, job, JobState.VERIFYING)
            else:
                self._end(tx, job, JobState(job.ending), job.reason)
        elif job.settled_steps == job.steps:
            self._end(tx, job, JobState.SUCCEEDED, "")
        elif job.live_steps == job.steps:  # live segments do not overlap: they are all there
            jobs.move(tx, job, JobState.VERIFYING)
        elif work.live_leases_of_job(tx, job_id):
            jobs.move(tx, job, JobState.RUNNING)
        else:
            jobs.move(tx, job, JobState.QUEUED)

    def _pay_ready(self, tx: Transaction, job: JobRow) -> None:
        """Pay what became payable. A segment is looked at once when it is verified and once when
        it is paid, however many the job has."""
        before = Checked(job.checked_steps, job.settled_steps)
        every = job.ending == JobState.CANCELLED
        following = (row.part() for row in _live_from(tx, job.job_id, job.checked_steps))
        now = checked_run(following, before, stateless=job.stateless, every=every)
        if now.checked_steps != job.checked_steps:
            jobs.update(tx, job.job_id, checked_steps=now.checked_steps)
        if now.payable_steps > job.settled_steps:
            for row in _live_from(tx, job.job_id, job.settled_steps):
                if row.first_step >= now.payable_steps:
                    break
                if row.state is SegmentState.SETTLED:  # behind a gap that is filled now
                    jobs.update(tx, job.job_id, settled_steps=row.first_step + row.steps)
                else:
                    self._pay(tx, job.job_id, row)

    def _begin_end(self, tx: Transaction, job_id: str, target: JobState, reason: str) -> None:
        """Stop a job: no more work, outstanding audits finish, then it ends as ``target``."""
        job = self._job(tx, job_id)
        if job.ending or job.state in FINAL_JOB_STATES:
            return
        jobs.update(tx, job_id, ending=target.value, reason=reason)
        cancelled = target is JobState.CANCELLED
        why = RevokeReason.JOB_CANCELLED if cancelled else RevokeReason.JOB_FAILED
        for lease in work.live_leases_of_job(tx, job_id):
            self._end_lease(tx, lease, LeaseState.REVOKED, why, reason)
        self._refresh(tx, job_id)

    def _end_lease(
        self, tx: Transaction, lease: LeaseRow, target: LeaseState, reason: str, detail: str
    ) -> None:
        """End a lease. The worker is told of what it did not decide itself."""
        told = target in (LeaseState.FINISHED, LeaseState.RELEASED)
        work.move_lease(
            tx, lease, target, reason=reason, detail=detail[:500], told=told, ended_at_us=tx.now_us
        )
        kind = {
            LeaseState.REVOKED: EventKind.REVOKED,
            LeaseState.EXPIRED: EventKind.EXPIRED,
        }.get(target, EventKind.RELEASED)
        name = who(lease.device_name, lease.device_key_id)
        text = f"{name} at step {lease.next_step}: {reason} {detail[:200]}".rstrip()
        jobs.record(tx, lease.job_id, kind, text, lease.lease_id)

    def _restart(self, tx: Transaction, job: JobRow) -> StartPoint:
        """Where a chain without a live lease starts; segments after that point become void."""
        newest = segments.newest_checkpoint(tx, job.job_id, job.steps, checked=False)
        live = segments.live_from(tx, job.job_id, 0 if newest is None else newest.first_step)
        spec = decode(JobSpec, job.spec)
        start, lost = restart_point(spec, job.state_artifact, [row.part() for row in live])
        dropped = {part.segment_id for part in lost}
        self._void(tx, (row for row in live if row.segment_id in dropped), VoidReason.NOT_DURABLE)
        if lost:
            text = f"back to step {start.step}, the newest durable state"
            jobs.record(tx, job.job_id, EventKind.ROLLED_BACK, text)
        return start

    def _void(self, tx: Transaction, rows: Iterable[SegmentRow], reason: VoidReason) -> None:
        for row in rows:
            segments.move(tx, row, SegmentState.VOID, reason=reason.value)
            jobs.cut(tx, row.job_id, row.first_step)

    def _money_left(self, job: JobRow, owed: Nano, leases: Iterable[LeaseRow]) -> Nano:
        """What a job may still promise: its ceiling less all that is billed, owed or leased out.

        ``owed`` is what live segments that are not settled will be billed. Surcharges are included.
        """
        leased = sum(
            price_bound(
                PriceTerms(lease.ask_nano_per_hour, lease.step_picoseconds),
                lease.end_step - lease.next_step,
                job.surcharge_ppm,
            )
            for lease in leases
        )
        return job.ceiling_nano - job.billed_nano - job.unreturned_nano - owed - leased

    def _end(self, tx: Transaction, job: JobRow, target: JobState, reason: str) -> None:
        """The last step: void what is left, give back the hold, release pay, sign the receipt."""
        rest = [row for row in segments.live(tx, job.job_id)
                if row.state is SegmentState.VERIFIED]  # fmt: skip
        why = VoidReason.OUT_OF_ORDER if job.stateless else VoidReason.NOT_DURABLE
        self._void(tx, rest, why)
        if rest and job.stateless:
            self._pay_behind_gap(tx, job, rest)
            job = self._job(tx, job.job_id)
        if job.hold is not None:
            ledger.execute(tx, escrow.close_hold(job.job_id, job.buyer, job.hold))
        self._end_pay(tx, job.job_id)
        prediction.end_promises(tx, job.job_id)
        outcome, kind = ENDINGS[target]
        jobs.move(
            tx,
            job,
            target,
            reason=reason,
            hold_id="",
            hold_nano=0,
            ended_at_us=tx.now_us,
            receipt=self._receipt(tx, job, outcome),
        )
        jobs.record(tx, job.job_id, kind, reason or f"billed {self._money(job.billed_nano)}")


def _live_from(tx: Transaction, job_id: str, first_step: int) -> Iterator[SegmentRow]:
    """Live segments from a step on, in order of steps, read a few at a time."""
    while rows := segments.live_from(tx, job_id, first_step, SEGMENTS_READ_AT_ONCE):
        yield from rows
        first_step = rows[-1].first_step + 1
