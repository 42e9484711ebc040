"""What is published of how a class decided: the answers of everybody who took part."""

from __future__ import annotations

from flopmarket.trust.arbitration import Outcome
from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.sealing import Outcome as Ended
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPurpose
from flopmarket_coordinator.store import audits, identity, jobs
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction

_OUTCOMES = {
    AuditEnd.REFUTED.value: Outcome.PRODUCER_WRONG,
    AuditEnd.CONFIRMED.value: Outcome.AUDITOR_WRONG,
    AuditEnd.UNDECIDED.value: Outcome.UNDECIDED,
}
_DIFFERENT = (Ended.ROOTS_DIFFER.value, Ended.UNANSWERED_DIFFERENCE.value)


class ArbitrationViewUseCases(UseCases):
    """Nothing here is called from outside the application."""

    def _arbitration_about(
        self, tx: Transaction, segment_id: int, auditor: str
    ) -> Arbitrated | None:
        """The arbitration about a segment; of several the one that ``auditor`` took part in, or
        else the last. Nothing for a segment of another mode."""
        found: Arbitrated | None = None
        for audit in audits.comparing(tx, segment_id):
            outcome = _OUTCOMES.get(audit.finding)
            if outcome is None or audit.outcome not in _DIFFERENT:
                continue
            if audit.purpose in (AuditPurpose.ARBITER, AuditPurpose.CANARY):
                continue
            told = self._told(tx, audit, outcome)
            if told is None:
                continue
            found, parties = told
            if auditor in parties:
                return found
        return found

    def _told(
        self, tx: Transaction, audit: AuditRow, outcome: Outcome
    ) -> tuple[Arbitrated, set[str]] | None:
        """An arbitration and the keys that spoke in it."""
        first = self._words_of(tx, audit)
        if first is None:
            return None
        asked = audits.arbiters(tx, audit.audit_id)
        said = [(arbiter, self._words_of(tx, arbiter)) for arbiter in asked]
        heard = [(arbiter, words) for arbiter, words in said if words is not None]
        question = jobs.segment(tx, audit.question_id)
        assert question is not None, "it is what the audit compared"
        took_part = {question.account_id, audit.auditor_account_id}
        took_part |= {arbiter.auditor_account_id for arbiter, _ in heard}
        house = tuple(each for each in audits.house_accounts(tx) if each in took_part)
        words = tuple(words for _, words in heard)
        keys = {audit.auditor_key_id, *(arbiter.auditor_key_id for arbiter, _ in heard)}
        return Arbitrated(outcome.value, first, words, house), keys

    def _words_of(self, tx: Transaction, audit: AuditRow) -> AuditorAnswer | None:
        """What an auditor or arbiter signed; None when it never answered or did not open."""
        if not audit.lease_id or not audit.auditor_secret:
            return None
        question = jobs.segment(tx, audit.question_id)
        index = -1 if question is None else question.segment_index
        for item in audits.commitments(tx, audit.lease_id):
            if item.segment_index == index:
                key = identity.key(tx, audit.auditor_key_id)
                return AuditorAnswer(
                    audit.auditor_account_id,
                    b"" if key is None else key.public_key,
                    item.commitment,
                    audit.auditor_secret,
                    audit.worker_secret,
                )
        return None
