"""The use case of the operator's checker: read everything, trust nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flopmarket.errors import FlopmarketError
from flopmarket.trust.receipt import Receipt, verify_receipt
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.currency import CURRENCY
from flopmarket_coordinator.application.tape_check import check_tape
from flopmarket_coordinator.core.escrow import reserve_audit_pay
from flopmarket_coordinator.core.faults import claim_ids
from flopmarket_coordinator.core.invariants import (
    Finding,
    JobFacts,
    LeaseFacts,
    SegmentFacts,
    Snapshot,
    check,
)
from flopmarket_coordinator.core.ledger_check import (
    LedgerFacts,
    check_ledger,
    holds_amounts,
    readable,
)
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.payments import WithdrawalState
from flopmarket_coordinator.core.penalties import AuditPayState
from flopmarket_coordinator.store import schema, settings
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow
from flopmarket_coordinator.store.rows import Rows

_JOBS = Rows(JobRow, schema.job)
_SEGMENTS = Rows(SegmentRow, schema.segment)
_LEASES = Rows(LeaseRow, schema.lease)


class CheckingUseCases(UseCases):
    """Invariants of everything that is stored."""

    def check(self, tx: Transaction) -> tuple[Finding, ...]:
        """The first break of every rule; empty when the books are right."""
        receipts, findings = self._receipts(tx)
        facts = self._ledger_facts(tx)
        sums = [row for row in facts.accounts if holds_amounts(row)]
        transfers = [readable(row) for row in facts.transfers]
        drawn = {
            row["segment_id"]: bool(row["audited"])
            for row in _rows(tx, schema.challenge_record, "segment_id")
        }
        buyers = {row["job_id"]: row["buyer"] for row in _rows(tx, schema.job, "number")}
        snapshot = Snapshot(
            transfers=[item for item in transfers if item is not None],
            balances={
                row["ledger_account_id"]: (row["balance_nano"], row["reserved_nano"])
                for row in sums
            },
            overdrafts={row["ledger_account_id"]: row["overdraft_nano"] for row in sums},
            withdrawals=frozenset(
                row["withdrawal_id"]
                for row in facts.withdrawals
                if row["state"] == WithdrawalState.PENDING
            ),
            audit_pay=frozenset(
                pending.transfer_id
                for row in _rows(tx, schema.audit_pay, "lease_id")
                if row["state"] == AuditPayState.RESERVED
                for pending in reserve_audit_pay(
                    row["lease_id"],
                    row["account_id"],
                    row["from_audit_nano"],
                    row["from_fee_nano"],
                )
            ),
            claims=frozenset(
                name
                for row in _rows(tx, schema.segment, "segment_id")
                if row["state"] == SegmentState.VOID and row["house_task"]
                for name in claim_ids(row["segment_id"], buyers[row["job_id"]])
            ),
            jobs=[
                _job_facts(job, receipts.get(job.job_id))
                for job in _JOBS.all(tx, _JOBS.select.order_by(schema.job.c.number))
            ],
            segments=[
                _segment_facts(segment, drawn.get(segment.segment_id, True))
                for segment in _SEGMENTS.all(
                    tx, _SEGMENTS.select.order_by(schema.segment.c.segment_id)
                )
            ],
            leases=[
                _lease_facts(lease)
                for lease in _LEASES.all(tx, _LEASES.select.order_by(schema.lease.c.lease_id))
            ],
        )
        tape = check_tape(tx, self._key.public)
        return (*check_ledger(facts), *check(snapshot), *findings[:1], *tape)

    def _ledger_facts(self, tx: Transaction) -> LedgerFacts:
        return LedgerFacts(
            transfers=_rows(tx, schema.transfer, "number"),
            batches=_rows(tx, schema.ledger_batch, "number"),
            heads=_rows(tx, schema.ledger_head, "batch_count"),
            accounts=_rows(tx, schema.ledger_account, "ledger_account_id"),
            expiries=_rows(tx, schema.ledger_expiry, "transfer_id"),
            withdrawals=_rows(tx, schema.withdrawal, "withdrawal_id"),
            market_accounts=frozenset(
                row["account_id"] for row in _rows(tx, schema.account, "account_id")
            ),
            currency=settings.get(tx, CURRENCY) or self._parameters.currency,
            key=self._key.public,
        )

    def _receipts(self, tx: Transaction) -> tuple[dict[str, Receipt], list[Finding]]:
        read: dict[str, Receipt] = {}
        findings: list[Finding] = []
        for row in _rows(tx, schema.job, "number"):
            if row["receipt"] is None:
                continue
            try:
                read[row["job_id"]] = verify_receipt(row["receipt"], self._key.public).receipt
            except FlopmarketError as error:
                findings.append(Finding("receipt-signature", row["job_id"], error.message))
        return read, findings


def _rows(tx: Transaction, table: sa.Table, order: str) -> Any:
    return tx.connection.execute(sa.select(table).order_by(table.c[order])).mappings().all()


def _job_facts(job: JobRow, receipt: Receipt | None) -> JobFacts:
    return JobFacts(
        job_id=job.job_id,
        state=job.state,
        ceiling_nano=job.ceiling_nano,
        billed_nano=job.billed_nano,
        fee_nano=job.fee_nano,
        hold_id=job.hold_id,
        hold_nano=job.hold_nano,
        receipt_invoice_nano=receipt.invoice_nano if receipt else None,
        receipt_fee_nano=receipt.fee_nano if receipt else None,
        receipt_segments=len(receipt.segments) if receipt else None,
        settled_steps=job.settled_steps,
        checked_steps=job.checked_steps,
        live_steps=job.live_steps,
        unaudited_segments=job.unaudited_segments,
        surcharge_nano=job.surcharge_nano,
        receipt_surcharge_nano=receipt.surcharge_nano if receipt else None,
        returned_nano=job.returned_nano,
        unreturned_nano=job.unreturned_nano,
    )


def _segment_facts(row: SegmentRow, drawn: bool) -> SegmentFacts:
    return SegmentFacts(
        segment_id=row.segment_id,
        job_id=row.job_id,
        account_id=row.account_id,
        state=row.state,
        first_step=row.first_step,
        steps=row.steps,
        price_nano=row.price_nano,
        to_held_nano=row.to_held_nano,
        held_state=row.held_state,
        surcharge_nano=row.surcharge_nano,
        accepting_verdict=row.verdict is not None and row.verdict_accepted,
        fee_nano=row.fee_nano,
        was_settled=row.settled_at_us > 0,
        drawn=drawn,
    )


def _lease_facts(row: LeaseRow) -> LeaseFacts:
    return LeaseFacts(
        row.lease_id,
        row.job_id,
        row.offer_id,
        row.chain,
        row.fence,
        row.state,
        audit=bool(row.audit_id),
    )
