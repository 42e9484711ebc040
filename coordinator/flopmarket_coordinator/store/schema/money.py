"""Tables of money: balances, immutable transfers, the log over them, withdrawals, and the currency.

``transfer``, ``ledger_batch`` and ``ledger_head`` are append-only (triggers of the migrations
refuse anything else); every other row here can be derived from them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, Text

from flopmarket_coordinator.core.ledger import UNBOUNDED_ACCOUNTS, TransferKind
from flopmarket_coordinator.core.payments import WithdrawalState
from flopmarket_coordinator.store.schema.base import (
    Serial,
    big,
    blob,
    metadata,
    one_of,
    partial,
    reference,
    text,
)


def _names(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


setting = sa.Table("setting", metadata, Column("name", Text, primary_key=True), text("value"))

ledger_account = sa.Table(
    "ledger_account",
    metadata,
    Column("ledger_account_id", Text, primary_key=True),
    big("balance_nano"),
    big("reserved_nano"),
    big("overdraft_nano", 0),  # how far below zero it may go
    CheckConstraint(
        f"ledger_account_id IN ({_names(UNBOUNDED_ACCOUNTS)}) "
        "OR balance_nano >= reserved_nano - overdraft_nano",
        name="covered",
    ),
    CheckConstraint("reserved_nano >= 0", name="reserved_not_negative"),
    CheckConstraint("overdraft_nano >= 0", name="overdraft_not_negative"),
)

transfer = sa.Table(
    "transfer",
    metadata,
    # Given by the ledger, without gaps: a row that is missing can be named.
    Column("number", Serial, primary_key=True, autoincrement=False),
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
    text("job_id"),
    text("reference"),
    big("created_at_us"),
    big("expires_at_us", 0),  # of a pending transfer: no post from then on; 0 is never
    blob("leaf"),  # its hash in the tree of its batch
    CheckConstraint("amount_nano > 0", name="amount_positive"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("(kind IN ('post', 'void')) = (pending_id IS NOT NULL)", name="resolves"),
    one_of("kind", TransferKind),
)
partial("uq_transfer_resolved_once", "pending_id IS NOT NULL", transfer.c.pending_id)

ledger_batch = sa.Table(
    "ledger_batch",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=False),
    Column("last_transfer", BigInteger, nullable=False, unique=True),
    blob("transfers_root"),
    blob("root_before"),
    blob("nodes"),  # roots of the log's subtrees that it completes, 32 bytes each, leaf first
    big("created_at_us"),
)

ledger_head = sa.Table(
    "ledger_head",
    metadata,
    Column("batch_count", Serial, primary_key=True, autoincrement=False),
    blob("envelope"),
    big("created_at_us"),
)

ledger_expiry = sa.Table(
    "ledger_expiry",
    metadata,
    Column(
        "transfer_id", Text, sa.ForeignKey("transfer.transfer_id"), primary_key=True
    ),  # pending, with an expiry, not resolved
    Column("expires_at_us", BigInteger, nullable=False, index=True),
)

withdrawal = sa.Table(
    "withdrawal",
    metadata,
    Column("withdrawal_id", Text, primary_key=True),  # of the transfer that reserves its amount
    reference("account_id", "account.account_id"),
    big("amount_nano"),
    text("destination"),
    text("state"),
    text("reference"),
    blob("envelope"),
    Column("decision", LargeBinary, nullable=True),
    big("created_at_us"),
    big("expires_at_us"),
    big("decided_at_us"),
    one_of("state", WithdrawalState),
)
Index("ix_withdrawal_account", withdrawal.c.account_id, withdrawal.c.created_at_us)
Index("ix_withdrawal_state", withdrawal.c.state, withdrawal.c.created_at_us)
