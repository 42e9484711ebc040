"""Step audits that begin: segments of which the house looks at drawn steps, not at the whole."""

from __future__ import annotations

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.dispatching import DispatchingUseCases
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.core.auditing import AuditPhase, StepPhase
from flopmarket_coordinator.store import audits, challenges, segments, step_audits
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow


class StepBeginningUseCases(DispatchingUseCases):
    """Rows of step audits. Nothing here is called from outside the application."""

    def _begin_steps(self, tx: Transaction, row: SegmentRow) -> bool:
        """Ask a segment's worker about steps of it, if its lease says so; else False."""
        terms = challenges.get(tx, row.lease_id)
        if terms is None or not terms.audit_steps:
            return False
        if step_audits.open_of_segment(tx, row.segment_id) is None:
            step_audits.add(
                tx,
                {
                    "step_audit_id": self._new_id(),
                    "segment_id": row.segment_id,
                    "job_id": row.job_id,
                    "phase": StepPhase.ROOTS.value,
                    "number": 0,
                    "value": b"",
                    "with_values": self._values_asked(self._job(tx, row.job_id)),
                    "claim": b"",
                    "answer": b"",
                    "files": "",
                    "told": False,
                    "deadline_us": tx.now_us + self._parameters.audit_waits.worker_us,
                    "outcome": "",
                    "detail": "",
                    "created_at_us": tx.now_us,
                    "ended_at_us": 0,
                },
            )
        segments.update(tx, row, house_task=AuditKind.STEPS.value)
        return True

    def _values_asked(self, job: JobRow) -> bool:
        """Whether the values of the drawn steps' operations are needed too: exact mode compares
        bits of states, which need none."""
        return job.mode == Mode.TOLERANCE

    def _look_back_by_steps(self, tx: Transaction, segment_ids: list[int]) -> None:
        """Of segments that were put up for the house, those too big for it are looked at by steps;
        where an audit by somebody else is under way, it decides."""
        for segment_id in step_audits.by_steps(tx, segment_ids):
            row = segments.get(tx, segment_id)
            assert row is not None, "it was put up for the house a moment ago"
            under_way = audits.open_of_segment(tx, segment_id)
            if any(audit.phase is not AuditPhase.HOUSE for audit in under_way):
                segments.update(tx, row, house_task="")
            else:
                self._begin_steps(tx, row)
