"""Units that count for nothing though nobody is called wrong: somebody else does them again."""

from __future__ import annotations

from flopmarket_coordinator.application.judging import JudgingUseCases
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import VoidReason
from flopmarket_coordinator.store import jobs, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow


class VoidingUseCases(JudgingUseCases):
    """Void units. Nothing here is called from outside the application."""

    def _void_unit(
        self,
        tx: Transaction,
        row: SegmentRow,
        reason: VoidReason,
        *,
        strike: StrikeKind | None = None,
    ) -> bool:
        """A unit is neither billed nor paid, and nothing is forfeited; what was built on it falls,
        and its device gets no more of this job (``verification.GOES_ELSEWHERE``).

        False when the segment counted already: it goes on counting, and only the strike is noted.
        """
        if strike is not None:
            self._strike(tx, row.device_key_id, strike, reason, segment_id=row.segment_id)
        if row.state is not SegmentState.COMMITTED:
            segments.update(tx, row, house_task="")
            self._release_of(tx, row.account_id)
            return False
        before = self._job(tx, row.job_id)
        segments.move(tx, row, SegmentState.VOID, reason=reason.value, house_task="")
        jobs.cut(tx, row.job_id, row.first_step)
        text = f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: {reason}"
        jobs.record(tx, row.job_id, EventKind.VOIDED, text, row.lease_id)
        fallen = self._fall(tx, before, row, VoidReason.BUILT_ON_VOID)
        if before.state not in FINAL_JOB_STATES:
            self._roll_back(tx, row, len(fallen), "is undecided")
            self._refresh(tx, row.job_id)
        return True
