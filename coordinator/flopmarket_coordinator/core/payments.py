"""Money across the market's border: what a payment rail says, and the states of a withdrawal.

A *rail* is how the outside tells the coordinator of payments: the operator's signed entries, or a
payment provider's signed webhook. It turns a message into a :class:`Notice` and vouches for it; the
use cases apply notices and never see where one came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from flopmarket.market.money import Nano
from flopmarket.trust.documents import DepositTarget


class WithdrawalState(StrEnum):
    """Where a request to pay money out stands; only ``pending`` changes again."""

    PENDING = "pending"
    PAID = "paid"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class MoneyArrived:
    """A payment came in for an account.

    ``origin`` names who vouches for it (a key id, a rail's name); with ``request_id`` it names the
    payment, so that hearing of it twice moves money once. ``reference`` names it outside.
    """

    origin: str
    request_id: str
    account_id: str
    target: DepositTarget
    amount_nano: Nano
    currency: str
    reference: str


@dataclass(frozen=True, slots=True)
class PayoutDecided:
    """A withdrawal was paid, or will not be. ``evidence`` is the message that said so."""

    origin: str
    withdrawal_id: str
    paid: bool
    reference: str
    evidence: bytes


Notice = MoneyArrived | PayoutDecided


@dataclass(frozen=True, slots=True)
class RailMessage:
    """What arrived on a rail, unverified. Header names are lower-case."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class PaymentRail(Protocol):
    """Port: reads and verifies what the outside says about payments."""

    def notice(self, message: RailMessage, now_us: int) -> Notice:
        """What the message says, once its authority, freshness and form are right.

        Raises :class:`~flopmarket.errors.FlopmarketError`: ``Unauthenticated`` or ``Forbidden``
        for a message nobody with authority signed, ``InvalidInput`` for one that says nothing.
        A message that is heard again gives the same notice.
        """
        ...
