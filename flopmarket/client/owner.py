"""The owner's calls: budgets, CI keys and webhooks. A part of :class:`Client`."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.client import messages
from flopmarket.client.failures import clean_text
from flopmarket.client.money import Amount, nano_of
from flopmarket.client.results_owner import Budget, BudgetReport, KeyBudget, Webhook, WebhookTest
from flopmarket.client.session import Session
from flopmarket.errors import InvalidInput
from flopmarket.limits import CLIENT_SESSION_LIFETIME_US, WEBHOOK_TEST_SECONDS
from flopmarket.trust.documents import NO_LIMIT_NANO, BudgetChange, DeviceGrant
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.v1 import buyer_pb2, buyer_pb2_grpc, identity_pb2, identity_pb2_grpc


class OwnerCalls:
    """What :class:`Client` can do for an account's owner."""

    _session: Session

    @property
    def account_id(self) -> str:
        """The account this client acts for; raises Unauthenticated KEY_NEEDED without a key."""
        return self._session.identity.account_id

    def budget(self) -> BudgetReport:
        """Limits of our account and its CI keys, and what counts against them.

        A client with a CI key sees the account's month and that key.
        """
        answer = self._session.call(self._buyers.GetBudget, buyer_pb2.GetBudgetRequest())
        currency = self._session.coordinator().currency
        return BudgetReport(
            answer.as_of_us,
            answer.month_start_us,
            _budget(answer.month, currency),
            tuple(
                KeyBudget(
                    messages.check_digest_text(key.key_id, "key id"),
                    clean_text(key.label),
                    _budget(key.total, currency),
                    _budget(key.month, currency),
                    key.expires_at_us,
                    key.revoked,
                )
                for key in answer.keys
            ),
        )

    def set_budget(self, monthly: Amount | None) -> Budget:
        """Limit what jobs of a calendar month (UTC) may hold and cost; None takes the limit away.

        Jobs that run already go on, whatever the new limit is.
        """
        change = BudgetChange(self._session.identity.account_id, _limit(monthly, "monthly"))
        envelope = self._session.seal(change, lifetime_us=CLIENT_SESSION_LIFETIME_US)
        request = buyer_pb2.SetBudgetRequest(change=envelope)
        answer = self._session.call(self._buyers.SetBudget, request)
        return _budget(answer.month, self._session.coordinator().currency)

    def grant_key(
        self,
        key: KeyPair | PublicKey,
        *,
        cap: Amount,
        expires_seconds: float,
        monthly: Amount | None = None,
        label: str = "",
    ) -> str:
        """Let ``key`` submit jobs for our account; returns its id.

        All its jobs together may cost ``cap``, those of a calendar month ``monthly``; a job's
        deadline is before the end of the grant. Granting again replaces the earlier grant; a cap of
        0 takes the right to buy away.
        """
        public = key.public if isinstance(key, KeyPair) else key
        if expires_seconds <= 0:
            raise InvalidInput("a grant ends in the future", code="GRANT_EXPIRY")
        lifetime_us = int(expires_seconds * 1e6)
        grant = DeviceGrant(
            account_id=self._session.identity.account_id,
            device_key=public.raw,
            label=label,
            role=KeyRole.CI,
            cap_nano=_limit(cap, "cap"),
            monthly_nano=_limit(monthly, "monthly"),
            expires_at_us=self._session.ports.now_us() + lifetime_us,
        )
        # The envelope is shown to workers for as long as the grant holds.
        request = identity_pb2.GrantDeviceRequest(
            grant=self._session.seal(grant, lifetime_us=lifetime_us)
        )
        service = identity_pb2_grpc.IdentityServiceStub(self._session.channel)
        answer = self._session.call(service.GrantDevice, request)
        return messages.check_digest_text(answer.key_id, "key id")

    def webhooks(self) -> tuple[Webhook, ...]:
        """Addresses that are told of our jobs, oldest first."""
        answer = self._session.call(self._buyers.ListWebhooks, buyer_pb2.ListWebhooksRequest())
        return tuple(_webhook(item) for item in answer.webhooks)

    def add_webhook(self, url: str, events: Sequence[str] = ()) -> Webhook:
        """Tell ``url`` (https) of these events, of all when none is named.

        Events are job.queued, job.succeeded, job.failed and job.cancelled. The same address again
        changes its events and enables it. Receivers check with :func:`verify_webhook`.
        """
        request = buyer_pb2.AddWebhookRequest(url=url, events=events)
        return _webhook(self._session.call(self._buyers.AddWebhook, request).webhook)

    def remove_webhook(self, webhook_id: str) -> None:
        """Tell this address nothing more."""
        request = buyer_pb2.RemoveWebhookRequest(webhook_id=webhook_id)
        self._session.call(self._buyers.RemoveWebhook, request)

    def test_webhook(self, webhook_id: str) -> WebhookTest:
        """Have a ``webhook.test`` sent now; a success enables a disabled webhook again."""
        answer = self._session.call(
            self._buyers.TestWebhook,
            buyer_pb2.TestWebhookRequest(webhook_id=webhook_id),
            timeout_seconds=WEBHOOK_TEST_SECONDS + 10,
        )
        return WebhookTest(answer.delivered, clean_text(answer.error), _webhook(answer.webhook))

    @property
    def _buyers(self) -> buyer_pb2_grpc.BuyerServiceStub:
        return buyer_pb2_grpc.BuyerServiceStub(self._session.channel)


def _limit(amount: Amount | None, name: str) -> int:
    nano = NO_LIMIT_NANO if amount is None else nano_of(amount, name)
    if nano < 0:
        raise InvalidInput(f"{name} is below zero", code="BUDGET_NEGATIVE")
    return nano


def _budget(message: buyer_pb2.Budget, currency: str) -> Budget:
    limit = messages.price_of(message.limit.nano, currency) if message.limited else None
    return Budget(limit, messages.price_of(message.used.nano, currency))


def _webhook(message: buyer_pb2.Webhook) -> Webhook:
    return Webhook(
        webhook_id=clean_text(message.webhook_id),
        url=clean_text(message.url, 2048),
        events=tuple(clean_text(name) for name in message.events),
        enabled=message.enabled,
        disabled_reason=clean_text(message.disabled_reason),
        failures=message.failures,
        last_error=clean_text(message.last_error),
        pending=message.pending,
        created_at_us=message.created_at_us,
        delivered_at_us=message.delivered_at_us,
    )
