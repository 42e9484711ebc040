"""What a verdict leads to: pay, or nothing for the unit, or a fault with all its consequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flopmarket.jobs.spec import Mode
from flopmarket.trust.audit_policy import Consequence, Signature, after_silence, audit_debt_nano
from flopmarket.trust.documents import SegmentVerdict
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.receipt import Outcome, file_digest
from flopmarket_coordinator.application.followers import FollowerUseCases
from flopmarket_coordinator.application.predicting import learn_audit
from flopmarket_coordinator.application.settling import ENDINGS
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditResult
from flopmarket_coordinator.core import faults
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    LeaseState,
    SegmentState,
)
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import ACCEPTING, VerdictCode, VoidReason, built_upon
from flopmarket_coordinator.store import held_pay, jobs, ledger, penalties, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow

VERDICT_LIFETIME_US = 10 * 365 * 24 * 3_600 * 1_000_000  # evidence, not a request


class JudgingUseCases(FollowerUseCases):
    """Consequences of verdicts. Nothing here is called from outside the application."""

    def _accept(
        self, tx: Transaction, row: SegmentRow, verdict: bytes | None, *, auditor: str
    ) -> None:
        """A segment counts: found right by ``auditor``, or, without a verdict, never drawn.

        One that counted already was looked at again, and its pay need not wait for that any more;
        one that fell is paid.
        """
        if row.state is SegmentState.VOID:
            self._claim_right(tx, row, verdict, auditor)
            return
        if row.state is not SegmentState.COMMITTED:
            self._found_right_again(tx, row, verdict, auditor)
            return
        # What the house is to look at after a fault is not settled by another account's word.
        exact = self._job(tx, row.job_id).mode == Mode.EXACT
        awaited = exact and row.house_task == AuditKind.RECOMPUTE.value
        left = row.house_task if awaited and auditor not in self._house_keys(tx) else ""
        segments.move(
            tx,
            row,
            SegmentState.VERIFIED,
            verdict=verdict,
            verdict_accepted=verdict is not None,
            files_checked=True,
            auditor=auditor,
            house_task=left,
        )
        found = "not drawn, its files hold what was committed"
        if verdict is not None:
            self._note_right(tx, row)
            work.count_outcome(tx, row.offer_id, right=True)
            learn_audit(tx, row)
            self._charge_audit(tx, row)
            found = "equal bits"
        text = f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: {found}"
        jobs.record(tx, row.job_id, EventKind.VERIFIED, text, row.lease_id)
        self._refresh(tx, row.job_id)

    def _found_right_again(
        self, tx: Transaction, row: SegmentRow, verdict: bytes | None, auditor: str
    ) -> None:
        values: dict[str, object] = {"house_task": "", "files_checked": True}
        if verdict is not None:
            values |= {"verdict": verdict, "verdict_accepted": True, "auditor": auditor}
        segments.update(tx, row, **values)
        self._release_of(tx, row.account_id)

    def _charge_audit(self, tx: Transaction, row: SegmentRow) -> None:
        """A newcomer owes for the audit of a unit what the unit costs."""
        rules = self._parameters.audit_rules
        keys = self._device_keys(tx, row.device_key_id)
        if penalties.delivered_fewer(tx, keys, row.segment_id, rules.own_audit_units):
            penalties.add_debt(tx, row.account_id, audit_debt_nano(rules, 0, row.price_nano))

    def _reject(
        self,
        tx: Transaction,
        row: SegmentRow,
        code: VerdictCode,
        verdict: bytes | None,
        *,
        auditor: str,
        signature: Signature | None = None,
    ) -> None:
        """A wrong segment, found when it was committed, verified or paid, whether or not its job
        has ended: what it was paid goes back, the device pays, and somebody does it again.

        ``signature`` is what a dispute found at the first wrong tile; without one a fault is no
        flip. ``auditor`` is the key that found it: the coordinator's own, or another account's.
        """
        if row.state is SegmentState.VOID:
            self._claim_wrong(tx, row, code, verdict, auditor=auditor, signature=signature)
            self._expose(tx, row, auditor)
            return
        before = self._job(tx, row.job_id)
        slashed = self._refute(tx, row, code, verdict, auditor=auditor, signature=signature)
        jobs.cut(tx, row.job_id, row.first_step)
        fallen = self._fall(tx, before, row)
        self._make_good(tx, before, row, fallen, code, auditor=auditor, slashed=slashed)
        self._put_away(tx, row, code, slashed=slashed, apart_from=row.job_id)
        if before.state in FINAL_JOB_STATES:
            self._correct(tx, row, code)
        else:
            self._roll_back(tx, row, len(fallen))
            self._refresh(tx, row.job_id)
        self._expose(tx, row, auditor)

    def _expose(self, tx: Transaction, row: SegmentRow, auditor: str) -> None:
        """Another owner's auditor had found this segment right, which it was not: it loses what a
        producer of it would. ``auditor`` is the key that found it wrong now."""
        agreed = row.auditor if row.verdict_accepted else ""
        if agreed and agreed not in (auditor, self._key.key_id):
            cause = f"segment {row.segment_index} of job {row.job_id} is wrong"
            self._auditor_wrong(tx, agreed, job_id=row.job_id, cause=cause)

    def _forfeit(
        self,
        tx: Transaction,
        row: SegmentRow,
        reason: VoidReason,
        verdict: bytes | None = None,
        *,
        auditor: str = "",
    ) -> None:
        """The worker of a right segment did not open it in time: the work stands, its pay does not.

        The worker's part goes to the reserve when the segment is paid. The fifth silence within
        the window of strikes costs the stake.
        """
        rules = self._parameters.audit_rules
        unit, silences = self._record(tx, row.device_key_id, row.segment_id, StrikeKind.SILENCE)
        consequence = after_silence(rules, unit, silences, roots_differ=False)
        if row.state is not SegmentState.SETTLED:  # what is paid stays paid: the work was right
            held_pay.mark_forfeited(tx, row.segment_id)
        self._strike(tx, row.device_key_id, StrikeKind.SILENCE, reason, segment_id=row.segment_id)
        text = f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: {reason}"
        jobs.record(tx, row.job_id, EventKind.FORFEITED, text, row.lease_id)
        if row.state is SegmentState.COMMITTED:
            segments.move(
                tx,
                row,
                SegmentState.VERIFIED,
                reason=reason.value,
                verdict=verdict,
                verdict_accepted=verdict is not None,
                files_checked=True,
                auditor=auditor,
                house_task="",
            )
        if consequence is Consequence.SLASH:
            why = f"{reason}, {rules.allowed_silences + 1} times within {rules.strike_window_units}"
            self._slash_stake(tx, row.device_key_id, reason, why, row.job_id, row.segment_id)
        self._refresh(tx, row.job_id)

    # --- what falls with a wrong segment ------------------------------------------------------

    def _fall(
        self,
        tx: Transaction,
        job: JobRow,
        row: SegmentRow,
        reason: VoidReason = VoidReason.BUILT_ON_WRONG_STATE,
    ) -> list[SegmentRow]:
        """Void what was built on a segment that counts no more, and of a chain that goes on what
        was done since the last durable state before it; as it was."""
        if job.stateless:
            return []
        lost: list[SegmentRow] = []
        if job.state not in FINAL_JOB_STATES and not job.ending:
            newest = segments.newest_checkpoint(tx, row.job_id, row.first_step, checked=False)
            start = 0 if newest is None else newest.first_step + newest.steps
            live = segments.live_from(tx, row.job_id, start)
            lost = [other for other in live if other.first_step < row.first_step]
        later = segments.live_from(tx, row.job_id, row.first_step)
        parts = [other.part() for other in later]
        ids = {part.segment_id for part in built_upon(row.part(), parts, stateless=False)}
        built = [other for other in later if other.segment_id in ids]
        self._void(tx, lost, VoidReason.NOT_DURABLE)
        self._void(tx, built, reason)
        return [*lost, *built]

    def _roll_back(
        self, tx: Transaction, row: SegmentRow, fallen: int, what: str = "was wrong"
    ) -> None:
        job = self._job(tx, row.job_id)
        if job.stateless:
            return
        for lease in work.live_leases_of_job(tx, row.job_id):
            why = f"segment {row.segment_index} {what}"
            self._end_lease(tx, lease, LeaseState.REVOKED, RevokeReason.ROLLED_BACK, why)
        if not job.ending:
            self._restart(tx, self._job(tx, row.job_id))
        text = f"segments from step {row.first_step} on are void ({fallen} beside it)"
        jobs.record(tx, row.job_id, EventKind.ROLLED_BACK, text, row.lease_id)

    def _make_good(
        self,
        tx: Transaction,
        job: JobRow,
        row: SegmentRow,
        fallen: Sequence[SegmentRow],
        code: VerdictCode,
        *,
        auditor: str,
        slashed: bool,
    ) -> None:
        """The buyer has its money back, honest workers theirs (docs/money.md §4)."""
        cheat = row.account_id
        void = [row, *fallen]
        own = [it for it in void if it.state is SegmentState.SETTLED and it.account_id == cheat]
        owed = self._owed(tx, job, cheat, void, row.bill_nano)
        funds = self._funds(tx, cheat, own, slashed=slashed)
        outcome = faults.slash(
            self._parameters.audit_rules,
            cause="fault",
            job_id=job.job_id,
            segment_id=row.segment_id,
            cheat=cheat,
            buyer=job.buyer,
            auditor="" if code is VerdictCode.CLASS_OUTVOTED else self._finder(tx, auditor, cheat),
            funds=replace(funds, buyer_nano=self._charge_bound(job)),
            owed=owed,
        )
        ledger.execute_all(tx, outcome.transfers)
        self._give_back(tx, job, void, outcome)
        others = [other for other in fallen if other.account_id != cheat]
        self._pay_claims(tx, job, outcome.covered, others)
        if not slashed:
            self._owe_audits_again(tx, own)
        if slashed:
            self._tell_slash(tx, row.device_key_id, cheat, code, outcome, job.job_id, row)
        if owed.bills_nano:
            text = (
                f"{self._money(outcome.returned_nano)} paid for segments that are void is its "
                f"buyer's again, {self._money(outcome.unreturned_nano)} is lacking"
            )
            jobs.record(tx, job.job_id, EventKind.RETURNED, text, row.device_key_id)

    def _owe_audits_again(self, tx: Transaction, own: Sequence[SegmentRow]) -> None:
        """A debt for audits was paid out of pay that went back: it is owed again."""
        for row in own:
            if row.to_audit_nano:
                penalties.add_debt(tx, row.account_id, row.to_audit_nano)

    def _give_back(
        self, tx: Transaction, job: JobRow, void: Sequence[SegmentRow], outcome: faults.Slash
    ) -> None:
        """What came back to the buyer is not billed any more, and held again while the job runs."""
        undone = [row for row in void if row.state is SegmentState.SETTLED]
        values: dict[str, object] = {}
        if undone:
            values = {
                "billed_nano": job.billed_nano - sum(row.bill_nano for row in undone),
                "fee_nano": job.fee_nano - sum(row.fee_nano for row in undone),
                "surcharge_nano": job.surcharge_nano - sum(row.surcharge_nano for row in undone),
                "returned_nano": job.returned_nano + outcome.returned_nano,
                "unreturned_nano": job.unreturned_nano + outcome.unreturned_nano,
            }
        self._charge(tx, job, outcome.returned_nano, outcome.charged_nano, **values)

    def _correct(self, tx: Transaction, row: SegmentRow, code: VerdictCode) -> None:
        """A job had ended: its receipt is made anew and names the one it replaces."""
        job = self._job(tx, row.job_id)
        outcome, _ = ENDINGS[job.state]
        if outcome is Outcome.COMPLETED:
            outcome = Outcome.FAILED
        replaced = file_digest(jobs.receipt_file(tx, job.job_id))
        reason = f"CORRECTED: {code} in segment {row.segment_index}"
        receipt = self._receipt(tx, job, outcome, replaced)
        jobs.update(tx, job.job_id, receipt=receipt, reason=reason)
        text = (
            f"segment {row.segment_index} was found wrong after the end: billed "
            f"{self._money(job.billed_nano)} now; the new receipt replaces {replaced.hex()[:16]}"
        )
        jobs.record(tx, job.job_id, EventKind.CORRECTED, text, f"segment {row.segment_id}")

    def _verdict(
        self,
        tx: Transaction,
        row: SegmentRow,
        code: VerdictCode,
        result: AuditResult,
        *,
        auditor: str = "",
    ) -> Envelope:
        """What ``auditor`` (a key id, empty for the house) found, signed."""
        body = SegmentVerdict(
            job_id=bytes.fromhex(row.job_id),
            segment_index=row.segment_index,
            commitment_digest=row.commitment_digest,
            auditor_key_id=auditor or self._key.key_id,
            accepted=code in ACCEPTING,
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
