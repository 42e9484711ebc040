"""What the client says about money crossing the border and about the ledger's proofs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flopmarket.client.money import Money
from flopmarket.trust.documents import LedgerHead
from flopmarket.trust.statement import Statement, VerifiedStatement


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A request to pay money out: ``state`` is pending, paid, rejected or expired.

    ``reference`` names the payment outside, or says why there was none. An undecided withdrawal is
    void from ``expires_at_us`` on.
    """

    withdrawal_id: str
    account_id: str
    amount: Money
    destination: str
    state: str
    reference: str
    created_at_us: int
    expires_at_us: int
    decided_at_us: int


@dataclass(frozen=True, slots=True)
class CheckedLedger:
    """A statement that is right and continues ``older``, the head that was kept before."""

    statement: Statement
    verified: VerifiedStatement
    older: LedgerHead | None
    heads_file: Path
