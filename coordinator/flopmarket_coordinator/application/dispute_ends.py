"""How disputes end: with the referee's verdict, or because nothing is left to decide."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flopmarket.limits import MAX_HOUSE_DISPUTES
from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeOpening,
    DisputeVerdict,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.application.dispute_questions import DisputeQuestionUseCases
from flopmarket_coordinator.application.judging import VERDICT_LIFETIME_US
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditResult
from flopmarket_coordinator.application.types_disputes import RefereeFinding
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import disputes, jobs, segments
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_log = logging.getLogger(__name__)


class DisputeEndUseCases(DisputeQuestionUseCases):
    """Ends of disputes. Nothing here is called from outside the application."""

    # ------------------------------------------------------------ with a verdict

    def _end_dispute(
        self, tx: Transaction, row: DisputeRow, finding: RefereeFinding, verdict: DisputeVerdict
    ) -> None:
        ended = self._note_end(tx, row, finding, verdict)
        signatures = finding.signatures or {}
        segment = self._disputed(tx, ended)
        if segment is not None and verdict.outcome in (Outcome.PRODUCER_WRONG, Outcome.BOTH_WRONG):
            signature = signatures.get(Party.PRODUCER)
            both = verdict.outcome is Outcome.BOTH_WRONG
            self._reject_disputed(tx, segment, row.question, signature, both=both)
        self._after_dispute(tx, ended, verdict, signatures)

    def _reject_disputed(
        self,
        tx: Transaction,
        row: SegmentRow,
        opening: DisputeOpening,
        signature: Signature | None,
        *,
        both: bool = False,
    ) -> None:
        """The worker is wrong; ``both``: so is the other party."""
        ours, theirs = opening.producer, opening.auditor
        code = VerdictCode.OUTPUTS_DIFFER
        if ours.state_root_after != theirs.state_root_after:
            code = VerdictCode.STATE_DIFFERS
        found = AuditResult(theirs.state_root_after, theirs.outputs_root, None, None)
        verdict = self._verdict(tx, row, code, found).to_bytes()
        auditor = PublicKey(theirs.key).key_id
        self._reject(tx, row, code, verdict, auditor=auditor, signature=signature)

    def _after_dispute(
        self,
        tx: Transaction,
        dispute: DisputeRow,
        verdict: DisputeVerdict,
        signatures: Mapping[Party, Signature],
    ) -> None:
        """What follows beyond the producer's own segment; audits of other workers override it.

        Where the house itself was the other party and is not found wrong, its recomputation stands
        though the lists could not decide; where it is, it computes the segment once more, and the
        second time that it is, the worker's word stands.
        """
        if dispute.auditor_key_id != self._key.key_id:
            return
        row = self._disputed(tx, dispute)
        if row is None or verdict.outcome is Outcome.PRODUCER_WRONG:
            return
        if verdict.outcome is Outcome.THIRD_RUN:
            self._reject_disputed(tx, row, dispute.question, None)
            return
        _log.error(
            "dispute %s: the house's own engine computed other bits than the reference (%s)",
            dispute.dispute_id,
            verdict.seen,
        )
        lost = disputes.lost_by(tx, row.segment_id, self._key.key_id)
        if lost < MAX_HOUSE_DISPUTES:
            segments.update(tx, row, house_task=AuditKind.RECOMPUTE.value)
        else:
            self._believe_worker(tx, row)

    def _believe_worker(self, tx: Transaction, row: SegmentRow) -> None:
        """The house lost again: its engine has a fault, and the worker's word stands."""
        found = AuditResult(row.root_after, row.outputs_root, None, None)
        accepted = self._verdict(tx, row, VerdictCode.EQUAL, found).to_bytes()
        self._accept(tx, row, accepted, auditor=self._key.key_id)

    # ------------------------------------------------------------ ends without a verdict

    def _drop_dispute(self, tx: Transaction, row: DisputeRow, reason: Reason) -> None:
        """Nothing is left to decide, or nobody to ask."""
        disputes.forget_lists(tx, row.dispute_id)
        finding = RefereeFinding.undecided(row, reason, "nothing is left to decide")
        assert finding.verdict is not None, "it was made with one"
        self._note_end(tx, row, finding, finding.verdict)

    def _without_party(self, tx: Transaction, row: DisputeRow) -> None:
        """A party may not act any more. Where the house is the other one, its word stands; audits
        of other workers override it."""
        segment = self._disputed(tx, row)
        if segment is not None and row.auditor_key_id == self._key.key_id:
            self._reject_disputed(tx, segment, row.question, None)

    def _drop_disputes(self, tx: Transaction) -> None:
        for row in disputes.of_banned(tx):
            self._drop_dispute(tx, row, Reason.PARTY_BANNED)
            self._without_party(tx, row)
        for row in disputes.pointless(tx):
            self._drop_dispute(tx, row, Reason.SEGMENT_VOID)

    # ------------------------------------------------------------ what is kept

    def _note_end(
        self, tx: Transaction, row: DisputeRow, finding: RefereeFinding, verdict: DisputeVerdict
    ) -> DisputeRow:
        """Sign and keep a verdict; the dispute as it is now."""
        sealed = seal(
            verdict,
            self._key,
            audience=self._key.key_id,
            nonce=self._entropy(16),
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + VERDICT_LIFETIME_US,
        )
        if finding.transcript_artifact:
            disputes.add_artifact(tx, finding.transcript_artifact, finding.transcript_bytes)
            disputes.forget_lists(tx, row.dispute_id)
        disputes.update(
            tx,
            row.dispute_id,
            step=stored_index(verdict.step),
            operation=stored_index(verdict.operation),
            tile=stored_index(verdict.tile),
            handled_count=row.event_count,
            ended_at_us=tx.now_us,
            outcome=verdict.outcome.value,
            reason=verdict.reason.value,
            verdict=sealed.to_bytes(),
            transcript_artifact=finding.transcript_artifact,
        )
        ended = self._dispute(tx, row.dispute_id)
        text = f"dispute {row.dispute_id[:16]}: {verdict.outcome} ({verdict.reason})"
        jobs.record(tx, row.job_id, EventKind.DISPUTED, text, row.dispute_id)
        for note in finding.notes:
            jobs.record(tx, row.job_id, EventKind.DISPUTED, note, row.dispute_id)
        return ended


def stored_index(index: int) -> int:
    """An index of a place as rows hold it: -1 for none."""
    return -1 if index == NOWHERE else index
