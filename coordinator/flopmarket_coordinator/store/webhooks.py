"""Webhooks and their outbox: a message is written in the transaction that made the news."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.limits import KEPT_DELIVERIES, MAX_PENDING_DELIVERIES
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.webhooks import EVENT_OF, DeliveryState, WebhookEvent
from flopmarket_coordinator.store import decisions, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows

_webhook = schema.webhook
_delivery = schema.webhook_delivery
_job = schema.job

_SHOWN = (
    *("job_id", "title", "kind", "state", "reason", "steps"),
    *("ceiling_nano", "billed_nano", "created_at_us", "ended_at_us"),
)
"""What a message says of a job."""


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """An address that is told. ``events`` are names with blanks between them."""

    webhook_id: str
    account_id: str
    url: str
    events: str
    enabled: bool
    disabled_reason: str
    failures: int
    last_error: str
    created_at_us: int
    delivered_at_us: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One message to one webhook; ``body`` is what is signed and sent, again at every attempt."""

    number: int
    message_id: str
    webhook_id: str
    event: str
    body: str
    state: str
    attempts: int
    due_at_us: int
    last_error: str
    created_at_us: int
    ended_at_us: int


_WEBHOOKS = Rows(WebhookRow, _webhook)
_DELIVERIES = Rows(DeliveryRow, _delivery)


def add(tx: Transaction, webhook_id: str, account_id: str, url: str, events: str) -> None:
    """A new webhook, enabled."""
    tx.connection.execute(
        sa.insert(_webhook).values(
            webhook_id=webhook_id,
            account_id=account_id,
            url=url,
            events=events,
            enabled=True,
            disabled_reason="",
            failures=0,
            last_error="",
            created_at_us=tx.now_us,
            delivered_at_us=0,
        )
    )


def update(tx: Transaction, webhook_id: str, **values: object) -> None:
    """Change columns."""
    tx.connection.execute(
        sa.update(_webhook).where(_webhook.c.webhook_id == webhook_id).values(**values)
    )


def disable(tx: Transaction, webhook_id: str, cause: str, reason: str) -> None:
    """Tell it nothing more until its owner or a successful test enables it again."""
    update(tx, webhook_id, enabled=False, disabled_reason=reason)
    decisions.record(
        tx,
        decisions.DecisionKind.WEBHOOK_DISABLED,
        webhook_id,
        actor="",
        cause=cause,
        reason=reason,
    )


def remove(tx: Transaction, webhook_id: str) -> None:
    """Forget a webhook and what was meant for it."""
    tx.connection.execute(sa.delete(_delivery).where(_delivery.c.webhook_id == webhook_id))
    tx.connection.execute(sa.delete(_webhook).where(_webhook.c.webhook_id == webhook_id))


def get(tx: Transaction, webhook_id: str) -> WebhookRow | None:
    """The webhook with this id."""
    query = _WEBHOOKS.select.where(_webhook.c.webhook_id == webhook_id)
    return _WEBHOOKS.first(tx, query)


def of_account(tx: Transaction, account_id: str) -> list[WebhookRow]:
    """Webhooks of an account, oldest first."""
    query = _WEBHOOKS.select.where(_webhook.c.account_id == account_id).order_by(
        _webhook.c.created_at_us, _webhook.c.webhook_id
    )
    return _WEBHOOKS.all(tx, query)


def pending(tx: Transaction, webhook_id: str) -> int:
    """Messages that wait for a webhook."""
    query = sa.select(sa.func.count()).where(
        _delivery.c.webhook_id == webhook_id, _delivery.c.state == DeliveryState.PENDING.value
    )
    return int(tx.connection.execute(query).scalar_one())


def announce(tx: Transaction, job_id: str, sequence: int, kind: EventKind, text: str) -> None:
    """Put a line of a job's story into the outbox of every webhook that asked for it."""
    event = EVENT_OF.get(kind)
    if event is None:
        return
    query = (
        sa.select(_webhook.c.webhook_id, _webhook.c.events)
        .join(_job, _job.c.buyer == _webhook.c.account_id)
        .where(_job.c.job_id == job_id, _webhook.c.enabled)
    )
    told = [row for row in tx.connection.execute(query) if event in row.events.split()]
    if not told:
        return
    shown = sa.select(*(_job.c[name] for name in _SHOWN)).where(_job.c.job_id == job_id)
    job = tx.connection.execute(shown).mappings().one()
    data = {**job, "sequence": sequence, "text": text}
    for row in told:
        enqueue(tx, row.webhook_id, f"{job_id} {sequence}", event, data)


def enqueue(
    tx: Transaction, webhook_id: str, cause: str, event: WebhookEvent, data: dict[str, object]
) -> str:
    """One message for one webhook, due now; its id is a function of webhook and cause.

    A webhook with ``MAX_PENDING_DELIVERIES`` waiting messages is disabled instead, with a reason.
    """
    if pending(tx, webhook_id) >= MAX_PENDING_DELIVERIES:
        disable(tx, webhook_id, cause, f"{MAX_PENDING_DELIVERIES} messages were waiting")
        return ""
    message_id = "msg_" + hashlib.sha256(f"{webhook_id} {cause}".encode()).hexdigest()[:32]
    body = {"type": event.value, "timestamp_us": tx.now_us, "data": data}
    tx.connection.execute(
        sa.insert(_delivery).values(
            message_id=message_id,
            webhook_id=webhook_id,
            event=event.value,
            body=json.dumps(body, separators=(",", ":"), sort_keys=True),
            state=DeliveryState.PENDING.value,
            attempts=0,
            due_at_us=tx.now_us,
            last_error="",
            created_at_us=tx.now_us,
            ended_at_us=0,
        )
    )
    return message_id


def due(tx: Transaction, exclude: Collection[str], limit: int) -> list[tuple[DeliveryRow, str]]:
    """The message due longest of each webhook, with the webhook's URL; at most ``limit``.

    One at a time for a webhook, and none of ``exclude``. Disabled webhooks get only tests.
    """
    ready = sa.and_(
        _delivery.c.state == DeliveryState.PENDING.value,
        _delivery.c.due_at_us <= tx.now_us,
        _delivery.c.webhook_id.not_in(list(exclude)),
        _webhook.c.enabled | (_delivery.c.event == WebhookEvent.TEST.value),
    )
    joined = _delivery.join(_webhook, _webhook.c.webhook_id == _delivery.c.webhook_id)
    first = (
        sa.select(sa.func.min(_delivery.c.number).label("number"))
        .select_from(joined)
        .where(ready)
        .group_by(_delivery.c.webhook_id)
        .subquery()
    )
    query = (
        _DELIVERIES.select.add_columns(_webhook.c.url)
        .select_from(joined)
        .where(_delivery.c.number.in_(sa.select(first.c.number)))
        .order_by(_delivery.c.due_at_us, _delivery.c.number)
        .limit(limit)
    )
    return [(_DELIVERIES.record(row[:-1]), row[-1]) for row in tx.connection.execute(query)]


def delivery(tx: Transaction, message_id: str) -> DeliveryRow | None:
    """The message with this id."""
    query = _DELIVERIES.select.where(_delivery.c.message_id == message_id)
    return _DELIVERIES.first(tx, query)


def update_delivery(tx: Transaction, number: int, **values: object) -> None:
    """Change columns."""
    tx.connection.execute(sa.update(_delivery).where(_delivery.c.number == number).values(**values))


def forget_ended(tx: Transaction, webhook_id: str) -> None:
    """Keep only the newest ended messages of a webhook."""
    ended: Sequence[str] = (DeliveryState.DELIVERED.value, DeliveryState.GIVEN_UP.value)
    mine = sa.and_(_delivery.c.webhook_id == webhook_id, _delivery.c.state.in_(ended))
    oldest_kept = (
        sa.select(_delivery.c.number)
        .where(mine)
        .order_by(_delivery.c.number.desc())
        .offset(KEPT_DELIVERIES - 1)
        .limit(1)
        .scalar_subquery()
    )
    tx.connection.execute(sa.delete(_delivery).where(mine, _delivery.c.number < oldest_kept))
