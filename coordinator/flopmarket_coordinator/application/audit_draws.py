"""Audits that begin: their rows, and those that are drawn beside the ordinary ones.

A cross-audit asks a second auditor about a segment that has been answered, a canary asks about one
whose right answer the house knows. The exchange with whoever is asked is
:mod:`flopmarket_coordinator.application.exchanging`.
"""

from __future__ import annotations

from flopmarket.limits import (
    ENVELOPE_NONCE_BYTES,
    MAX_CANARY_DRAWS,
    MAX_KNOWN_RIGHT_SEGMENTS,
)
from flopmarket.trust import sealing
from flopmarket.trust.audit_policy import AuditRules
from flopmarket.trust.canaries import DAY_US, NOTHING, CanaryRecord, CanaryTerms, KnownSegments
from flopmarket.trust.challenge import Chain, Purpose, draw, is_drawn, jitter_us, permutation
from flopmarket.trust.cross_draws import CrossRecord
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import digest
from flopmarket.trust.envelope import Envelope, seal, unverified_body
from flopmarket.trust.sealing import Claim
from flopmarket_coordinator.application.audit_outcomes import AuditOutcomeUseCases
from flopmarket_coordinator.application.sampling import TERMS_LIFETIME_US, terms_of
from flopmarket_coordinator.application.types_working import ExpireReport
from flopmarket_coordinator.core.auditing import AuditPurpose
from flopmarket_coordinator.store import audits, challenges, draws
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow


class AuditDrawUseCases(AuditOutcomeUseCases):
    """Audits as rows. Nothing here is called from outside the application."""

    _signed_day = -1  # the last day whose canaries have terms, as far as this process knows

    def _add_audit(
        self,
        tx: Transaction,
        row: SegmentRow,
        order: tuple[str, ...],
        purpose: AuditPurpose,
        delay_us: int,
        parent_id: str = "",
    ) -> AuditRow:
        audit_id = self._new_id()
        begun = sealing.begin(
            audit_id,
            claim_of(row),
            order,
            delay_us,
            tx.now_us,
            self._parameters.audit_waits,
        )
        audits.add(
            tx,
            {
                "audit_id": audit_id,
                "purpose": purpose.value,
                "segment_id": row.segment_id,
                "job_id": row.job_id,
                "question_id": row.segment_id,
                "phase": begun.phase.value,
                "auditors": "\n".join(begun.order),
                "asked": 0,
                "deadline_us": begun.deadline_us,
                "lease_id": "",
                "auditor_key_id": "",
                "auditor_account_id": "",
                "auditor_inner": b"",
                "auditor_secret": b"",
                "worker_secret": b"",
                "seal_number": 0,
                "told": False,
                "outcome": "",
                "finding": "",
                "created_at_us": tx.now_us,
                "ended_at_us": 0,
                "parent_id": parent_id,
                "until_us": tx.now_us + self._parameters.audit_waits.worker_us,
            },
        )
        return self._audit(tx, audit_id)

    def _begin_cross(self, tx: Transaction, audit: AuditRow, answer: Envelope) -> None:
        """An auditor has answered: draw whether a second one is asked, and keep the draw."""
        row = self._segment(tx, audit.segment_id)
        stored = challenges.get(tx, row.lease_id)
        if stored is None or draws.cross_of(tx, row.segment_id) is not None:
            return
        terms = terms_of(stored)
        rules = self._documents.get(tx, AuditRules, terms.rules)
        number = draws.next_cross(tx, row.lease_id)
        value = self._chains.get(row.lease_id, Purpose.CROSS, terms.values).value(number)
        sealed = digest(unverified_body(answer, Commitment))
        x = draw(Purpose.CROSS, value, sealed)
        drawn = is_drawn(x, rules.cross_ppm)
        rest = audit.order[audit.asked :] if drawn else ()
        second = ""
        if rest:
            delay_us = jitter_us(x, self._parameters.audit_waits.jitter_us)
            second = self._add_audit(tx, row, rest, AuditPurpose.CROSS, delay_us).audit_id
        record = CrossRecord(number, row.commitment_digest, sealed, value, drawn, rest)
        draws.add_cross(
            tx,
            row.segment_id,
            row.lease_id,
            record,
            answer=answer.to_bytes(),
            auditor_key_id=audit.auditor_key_id,
            audit_id=second,
        )

    def expire(self, tx: Transaction, *, resumed: bool = False) -> ExpireReport:
        """Also signs what tomorrow's canaries will follow from, before there is anything to draw
        about."""
        report = super().expire(tx, resumed=resumed)
        tomorrow = tx.now_us // DAY_US + 1
        if self._signed_day < tomorrow:
            self._canary_terms(tx, tomorrow - 1)
            self._canary_terms(tx, tomorrow)
            self._signed_day = tomorrow
        return report

    def _canary_terms(self, tx: Transaction, day: int) -> CanaryTerms:
        """The terms of a day's draws; signed now if they were not before."""
        known = draws.canary_terms(tx, day)
        if known is not None:
            return unverified_body(known, CanaryTerms)
        ppm = self._parameters.audit_rules.canary_ppm
        chain = self._canary_chain(day)
        terms = CanaryTerms(day, chain.anchor, MAX_CANARY_DRAWS, ppm)
        envelope = seal(
            terms,
            self._key,
            audience=self._key.key_id,
            nonce=digest(terms)[:ENVELOPE_NONCE_BYTES],  # one such document a day
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + TERMS_LIFETIME_US,
        )
        draws.put_canary_terms(tx, day, envelope.to_bytes())
        return terms

    def _canary_chain(self, day: int) -> Chain:
        return self._chains.get(f"day {day}", Purpose.CANARY, MAX_CANARY_DRAWS)

    def _send_canary(self, tx: Transaction, row: SegmentRow, order: tuple[str, ...]) -> None:
        """Now and then auditors get a segment whose right answer the house knows, instead of one
        that nobody knows; the one who is watched is drawn like any other."""
        day = tx.now_us // DAY_US
        terms = self._canary_terms(tx, day)
        number = draws.next_canary(tx, day)
        if number > terms.values:
            return
        value = self._canary_chain(day).value(number)
        x = draw(Purpose.CANARY, value, row.commitment_digest)
        if not is_drawn(x, terms.canary_ppm):
            nothing = (False, NOTHING, NOTHING, ())
            record = CanaryRecord(day, number, row.commitment_digest, value, *nothing)
            draws.add_canary(tx, record, known=None, audit_id="")
            return
        known = [
            item
            for item in audits.known_right(tx, self._key.key_id, MAX_KNOWN_RIGHT_SEGMENTS)
            if not audits.is_open(tx, item.segment_id)
        ]
        listed = KnownSegments(tuple(item.commitment_digest for item in known))
        name = challenges.put_document(tx, listed)
        chosen, audit_id = NOTHING, ""
        asked: tuple[str, ...] = ()
        if known:
            segment = known[next(permutation(x, len(known)))]
            delay_us = jitter_us(x, self._parameters.audit_waits.jitter_us)
            chosen, asked = segment.commitment_digest, order
            canary = self._add_audit(tx, segment, order, AuditPurpose.CANARY, delay_us)
            audit_id = canary.audit_id
        commitment = row.commitment_digest
        record = CanaryRecord(day, number, commitment, value, True, name, chosen, asked)
        draws.add_canary(tx, record, known=name, audit_id=audit_id)


def claim_of(row: SegmentRow) -> Claim:
    """What a segment's worker committed to."""
    body = unverified_body(row.commitment, Commitment)
    return Claim(row.device_key_id, row.root_after, row.outputs_root, body.sealed_inner)
