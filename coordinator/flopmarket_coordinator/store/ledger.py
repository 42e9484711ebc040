"""Transfers and cached balances in SQL: the rules of ``core.ledger`` applied to rows.

:func:`execute_all` is the one way in: whatever the number of transfers it reads what they need in
two statements, applies the rules in memory, and writes in three. What a database transaction
recorded becomes a batch of the log at its commit (:mod:`store.ledger_log`). One writer at a time:
SQLite's own rule, an advisory lock on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flopmarket.limits import MAX_LEDGER_CHUNK
from flopmarket.market.money import Nano
from flopmarket.trust.ledger_log import LedgerTransfer, transfer_leaf
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import (
    PLATFORM_ACCOUNTS,
    UNBOUNDED_ACCOUNTS,
    AccountState,
    Balance,
    LedgerConflict,
    Purpose,
    Transfer,
    account_of,
    apply,
)
from flopmarket_coordinator.store import ledger_log, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.prepared import Prepared
from flopmarket_coordinator.store.rows import any_of

_account = schema.ledger_account
_transfer = schema.transfer
_expiry = schema.ledger_expiry
_WRITER_LOCK = 0x666C6F70  # any number, the same for every process of a market

# Built once: constructing a statement costs more than running it.
_ROW = tuple(column for column in _transfer.c if column.name != "leaf")
_NAMED = sa.select(*_ROW).where(
    _transfer.c.transfer_id.in_(sa.bindparam("ids", expanding=True))
    | _transfer.c.pending_id.in_(sa.bindparam("pending", expanding=True))
)
_FIND = sa.select(*_ROW).where(_transfer.c.transfer_id == sa.bindparam("wanted"))
_STATES = sa.select(
    _account.c.ledger_account_id,
    _account.c.balance_nano,
    _account.c.reserved_nano,
    _account.c.overdraft_nano,
    sa.select(sa.func.coalesce(sa.func.max(_transfer.c.number), 0)).scalar_subquery(),
).where(_account.c.ledger_account_id.in_(sa.bindparam("accounts", expanding=True)))
_OPENED = sa.select(_account.c.ledger_account_id).where(
    _account.c.ledger_account_id.in_(any_of("accounts"))
)
_OPEN = sa.insert(_account)
_INSERT = Prepared(sa.insert(_transfer))
_UPDATE = Prepared(
    sa.update(_account)
    .where(_account.c.ledger_account_id == sa.bindparam("account"))
    .values(balance_nano=sa.bindparam("balance"), reserved_nano=sa.bindparam("reserved"))
)


def open_accounts(tx: Transaction, accounts: Iterable[str], overdraft_nano: Nano = 0) -> None:
    """Create ledger accounts with nothing in them; those that exist stay as they are."""
    wanted = list(accounts)
    known = set(tx.connection.execute(_OPENED, {"accounts": wanted}).scalars())
    rows = [
        {
            "ledger_account_id": account,
            "balance_nano": 0,
            "reserved_nano": 0,
            "overdraft_nano": overdraft_nano,
        }
        for account in wanted
        if account not in known
    ]
    if rows:
        tx.connection.execute(_OPEN, rows)


def open_platform(tx: Transaction) -> None:
    """The platform's own accounts."""
    open_accounts(tx, PLATFORM_ACCOUNTS)


def open_market_account(tx: Transaction, account_id: str, overdraft_nano: Nano = 0) -> None:
    """The three balances of a market account; ``available`` may go below zero so far."""
    open_accounts(tx, (account_of(account_id, Balance.AVAILABLE),), overdraft_nano)
    open_accounts(tx, (account_of(account_id, balance) for balance in (Balance.HELD, Balance.BOND)))


def execute(tx: Transaction, transfer: Transfer) -> Transfer:
    """Record a transfer and move the cached sums; the same transfer again changes nothing.

    Raises what :func:`execute_all` does.
    """
    execute_all(tx, (transfer,))
    return transfer


def execute_all(tx: Transaction, transfers: Iterable[Transfer]) -> None:
    """Record transfers, in order; one that is recorded already changes nothing.

    Raises what :func:`~flopmarket_coordinator.core.ledger.apply` does, and
    :class:`LedgerConflict` when an id stands for another transfer (``TRANSFER_ID_REUSED``) or a
    pending transfer is resolved already (``HOLD_RESOLVED``). A caller that goes on after an error
    undoes its savepoint first: earlier transfers of a long sequence may be written.
    """
    rest = iter(transfers)
    while chunk := list(islice(rest, MAX_LEDGER_CHUNK)):
        _execute_chunk(tx, chunk)


def find(tx: Transaction, transfer_id: str) -> Transfer | None:
    """The transfer with this id."""
    row = tx.connection.execute(_FIND, {"wanted": transfer_id}).mappings().first()
    return None if row is None else Transfer.of_row(row)


def state(tx: Transaction, account: str) -> AccountState:
    """Cached sums of a ledger account; zeros when it was never opened."""
    row = tx.connection.execute(_STATES, {"accounts": [account]}).first()
    return AccountState() if row is None else _state(row)


def balance(tx: Transaction, account: str) -> tuple[Nano, Nano]:
    """``(balance, reserved)`` of a ledger account; zeros when it was never opened."""
    found = state(tx, account)
    return found.balance_nano, found.reserved_nano


def statement(
    tx: Transaction, account_id: str, after_number: int, limit: int, since_us: int = 0
) -> list[sa.RowMapping]:
    """Transfers that touch a market account, oldest first, from after a row number."""
    accounts = [account_of(account_id, balance) for balance in Balance]
    query = (
        sa.select(*_ROW)
        .where(_transfer.c.debit.in_(accounts) | _transfer.c.credit.in_(accounts))
        .where(_transfer.c.number > after_number, _transfer.c.created_at_us >= since_us)
        .order_by(_transfer.c.number)
        .limit(limit)
    )
    return list(tx.connection.execute(query).mappings())


def refunded(tx: Transaction, job_id: str) -> Nano:
    """What has gone back to the buyer of a job so far, by slashes and by orders of operators."""
    job = schema.job
    buyer = sa.select(job.c.buyer + f"/{Balance.AVAILABLE}").where(job.c.job_id == job_id)
    query = sa.select(sa.func.coalesce(sa.func.sum(_transfer.c.amount_nano), 0)).where(
        _transfer.c.credit == buyer.scalar_subquery(),
        _transfer.c.purpose == Purpose.REFUND.value,
        _transfer.c.job_id == job_id,
    )
    return int(tx.connection.execute(query).scalar_one())


def overdue(tx: Transaction, limit: int) -> list[Transfer]:
    """Pending transfers whose time is over and that nothing resolved, oldest expiry first."""
    query = (
        sa.select(*_ROW)
        .join(_expiry, _expiry.c.transfer_id == _transfer.c.transfer_id)
        .where(_expiry.c.expires_at_us <= tx.now_us)
        .order_by(_expiry.c.expires_at_us, _expiry.c.transfer_id)
        .limit(limit)
    )
    return [Transfer.of_row(row) for row in tx.connection.execute(query).mappings()]


def free(tx: Transaction, ledger_account: str) -> Nano:
    """What may leave an account now, when it may not go below zero."""
    held, reserved = balance(tx, ledger_account)
    return max(held - reserved, 0)


def _execute_chunk(tx: Transaction, chunk: Sequence[Transfer]) -> None:
    tx.at_commit(_end_batch)
    if tx.connection.dialect.name == "postgresql":
        tx.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))
    known, resolved = _named(tx, chunk)
    accounts, last_number = _states(tx, chunk)
    before = dict(accounts)
    rows: list[dict[str, Any]] = []
    for transfer in chunk:
        recorded = known.get(transfer.transfer_id)
        if recorded is not None:
            if recorded != transfer:
                raise LedgerConflict(
                    f"transfer {transfer.transfer_id} is recorded with other contents",
                    code="TRANSFER_ID_REUSED",
                )
            continue
        if transfer.pending_id in resolved:
            raise LedgerConflict(
                f"hold {transfer.pending_id} is resolved already", code="HOLD_RESOLVED"
            )
        apply(accounts, transfer, known.get(transfer.pending_id), tx.now_us)
        known[transfer.transfer_id] = transfer
        if transfer.pending_id:
            resolved.add(transfer.pending_id)
        rows.append(_row(transfer, last_number + len(rows) + 1, tx.now_us))
    if not rows:
        return
    try:
        _INSERT.run_many(tx, rows)
    except IntegrityError as error:  # another process was first
        raise LedgerConflict("the ledger changed meanwhile", code="LEDGER_BUSY") from error
    changed = [
        {"account": name, "balance": after.balance_nano, "reserved": after.reserved_nano}
        for name, after in accounts.items()
        if after != before[name]
    ]
    if changed:
        _UPDATE.run_many(tx, changed)
    _keep_expiries(tx, rows, known)


def _named(tx: Transaction, chunk: Sequence[Transfer]) -> tuple[dict[str, Transfer], set[str]]:
    """Recorded transfers that the chunk names, by id, and what of them is resolved."""
    pending = [transfer.pending_id for transfer in chunk if transfer.pending_id]
    ids = [transfer.transfer_id for transfer in chunk]
    found = tx.connection.execute(_NAMED, {"ids": ids + pending, "pending": pending})
    known: dict[str, Transfer] = {}
    resolved: set[str] = set()
    for row in found.mappings():
        transfer = Transfer.of_row(row)
        known[transfer.transfer_id] = transfer
        if transfer.pending_id:
            resolved.add(transfer.pending_id)
    return known, resolved


def _states(tx: Transaction, chunk: Sequence[Transfer]) -> tuple[dict[str, AccountState], int]:
    """States of the accounts of a chunk, and the number of the last transfer in the ledger."""
    names = {transfer.debit for transfer in chunk} | {transfer.credit for transfer in chunk}
    rows = tx.connection.execute(_STATES, {"accounts": sorted(names)}).all()
    return {row[0]: _state(row) for row in rows}, rows[0][4] if rows else 0


def _state(row: Any) -> AccountState:
    unbounded = row[0] in UNBOUNDED_ACCOUNTS
    return AccountState(row[1], row[2], None if unbounded else row[3])


def _row(transfer: Transfer, number: int, now_us: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "number": number,
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind.value,
        "debit": transfer.debit,
        "credit": transfer.credit,
        "amount_nano": transfer.amount_nano,
        "purpose": transfer.purpose.value,
        "job_id": transfer.job_id,
        "reference": transfer.reference,
        "pending_id": transfer.pending_id,
        "expires_at_us": transfer.expires_at_us,
        "created_at_us": now_us,
    }
    values["leaf"] = transfer_leaf(LedgerTransfer(**values))
    values["pending_id"] = transfer.pending_id or None
    return values


def _keep_expiries(
    tx: Transaction, rows: Sequence[dict[str, Any]], known: dict[str, Transfer]
) -> None:
    opened = [
        {"transfer_id": row["transfer_id"], "expires_at_us": row["expires_at_us"]}
        for row in rows
        if row["expires_at_us"]
    ]
    if opened:
        tx.connection.execute(sa.insert(_expiry), opened)
    closed = [
        row["pending_id"]
        for row in rows
        if row["pending_id"] and known[row["pending_id"]].expires_at_us
    ]
    if closed:
        tx.connection.execute(sa.delete(_expiry).where(_expiry.c.transfer_id.in_(closed)))


def _end_batch(tx: Transaction) -> None:
    """Just before the commit: move the batch's fees out of escrow, then hash the batch."""
    position, fees = ledger_log.unsealed(tx)
    if fees:
        execute(tx, escrow.collect_fees(position.batch_count + 1, fees))
    ledger_log.append(tx, position)
