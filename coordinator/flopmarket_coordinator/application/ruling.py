"""Rulings without a dispute of lists, for those they concern: who answered what, and what follows.

A class's arbitration, a step audit that was held against its worker, a segment that the house alone
rejected. What is shown of a draw waits for the job's end, as all draws do; the answers themselves
are shown as soon as the ruling is there, as a dispute's parties are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flopmarket.errors import NotFound
from flopmarket.limits import MAX_RULING_CONSEQUENCES
from flopmarket.trust.arbitration import Outcome, Vote
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits
from flopmarket.trust.encoding import encode
from flopmarket.trust.ruling_records import RulingRecord
from flopmarket.trust.sealing import Outcome as Ended
from flopmarket.trust.step_audit import StepCode
from flopmarket.trust.step_records import StepsDrawn
from flopmarket_coordinator.application.arbitration_views import arbitrated, told
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.publishing import PublishingUseCases
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_disputes import RulingPage, RulingView
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPhase, AuditPurpose, RulingKind
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason
from flopmarket_coordinator.store import (
    audits,
    challenges,
    draws,
    identity,
    jobs,
    rulings,
    segments,
    step_audits,
)
from flopmarket_coordinator.store.audits import AuditCommitmentRow, AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow
from flopmarket_coordinator.store.rulings import RulingName

_ANY_PAGE = "rulings"
_REASONS = {
    Outcome.PRODUCER_WRONG: VerdictCode.CLASS_OUTVOTED.value,
    Outcome.AUDITOR_WRONG: "AUDITOR_WRONG",
    Outcome.UNDECIDED: VoidReason.CLASS_UNDECIDED.value,
}
_STEPS_SAY = {
    StepCode.DIFFERS: (Outcome.PRODUCER_WRONG, VerdictCode.STEP_DIFFERS.value),
    StepCode.FAULT: (Outcome.PRODUCER_WRONG, VerdictCode.TOLERANCE_FAULT.value),
    StepCode.SECOND_OPINION: (Outcome.UNDECIDED, VoidReason.TOLERANCE_OUTSIDE.value),
    StepCode.UNUSABLE: (Outcome.UNDECIDED, VoidReason.STEPS_UNANSWERED.value),
}

_HOUSE_SAW = (
    "the house computed the segment otherwise, and no lists were asked for",
    "a file that was uploaded does not hold what was committed",
)
"""By whether it was a file."""
_UNIT = {
    SegmentState.COMMITTED: "waits for its audit",
    SegmentState.VERIFIED: "counts, and is paid when its end is durable",
    SegmentState.SETTLED: "counts and is paid",
    SegmentState.REJECTED: "is neither billed nor paid",
    SegmentState.VOID: "is neither billed nor paid",
}


class RulingUseCases(PublishingUseCases):
    """Rulings as their parties, those who were asked, and the buyer see them."""

    def list_rulings(self, tx: Transaction, session: Session, size: int, token: str) -> RulingPage:
        """Those that concern the caller's account, newest first."""
        query = f"{_ANY_PAGE} {session.account_id}"
        position = self._page_position(query, token)
        before = None
        if position is not None:
            before = RulingName(position[0], RulingKind(position[1]), position[2])
        limit = page_size(size)
        found = rulings.page(tx, session.account_id, before, limit + 1)
        views = tuple(self._ruling(tx, session, name) for name in found[:limit])
        if len(found) <= limit:
            return RulingPage(views, "")
        last = found[limit - 1]
        place = [last.opened_at_us, last.kind.value, last.name]
        return RulingPage(views, self._page_token(query, place))

    def get_ruling(self, tx: Transaction, session: Session, ruling_id: str) -> RulingView:
        """One of them, with what stands behind it; anything else is not there."""
        for kind in RulingKind:
            name = ruling_id
            if kind is RulingKind.HOUSE:
                name = _segment_number(tx, ruling_id)
            found = rulings.find(tx, session.account_id, kind, name) if name else None
            if found is not None:
                return self._ruling(tx, session, found, whole=True)
        raise NotFound("there is no such ruling of yours", code="UNKNOWN_RULING")

    def _ruling(
        self, tx: Transaction, session: Session, name: RulingName, *, whole: bool = False
    ) -> RulingView:
        match name.kind:
            case RulingKind.ARBITRATION:
                return self._arbitration_view(tx, session, name, whole=whole)
            case RulingKind.STEPS:
                return self._steps_view(tx, session, name, whole=whole)
        return self._house_view(tx, session, name, whole=whole)

    # --- arbitrations -------------------------------------------------------------------------

    def _arbitration_view(
        self, tx: Transaction, session: Session, name: RulingName, *, whole: bool
    ) -> RulingView:
        audit = audits.get(tx, name.name)
        row = None if audit is None else segments.get(tx, audit.question_id)
        assert audit is not None and row is not None, "the page names it"
        asked = audits.arbiters(tx, audit.audit_id)
        spoke = [arbiter for arbiter in asked if arbiter.auditor_secret]
        ended = audit.phase is AuditPhase.ENDED
        others = [("auditor", audit.auditor_account_id)] if audit.auditor_secret else []
        if ended:
            others += [("arbiter", arbiter.auditor_account_id) for arbiter in spoke]
        roles = self._roles(tx, session, row, others)
        outcome = arbitrated(audit)
        if outcome is None:
            why = (
                "the segment counts no more" if ended else "further accounts of the class are asked"
            )
            ruling = (AuditEnd.VOID.value.lower() if ended else "", "", why)
        else:
            witnesses = self._witnesses(tx, audit)
            votes = [self._vote_in(tx, item) for item in (*witnesses, *spoke)]
            heard = [vote for vote in votes if vote is not None]
            auditor = self._vote_in(tx, audit) if audit.auditor_secret else None
            seen = "nobody of its class could look at it in time"
            if auditor is not None:
                seen = told(self._worker_vote(tx, row), auditor, heard, outcome)
            ruling = (outcome.value, _REASONS[outcome], seen)
        unheard = tuple(
            (arbiter.order[0], "silent" if arbiter.finding == AuditEnd.SILENT else "passed")
            for arbiter in asked
            if ended and not arbiter.auditor_secret
        )
        record: RulingRecord | None = None
        follows: tuple[str, ...] = ()
        if whole and outcome is not None:
            if audit.auditor_secret:
                record = self._arbitration_record(tx, audit, row, outcome)
            follows = self._follows(tx, row, roles)
        times = (name.opened_at_us, audit.ended_at_us)
        return RulingView(
            audit.audit_id, name.kind, row, roles, *times, *ruling, unheard, follows, record
        )

    def _witnesses(self, tx: Transaction, audit: AuditRow) -> list[AuditRow]:
        """Audits that had found the segment right before its arbitration ended."""
        return [
            other
            for other in audits.comparing(tx, audit.question_id)
            if other.outcome == Ended.EQUAL
            and other.purpose is not AuditPurpose.ARBITER
            and other.ended_at_us <= audit.ended_at_us
        ]

    def _answered(self, tx: Transaction, audit: AuditRow) -> AuditCommitmentRow | None:
        question = segments.get(tx, audit.question_id)
        found = audits.commitments(tx, audit.lease_id) if audit.lease_id else []
        index = -1 if question is None else question.segment_index
        return next((item for item in found if item.segment_index == index), None)

    def _vote_in(self, tx: Transaction, audit: AuditRow) -> Vote | None:
        answer = self._answered(tx, audit)
        if answer is None:
            return None
        house = audit.auditor_account_id in audits.house_accounts(tx)
        ends = (answer.root_after, answer.outputs_root)
        return Vote(audit.auditor_key_id, audit.auditor_account_id, *ends, house)

    def _worker_vote(self, tx: Transaction, row: SegmentRow) -> Vote:
        house = row.account_id in audits.house_accounts(tx)
        return Vote(row.device_key_id, row.account_id, row.root_after, row.outputs_root, house)

    def _arbitration_record(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow, outcome: Outcome
    ) -> RulingRecord | None:
        decided = self._decided_by(tx, audit)
        if decided is None:
            return None
        found, _ = decided
        verdict = b""
        if outcome is Outcome.PRODUCER_WRONG:
            verdict = row.verdict or b""
        words = [self._words_of(tx, witness) for witness in self._witnesses(tx, audit)]
        witnesses: list[AuditorAnswer] = [item for item in words if item is not None]
        segment = self._bare(tx, row, verdict)
        drawn = segments.get(tx, audit.segment_id)
        assert drawn is not None, "an audit refers to a segment"
        return RulingRecord(
            audit.audit_id,
            RulingKind.ARBITRATION.value,
            _REASONS[outcome],
            replace(segment, arbitration=found),
            tuple(witnesses),
            self._draw_of(tx, drawn),
        )

    # --- step audits --------------------------------------------------------------------------

    def _steps_view(
        self, tx: Transaction, session: Session, name: RulingName, *, whole: bool
    ) -> RulingView:
        audit = step_audits.get(tx, name.name)
        row = None if audit is None else segments.get(tx, audit.segment_id)
        assert audit is not None and row is not None, "the page names it"
        outcome, reason = _STEPS_SAY[StepCode(audit.outcome)]
        roles = self._roles(tx, session, row, ())
        record: RulingRecord | None = None
        follows: tuple[str, ...] = ()
        if whole:
            right = outcome is not Outcome.PRODUCER_WRONG
            segment = self._bare(tx, row, b"" if right else row.verdict or b"")
            if audit.claim and audit.answer:
                steps = StepsDrawn(audit.number, audit.value, audit.claim, audit.answer)
                segment = replace(segment, steps=steps)
            kind = RulingKind.STEPS.value
            draws_of = self._draw_of(tx, row)
            record = RulingRecord(audit.step_audit_id, kind, reason, segment, draws=draws_of)
            follows = self._follows(tx, row, roles)
        return RulingView(
            audit.step_audit_id,
            name.kind,
            row,
            roles,
            audit.created_at_us,
            audit.ended_at_us,
            outcome.value,
            reason,
            audit.detail,
            follows=follows,
            record=record,
        )

    # --- the house alone ----------------------------------------------------------------------

    def _house_view(
        self, tx: Transaction, session: Session, name: RulingName, *, whole: bool
    ) -> RulingView:
        row = segments.get(tx, int(name.name))
        assert row is not None, "the page names it"
        roles = self._roles(tx, session, row, ())
        record: RulingRecord | None = None
        follows: tuple[str, ...] = ()
        ruling_id = row.commitment_digest.hex()
        if whole:
            segment = self._bare(tx, row, row.verdict or b"")
            record = RulingRecord(ruling_id, RulingKind.HOUSE.value, row.reason, segment)
            follows = self._follows(tx, row, roles)
        return RulingView(
            ruling_id,
            name.kind,
            row,
            roles,
            row.committed_at_us,
            row.committed_at_us,
            Outcome.PRODUCER_WRONG.value,
            row.reason,
            _HOUSE_SAW[row.reason.endswith("FILE_DIFFERS")],
            follows=follows,
            record=record,
        )

    # --- what they share ----------------------------------------------------------------------

    def _roles(
        self,
        tx: Transaction,
        session: Session,
        row: SegmentRow,
        others: Sequence[tuple[str, str]],
    ) -> tuple[str, ...]:
        """What the caller's account is in it."""
        job = jobs.get(tx, row.job_id)
        parties = [
            ("producer", row.account_id),
            *others,
            ("buyer", "" if job is None else job.buyer),
        ]
        mine = (part for part, account in parties if account and account == session.account_id)
        return tuple(dict.fromkeys(mine))

    def _follows(self, tx: Transaction, row: SegmentRow, roles: tuple[str, ...]) -> tuple[str, ...]:
        """What happened to the unit's money and to its worker; for those whose money it is."""
        if not {"producer", "auditor", "buyer"} & set(roles):
            return ()
        unit = f"the unit of {self._money(row.price_nano)} {_UNIT[row.state]}"
        if row.settled_at_us and row.state is not SegmentState.SETTLED:
            unit += "; it had been paid, and the job's story says what came back"
        caused = rulings.consequences(tx, row.segment_id, MAX_RULING_CONSEQUENCES)
        return (unit, *(f"{kind}: {detail}" for kind, detail in caused))

    def _bare(self, tx: Transaction, row: SegmentRow, verdict: bytes) -> DrawnSegment:
        """A segment's signed words, without its draw."""
        key = identity.key(tx, row.device_key_id)
        return DrawnSegment(
            row.segment_index,
            row.state.value,
            row.auditor,
            b"",
            row.commitment,
            b"" if key is None else key.public_key,
            verdict,
            worker_account=row.account_id,
        )

    def _draw_of(self, tx: Transaction, drawn: SegmentRow) -> LeaseAudits | None:
        """The draw of a segment, once its job has ended."""
        job: JobRow | None = jobs.get(tx, drawn.job_id)
        record = challenges.record_of(tx, drawn.segment_id)
        ended = job is not None and job.state in FINAL_JOB_STATES
        if record is None or not ended or draws.crossed_now(tx, drawn.job_id):
            return None
        lease = self._draws_of(tx, drawn.lease_id)
        segment = replace(self._bare(tx, drawn, b""), record=encode(record))
        return LeaseAudits(
            drawn.lease_id, lease.terms, lease.rules, lease.candidates, lease.house, (segment,)
        )


def _segment_number(tx: Transaction, ruling_id: str) -> str:
    """Of the segment whose commitment has this digest (hex); empty for none."""
    try:
        row = segments.of_commitment(tx, bytes.fromhex(ruling_id))
    except ValueError:
        return ""
    return "" if row is None else str(row.segment_id)
