"""Tables of money: balances and immutable transfers."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, Text

from flopmarket_coordinator.core.ledger import EXTERNAL, TransferKind
from flopmarket_coordinator.store.schema.base import Serial, big, metadata, one_of, partial, text

ledger_account = sa.Table(
    "ledger_account",
    metadata,
    Column("ledger_account_id", Text, primary_key=True),
    big("balance_nano"),
    big("reserved_nano"),
    CheckConstraint(
        f"ledger_account_id = '{EXTERNAL}' OR balance_nano >= reserved_nano", name="covered"
    ),
    CheckConstraint("reserved_nano >= 0", name="reserved_not_negative"),
)

transfer = sa.Table(
    "transfer",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("transfer_id", Text, nullable=False, unique=True),
    text("kind"),
    Column(
        "debit", Text, sa.ForeignKey("ledger_account.ledger_account_id"), nullable=False, index=True
    ),
    Column(
        "credit",
        Text,
        sa.ForeignKey("ledger_account.ledger_account_id"),
        nullable=False,
        index=True,
    ),
    big("amount_nano"),
    Column("pending_id", Text, sa.ForeignKey("transfer.transfer_id"), nullable=True),
    text("purpose"),
    Column("job_id", Text, nullable=False, index=True),
    text("reference"),
    big("created_at_us"),
    CheckConstraint("amount_nano > 0", name="amount_positive"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("(kind IN ('post', 'void')) = (pending_id IS NOT NULL)", name="resolves"),
    one_of("kind", TransferKind),
)
partial("uq_transfer_resolved_once", "pending_id IS NOT NULL", transfer.c.pending_id)
