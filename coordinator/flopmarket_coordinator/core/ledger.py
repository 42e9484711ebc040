"""Rules of the double-entry ledger: transfers, balances, and what a transfer does to them.

A transfer moves one amount from one account to another, so no row can unbalance the books.
Two-phase transfers reserve first (*pending*) and are resolved exactly once, by a *post* of all or
part or by a *void*. The model is TigerBeetle's (docs.tigerbeetle.com, two-phase transfers);
``store.ledger`` applies these rules in SQL, whose constraints hold even if this code were wrong.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from flopmarket.errors import Conflict, QuotaExceeded
from flopmarket.market.money import Nano, check_price


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
    RELEASE = "release"
    SLASH = "slash"
    REFUND = "refund"
    COMPENSATION = "compensation"


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
PLATFORM_ACCOUNTS = (ESCROW, FEE, RESERVE, AUDIT, EXTERNAL)


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
