"""Use cases of webhooks: who is told of an account's jobs, and how each delivery went.

Messages get into the outbox where a job's story is written (:mod:`store.webhooks`). The sender asks
for what is due, tries, and reports here; nothing about a delivery is remembered anywhere else.
"""

from __future__ import annotations

from collections.abc import Collection

from flopmarket.errors import Conflict, Forbidden, NotFound
from flopmarket.limits import (
    MAX_WEBHOOK_ATTEMPTS,
    MAX_WEBHOOK_FAILURES,
    MAX_WEBHOOKS_PER_ACCOUNT,
)
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.types_accounts import (
    DeliveryView,
    DueDelivery,
    Session,
    WebhookView,
)
from flopmarket_coordinator.core.webhooks import (
    DeliveryState,
    WebhookEvent,
    events_of,
    retry_pause_us,
)
from flopmarket_coordinator.store import webhooks
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.webhooks import WebhookRow
from flopmarket_coordinator.webhook_address import target_of

_SHOWN_ERROR_CHARACTERS = 200


class WebhookUseCases(UseCases):
    """Webhooks of the caller's account, and the outbox."""

    def add_webhook(
        self, tx: Transaction, session: Session, url: str, events: tuple[str, ...]
    ) -> WebhookView:
        """Tell ``url`` of these events from now on; again, change the events and enable it."""
        _require_owner(session)
        target_of(url, private_allowed=self._parameters.webhook_private_hosts)
        chosen = " ".join(events_of(events))
        known = webhooks.of_account(tx, session.account_id)
        same = next((row for row in known if row.url == url), None)
        if same is not None:
            webhooks.update(
                tx, same.webhook_id, events=chosen, enabled=True, disabled_reason="", failures=0
            )
            return self._webhook(tx, session, same.webhook_id)
        if len(known) >= MAX_WEBHOOKS_PER_ACCOUNT:
            raise Conflict(
                f"an account has at most {MAX_WEBHOOKS_PER_ACCOUNT} webhooks",
                code="TOO_MANY_WEBHOOKS",
                hint="remove one first",
            )
        webhook_id = self._new_id()
        webhooks.add(tx, webhook_id, session.account_id, url, chosen)
        return self._webhook(tx, session, webhook_id)

    def list_webhooks(self, tx: Transaction, session: Session) -> tuple[WebhookView, ...]:
        """Webhooks of the caller, oldest first."""
        _require_owner(session)
        return tuple(_view(tx, row) for row in webhooks.of_account(tx, session.account_id))

    def remove_webhook(self, tx: Transaction, session: Session, webhook_id: str) -> None:
        """Forget a webhook and what was still meant for it."""
        _require_owner(session)
        self._webhook(tx, session, webhook_id)
        webhooks.remove(tx, webhook_id)

    def test_webhook(self, tx: Transaction, session: Session, webhook_id: str) -> str:
        """Put a test into the outbox; the id of its message. Sent even while disabled."""
        _require_owner(session)
        view = self._webhook(tx, session, webhook_id)
        cause = self._new_id()
        message_id = webhooks.enqueue(tx, webhook_id, cause, WebhookEvent.TEST, {"url": view.url})
        if not message_id:
            raise Conflict("too many messages wait for this webhook", code="WEBHOOK_QUEUE_FULL")
        return message_id

    def webhook_outcome(
        self, tx: Transaction, session: Session, webhook_id: str, message_id: str
    ) -> tuple[WebhookView, DeliveryView]:
        """How a message to a webhook of the caller stands."""
        view = self._webhook(tx, session, webhook_id)
        row = webhooks.delivery(tx, message_id)
        if row is None or row.webhook_id != webhook_id:
            raise NotFound(f"there is no message {message_id[:80]}", code="MESSAGE_UNKNOWN")
        return view, DeliveryView(DeliveryState(row.state), row.last_error)

    # --- the sender ---------------------------------------------------------------------------

    def due_deliveries(
        self, tx: Transaction, busy: Collection[str], limit: int
    ) -> tuple[DueDelivery, ...]:
        """Messages to send now, one a webhook, none to the ``busy`` ones."""
        return tuple(
            DueDelivery(row.number, row.message_id, row.webhook_id, url, row.body.encode())
            for row, url in webhooks.due(tx, busy, limit)
        )

    def delivery_done(self, tx: Transaction, message_id: str, error: str) -> None:
        """An attempt ended: ``error`` is empty when the receiver took the message.

        A failed message is tried again later, up to ``MAX_WEBHOOK_ATTEMPTS`` times; a test is not.
        ``MAX_WEBHOOK_FAILURES`` failed attempts in a row disable the webhook.
        """
        row = webhooks.delivery(tx, message_id)
        if row is None or row.state != DeliveryState.PENDING:
            return  # removed, or answered twice
        webhook = webhooks.get(tx, row.webhook_id)
        assert webhook is not None, "a delivery names its webhook"
        if not error:
            webhooks.update_delivery(
                tx,
                row.number,
                state=DeliveryState.DELIVERED.value,
                attempts=row.attempts + 1,
                ended_at_us=tx.now_us,
            )
            webhooks.update(
                tx,
                webhook.webhook_id,
                enabled=True,
                disabled_reason="",
                failures=0,
                last_error="",
                delivered_at_us=tx.now_us,
            )
            webhooks.forget_ended(tx, webhook.webhook_id)
            return
        self._failed(tx, row, webhook, error[:_SHOWN_ERROR_CHARACTERS])

    def _failed(
        self, tx: Transaction, row: webhooks.DeliveryRow, webhook: WebhookRow, error: str
    ) -> None:
        attempts = row.attempts + 1
        final = attempts >= MAX_WEBHOOK_ATTEMPTS or row.event == WebhookEvent.TEST
        state = DeliveryState.GIVEN_UP if final else DeliveryState.PENDING
        webhooks.update_delivery(
            tx,
            row.number,
            state=state.value,
            attempts=attempts,
            last_error=error,
            due_at_us=tx.now_us + retry_pause_us(attempts),
            ended_at_us=tx.now_us if final else 0,
        )
        failures = webhook.failures + 1
        webhooks.update(tx, webhook.webhook_id, failures=failures, last_error=error)
        if failures >= MAX_WEBHOOK_FAILURES and webhook.enabled:
            reason = f"{failures} attempts in a row failed; the last: {error}"
            webhooks.disable(tx, webhook.webhook_id, row.message_id, reason)
        webhooks.forget_ended(tx, webhook.webhook_id)

    def _webhook(self, tx: Transaction, session: Session, webhook_id: str) -> WebhookView:
        row = webhooks.get(tx, webhook_id)
        if row is None or row.account_id != session.account_id:
            raise NotFound(f"there is no webhook {webhook_id[:80]}", code="WEBHOOK_UNKNOWN")
        return _view(tx, row)


def _require_owner(session: Session) -> None:
    if session.role is not KeyRole.OWNER:
        raise Forbidden(
            f"webhooks are the owner's; this is a {session.role} key", code="OWNER_KEY_NEEDED"
        )


def _view(tx: Transaction, row: WebhookRow) -> WebhookView:
    return WebhookView(
        webhook_id=row.webhook_id,
        url=row.url,
        events=tuple(row.events.split()),
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        failures=row.failures,
        last_error=row.last_error,
        pending=webhooks.pending(tx, row.webhook_id),
        created_at_us=row.created_at_us,
        delivered_at_us=row.delivered_at_us,
    )
