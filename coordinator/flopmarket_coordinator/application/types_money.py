"""What use cases of money take and answer."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket_coordinator.core.book.listing import OfferFilter as OfferFilter


@dataclass(frozen=True, slots=True)
class Balances:
    """Money of one account. ``reserved`` is held for running jobs and not in ``available``.

    ``overdraft_nano`` is how far below zero ``available`` may go.
    """

    account_id: str
    display_name: str
    available_nano: int
    reserved_nano: int
    held_nano: int
    bond_nano: int
    overdraft_nano: int = 0


@dataclass(frozen=True, slots=True)
class TransferView:
    """One line of a statement. ``change_nano`` is the signed change of ``balance``."""

    transfer_id: str
    time_us: int
    kind: str
    balance: str
    change_nano: int
    amount_nano: int
    purpose: str
    job_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class TransferPage:
    """Lines of a statement, oldest first."""

    transfers: tuple[TransferView, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class DepositResult:
    """A recorded deposit. ``available_nano`` is the balance it went to, afterwards."""

    transfer_id: str
    available_nano: int
