"""Audits that begin: their rows, and those that are drawn beside the ordinary ones.

A cross-audit asks a second auditor about a segment that has been answered, a canary asks about one
whose right answer the house knows. The exchange with whoever is asked is
:mod:`flopmarket_coordinator.application.exchanging`.
"""

from __future__ import annotations

from flopmarket.limits import MAX_CANARY_DRAWS, MAX_KNOWN_RIGHT_SEGMENTS
from flopmarket.trust import sealing
from flopmarket.trust.challenge import Purpose, draw, is_drawn, jitter_us, permutation
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.sealing import Claim
from flopmarket_coordinator.application.audit_outcomes import AuditOutcomeUseCases
from flopmarket_coordinator.application.sampling import terms_of
from flopmarket_coordinator.core.auditing import AuditPurpose
from flopmarket_coordinator.store import audits, challenges, work
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_DAY_US = 24 * 3_600 * 1_000_000
_CANARY_DAY = "canary_day"
_CANARY_DRAWS = "canary_draws"


class AuditDrawUseCases(AuditOutcomeUseCases):
    """Audits as rows. Nothing here is called from outside the application."""

    def _add_audit(
        self,
        tx: Transaction,
        row: SegmentRow,
        order: tuple[str, ...],
        purpose: AuditPurpose,
        delay_us: int,
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
            },
        )
        return self._audit(tx, audit_id)

    def _begin_cross(
        self, tx: Transaction, audit: AuditRow, producing: str, number: int, sealed: bytes
    ) -> None:
        rest = audit.order[audit.asked :]
        stored = challenges.get(tx, producing)
        if stored is None or not rest:
            return
        terms = terms_of(stored)
        if number > terms.values:
            return
        value = self._chains.get(producing, Purpose.CROSS, terms.values).value(number)
        x = draw(Purpose.CROSS, value, sealed)
        if is_drawn(x, self._parameters.audit_rules.cross_ppm):
            delay_us = jitter_us(x, self._parameters.audit_waits.jitter_us)
            row = self._segment(tx, audit.segment_id)
            self._add_audit(tx, row, rest, AuditPurpose.CROSS, delay_us)

    def _send_canary(self, tx: Transaction, row: SegmentRow, order: tuple[str, ...]) -> None:
        """Now and then auditors get a segment whose right answer the house knows, instead of one
        that nobody knows; the one who is watched is drawn like any other."""
        day = tx.now_us // _DAY_US
        number = (work.get_meta(tx, _CANARY_DRAWS) or 0) + 1
        if (work.get_meta(tx, _CANARY_DAY) or 0) != day:
            number = 1
        if number > MAX_CANARY_DRAWS:
            return
        work.set_meta(tx, _CANARY_DAY, day)
        work.set_meta(tx, _CANARY_DRAWS, number)
        chain = self._chains.get(f"day {day}", Purpose.CANARY, MAX_CANARY_DRAWS)
        x = draw(Purpose.CANARY, chain.value(number), row.commitment_digest)
        if not is_drawn(x, self._parameters.audit_rules.canary_ppm):
            return
        known = [
            item
            for item in audits.known_right(tx, self._key.key_id, MAX_KNOWN_RIGHT_SEGMENTS)
            if not audits.is_open(tx, item.segment_id)
        ]
        if known:
            chosen = known[next(permutation(x, len(known)))]
            delay_us = jitter_us(x, self._parameters.audit_waits.jitter_us)
            self._add_audit(tx, chosen, order, AuditPurpose.CANARY, delay_us)


def claim_of(row: SegmentRow) -> Claim:
    """What a segment's worker committed to."""
    body = decode(Commitment, decode(Header, Envelope.from_bytes(row.commitment).payload).body)
    return Claim(row.device_key_id, row.root_after, row.outputs_root, body.sealed_inner)
