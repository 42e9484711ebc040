"""Accounts and sessions, budgets and webhooks, as callers see them."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.core.spending import Budget
from flopmarket_coordinator.core.webhooks import DeliveryState


@dataclass(frozen=True, slots=True)
class CoordinatorInfo:
    """Who this coordinator is; needs no key to ask."""

    public_key: PublicKey
    profile: str
    currency: str
    fee_ppm: int

    @property
    def key_id(self) -> str:
        """Audience of everything that is signed for this coordinator."""
        return self.public_key.key_id


@dataclass(frozen=True, slots=True)
class Session:
    """Who is calling: what :meth:`Application.authenticate` returns for a bearer token.

    ``account_id`` is empty for an operator key; ``session_id`` names the session and opens nothing.
    """

    account_id: str
    key_id: str
    role: KeyRole
    expires_at_us: int
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new bearer token. Only its hash is stored."""

    token: str
    session: Session


@dataclass(frozen=True, slots=True)
class KeyBudget:
    """What a CI key may spend, over its life and in this month, and what counts against it."""

    key_id: str
    label: str
    total: Budget
    month: Budget
    expires_at_us: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Limits of an account as of one instant; ``month_start_us`` is where its month began."""

    as_of_us: int
    month_start_us: int
    month: Budget
    keys: tuple[KeyBudget, ...]


@dataclass(frozen=True, slots=True)
class WebhookView:
    """A webhook, as its owner sees it."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str
    failures: int
    last_error: str
    pending: int
    created_at_us: int
    delivered_at_us: int


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """How one message to a webhook stands. ``error`` is what went wrong last."""

    state: DeliveryState
    error: str


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A message to send now."""

    number: int
    message_id: str
    webhook_id: str
    url: str
    body: bytes
