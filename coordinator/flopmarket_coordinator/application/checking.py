"""The use case of the operator's checker: read everything, trust nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flopmarket.errors import FlopmarketError
from flopmarket.trust.receipt import Receipt, verify_receipt
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.core.invariants import (
    Finding,
    JobFacts,
    LeaseFacts,
    SegmentFacts,
    Snapshot,
    check,
)
from flopmarket_coordinator.store import ledger, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow, to_record


class CheckingUseCases(UseCases):
    """Invariants of everything that is stored."""

    def check(self, tx: Transaction) -> tuple[Finding, ...]:
        """The first break of every rule; empty when the books are right."""
        receipts, findings = self._receipts(tx)
        snapshot = Snapshot(
            transfers=[ledger.to_transfer(row) for row in _rows(tx, schema.transfer, "number")],
            balances={
                row["ledger_account_id"]: (row["balance_nano"], row["reserved_nano"])
                for row in _rows(tx, schema.ledger_account, "ledger_account_id")
            },
            jobs=[
                _job_facts(to_record(JobRow, row), receipts.get(row["job_id"]))
                for row in _rows(tx, schema.job, "number")
            ],
            segments=[
                _segment_facts(to_record(SegmentRow, row))
                for row in _rows(tx, schema.segment, "segment_id")
            ],
            leases=[
                _lease_facts(to_record(LeaseRow, row))
                for row in _rows(tx, schema.lease, "lease_id")
            ],
        )
        return (*check(snapshot), *findings[:1])

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
    )


def _segment_facts(row: SegmentRow) -> SegmentFacts:
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
        accepting_verdict=row.verdict is not None and row.verdict_accepted,
    )


def _lease_facts(row: LeaseRow) -> LeaseFacts:
    return LeaseFacts(row.lease_id, row.job_id, row.offer_id, row.chain, row.fence, row.state)
