"""Audits inside a class of devices, where nobody outside can recompute: its own accounts decide.

What the house does for exact jobs has another answer here: who differs is judged by arbiters
(:mod:`flopmarket.trust.arbitration`), who had no auditor waits for one, and a look back is an audit
by others. Arbiters are audits like the one that they decide, and name it as their parent.
"""

from __future__ import annotations

from itertools import islice

from flopmarket.limits import MAX_ARBITER_PASSES, MAX_AUDIT_ROUNDS
from flopmarket.trust import arbitration
from flopmarket.trust.arbitration import (
    Answered,
    Arbitration,
    AskArbiter,
    Candidate,
    Passed,
    Question,
    Silent,
    Vote,
    Word,
)
from flopmarket.trust.audit_policy import AuditRules
from flopmarket.trust.challenge import AuditorList, Purpose, auditors, draw
from flopmarket.trust.modes import Mode
from flopmarket.trust.sealing import Outcome
from flopmarket_coordinator.application.arbitration_views import told
from flopmarket_coordinator.application.audit_draws import AuditDrawUseCases
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditResult
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPhase, AuditPurpose
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason
from flopmarket_coordinator.store import audits, challenges, jobs, segments
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_FINAL_LOOKS = (AuditPurpose.CROSS, AuditPurpose.LOOK_BACK)
"""Audits of what has been judged or paid: that nobody comes to look changes nothing about it."""


class ArbitratingUseCases(AuditDrawUseCases):
    """Ends of audits of class jobs. Nothing here is called from outside the application."""

    # --- how an audit ends --------------------------------------------------------------------

    def _conclude_audit(self, tx: Transaction, audit: AuditRow, outcome: Outcome) -> None:
        """See :class:`AuditOutcomeUseCases`; in a class, arbiters stand where the house stood."""
        if not self._in_class(tx, audit):
            super()._conclude_audit(tx, audit, outcome)
            return
        if audit.purpose is AuditPurpose.ARBITER:
            self._arbiter_left(tx, audit)
            return
        match outcome:
            case Outcome.ROOTS_DIFFER | Outcome.UNANSWERED_DIFFERENCE:
                self._arbitrate(tx, audit)
            case Outcome.INNER_DIFFERS:
                self._ask_another(tx, audit)
            case Outcome.NO_AUDITOR:
                self._without_auditor(tx, audit)
            case _:
                super()._conclude_audit(tx, audit, outcome)

    def _to_house(self, tx: Transaction, audit: AuditRow, outcome: Outcome) -> None:
        """The house cannot compute what a class computes."""
        if not self._in_class(tx, audit):
            super()._to_house(tx, audit, outcome)
        elif audit.purpose is AuditPurpose.ARBITER:
            self._arbiter_left(tx, audit)
        elif audit.phase is not AuditPhase.WORKER_OPENS:
            self._without_auditor(tx, audit)
        elif self._equal_roots(tx, audit):  # its worker was banned before it opened
            self._close_audit(tx, audit, AuditEnd.UNDECIDED)
            self._pay_audit(tx, audit)
            self._void_unit(tx, self._segment(tx, audit.question_id), VoidReason.CLASS_UNDECIDED)
        else:
            self._arbitrate(tx, audit)

    def _accept_audited(self, tx: Transaction, audit: AuditRow, row: SegmentRow) -> None:
        """What was looked at again is not at stake any more."""
        if audit.purpose is AuditPurpose.LOOK_BACK:
            self._looked_back(tx, row)
        else:
            super()._accept_audited(tx, audit, row)

    def _in_class(self, tx: Transaction, audit: AuditRow) -> bool:
        return self._job(tx, audit.job_id).mode == Mode.CLASS

    def _equal_roots(self, tx: Transaction, audit: AuditRow) -> bool:
        row = self._segment(tx, audit.question_id)
        answer = self._answer(tx, audit, row)
        return answer is not None and (
            (answer.root_after, answer.outputs_root) == (row.root_after, row.outputs_root)
        )

    # --- nobody answered, or nothing that counts ----------------------------------------------

    def _without_auditor(self, tx: Transaction, audit: AuditRow) -> None:
        """Everybody was busy, or nobody could be paid: ask all of them again, for a day. Then a
        segment that waits for its audit is void; one that counts goes on counting."""
        row = self._segment(tx, audit.segment_id)
        self._dismiss(tx, audit, RevokeReason.NO_LONGER_NEEDED)
        lasts = audit.order and audit.purpose is not AuditPurpose.CROSS
        if lasts and tx.now_us < audit.until_us:
            audits.update(
                tx,
                audit.audit_id,
                phase=AuditPhase.DELAYED.value,
                outcome="",
                asked=0,
                question_id=audit.segment_id,
                deadline_us=tx.now_us + self._parameters.audit_waits.idle_us,
            )
            return
        self._close_audit(tx, audit, AuditEnd.UNDECIDED)
        if audit.purpose is AuditPurpose.LOOK_BACK:
            self._looked_back(tx, row)
        elif audit.purpose not in _FINAL_LOOKS:
            audits.update(tx, audit.audit_id, arbitrated_at_us=tx.now_us)
            self._void_unit(tx, row, VoidReason.CLASS_UNDECIDED)

    def _ask_another(self, tx: Transaction, audit: AuditRow) -> None:
        """Equal roots with other checksums prove nothing, and nobody can say whose are right: the
        answer counts for none, and the next auditor is asked."""
        self._close_audit(tx, audit, Outcome.INNER_DIFFERS)
        self._free_audit_pay(tx, audit.lease_id)
        if audit.purpose in _FINAL_LOOKS:
            if audit.purpose is AuditPurpose.LOOK_BACK:
                self._looked_back(tx, self._segment(tx, audit.segment_id))
            return
        self._audit_rest(tx, audit)

    def _audit_rest(self, tx: Transaction, audit: AuditRow) -> None:
        """Begin the audit anew with those who were not asked; whoever answered is passed over."""
        row = self._segment(tx, audit.segment_id)
        rest = (*audit.order[audit.asked :], *audit.order[: audit.asked])
        self._add_audit(tx, row, rest, audit.purpose, 0)

    # --- a difference -------------------------------------------------------------------------

    def _arbitrate(self, tx: Transaction, audit: AuditRow) -> None:
        """Worker and auditor stand by different roots: ask further accounts of the class."""
        phase = AuditPhase.ARBITRATION.value
        audits.update(tx, audit.audit_id, phase=phase, arbitrated_at_us=tx.now_us)
        row = self._segment(tx, audit.question_id)
        text = f"segment {row.segment_index}: two devices of the class differ, others are asked"
        jobs.record(tx, row.job_id, EventKind.DISPUTED, text, audit.audit_id)
        begun = arbitration.between(*self._sides(tx, audit, row))
        self._go_on_asking(tx, audit, *arbitration.begin(begun))

    def _sides(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow
    ) -> tuple[str, Vote, Vote, tuple[Candidate, ...], tuple[Vote, ...]]:
        """What an arbitration begins from; the same each time."""
        answer = self._answer(tx, audit, row)
        assert answer is not None, "the outcome compares it"
        house = frozenset(audits.house_accounts(tx))

        def vote(key_id: str, account: str, ends: tuple[bytes, bytes]) -> Vote:
            return Vote(key_id, account, *ends, account in house)

        ends = (row.root_after, row.outputs_root)
        producer = vote(row.device_key_id, row.account_id, ends)
        theirs = (answer.root_after, answer.outputs_root)
        auditor = vote(audit.auditor_key_id, audit.auditor_account_id, theirs)
        witnesses = tuple(
            vote(other.auditor_key_id, other.auditor_account_id, ends)
            for other in audits.comparing(tx, row.segment_id)
            if other.outcome == Outcome.EQUAL and other.purpose is not AuditPurpose.ARBITER
        )
        keys = (*audit.order[audit.asked :], *audit.order[: audit.asked])
        terms = challenges.get(tx, row.lease_id)
        if terms is not None:  # the house's own, however long the list of candidates is
            keys += self._documents.get(tx, AuditorList, terms.house).keys
        candidates = []
        for key_id in dict.fromkeys(keys):
            account = self._account_of_key(tx, key_id)
            if account:
                candidates.append(Candidate(key_id, account, account in house))
        return audit.audit_id, producer, auditor, tuple(candidates), witnesses

    def _arbitration(self, tx: Transaction, audit: AuditRow, asked: str) -> Arbitration:
        """How an arbitration stands, as long as the arbiter of the audit ``asked`` is waited for:
        what its rows say."""
        row = self._segment(tx, audit.question_id)
        questions = [
            self._question_to(tx, arbiter, waiting=arbiter.audit_id == asked)
            for arbiter in audits.arbiters(tx, audit.audit_id)
        ]
        return arbitration.between(*self._sides(tx, audit, row), questions)

    def _question_to(self, tx: Transaction, arbiter: AuditRow, *, waiting: bool) -> Question:
        key_id = arbiter.order[0]
        account = self._account_of_key(tx, key_id)
        if waiting or arbiter.phase is not AuditPhase.ENDED:
            return Question(key_id, account, Word.ASKED)
        if arbiter.finding == AuditEnd.SILENT:
            return Question(key_id, account, Word.SILENT)
        vote = self._vote_of(tx, arbiter)
        return Question(key_id, account, Word.PASSED if vote is None else Word.ANSWERED, vote)

    def _vote_of(self, tx: Transaction, arbiter: AuditRow) -> Vote | None:
        """What an arbiter answered. Where it differed on the way, its answer is that: nobody's."""
        answer = self._answer(tx, arbiter, self._segment(tx, arbiter.question_id))
        if answer is None or not arbiter.auditor_secret:
            return None
        account = arbiter.auditor_account_id
        house = account in audits.house_accounts(tx)
        ends = (answer.root_after, answer.outputs_root)
        return Vote(arbiter.auditor_key_id, account, *ends, house)

    def _arbiter_answered(self, tx: Transaction, arbiter: AuditRow) -> None:
        """An arbiter has committed and opened; the two who differ did so before."""
        vote = self._vote_of(tx, arbiter)
        assert vote is not None, "it has opened what it committed to"
        same = self._equal_roots(tx, arbiter)
        self._close_audit(tx, arbiter, Outcome.EQUAL if same else Outcome.ROOTS_DIFFER)
        self._hear(tx, arbiter, Answered(vote))

    def _arbiter_left(self, tx: Transaction, arbiter: AuditRow) -> None:
        """An arbiter could not be asked, or did not answer."""
        silent = arbiter.finding == AuditEnd.SILENT
        self._dismiss(tx, arbiter, RevokeReason.NO_LONGER_NEEDED)
        self._close_audit(tx, arbiter, Outcome.NO_AUDITOR)
        key_id = arbiter.order[0]
        self._hear(tx, arbiter, Silent(key_id) if silent else Passed(key_id))

    def _hear(self, tx: Transaction, arbiter: AuditRow, event: arbitration.Event) -> None:
        audit = self._audit(tx, arbiter.parent_id)
        if audit.phase is AuditPhase.ARBITRATION:
            before = self._arbitration(tx, audit, arbiter.audit_id)
            self._go_on_asking(tx, audit, *arbitration.handle(before, event))
        else:
            self._free_audit_pay(tx, arbiter.lease_id)

    def _drop_audit(self, tx: Transaction, audit: AuditRow) -> None:
        """Nor is an arbiter paid that had answered: nobody will know whether it was right."""
        super()._drop_audit(tx, audit)
        for arbiter in audits.arbiters(tx, audit.audit_id):
            if arbiter.phase is AuditPhase.ENDED:
                self._free_audit_pay(tx, arbiter.lease_id)

    def _go_on_asking(
        self,
        tx: Transaction,
        audit: AuditRow,
        state: Arbitration,
        said: tuple[arbitration.Instruction, ...],
    ) -> None:
        row = self._segment(tx, audit.question_id)
        pause_us = self._parameters.audit_waits.worker_us // MAX_ARBITER_PASSES
        for item in said:
            match item:
                case AskArbiter(key_id):
                    times = sum(question.key_id == key_id for question in state.questions)
                    delay_us = 0 if times == 1 else pause_us
                    purpose = AuditPurpose.ARBITER
                    self._add_audit(tx, row, (key_id,), purpose, delay_us, audit.audit_id)
                case arbitration.Ended(outcome):
                    self._arbitrated(tx, audit, row, state, outcome)

    # --- what the class decided ---------------------------------------------------------------

    def _arbitrated(
        self,
        tx: Transaction,
        audit: AuditRow,
        row: SegmentRow,
        state: Arbitration,
        outcome: arbitration.Outcome,
    ) -> None:
        votes = told(state.producer, state.auditor, state.others, outcome)
        text = f"segment {row.segment_index}: {votes}"
        jobs.record(tx, row.job_id, EventKind.DISPUTED, text, audit.audit_id)
        self._pay_arbiters(tx, audit, state)
        if row.state not in LIVE_SEGMENT_STATES:
            self._drop_audit(tx, audit)
            return
        match outcome:
            case arbitration.Outcome.PRODUCER_WRONG:
                self._outvoted(tx, audit, row, state)
            case arbitration.Outcome.AUDITOR_WRONG:
                self._confirmed(tx, audit, row, state)
            case arbitration.Outcome.UNDECIDED:
                self._undecided(tx, audit, row)

    def _pay_arbiters(self, tx: Transaction, audit: AuditRow, state: Arbitration) -> None:
        """Who said what somebody else said, too, is paid; who stands alone is not."""
        votes = (state.producer, state.auditor, *state.others)
        ends = [vote.ends for vote in votes]
        alone = {vote.key_id for vote in votes if ends.count(vote.ends) == 1}
        for arbiter in audits.arbiters(tx, audit.audit_id):
            if not arbiter.lease_id:
                continue
            if arbiter.auditor_secret and arbiter.auditor_key_id not in alone:
                self._pay_audit(tx, arbiter)
            else:
                self._free_audit_pay(tx, arbiter.lease_id)

    def _outvoted(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow, state: Arbitration
    ) -> None:
        """The worker stands alone: its segment is wrong, as a dispute would have found it."""
        self._close_audit(tx, audit, AuditEnd.REFUTED)
        self._pay_audit(tx, audit)
        found = AuditResult(state.auditor.state_root, state.auditor.outputs_root, None, None)
        finder, code = audit.auditor_key_id, VerdictCode.CLASS_OUTVOTED
        verdict = self._verdict(tx, row, code, found, auditor=finder).to_bytes()
        self._reject(tx, row, code, verdict, auditor=finder)

    def _confirmed(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow, state: Arbitration
    ) -> None:
        """The auditor stands alone: it answers for that as any wrong auditor does."""
        self._close_audit(tx, audit, AuditEnd.CONFIRMED)
        self._auditor_is_wrong(tx, audit, f"audit {audit.audit_id}, its class agrees on another")
        if audit.purpose is AuditPurpose.LOOK_BACK:
            self._looked_back(tx, self._segment(tx, audit.segment_id))
        elif audit.purpose in _FINAL_LOOKS:
            return
        elif audit.question_id != audit.segment_id:
            self._audit_rest(tx, audit)  # it erred on its way to the drawn segment
        elif (row := self._segment(tx, row.segment_id)).state is SegmentState.COMMITTED:
            right = next(vote for vote in state.others if vote.ends == state.producer.ends)
            verdict = self._audit_verdict(tx, row, right.key_id).to_bytes()
            if audit.outcome == Outcome.UNANSWERED_DIFFERENCE:
                reason = VoidReason.WORKER_SILENT
                self._forfeit(tx, row, reason, verdict, auditor=right.key_id)
            else:
                self._accept(tx, row, verdict, auditor=right.key_id)

    def _undecided(self, tx: Transaction, audit: AuditRow, row: SegmentRow) -> None:
        """Nobody is accused, both have a strike, and the work is somebody else's to do again."""
        reason, kind = VoidReason.CLASS_UNDECIDED, StrikeKind.CLASS_UNDECIDED
        self._close_audit(tx, audit, AuditEnd.UNDECIDED)
        self._free_audit_pay(tx, audit.lease_id)
        self._strike(tx, audit.auditor_key_id, kind, reason)
        fell = self._void_unit(tx, row, reason, strike=kind)
        drawn = self._segment(tx, audit.segment_id)
        beyond = drawn.segment_id != row.segment_id and audit.purpose not in _FINAL_LOOKS
        if not fell and beyond and drawn.state is SegmentState.COMMITTED:
            self._void_unit(tx, drawn, reason)  # its way leads through what is undecided

    # --- looking back -------------------------------------------------------------------------

    def _look_back(self, tx: Transaction, account_id: str, but: int, code: str) -> list[int]:
        """What an account did for its class is put up for the class."""
        found = super()._look_back(tx, account_id, but, code)
        for segment_id in found:
            row = self._segment(tx, segment_id)
            if self._job(tx, row.job_id).mode == Mode.CLASS:
                self._audit_again(tx, row)
        return found

    def _audit_again(self, tx: Transaction, row: SegmentRow) -> None:
        """Ask those whom the draw of the segment put in order, whether or not it was drawn."""
        if not row.files_checked:
            segments.update(tx, row, house_task=AuditKind.FILES.value)
        if audits.is_open(tx, row.segment_id):
            return
        record, terms = challenges.record_of(tx, row.segment_id), challenges.get(tx, row.lease_id)
        running = self._job(tx, row.job_id).deadline_us > tx.now_us
        if record is None or terms is None or not running:
            self._looked_back(tx, row)
            return
        x = draw(Purpose.AUDIT, record.value, row.commitment_digest)
        rules = self._documents.get(tx, AuditRules, terms.rules)
        candidates = self._documents.get(tx, AuditorList, terms.candidates).keys
        house = self._documents.get(tx, AuditorList, terms.house).keys
        order = tuple(islice(auditors(x, rules, candidates, house), MAX_AUDIT_ROUNDS))
        self._add_audit(tx, row, order, AuditPurpose.LOOK_BACK, 0)

    def _looked_back(self, tx: Transaction, row: SegmentRow) -> None:
        """Nothing was found against a segment: its pay need not wait for that any more."""
        if row.files_checked:
            segments.update(tx, row, house_task="")
        self._release_of(tx, row.account_id)
