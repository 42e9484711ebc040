"""What a verdict leads to: pay, or slash, ban, roll back, whoever judged the segment."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.trust.documents import SegmentVerdict
from flopmarket.trust.envelope import Envelope, seal
from flopmarket_coordinator.application.dispatching import DispatchingUseCases
from flopmarket_coordinator.application.predicting import learn_audit
from flopmarket_coordinator.application.types import AuditResult
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.ledger import RESERVE, Balance, account_of
from flopmarket_coordinator.core.lifecycle import LeaseState, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason, built_upon
from flopmarket_coordinator.store import decisions, identity, jobs, ledger, work
from flopmarket_coordinator.store.decisions import DecisionKind
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow

VERDICT_LIFETIME_US = 10 * 365 * 24 * 3_600 * 1_000_000  # evidence, not a request


class JudgingUseCases(DispatchingUseCases):
    """Consequences of verdicts. Nothing here is called from outside the application."""

    def _accept(self, tx: Transaction, row: SegmentRow, verdict: bytes) -> None:
        jobs.move_segment(tx, row, SegmentState.VERIFIED, verdict=verdict, verdict_accepted=True)
        work.count_outcome(tx, row.offer_id, right=True)
        learn_audit(tx, row)
        text = (
            f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: equal bits"
        )
        jobs.record(tx, row.job_id, EventKind.VERIFIED, text, row.lease_id)
        self._refresh(tx, row.job_id)

    def _reject(self, tx: Transaction, row: SegmentRow, code: VerdictCode, verdict: bytes) -> None:
        """A wrong segment: slash, ban, roll back, and let somebody else do it again."""
        job = self._job(tx, row.job_id)
        jobs.move_segment(
            tx,
            row,
            SegmentState.REJECTED,
            reason=code.value,
            verdict=verdict,
            verdict_accepted=False,
        )
        work.count_outcome(tx, row.offer_id, right=False)
        text = f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: {code}"
        jobs.record(tx, row.job_id, EventKind.REJECTED, text, row.lease_id)
        live = jobs.live_from(tx, row.job_id, row.first_step)
        parts = [other.part() for other in live]
        fallen_ids = {
            part.segment_id for part in built_upon(row.part(), parts, stateless=job.stateless)
        }
        fallen = [other for other in live if other.segment_id in fallen_ids]
        self._void(tx, fallen, VoidReason.BUILT_ON_WRONG_STATE)
        self._slash(tx, job, row, code, fallen)
        self._ban(tx, row, code)
        if not job.stateless:
            for lease in work.live_leases_of_job(tx, row.job_id):
                why = f"segment {row.segment_index} was wrong"
                self._end_lease(tx, lease, LeaseState.REVOKED, RevokeReason.ROLLED_BACK, why)
            if not job.ending:
                self._restart(tx, self._job(tx, row.job_id))
            at = row.first_step
            text = f"segments from step {at} on are void ({len(fallen)} built on a wrong state)"
            jobs.record(tx, row.job_id, EventKind.ROLLED_BACK, text, row.lease_id)
        self._refresh(tx, row.job_id)

    def _slash(
        self,
        tx: Transaction,
        job: JobRow,
        row: SegmentRow,
        code: VerdictCode,
        fallen: Sequence[SegmentRow],
    ) -> None:
        cheat = row.account_id
        held = jobs.mark_held(tx, job.job_id, cheat, "forfeited")
        bond, _ = ledger.balance(tx, account_of(cheat, Balance.BOND))
        reserve, _ = ledger.balance(tx, RESERVE)
        honest = [other for other in fallen if other.account_id != cheat]
        outcome = escrow.slash(
            job_id=job.job_id,
            segment_id=row.segment_id,
            cheat=cheat,
            buyer=job.buyer,
            held_nano=held,
            bond_nano=bond,
            reserve_nano=reserve,
            claims=self._claims(honest),
        )
        ledger.execute_all(tx, outcome.transfers)
        decisions.record(
            tx,
            DecisionKind.SLASH,
            cheat,
            actor=self._key.key_id,
            cause=f"segment {row.segment_id}",
            reason=code.value,
            detail=f"{self._money(outcome.forfeited_nano)} of job {job.job_id}",
        )
        text = (
            f"{who(row.device_name, row.device_key_id)} forfeits "
            f"{self._money(outcome.forfeited_nano)}, "
            f"{self._money(outcome.refund_nano)} of it for the buyer"
        )
        jobs.record(tx, job.job_id, EventKind.SLASHED, text, row.device_key_id)
        if honest:
            text = (
                f"{self._money(outcome.compensated_nano)} paid, "
                f"{self._money(outcome.unpaid_nano)} unpaid"
            )
            jobs.record(tx, job.job_id, EventKind.COMPENSATED, text, row.device_key_id)

    def _ban(self, tx: Transaction, row: SegmentRow, code: VerdictCode) -> None:
        """The key acts no more: offers gone, leases in every job revoked."""
        reason = f"{code} in segment {row.segment_index} of job {row.job_id}"
        identity.ban_key(tx, row.device_key_id, reason)
        decisions.record(
            tx,
            DecisionKind.BAN,
            row.device_key_id,
            actor=self._key.key_id,
            cause=f"segment {row.segment_id}",
            reason=code.value,
            detail=reason,
        )
        work.unlist_offers(tx, row.device_key_id)
        for lease in work.live_leases_of_key(tx, row.device_key_id):
            self._end_lease(tx, lease, LeaseState.REVOKED, RevokeReason.KEY_BANNED, reason)
            if lease.job_id != row.job_id:
                self._after_lease(tx, lease)

    def _verdict(
        self, tx: Transaction, row: SegmentRow, code: VerdictCode, result: AuditResult
    ) -> Envelope:
        body = SegmentVerdict(
            job_id=bytes.fromhex(row.job_id),
            segment_index=row.segment_index,
            commitment_digest=row.commitment_digest,
            auditor_key_id=self._key.key_id,
            accepted=code is VerdictCode.EQUAL,
            reason_code=code.value,
            expected_state_root=result.state_root,
            expected_outputs_root=result.outputs_root,
        )
        return seal(
            body,
            self._key,
            audience=self._key.key_id,
            nonce=self._entropy(16),
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + VERDICT_LIFETIME_US,
        )
