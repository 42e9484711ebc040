"""Transfers and cached balances in SQL: the rules of ``core.ledger`` applied row by row."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flopmarket.market.money import Nano
from flopmarket_coordinator.core.ledger import (
    EXTERNAL,
    PLATFORM_ACCOUNTS,
    Balance,
    BalanceTooSmall,
    Change,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    changes,
)
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction

_account = schema.ledger_account
_transfer = schema.transfer

# Built once: constructing a statement costs more than running it.
_FIND = sa.select(_transfer).where(_transfer.c.transfer_id == sa.bindparam("wanted"))
_INSERT = sa.insert(_transfer)
_BALANCE_AFTER = _account.c.balance_nano + sa.bindparam("balance_change")
_RESERVED_AFTER = _account.c.reserved_nano + sa.bindparam("reserved_change")
# The CHECK of the table says the same as the last condition; asking first keeps the transaction
# usable and the error readable.
_APPLY = (
    sa.update(_account)
    .where(
        _account.c.ledger_account_id == sa.bindparam("account"),
        (_account.c.ledger_account_id == EXTERNAL) | (_BALANCE_AFTER >= _RESERVED_AFTER),
    )
    .values(balance_nano=_BALANCE_AFTER, reserved_nano=_RESERVED_AFTER)
)


def open_accounts(tx: Transaction, accounts: Iterable[str]) -> None:
    """Create ledger accounts with nothing in them; those that exist stay as they are."""
    for account in accounts:
        known = tx.connection.execute(
            sa.select(_account.c.ledger_account_id).where(_account.c.ledger_account_id == account)
        ).first()
        if known is None:
            tx.connection.execute(
                sa.insert(_account).values(
                    ledger_account_id=account, balance_nano=0, reserved_nano=0
                )
            )


def open_platform(tx: Transaction) -> None:
    """The platform's own accounts."""
    open_accounts(tx, PLATFORM_ACCOUNTS)


def open_market_account(tx: Transaction, account_id: str) -> None:
    """The three balances of a market account."""
    open_accounts(tx, (account_of(account_id, balance) for balance in Balance))


def execute(tx: Transaction, transfer: Transfer) -> Transfer:
    """Record a transfer and move the cached sums; the same transfer again changes nothing.

    :class:`BalanceTooSmall` when the debited account does not cover it; :class:`LedgerConflict`
    when the id stands for another transfer (``TRANSFER_ID_REUSED``), the hold is resolved already
    (``HOLD_RESOLVED``) or an account does not exist (``ACCOUNT_UNKNOWN``).
    """
    known = find(tx, transfer.transfer_id)
    if known is not None:
        if known != transfer:
            raise LedgerConflict(
                f"transfer {transfer.transfer_id} is recorded with other contents",
                code="TRANSFER_ID_REUSED",
            )
        return known
    pending = find(tx, transfer.pending_id) if transfer.pending_id else None
    effects = changes(transfer, pending)
    _insert(tx, transfer)
    for change in effects:
        _apply(tx, change)
    return transfer


def execute_all(tx: Transaction, transfers: Iterable[Transfer]) -> None:
    """Record several transfers, in order."""
    for transfer in transfers:
        execute(tx, transfer)


def find(tx: Transaction, transfer_id: str) -> Transfer | None:
    """The transfer with this id."""
    row = tx.connection.execute(_FIND, {"wanted": transfer_id}).mappings().first()
    return None if row is None else to_transfer(row)


def to_transfer(row: sa.RowMapping) -> Transfer:
    """The value of a row."""
    return Transfer(
        row["transfer_id"],
        TransferKind(row["kind"]),
        row["debit"],
        row["credit"],
        row["amount_nano"],
        Purpose(row["purpose"]),
        row["job_id"],
        row["reference"],
        row["pending_id"] or "",
    )


def balance(tx: Transaction, account: str) -> tuple[Nano, Nano]:
    """``(balance, reserved)`` of a ledger account; zeros when it was never opened."""
    row = tx.connection.execute(
        sa.select(_account.c.balance_nano, _account.c.reserved_nano).where(
            _account.c.ledger_account_id == account
        )
    ).first()
    return (0, 0) if row is None else (row.balance_nano, row.reserved_nano)


def statement(
    tx: Transaction, account_id: str, after_number: int, limit: int
) -> list[sa.RowMapping]:
    """Transfers that touch a market account, oldest first, from after a row number."""
    accounts = [account_of(account_id, balance) for balance in Balance]
    query = (
        sa.select(_transfer)
        .where(_transfer.c.debit.in_(accounts) | _transfer.c.credit.in_(accounts))
        .where(_transfer.c.number > after_number)
        .order_by(_transfer.c.number)
        .limit(limit)
    )
    return list(tx.connection.execute(query).mappings())


def _insert(tx: Transaction, transfer: Transfer) -> None:
    values = {
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind.value,
        "debit": transfer.debit,
        "credit": transfer.credit,
        "amount_nano": transfer.amount_nano,
        "purpose": transfer.purpose.value,
        "job_id": transfer.job_id,
        "reference": transfer.reference,
        "pending_id": transfer.pending_id or None,
        "created_at_us": tx.now_us,
    }
    try:
        tx.connection.execute(_INSERT, values)
    except IntegrityError as error:
        if transfer.pending_id:
            raise LedgerConflict(
                f"hold {transfer.pending_id} is resolved already", code="HOLD_RESOLVED"
            ) from error
        raise LedgerConflict(
            f"no ledger account {transfer.debit} or {transfer.credit}", code="ACCOUNT_UNKNOWN"
        ) from error


def _apply(tx: Transaction, change: Change) -> None:
    found = tx.connection.execute(
        _APPLY,
        {
            "account": change.account,
            "balance_change": change.balance_nano,
            "reserved_change": change.reserved_nano,
        },
    ).rowcount
    if not found:
        owned, reserved = balance(tx, change.account)
        wanted = change.reserved_nano - change.balance_nano
        raise BalanceTooSmall(
            f"{change.account} has {owned - reserved} nano-units to spend, {wanted} are needed",
            hint="deposit more, or lower the price limit",
            details={"available_nano": str(owned - reserved), "needed_nano": str(wanted)},
        )
