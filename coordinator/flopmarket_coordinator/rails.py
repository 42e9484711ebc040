"""The two payment rails: the operator's signed entries, and a payment provider's signed webhook.

Both implement :class:`~flopmarket_coordinator.core.payments.PaymentRail`; one contract test runs on
both. Neither moves money: what they vouch for goes to ``Application.payment``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flopmarket.errors import FlopmarketError, InvalidInput, Kind, Unauthenticated
from flopmarket.limits import (
    MAX_PAYMENT_BODY_BYTES,
    MAX_PAYMENT_CLOCK_SKEW_US,
    MAX_REQUEST_TEXT_CHARACTERS,
)
from flopmarket.market.money import parse_nano
from flopmarket.trust.documents import Deposit, DepositTarget, WithdrawalDecision
from flopmarket.trust.envelope import Envelope, payload_type_of
from flopmarket_coordinator.core.payments import (
    MoneyArrived,
    Notice,
    PaymentRail,
    PayoutDecided,
    RailMessage,
)

SIGNATURE_HEADER = "flopmarket-signature"
LEAST_SECRET_BYTES = 32
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What JSON can spell and no database row can hold: zero, and halves of surrogate pairs."""

SECOND_US = 1_000_000


class OpenSigned(Protocol):
    """Verifies an envelope and that its signer may sign such a body: (body, key id)."""

    def __call__(self, envelope: Envelope, body_type: type[Any], /) -> tuple[Any, str]:
        """Raises what is wrong with it."""
        ...


class OperatorRail:
    """The built-in rail: envelopes of the operator's key, each with a reference.

    ``open_signed`` checks signature, audience, freshness and role. An envelope that comes again
    names the same payment, which happened already.
    """

    def __init__(self, open_signed: OpenSigned) -> None:
        self._open = open_signed

    def notice(self, message: RailMessage, now_us: int) -> Notice:
        """See :class:`PaymentRail`. ``now_us`` is what ``open_signed`` measures freshness by."""
        envelope = Envelope.from_bytes(message.body)
        if envelope.payload_type == payload_type_of(WithdrawalDecision):
            decision, key_id = self._open(envelope, WithdrawalDecision)
            return PayoutDecided(
                key_id, decision.withdrawal_id, decision.paid, decision.reference, message.body
            )
        deposit, key_id = self._open(envelope, Deposit)
        return MoneyArrived(
            origin=key_id,
            request_id=deposit.request_id,
            account_id=deposit.account_id,
            target=deposit.target,
            amount_nano=deposit.amount_nano,
            currency=deposit.currency,
            reference=deposit.reference,
        )


class WebhookRail:
    """A payment provider that posts JSON, signed with a shared secret.

    The header ``Flopmarket-Signature: t=<Unix seconds>,v1=<hex>`` carries HMAC-SHA-256 over
    ``<t>.<body>``. A message is heard within five minutes of ``t``; one that is sent again names
    the same payment by its ``request_id``. Bodies::

        {"kind": "deposit", "request_id": "...", "account_id": "...", "amount": "25.00",
         "currency": "USD", "reference": "..."}
        {"kind": "payout", "withdrawal_id": "...", "paid": true, "reference": "..."}
    """

    def __init__(self, name: str, secret: bytes) -> None:
        if len(secret) < LEAST_SECRET_BYTES:
            raise InvalidInput(
                f"a webhook's secret has at least {LEAST_SECRET_BYTES} bytes, not {len(secret)}",
                code="WEBHOOK_SECRET_SHORT",
            )
        self._name = name
        self._secret = secret

    def notice(self, message: RailMessage, now_us: int) -> Notice:
        """See :class:`PaymentRail`; nothing of the body is parsed before its signature is right."""
        if len(message.body) > MAX_PAYMENT_BODY_BYTES:
            raise InvalidInput(
                f"a body of {len(message.body)} bytes, at most {MAX_PAYMENT_BODY_BYTES}",
                code="PAYMENT_TOO_LARGE",
            )
        self._check_signature(message, now_us)
        fields = _Fields(message.body)
        kind = fields.text("kind")
        if kind == "payout":
            return PayoutDecided(
                f"webhook {self._name}",
                fields.text("withdrawal_id"),
                fields.flag("paid"),
                fields.text("reference"),
                message.body,
            )
        if kind != "deposit":
            raise InvalidInput(f"{kind!r} is neither deposit nor payout", code="PAYMENT_MALFORMED")
        amount = parse_nano(fields.text("amount"))
        if amount <= 0:
            raise InvalidInput(f"a deposit of {amount} nano-units", code="PAYMENT_MALFORMED")
        return MoneyArrived(
            origin=f"webhook {self._name}",
            request_id=fields.text("request_id"),
            account_id=fields.text("account_id"),
            target=DepositTarget.AVAILABLE,
            amount_nano=amount,
            currency=fields.text("currency"),
            reference=fields.text("reference"),
        )

    def sign(self, body: bytes, now_us: int) -> str:
        """The header's value for a body: what the sender computes."""
        seconds = now_us // SECOND_US
        return f"t={seconds},v1={self._mac(seconds, body)}"

    def _check_signature(self, message: RailMessage, now_us: int) -> None:
        header = message.headers.get(SIGNATURE_HEADER, "")
        parts = dict(part.partition("=")[::2] for part in header[:512].split(","))
        stamp = parts.get("t", "")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
            raise _refused("the message has no signature header", "PAYMENT_UNSIGNED")
        seconds = int(stamp)
        right = self._mac(seconds, message.body).encode()
        given = parts.get("v1", "").encode("utf-8", "replace")  # a header may hold any bytes
        if not hmac.compare_digest(right, given):
            raise _refused("the signature is not of this body and secret", "PAYMENT_SIGNATURE")
        if abs(now_us - seconds * SECOND_US) > MAX_PAYMENT_CLOCK_SKEW_US:
            raise _refused("the message is older or newer than five minutes", "PAYMENT_STALE")

    def _mac(self, seconds: int, body: bytes) -> str:
        return hmac.new(self._secret, b"%d.%b" % (seconds, body), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What an HTTP server sends back."""

    status: int
    body: bytes


async def answer_webhook(
    rail: PaymentRail,
    apply: Callable[[Notice], Awaitable[str]],
    headers: Mapping[str, str],
    body: bytes,
    now_us: int,
) -> WebhookAnswer:
    """Handle one HTTP request of a rail: verify, apply, answer. Needs no web framework.

    ``apply`` runs ``Application.payment`` as a command and returns the transfer's id. The provider
    repeats what got no 2xx answer; that is safe, and 4xx tells it to stop.
    """
    message = RailMessage(body, {name.lower(): value for name, value in headers.items()})
    try:
        done = await apply(rail.notice(message, now_us))
    except FlopmarketError as error:
        return _json(_STATUSES.get(error.kind, 500), {"code": error.code, "message": error.message})
    return _json(200, {"transfer_id": done})


_STATUSES = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.QUOTA: 409,
    Kind.UNAVAILABLE: 503,
}


class _Fields:
    """Members of a JSON object, each asked for by its type."""

    def __init__(self, body: bytes) -> None:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InvalidInput("the body is not a JSON object", code="PAYMENT_MALFORMED")
        self._members = value

    def text(self, name: str) -> str:
        value = self._members.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_REQUEST_TEXT_CHARACTERS:
            raise InvalidInput(f"{name} is missing or no short text", code="PAYMENT_MALFORMED")
        if _NO_TEXT.search(value):
            raise InvalidInput(f"{name} has characters that no text has", code="PAYMENT_MALFORMED")
        return value

    def flag(self, name: str) -> bool:
        value = self._members.get(name)
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} is neither true nor false", code="PAYMENT_MALFORMED")
        return value


def _refused(message: str, code: str) -> Unauthenticated:
    return Unauthenticated(message, code=code)


def _json(status: int, value: Mapping[str, str]) -> WebhookAnswer:
    return WebhookAnswer(status, json.dumps(value).encode())
