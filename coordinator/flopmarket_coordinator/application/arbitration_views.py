"""What is published of how a class decided: the answers of everybody who took part."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.trust.arbitration import Outcome, Vote
from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPhase
from flopmarket_coordinator.core.events import who
from flopmarket_coordinator.store import audits, identity, segments
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction

_OUTCOMES = {
    AuditEnd.REFUTED.value: Outcome.PRODUCER_WRONG,
    AuditEnd.CONFIRMED.value: Outcome.AUDITOR_WRONG,
    AuditEnd.UNDECIDED.value: Outcome.UNDECIDED,
}


def arbitrated(audit: AuditRow) -> Outcome | None:
    """How an audit's arbitration ended; None where there was none, it lasts, or it was dropped."""
    if not audit.arbitrated_at_us or audit.phase is not AuditPhase.ENDED:
        return None
    return _OUTCOMES.get(audit.finding)


def told(producer: Vote, auditor: Vote, others: Sequence[Vote], outcome: Outcome) -> str:
    """What votes came to, in the words of a story."""
    with_worker = sum(vote.ends == producer.ends for vote in others)
    with_auditor = sum(vote.ends == auditor.ends for vote in others)
    house = " (one of the house)" if any(vote.house for vote in others) else ""
    said = (
        f"of {len(others)} further accounts{house}, {with_worker} found what "
        f"{who('the worker', producer.key_id)} did and {with_auditor} what "
        f"{who('its auditor', auditor.key_id)} did"
    )
    match outcome:
        case Outcome.PRODUCER_WRONG:
            return f"{said}: the worker stands alone and is outvoted"
        case Outcome.AUDITOR_WRONG:
            return f"{said}: the auditor stands alone and is wrong"
    return f"{said}: undecided, nobody is called wrong"


class ArbitrationViewUseCases(UseCases):
    """Nothing here is called from outside the application."""

    def _arbitration_about(
        self, tx: Transaction, segment_id: int, auditor: str
    ) -> Arbitrated | None:
        """The arbitration about a segment; of several the one that ``auditor`` took part in, or
        else the last. Nothing for a segment of another mode."""
        found: Arbitrated | None = None
        for audit in audits.comparing(tx, segment_id):
            decided = self._decided_by(tx, audit)
            if decided is None:
                continue
            found, parties = decided
            if auditor in parties:
                return found
        return found

    def _decided_by(self, tx: Transaction, audit: AuditRow) -> tuple[Arbitrated, set[str]] | None:
        """What came of an audit's arbitration, and the keys that spoke in it; None where there was
        none, or it was dropped."""
        outcome = arbitrated(audit)
        first = None if outcome is None else self._words_of(tx, audit)
        if outcome is None or first is None:
            return None
        asked = audits.arbiters(tx, audit.audit_id)
        said = [(arbiter, self._words_of(tx, arbiter)) for arbiter in asked]
        heard = [(arbiter, words) for arbiter, words in said if words is not None]
        question = segments.get(tx, audit.question_id)
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
        question = segments.get(tx, audit.question_id)
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
