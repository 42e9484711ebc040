"""What an owner's calls answer with: budgets, keys and webhooks, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.client.money import Money


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit, None for none, and what counts against it: billed for good and held now."""

    limit: Money | None
    used: Money

    @property
    def left(self) -> Money | None:
        """What may still be spent, None without a limit."""
        if self.limit is None:
            return None
        return Money(max(0, self.limit.nano - self.used.nano), self.limit.currency)


@dataclass(frozen=True, slots=True)
class KeyBudget:
    """A CI key: what it may spend over its life and in this month, and until when."""

    key_id: str
    label: str
    total: Budget
    month: Budget
    expires_at_us: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Limits of an account; ``month_start_us`` is the first instant of this month (UTC)."""

    as_of_us: int
    month_start_us: int
    month: Budget
    keys: tuple[KeyBudget, ...]


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of our jobs. ``failures`` are attempts since the last delivery."""

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
class WebhookTest:
    """What a test came to; ``error`` is empty when the receiver took it."""

    delivered: bool
    error: str
    webhook: Webhook
