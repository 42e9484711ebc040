"""What comes of an audit by another worker: pay, disputes, the house's word, penalties.

The exchange itself is :mod:`flopmarket_coordinator.application.exchanging`, which calls this room
when one has ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute_documents import Claim as DisputeClaim
from flopmarket.trust.dispute_documents import DisputeOpening, DisputeVerdict, Party
from flopmarket.trust.dispute_documents import Outcome as DisputeOutcome
from flopmarket.trust.envelope import Envelope, unverified_body
from flopmarket.trust.sealing import InnerSecret, Outcome
from flopmarket_coordinator.application.step_audits import StepAuditUseCases
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditResult
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPhase, AuditPurpose
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason
from flopmarket_coordinator.store import audits, identity, segments, work
from flopmarket_coordinator.store.audits import AuditCommitmentRow, AuditRow
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow


class AuditOutcomeUseCases(StepAuditUseCases):
    """Ends of audits. Nothing here is called from outside the application."""

    def _audit(self, tx: Transaction, audit_id: str) -> AuditRow:
        audit = audits.get(tx, audit_id)
        assert audit is not None, f"audit {audit_id} was there a moment ago"
        return audit

    def _segment(self, tx: Transaction, segment_id: int) -> SegmentRow:
        row = segments.get(tx, segment_id)
        assert row is not None, f"segment {segment_id} is what an audit is about"
        return row

    def _answer(
        self, tx: Transaction, audit: AuditRow, question: SegmentRow
    ) -> AuditCommitmentRow | None:
        """What the auditor in charge committed about the segment that is compared."""
        found = audits.commitments(tx, audit.lease_id) if audit.lease_id else []
        return next((it for it in found if it.segment_index == question.segment_index), None)

    def _conclude_audit(self, tx: Transaction, audit: AuditRow, outcome: Outcome) -> None:
        """An exchange ended: pay, forfeit, dispute, or let the house recompute."""
        row = self._segment(tx, audit.question_id)
        match outcome:
            case Outcome.EQUAL:
                self._close_audit(tx, audit, outcome)
                self._pay_audit(tx, audit)
                self._accept_audited(tx, audit, row)
            case Outcome.ROOTS_DIFFER:
                audits.update(tx, audit.audit_id, phase=AuditPhase.DISPUTE.value)
                self._dispute_audit(tx, audit, row)
            case Outcome.WORKER_SILENT:
                self._close_audit(tx, audit, outcome)
                self._pay_audit(tx, audit)
                if row.state is SegmentState.COMMITTED:
                    verdict = self._audit_verdict(tx, row, audit.auditor_key_id).to_bytes()
                    auditor = audit.auditor_key_id
                    self._forfeit(tx, row, VoidReason.WORKER_SILENT, verdict, auditor=auditor)
            case _:
                self._to_house(tx, audit, outcome)

    def _accept_audited(self, tx: Transaction, audit: AuditRow, row: SegmentRow) -> None:
        """An outsider found a segment right. A second look changes nothing about its standing."""
        if row.state is not SegmentState.COMMITTED or audit.purpose is AuditPurpose.CROSS:
            return
        verdict = self._audit_verdict(tx, row, audit.auditor_key_id)
        self._accept(tx, row, verdict.to_bytes(), auditor=audit.auditor_key_id)

    def _audit_verdict(self, tx: Transaction, row: SegmentRow, auditor: str) -> Envelope:
        found = AuditResult(row.root_after, row.outputs_root, None, None)
        return self._verdict(tx, row, VerdictCode.EQUAL, found, auditor=auditor)

    def _dispute_audit(self, tx: Transaction, audit: AuditRow, row: SegmentRow) -> None:
        answer = self._answer(tx, audit, row)
        assert answer is not None, "the outcome compares it"
        claim = self._dispute_claim(
            tx, row.device_key_id, row.root_after, row.outputs_root, secret_of(audit.worker_secret)
        )
        other = self._dispute_claim(
            tx,
            audit.auditor_key_id,
            answer.root_after,
            answer.outputs_root,
            secret_of(audit.auditor_secret),
        )
        lease = work.lease(tx, audit.lease_id)
        assert lease is not None, "the auditor committed under it"
        opened = self._open_dispute(
            tx,
            row,
            claim,
            other,
            audit_id=audit.audit_id,
            auditor_account=audit.auditor_account_id,
            auditor_device=lease.device_id,
        )
        if not opened:  # lists cannot decide it, or too many are open
            self._to_house(tx, audit, Outcome.ROOTS_DIFFER)

    def _dispute_claim(
        self, tx: Transaction, key_id: str, root_after: bytes, outputs: bytes, secret: InnerSecret
    ) -> DisputeClaim:
        key = identity.key(tx, key_id)
        assert key is not None, "it signed a commitment"
        return DisputeClaim(key.public_key, root_after, outputs, secret.inner)

    def _after_dispute(
        self,
        tx: Transaction,
        dispute: DisputeRow,
        verdict: DisputeVerdict,
        signatures: Mapping[Party, Signature],
    ) -> None:
        """The referee decided. Only the first difference was judged: where the producer is not
        wrong by it, the house recomputes."""
        super()._after_dispute(tx, dispute, verdict, signatures)
        audit = audits.get(tx, dispute.audit_id) if dispute.audit_id else None
        if audit is None or audit.phase is not AuditPhase.DISPUTE:
            return
        if verdict.outcome in (DisputeOutcome.AUDITOR_WRONG, DisputeOutcome.BOTH_WRONG):
            cause = f"dispute {dispute.dispute_id}"
            self._auditor_is_wrong(tx, audit, cause, signatures.get(Party.AUDITOR))
        elif verdict.outcome is DisputeOutcome.PRODUCER_WRONG:
            self._close_audit(tx, audit, AuditEnd.REFUTED)
            self._pay_audit(tx, audit)
            return
        row = self._segment(tx, audit.question_id)
        if row.state in LIVE_SEGMENT_STATES:
            decided = verdict.outcome is not DisputeOutcome.THIRD_RUN
            outcome = Outcome.NO_AUDITOR if decided else Outcome.ROOTS_DIFFER
            self._to_house(tx, self._audit(tx, audit.audit_id), outcome)
        else:
            self._close_audit(tx, audit, AuditEnd.REFUTED)

    def _without_party(self, tx: Transaction, row: DisputeRow) -> None:
        """The house computes what the two were to answer for, and judges the auditor by it."""
        super()._without_party(tx, row)
        audit = audits.get(tx, row.audit_id) if row.audit_id else None
        segment = segments.get(tx, row.segment_id)
        live = segment is not None and segment.state in LIVE_SEGMENT_STATES
        if audit is not None and audit.phase is AuditPhase.DISPUTE and live:
            self._to_house(tx, audit, Outcome.ROOTS_DIFFER)

    def _reject_disputed(
        self,
        tx: Transaction,
        row: SegmentRow,
        opening: DisputeOpening,
        signature: Signature | None,
        *,
        both: bool = False,
    ) -> None:
        """Auditors that waited for the house are paid by what it found, unless it was wrong too."""
        ours = opening.auditor
        if ours.key == self._key.public.raw and not both:
            found = AuditResult(ours.state_root_after, ours.outputs_root, None, None, ours.inner)
            self._house_found(tx, row, found, right=False)
        super()._reject_disputed(tx, row, opening, signature, both=both)

    def _believe_worker(self, tx: Transaction, row: SegmentRow) -> None:
        """Nobody is judged by an engine that has a fault."""
        for audit in audits.open_of_segment(tx, row.segment_id, AuditPhase.HOUSE):
            self._dismiss(tx, audit, RevokeReason.NO_LONGER_NEEDED)
            self._close_audit(tx, audit, AuditEnd.CONFIRMED)
        super()._believe_worker(tx, row)

    def _conclude_canary(self, tx: Transaction, audit: AuditRow) -> None:
        """The house knows what is right. If the auditor differs, it looks once more."""
        row = self._segment(tx, audit.question_id)
        answer = self._answer(tx, audit, row)
        assert answer is not None, "the auditor has opened it"
        if (answer.root_after, answer.outputs_root) == (row.root_after, row.outputs_root):
            self._close_audit(tx, audit, Outcome.EQUAL)
            self._pay_audit(tx, audit)
        else:
            self._to_house(tx, audit, Outcome.ROOTS_DIFFER)

    def _auditor_is_wrong(
        self, tx: Transaction, audit: AuditRow, cause: str, signature: Signature | None = None
    ) -> None:
        """The auditor in charge is not paid, and answers for what it said."""
        self._free_audit_pay(tx, audit.lease_id)
        self._auditor_wrong(
            tx, audit.auditor_key_id, job_id=audit.job_id, cause=cause, signature=signature
        )

    def _to_house(self, tx: Transaction, audit: AuditRow, outcome: Outcome) -> None:
        """The house computes the segment in question itself; of one that is too big for it, and
        that nobody else found otherwise, or of tolerance mode, drawn steps. A canary that nobody
        took is over: what is right was known, and there is nobody to be watched."""
        if audit.purpose is AuditPurpose.CANARY and outcome is Outcome.NO_AUDITOR:
            self._close_audit(tx, audit, outcome)
            return
        phase = AuditPhase.HOUSE.value
        audits.update(tx, audit.audit_id, phase=phase, outcome=outcome.value)
        row = self._segment(tx, audit.question_id)
        by_steps = outcome is Outcome.NO_AUDITOR or self._values_asked(self._job(tx, row.job_id))
        if not by_steps or not self._begin_steps(tx, row):
            segments.update(tx, row, house_task=AuditKind.RECOMPUTE.value)

    def _house_found(
        self, tx: Transaction, row: SegmentRow, found: AuditResult, *, right: bool
    ) -> bool:
        """The house recomputed a segment: end the audits that wait for it.

        False when the segment is not to be accepted though it is right: its worker was silent.
        """
        accept = True
        for audit in audits.open_of_segment(tx, row.segment_id):
            if audit.phase is AuditPhase.DISPUTE:
                continue
            self._judge_auditor(tx, audit, row, found)
            if audit.phase is not AuditPhase.HOUSE:  # a look back was faster than the auditor
                self._close_audit(tx, audit, AuditEnd.CONFIRMED if right else AuditEnd.REFUTED)
                continue
            silent = audit.outcome == Outcome.UNANSWERED_DIFFERENCE and not self._is_banned(tx, row)
            if right and audit.question_id != audit.segment_id:
                # An auditor erred on its way: the segment it was for is the house's now.
                audits.update(
                    tx,
                    audit.audit_id,
                    question_id=audit.segment_id,
                    auditor_secret=b"",
                    auditor_inner=b"",
                    worker_secret=b"",
                )
                self._to_house(tx, self._audit(tx, audit.audit_id), Outcome.NO_AUDITOR)
            else:
                self._close_audit(tx, audit, AuditEnd.CONFIRMED if right else AuditEnd.REFUTED)
            if right and silent and row.state is SegmentState.COMMITTED and accept:
                verdict = self._verdict(tx, row, VerdictCode.EQUAL, found).to_bytes()
                self._forfeit(tx, row, VoidReason.WORKER_SILENT, verdict, auditor=self._key.key_id)
                accept = False
        return accept

    def _judge_auditor(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow, found: AuditResult
    ) -> None:
        """Pay or punish the auditor whose answer made the house look."""
        answer = self._answer(tx, audit, row)
        if answer is None or audit.outcome == Outcome.NO_AUDITOR:
            self._dismiss(tx, audit, RevokeReason.NO_LONGER_NEEDED)
            return
        same_roots = (answer.root_after, answer.outputs_root) == (
            found.state_root,
            found.outputs_root,
        )
        if not same_roots:
            self._auditor_is_wrong(tx, audit, f"audit {audit.audit_id}")
        elif audit.outcome == Outcome.INNER_DIFFERS and found.inner != audit.auditor_inner:
            self._free_audit_pay(tx, audit.lease_id)
        else:
            self._pay_audit(tx, audit)

    def _is_banned(self, tx: Transaction, row: SegmentRow) -> bool:
        key = identity.key(tx, row.device_key_id)
        return key is None or key.revoked

    def _close_audit(self, tx: Transaction, audit: AuditRow, outcome: Outcome | AuditEnd) -> None:
        """An audit has ended; how it came to the house stays in ``outcome``."""
        values = {"finding": outcome.value} if isinstance(outcome, AuditEnd) else {}
        audits.update(
            tx,
            audit.audit_id,
            phase=AuditPhase.ENDED.value,
            outcome=audit.outcome or outcome.value,
            ended_at_us=tx.now_us,
            **values,
        )

    def _drop_audit(self, tx: Transaction, audit: AuditRow) -> None:
        """Its segment counts no more: nobody is asked, nobody is paid."""
        self._close_audit(tx, audit, AuditEnd.VOID)
        self._dismiss(tx, audit, RevokeReason.ROLLED_BACK)


def secret_of(envelope: bytes) -> InnerSecret:
    """The secret in an envelope that was verified when it came."""
    return unverified_body(envelope, InnerSecret)
