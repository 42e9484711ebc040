"""Rules of the double-entry ledger: transfers, balances, and what a transfer does to them.

A transfer moves one amount from one account to another, so no row can unbalance the books.
Two-phase transfers reserve first (*pending*) and are resolved exactly once, by a *post* of all or
part or by a *void*. The model is TigerBeetle's (docs.tigerbeetle.com, two-phase transfers);
``store.ledger`` applies these rules in SQL, whose constraints hold even if this code were wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flopmarket.errors import Conflict, QuotaExceeded
from flopmarket.market.money import Nano, check_nano, check_price


class TransferKind(StrEnum):
    """How a transfer acts."""

    DIRECT = "direct"
    PENDING = "pending"
    POST = "post"
    VOID = "void"


class Purpose(StrEnum):
    """Why money moved; shown in statements."""

    DEPOSIT = "deposit"
    HOLD = "hold"
    PAY = "pay"
    BOND = "bond"
    FEE = "fee"
    SURCHARGE = "surcharge"
    AUDIT = "audit"
    RELEASE = "release"
    FORFEIT = "forfeit"
    RETURN = "return"
    SLASH = "slash"
    REFUND = "refund"
    COMPENSATION = "compensation"
    WITHDRAWAL = "withdrawal"
    GRANT = "grant"


class Balance(StrEnum):
    """The three accounts that every market account has."""

    AVAILABLE = "available"
    HELD = "held"
    BOND = "bond"


PLATFORM = "platform"
ESCROW = f"{PLATFORM}/escrow"
FEE = f"{PLATFORM}/fee"
RESERVE = f"{PLATFORM}/reserve"
AUDIT = f"{PLATFORM}/audit"
EXTERNAL = f"{PLATFORM}/external"
ISSUE = f"{PLATFORM}/issue"
PLATFORM_ACCOUNTS = (ESCROW, FEE, RESERVE, AUDIT, EXTERNAL, ISSUE)
UNBOUNDED_ACCOUNTS = (EXTERNAL, ISSUE)
"""Accounts that stand for the outside: money in circulation is what they are below zero."""


class LedgerConflict(Conflict):
    """A transfer contradicts one that is recorded already."""

    default_code = "LEDGER_CONFLICT"


class BalanceTooSmall(QuotaExceeded):
    """The debited account does not hold the amount."""

    default_code = "BALANCE_TOO_SMALL"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One immutable row. ``pending_id`` is what a post or void resolves, else empty.

    The amount of a void is that of its pending transfer; a post may take less and frees the rest.
    From ``expires_at_us`` on (0: never) a pending transfer can only be voided.
    """

    transfer_id: str
    kind: TransferKind
    debit: str
    credit: str
    amount_nano: Nano
    purpose: Purpose
    job_id: str = ""
    reference: str = ""
    pending_id: str = ""
    expires_at_us: int = 0

    @classmethod
    def of_row(cls, row: Mapping[Any, Any]) -> Transfer:
        """The value of a stored row; raises what the rules here say of one that cannot be."""
        return cls(
            row["transfer_id"],
            TransferKind(row["kind"]),
            row["debit"],
            row["credit"],
            row["amount_nano"],
            Purpose(row["purpose"]),
            row["job_id"],
            row["reference"],
            row["pending_id"] or "",
            row["expires_at_us"],
        )

    def __post_init__(self) -> None:
        if check_price(self.amount_nano) == 0:
            raise LedgerConflict("a transfer moves more than nothing", code="TRANSFER_ZERO")
        if self.debit == self.credit:
            raise LedgerConflict("a transfer joins two accounts", code="TRANSFER_SAME_ACCOUNT")
        resolves = self.kind in (TransferKind.POST, TransferKind.VOID)
        if resolves != bool(self.pending_id):
            raise LedgerConflict(
                "a post or void names its pending transfer, no other kind does",
                code="TRANSFER_PENDING_ID",
            )
        if self.expires_at_us and (
            self.kind is not TransferKind.PENDING or not 0 < self.expires_at_us < 2**63
        ):
            raise LedgerConflict(
                "only a pending transfer expires, at an instant above zero", code="TRANSFER_EXPIRY"
            )


@dataclass(frozen=True, slots=True)
class AccountState:
    """Cached sums of a ledger account, and how far below zero it may go (None: any distance)."""

    balance_nano: int = 0
    reserved_nano: int = 0
    overdraft_nano: int | None = 0

    @property
    def free_nano(self) -> int | None:
        """What may leave it now; None without a limit."""
        if self.overdraft_nano is None:
            return None
        return self.balance_nano + self.overdraft_nano - self.reserved_nano


@dataclass(frozen=True, slots=True)
class Change:
    """What a transfer does to one account's cached sums."""

    account: str
    balance_nano: int
    reserved_nano: int


def account_of(owner: str, balance: Balance) -> str:
    """Ledger account id of one of a market account's balances."""
    return f"{owner}/{balance}"


def owner_of(ledger_account: str) -> tuple[str, str]:
    """Market account (or ``platform``) and balance name of a ledger account id."""
    owner, _, balance = ledger_account.rpartition("/")
    return owner, balance


def transfer_id(purpose: str, *parts: str | int) -> str:
    """A deterministic id, so that doing a thing twice names the same row: 64 hex digits."""
    text = "\0".join(("flopmarket transfer", purpose, *(str(part) for part in parts)))
    return hashlib.sha256(text.encode()).hexdigest()


def changes(transfer: Transfer, pending: Transfer | None) -> tuple[Change, ...]:
    """Effect on cached sums. ``pending`` is the row that a post or void resolves.

    ``reserved`` counts pending debits: an account may spend its balance less what is reserved.
    :class:`LedgerConflict` when the two do not fit together.
    """
    amount = transfer.amount_nano
    if transfer.kind is TransferKind.DIRECT:
        return Change(transfer.debit, -amount, 0), Change(transfer.credit, amount, 0)
    if transfer.kind is TransferKind.PENDING:
        return (Change(transfer.debit, 0, amount),)
    if pending is None or pending.kind is not TransferKind.PENDING:
        raise LedgerConflict(
            f"there is no pending transfer {transfer.pending_id}", code="PENDING_UNKNOWN"
        )
    if (pending.debit, pending.credit) != (transfer.debit, transfer.credit):
        raise LedgerConflict(
            "a post or void keeps the accounts of its pending transfer", code="PENDING_ACCOUNTS"
        )
    if transfer.kind is TransferKind.VOID:
        if amount != pending.amount_nano:
            raise LedgerConflict("a void releases all that is pending", code="PENDING_AMOUNT")
        return (Change(transfer.debit, 0, -amount),)
    if amount > pending.amount_nano:
        raise LedgerConflict(
            f"a post of {amount} out of {pending.amount_nano} pending", code="PENDING_AMOUNT"
        )
    return (
        Change(transfer.debit, -amount, -pending.amount_nano),
        Change(transfer.credit, amount, 0),
    )


def apply(
    accounts: MutableMapping[str, AccountState],
    transfer: Transfer,
    pending: Transfer | None,
    now_us: int,
) -> None:
    """Do a transfer on account states, all of it or nothing.

    :class:`BalanceTooSmall` when the debited account does not cover it; :class:`LedgerConflict`
    for an unknown account (``ACCOUNT_UNKNOWN``), a post of an expired pending transfer
    (``PENDING_EXPIRED``) or one that :func:`changes` refuses;
    :class:`~flopmarket.market.money.MoneyError` when a balance would not fit 64 bits.
    """
    for account in (transfer.debit, transfer.credit):
        if account not in accounts:
            raise LedgerConflict(f"there is no ledger account {account}", code="ACCOUNT_UNKNOWN")
    if transfer.kind is TransferKind.PENDING and 0 < transfer.expires_at_us <= now_us:
        raise LedgerConflict("a pending transfer ends after now", code="TRANSFER_EXPIRY")
    effects = changes(transfer, pending)
    late = pending is not None and 0 < pending.expires_at_us <= now_us
    if late and transfer.kind is TransferKind.POST:
        raise LedgerConflict(
            f"pending transfer {transfer.pending_id} has expired", code="PENDING_EXPIRED"
        )
    after: dict[str, AccountState] = {}
    for change in effects:
        known = accounts[change.account]
        state = AccountState(
            check_nano(known.balance_nano + change.balance_nano, change.account),
            check_nano(known.reserved_nano + change.reserved_nano, change.account),
            known.overdraft_nano,
        )
        free = state.free_nano
        if free is not None and free < 0 and change.reserved_nano > change.balance_nano:
            available = known.free_nano or 0
            wanted = change.reserved_nano - change.balance_nano
            raise BalanceTooSmall(
                f"{change.account} has {available} nano-units to spend, {wanted} are needed",
                hint="deposit more, or lower the price limit",
                details={"available_nano": str(available), "needed_nano": str(wanted)},
            )
        after[change.account] = state
    accounts.update(after)
