"""Use cases of the house's own auditor: what to recompute next, and what came out."""

from __future__ import annotations

from collections.abc import Collection

from flopmarket.errors import InvalidInput
from flopmarket.jobs.spec import JobSpec
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.application.judging import JudgingUseCases
from flopmarket_coordinator.application.types import (
    AuditOutcome,
    AuditResult,
    AuditTask,
    JobRefusedByAuditor,
)
from flopmarket_coordinator.core.leasing import restart_point
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JobState,
    SegmentState,
)
from flopmarket_coordinator.core.verification import (
    Claimed,
    Recomputed,
    VerdictCode,
    VoidReason,
    judge,
)
from flopmarket_coordinator.store import jobs
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow


class AuditingUseCases(JudgingUseCases):
    """Audits by the coordinator itself."""

    def next_audit(self, tx: Transaction, exclude_jobs: Collection[str] = ()) -> AuditTask | None:
        """The segment that waits longest, the first unaudited one of its job; None if none waits.

        Reads only: an auditor that dies is asked for the same again. ``exclude_jobs`` are in hand.
        """
        row = jobs.waiting_for_audit(tx, exclude_jobs)
        if row is None:
            return None
        job = self._job(tx, row.job_id)
        spec = decode(JobSpec, job.spec)
        artifact, root, step = job.state_artifact, spec.state_root, 0
        if job.stateless:
            step = row.first_step
        else:
            newest = jobs.newest_checkpoint(tx, row.job_id, row.first_step, audited=True)
            before = [] if newest is None else [newest.part()]
            start, _ = restart_point(spec, job.state_artifact, before)
            artifact, root, step = start.state_artifact, start.state_root, start.step
        return AuditTask(
            job_id=job.job_id,
            segment_id=row.segment_id,
            segment_index=row.segment_index,
            first_step=row.first_step,
            steps=row.steps,
            commitment_digest=row.commitment_digest,
            spec=job.spec,
            program_artifact=job.program_artifact,
            frozen_artifact=job.frozen_artifact,
            data_artifact=job.data_artifact,
            replay_artifact=artifact,
            replay_root=root,
            replay_step=step,
            state_root_before=row.root_before,
            state_root_after=row.root_after,
            outputs_root=row.outputs_root,
            outputs_artifact=row.outputs_artifact,
            checkpoint_artifact=row.checkpoint_artifact,
        )

    def audit_finished(
        self, tx: Transaction, task: AuditTask, result: AuditResult | JobRefusedByAuditor
    ) -> AuditOutcome:
        """Apply an audit. One that comes too late (rolled back, audited before) changes nothing."""
        row = jobs.segment(tx, task.segment_id)
        if row is None or row.state is not SegmentState.COMMITTED:
            return AuditOutcome(False, False, "NOT_WAITING")
        if isinstance(result, JobRefusedByAuditor):
            return self._refuse_job(tx, row, result)
        for file, root in (
            (row.outputs_artifact, result.outputs_artifact_root),
            (row.checkpoint_artifact, result.checkpoint_artifact_root),
        ):
            if file and root is None:
                raise InvalidInput(
                    f"the auditor did not look at file {file}", code="AUDIT_INCOMPLETE"
                )
        claimed = Claimed(
            row.root_after, row.outputs_root, row.outputs_artifact, row.checkpoint_artifact
        )
        found = Recomputed(
            result.state_root,
            result.outputs_root,
            result.outputs_artifact_root,
            result.checkpoint_artifact_root,
        )
        code = judge(claimed, found)
        verdict = self._verdict(tx, row, code, result).to_bytes()
        if code is VerdictCode.EQUAL:
            self._accept(tx, row, verdict)
        else:
            self._reject(tx, row, code, verdict)
        return AuditOutcome(True, code is VerdictCode.EQUAL, code)

    def _refuse_job(
        self, tx: Transaction, row: SegmentRow, refusal: JobRefusedByAuditor
    ) -> AuditOutcome:
        """Nobody can verify this job: it ends, and what is unverified counts for nothing."""
        job = self._job(tx, row.job_id)
        if job.state not in FINAL_JOB_STATES:
            waiting = jobs.segments(tx, row.job_id, {SegmentState.COMMITTED})
            self._void(tx, waiting, VoidReason.JOB_ENDED)
            reason = f"{refusal.code}: {refusal.detail}"[:500]
            if job.ending:
                self._refresh(tx, row.job_id)
            else:
                self._begin_end(tx, row.job_id, JobState.FAILED, reason)
        return AuditOutcome(True, False, refusal.code)
