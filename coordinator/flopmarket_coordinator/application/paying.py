"""What a verified segment is paid, when pay becomes spendable, and the receipt at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flopmarket.jobs.spec import Mode
from flopmarket.limits import MAX_RELEASED_PER_ROUND
from flopmarket.market.money import Nano
from flopmarket.market.price import split_fee
from flopmarket.trust.audit_policy import PayDivision, divide_pay
from flopmarket.trust.receipt import Outcome
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.predicting import learn_delivery
from flopmarket_coordinator.application.receipting import signed_receipt
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.core import escrow, faults
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.faults import Claim, Covered
from flopmarket_coordinator.core.ledger import Balance, account_of
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, SegmentState
from flopmarket_coordinator.store import (
    challenges,
    held_pay,
    jobs,
    ledger,
    penalties,
    segments,
    tape,
)
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.held_pay import FORFEITED, HELD, Due
from flopmarket_coordinator.store.records import JobRow, SegmentRow


class PayingUseCases(UseCases):
    """Money of single segments. Apart from :meth:`release_pay`, nothing is called from outside."""

    def release_pay(self, tx: Transaction) -> int:
        """Free the pay whose time has come, a bounded part of it; how much of it, in nano-units."""
        before_us = tx.now_us - self._parameters.held_us
        return self._release(tx, held_pay.overdue(tx, before_us, MAX_RELEASED_PER_ROUND))

    def _job(self, tx: Transaction, job_id: str) -> JobRow:
        job = jobs.get(tx, job_id)
        assert job is not None, f"job {job_id} was there a moment ago"
        return job

    def _pay(self, tx: Transaction, job_id: str, row: SegmentRow) -> None:
        """Settle one verified segment."""
        job = self._job(tx, job_id)
        hold = job.hold
        assert hold is not None, f"job {job_id} owes segment {row.segment_id} and holds nothing"
        split = split_fee(row.price_nano, self._parameters.fee_ppm)
        pay = self._division(tx, row, split.worker_nano)
        settlement = escrow.settle_segment(
            job_id=job_id,
            segment_id=row.segment_id,
            buyer=job.buyer,
            worker=row.account_id,
            hold=hold,
            price_nano=row.price_nano,
            split=split,
            pay=pay,
            surcharge_nano=row.surcharge_nano,
        )
        ledger.execute_all(tx, settlement.transfers)
        if pay.to_audits_nano:
            penalties.add_debt(tx, row.account_id, -pay.to_audits_nano)
        segments.move(
            tx,
            row,
            SegmentState.SETTLED,
            fee_nano=split.fee_nano,
            to_audit_nano=pay.to_audits_nano,
            to_bond_nano=pay.to_bond_nano,
            to_held_nano=pay.to_held_nano,
            held_state=row.held_state or HELD,
            settled_at_us=tx.now_us,
            trade_number=tape.print_trade(tx, row.segment_id),
        )
        learn_delivery(tx, row.segment_id)
        renewed = settlement.hold
        jobs.update(
            tx,
            job_id,
            billed_nano=job.billed_nano + row.bill_nano,
            surcharge_nano=job.surcharge_nano + row.surcharge_nano,
            fee_nano=job.fee_nano + split.fee_nano,
            settled_steps=row.first_step + row.steps,
            hold_id=renewed.transfer_id if renewed else "",
            hold_number=renewed.number if renewed else hold.number,
            hold_nano=renewed.amount_nano if renewed else 0,
        )
        text = (
            f"segment {row.segment_index}: {self._money(row.price_nano)}, "
            f"fee {self._money(split.fee_nano)}"
        )
        if row.surcharge_nano:
            text += f"; {job.verification} adds {self._money(row.surcharge_nano)}"
        jobs.record(tx, job_id, EventKind.PAID, text, f"segment {row.segment_id}")
        self._release_of(tx, row.account_id)

    def _division(self, tx: Transaction, row: SegmentRow, worker_nano: int) -> PayDivision:
        """Where a worker's part goes; nowhere of its own when the unit was forfeited."""
        if row.held_state == FORFEITED:
            return PayDivision(0, 0, 0)
        rules, parameters = self._parameters.audit_rules, self._parameters
        bond, _ = ledger.balance(tx, account_of(row.account_id, Balance.BOND))
        target = min(rules.bond_units * row.price_nano, parameters.bond_target_nano)
        debt = penalties.debt(tx, row.account_id)
        return divide_pay(rules, worker_nano, debt, bond, target)

    # --- the held window ----------------------------------------------------------------------

    def _end_pay(self, tx: Transaction, job_id: str) -> None:
        """A job has ended: from now on only time and further work keep its pay from its workers."""
        for account in held_pay.job_ended(tx, job_id):
            self._release_of(tx, account)

    def _release_of(self, tx: Transaction, account_id: str) -> None:
        """Free what an account need not leave at stake any more."""
        rules = self._parameters.audit_rules
        before_us = tx.now_us - self._parameters.held_us
        self._release(tx, held_pay.due(tx, account_id, before_us, rules.held_units))

    def _release(self, tx: Transaction, due: Iterable[Due]) -> int:
        found = list(due)
        held_pay.release(tx, found)
        ledger.execute_all(
            tx,
            (
                escrow.release_pay(item.job_id, item.account_id, item.amount_nano, item.last)
                for item in found
                if item.amount_nano
            ),
        )
        return sum(item.amount_nano for item in found)

    # --- work that fell with somebody else's -------------------------------------------------

    def _house_can_look(self, tx: Transaction, job: JobRow, row: SegmentRow) -> bool:
        """Whether the house recomputes whole segments of this lease, from whatever state."""
        terms = challenges.get(tx, row.lease_id)
        return job.mode == Mode.EXACT and (terms is None or not terms.audit_steps)

    def _follower_claims(
        self, tx: Transaction, job: JobRow, rows: Iterable[SegmentRow]
    ) -> tuple[Claim, ...]:
        """Workers' parts of segments that would have been paid; a forfeited one has none."""
        fee_ppm = self._parameters.fee_ppm
        return tuple(
            Claim(
                row.segment_id,
                row.account_id,
                split_fee(row.price_nano, fee_ppm).worker_nano,
                checked=row.verdict_accepted,
                checkable=self._house_can_look(tx, job, row),
            )
            for row in rows
            if row.held_state != FORFEITED
            and row.state in (SegmentState.COMMITTED, SegmentState.VERIFIED)
        )

    def _pay_behind_gap(self, tx: Transaction, job: JobRow, rows: Sequence[SegmentRow]) -> None:
        """Ranges that were right and end with their job: its hold pays. Out of the reserve, a buyer
        and two workers of one mind could have it at will. ``rows`` as they were."""
        claims = self._follower_claims(tx, job, rows)
        covered = faults.cover(claims, 0, self._charge_bound(job))
        self._charge(tx, job, 0, sum(item.from_buyer_nano for item in covered))
        self._pay_claims(tx, job, covered, rows)

    def _charge_bound(self, job: JobRow) -> Nano:
        """What followers may have of a job's hold; it covered their segments until now."""
        return 0 if job.state in FINAL_JOB_STATES else job.hold_nano

    def _charge(
        self,
        tx: Transaction,
        job: JobRow,
        back_nano: Nano,
        charged_nano: Nano,
        **values: object,
    ) -> None:
        """Hold again what came back to a job, less what its followers are paid out of it;
        ``values`` are further columns of the job."""
        if charged_nano:
            before = values.get("unreturned_nano", job.unreturned_nano)
            assert isinstance(before, int)
            values["unreturned_nano"] = before + charged_nano
        if job.state not in FINAL_JOB_STATES and back_nano != charged_nano:
            values |= self._hold_again(tx, job, back_nano - charged_nano)
        if values:
            jobs.update(tx, job.job_id, **values)

    def _hold_again(self, tx: Transaction, job: JobRow, more_nano: Nano) -> dict[str, object]:
        """Renew a hold with more or less in it; the job's new columns."""
        number = job.hold_number + 1
        left = (0 if job.hold is None else job.hold.amount_nano) + more_nano
        if not left:
            if job.hold is not None:
                ledger.execute(tx, escrow.close_hold(job.job_id, job.buyer, job.hold))
            return {"hold_id": "", "hold_number": number, "hold_nano": 0}
        transfers, hold = escrow.renew_hold(job.job_id, job.buyer, job.hold, number, more_nano)
        ledger.execute_all(tx, transfers)
        return {
            "hold_id": hold.transfer_id,
            "hold_number": hold.number,
            "hold_nano": hold.amount_nano,
        }

    def _pay_claims(
        self,
        tx: Transaction,
        job: JobRow,
        covered: Sequence[Covered],
        others: Sequence[SegmentRow],
    ) -> None:
        """Pay or promise claims, and let the house look at what nobody recomputed: also at what
        was paid already and fell. ``others`` are the void rows of other accounts, as they were."""
        ledger.execute_all(tx, faults.claim_transfers(job.job_id, job.buyer, covered))
        waiting = 0
        for row in others:
            known = row.verdict_accepted or row.held_state == FORFEITED
            if not known and self._house_can_look(tx, job, row):
                segments.update(tx, row, house_task=AuditKind.RECOMPUTE.value)
                waiting += 1
        if not covered and not waiting:
            return
        paid = sum(it.from_stake_nano + it.from_buyer_nano for it in covered if not it.promised)
        promised = sum(it.from_stake_nano + it.from_buyer_nano for it in covered if it.promised)
        text = (
            f"{self._money(paid)} paid for work that counts no more, {self._money(promised)} when "
            f"the house has looked at {waiting} segments; "
            f"{self._money(sum(it.from_buyer_nano for it in covered))} of it by the buyer"
        )
        jobs.record(tx, job.job_id, EventKind.COMPENSATED, text)

    # --- receipts -----------------------------------------------------------------------------

    def _receipt(
        self, tx: Transaction, job: JobRow, outcome: Outcome, replaces: bytes = b""
    ) -> bytes:
        """The signed receipt of a job as its segments are now."""
        return signed_receipt(
            tx,
            job,
            outcome,
            currency=self._parameters.currency,
            key=self._key,
            replaces=replaces,
        )
