"""What a verified segment is paid, when pay becomes spendable, and the receipt at the end."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.limits import MAX_RELEASED_PER_ROUND
from flopmarket.market.price import split_fee
from flopmarket.trust.audit_policy import PayDivision, divide_pay
from flopmarket.trust.receipt import Outcome
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.predicting import learn_delivery
from flopmarket_coordinator.application.receipting import signed_receipt
from flopmarket_coordinator.core import escrow, faults
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.ledger import RESERVE, Balance, account_of
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store import held_pay, jobs, ledger, penalties, tape
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
        jobs.move_segment(
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

    # --- compensation and receipts ------------------------------------------------------------

    def _compensate(self, tx: Transaction, job: JobRow, rows: Iterable[SegmentRow]) -> None:
        """Verified work that an early end made worthless is paid out of the reserve."""
        reserve, _ = ledger.balance(tx, RESERVE)
        paid = faults.compensate(job.job_id, reserve, self._claims(rows))
        ledger.execute_all(tx, paid.transfers)
        text = (
            f"{self._money(paid.compensated_nano)} from the reserve, "
            f"{self._money(paid.unpaid_nano)} unpaid"
        )
        jobs.record(tx, job.job_id, EventKind.COMPENSATED, text)

    def _claims(self, rows: Iterable[SegmentRow]) -> tuple[faults.Claim, ...]:
        """Workers' parts of segments that count no more; a forfeited one has none."""
        fee_ppm = self._parameters.fee_ppm
        return tuple(
            faults.Claim(
                row.segment_id, row.account_id, split_fee(row.price_nano, fee_ppm).worker_nano
            )
            for row in rows
            if row.held_state != FORFEITED
        )

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
