"""Use cases of the house's own auditor: what to look at next, and what came out.

Of every committed segment the house reads the files; those that were drawn for it, or that nobody
else could audit, it computes again.
"""

from __future__ import annotations

from collections.abc import Collection

from flopmarket.errors import InvalidInput
from flopmarket.jobs.spec import JobSpec
from flopmarket.market.price import surcharge
from flopmarket.trust.audit_policy import steps_detection_ppm
from flopmarket.trust.encoding import DIGEST_BYTES, decode
from flopmarket.trust.step_audit import StepCode
from flopmarket_coordinator.application.exchanging import ExchangingUseCases
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditOutcome,
    AuditResult,
    AuditTask,
    FilesResult,
    JobRefusedByAuditor,
    PathDiffers,
    PathSegment,
)
from flopmarket_coordinator.application.types_steps import StepsFound
from flopmarket_coordinator.core.auditing import AuditPhase, StepPhase
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    LIVE_SEGMENT_STATES,
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
from flopmarket_coordinator.store import audits, challenges, disputes, segments, step_audits
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_UNKNOWN_ROOT = bytes(DIGEST_BYTES)
_VERDICTS = {
    StepCode.EQUAL: VerdictCode.STEPS_EQUAL,
    StepCode.DIFFERS: VerdictCode.STEP_DIFFERS,
    StepCode.FAULT: VerdictCode.TOLERANCE_FAULT,
}
"""In place of an end that nobody computed: a look at single steps does not come there."""

HouseResult = AuditResult | FilesResult | StepsFound | PathDiffers | JobRefusedByAuditor


class AuditingUseCases(ExchangingUseCases):
    """Audits by the coordinator itself."""

    def next_audit(
        self,
        tx: Transaction,
        exclude_jobs: Collection[str] = (),
        kind: AuditKind | None = None,
    ) -> AuditTask | None:
        """What the house looks at next, of this kind or of any; None if nothing waits.

        To be recomputed is the segment that waits longest, the first of its job. Reads only: an
        auditor that dies is asked for the same again. ``exclude_jobs`` are in hand.
        """
        if kind in (None, AuditKind.STEPS):
            row = step_audits.waiting_for_house(tx, list(exclude_jobs))
            if row is not None:
                return self._task(tx, row, AuditKind.STEPS)
        if kind in (None, AuditKind.RECOMPUTE):
            row = segments.waiting_for_audit(tx, exclude_jobs, self._key.key_id)
            if row is not None:
                return self._task(tx, row, AuditKind.RECOMPUTE)
        if kind in (None, AuditKind.FILES):
            row = segments.waiting_for_files(tx, exclude_jobs)
            if row is not None:
                return self._task(tx, row, AuditKind.FILES)
        return None

    def _task(self, tx: Transaction, row: SegmentRow, kind: AuditKind) -> AuditTask:
        job = self._job(tx, row.job_id)
        spec = decode(JobSpec, job.spec)
        artifact, root, step = job.state_artifact, spec.state_root, 0
        path: tuple[PathSegment, ...] = ()
        if job.stateless:
            step = row.first_step
        elif kind is AuditKind.RECOMPUTE:
            start = self._replay_start(tx, row)
            artifact, root, step = start.state_artifact, start.state_root, start.step
            path = self._replay_path(tx, row, step)
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
            outputs_artifact="" if row.files_checked else row.outputs_artifact,
            checkpoint_artifact="" if row.files_checked else row.checkpoint_artifact,
            kind=kind,
            path=path,
            step_task=self._step_task(tx, row) if kind is AuditKind.STEPS else None,
        )

    def audit_finished(self, tx: Transaction, task: AuditTask, result: HouseResult) -> AuditOutcome:
        """Apply what was found. What comes too late (rolled back, audited before) changes nothing.

        A replay that came to other roots before it reached the segment is about the first segment
        in which it did.
        """
        row = segments.get(tx, task.segment_id)
        if row is None or not _waits(row):
            return AuditOutcome(False, False, "NOT_WAITING")
        if self._in_house_dispute(tx, row) and not isinstance(result, FilesResult):
            return AuditOutcome(False, False, "NOT_WAITING")
        match result:
            case JobRefusedByAuditor():
                return self._refuse_job(tx, row, result)
            case StepsFound():
                return self._steps_checked(tx, row, result)
            case FilesResult():
                return self._files_read(tx, row, result)
            case PathDiffers():
                return self._path_differs(tx, row, result)
            case _:
                return self._recomputed(tx, row, result)

    def _files_read(self, tx: Transaction, row: SegmentRow, result: FilesResult) -> AuditOutcome:
        """Files are held to the committed roots; a segment that nobody drew counts from now on."""
        if row.files_checked:
            return AuditOutcome(False, True, "NOT_WAITING")
        found = AuditResult(
            row.root_after,
            row.outputs_root,
            result.outputs_artifact_root,
            result.checkpoint_artifact_root,
        )
        code = self._compare(row, found)
        if code is not VerdictCode.EQUAL:
            verdict = self._verdict(tx, row, code, found).to_bytes()
            self._reject(tx, row, code, verdict, auditor=self._key.key_id)
            return AuditOutcome(True, False, code)
        record = challenges.record_of(tx, row.segment_id)
        in_dispute = self._in_house_dispute(tx, row)
        undrawn = record is not None and not record.audited and not in_dispute
        if undrawn and row.state is SegmentState.COMMITTED:
            self._accept(tx, row, None, auditor="")
        else:
            left = "" if row.house_task == AuditKind.FILES else row.house_task
            segments.update(tx, row, files_checked=True, house_task=left)
        return AuditOutcome(True, True, code)

    def _recomputed(self, tx: Transaction, row: SegmentRow, found: AuditResult) -> AuditOutcome:
        code = self._compare(row, found)
        verdict = self._verdict(tx, row, code, found).to_bytes()
        right = code is VerdictCode.EQUAL
        if not right and self._house_disputes(tx, row, found):
            return AuditOutcome(True, False, code)
        if not self._house_found(tx, row, found, right=right):
            return AuditOutcome(True, False, code)
        if right:
            self._accept(tx, row, verdict, auditor=self._key.key_id)
        else:
            self._reject(tx, row, code, verdict, auditor=self._key.key_id)
        return AuditOutcome(True, right, code)

    def _steps_checked(self, tx: Transaction, row: SegmentRow, found: StepsFound) -> AuditOutcome:
        """The drawn steps were run. A step that leads elsewhere convicts, by what the worker itself
        has signed; files that are not what it signed are no answer."""
        audit = step_audits.open_of_segment(tx, row.segment_id)
        if audit is None or audit.phase is not StepPhase.HOUSE:
            return AuditOutcome(False, False, "NOT_WAITING")
        own = AuditResult(
            row.root_after,
            row.outputs_root,
            found.outputs_artifact_root,
            found.checkpoint_artifact_root,
        )
        code = self._compare(row, own)
        finding = found.finding
        if code is VerdictCode.EQUAL and finding.code is StepCode.UNUSABLE:
            self._steps_unanswered(tx, audit, row, finding.detail)
            return AuditOutcome(True, False, VoidReason.STEPS_UNANSWERED)
        if code is VerdictCode.EQUAL and finding.code is StepCode.SECOND_OPINION:
            self._close_steps(tx, audit, finding.code, finding.detail)
            self._steps_outside(tx, row)
            return AuditOutcome(True, False, VoidReason.TOLERANCE_OUTSIDE)
        if code is VerdictCode.EQUAL:
            code = _VERDICTS[finding.code]
        self._close_steps(tx, audit, finding.code, finding.detail)
        right = code is VerdictCode.STEPS_EQUAL
        if right:
            self._bill_for_steps(tx, row)
        else:
            own = AuditResult(_UNKNOWN_ROOT, _UNKNOWN_ROOT, None, None)
        verdict = self._verdict(tx, row, code, own).to_bytes()
        self._house_found(tx, row, own, right=right)
        if right:
            self._accept(tx, row, verdict, auditor=self._key.key_id)
        else:
            self._reject(tx, row, code, verdict, auditor=self._key.key_id)
        return AuditOutcome(True, right, code)

    def _bill_for_steps(self, tx: Transaction, row: SegmentRow) -> None:
        """A buyer pays for what is done: where nobody recomputed a segment whole, its level adds no
        more than the look at these steps costs."""
        terms = challenges.get(tx, row.lease_id)
        if row.state is not SegmentState.COMMITTED or terms is None or not terms.audit_steps:
            return
        seen = steps_detection_ppm(min(terms.audit_steps, row.steps), row.steps)
        most = surcharge(row.price_nano, self._surcharge_ppm(self._job(tx, row.job_id), seen))
        if most < row.surcharge_nano:
            segments.update(tx, row, surcharge_nano=most)

    def _path_differs(self, tx: Transaction, row: SegmentRow, found: PathDiffers) -> AuditOutcome:
        wrong = segments.get(tx, found.segment_id)
        if (
            wrong is None
            or wrong.job_id != row.job_id
            or not (wrong.state in LIVE_SEGMENT_STATES or _is_beside(wrong, row))
            or wrong.first_step >= row.first_step
            or self._in_house_dispute(tx, wrong)
        ):
            return AuditOutcome(False, False, "NOT_WAITING")
        claimed = Claimed(wrong.root_after, wrong.outputs_root, "", "")
        code = judge(claimed, Recomputed(found.state_root, found.outputs_root, None, None))
        if code is VerdictCode.EQUAL:
            return AuditOutcome(False, False, "NOT_WAITING")
        result = AuditResult(found.state_root, found.outputs_root, None, None)
        if self._house_disputes(tx, wrong, result):
            return AuditOutcome(True, False, code)
        verdict = self._verdict(tx, wrong, code, result).to_bytes()
        self._house_found(tx, wrong, result, right=False)
        self._reject(tx, wrong, code, verdict, auditor=self._key.key_id)
        return AuditOutcome(True, False, code)

    def _house_disputes(self, tx: Transaction, row: SegmentRow, found: AuditResult) -> bool:
        """Let the worker answer for roots that the house found otherwise; whether it may.

        Files that do not hold what was committed convict by themselves, and a device that is
        banned has nothing more to say.
        """
        if not self._parameters.house_disputes or self._is_banned(tx, row):
            return False
        if (found.state_root, found.outputs_root) == (row.root_after, row.outputs_root):
            return False
        files = [
            (found.checkpoint_artifact_root, row.root_after, row.checkpoint_artifact),
            (found.outputs_artifact_root, row.outputs_root, row.outputs_artifact),
        ]
        if any(root is not None and root != committed for root, committed, _ in files):
            return False
        if not self._open_house_dispute(tx, row, found):
            return False
        if all(root is not None for root, _, file in files if file):
            segments.update(tx, row, files_checked=True)
        return True

    def _in_house_dispute(self, tx: Transaction, row: SegmentRow) -> bool:
        return disputes.is_disputed_by(tx, row.segment_id, self._key.key_id)

    def _compare(self, row: SegmentRow, found: AuditResult) -> VerdictCode:
        """Compare with what was committed. Files that were read before need no second look."""
        files = [
            (row.outputs_artifact, found.outputs_artifact_root),
            (row.checkpoint_artifact, found.checkpoint_artifact_root),
        ]
        if row.files_checked:
            files = [(file, root) for file, root in files if root is not None]
        for file, root in files:
            if file and root is None:
                raise InvalidInput(
                    f"the auditor did not look at file {file}", code="AUDIT_INCOMPLETE"
                )
        looked_at = {file for file, _ in files}
        claimed = Claimed(
            row.root_after,
            row.outputs_root,
            row.outputs_artifact if row.outputs_artifact in looked_at else "",
            row.checkpoint_artifact if row.checkpoint_artifact in looked_at else "",
        )
        return judge(
            claimed,
            Recomputed(
                found.state_root,
                found.outputs_root,
                found.outputs_artifact_root,
                found.checkpoint_artifact_root,
            ),
        )

    def _refuse_job(
        self, tx: Transaction, row: SegmentRow, refusal: JobRefusedByAuditor
    ) -> AuditOutcome:
        """Nobody can verify this job: it ends, and what is unverified counts for nothing.

        What counted before, and was to be looked at again, goes on counting.
        """
        if row.state is not SegmentState.COMMITTED:
            for audit in audits.open_of_segment(tx, row.segment_id, AuditPhase.HOUSE):
                self._drop_audit(tx, audit)
            if row.state is SegmentState.VOID:
                self._claim_right(tx, row, None, "")
            segments.update(tx, row, house_task="")
            self._release_of(tx, row.account_id)
            return AuditOutcome(True, False, refusal.code)
        job = self._job(tx, row.job_id)
        if job.state not in FINAL_JOB_STATES:
            waiting = segments.of_job(tx, row.job_id, {SegmentState.COMMITTED})
            self._void(tx, waiting, VoidReason.JOB_ENDED)
            reason = f"{refusal.code}: {refusal.detail}"[:500]
            if job.ending:
                self._refresh(tx, row.job_id)
            else:
                self._begin_end(tx, row.job_id, JobState.FAILED, reason)
        return AuditOutcome(True, False, refusal.code)


def _is_beside(wrong: SegmentRow, row: SegmentRow) -> bool:
    """Whether two segments of one lease fell together, with somebody else's."""
    return wrong.lease_id == row.lease_id and wrong.state is row.state is SegmentState.VOID


def _waits(row: SegmentRow) -> bool:
    """Whether the house still has to do something about a segment, be it paid already."""
    asked = LIVE_SEGMENT_STATES | {SegmentState.VOID}
    late = row.house_task in (AuditKind.RECOMPUTE, AuditKind.STEPS) and row.state in asked
    return late or row.state is SegmentState.COMMITTED
