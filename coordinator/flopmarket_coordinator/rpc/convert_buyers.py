"""Budgets and webhooks as messages."""

from __future__ import annotations

from flopmarket.v1 import buyer_pb2
from flopmarket_coordinator.application.types_accounts import BudgetReport, WebhookView
from flopmarket_coordinator.core.spending import Budget
from flopmarket_coordinator.rpc.convert import money


def budget(value: Budget) -> buyer_pb2.Budget:
    """A limit and what counts against it."""
    limit = money(value.limit_nano) if value.limited else None
    return buyer_pb2.Budget(limited=value.limited, limit=limit, used=money(value.used_nano))


def budget_report(value: BudgetReport) -> buyer_pb2.GetBudgetResponse:
    """All limits of an account."""
    return buyer_pb2.GetBudgetResponse(
        as_of_us=value.as_of_us,
        month_start_us=value.month_start_us,
        month=budget(value.month),
        keys=[
            buyer_pb2.KeyBudget(
                key_id=key.key_id,
                label=key.label,
                total=budget(key.total),
                month=budget(key.month),
                expires_at_us=key.expires_at_us,
                revoked=key.revoked,
            )
            for key in value.keys
        ],
    )


def webhook(value: WebhookView) -> buyer_pb2.Webhook:
    """A webhook as its owner sees it."""
    return buyer_pb2.Webhook(
        webhook_id=value.webhook_id,
        url=value.url,
        events=value.events,
        enabled=value.enabled,
        disabled_reason=value.disabled_reason,
        failures=value.failures,
        last_error=value.last_error,
        pending=value.pending,
        created_at_us=value.created_at_us,
        delivered_at_us=value.delivered_at_us,
    )
