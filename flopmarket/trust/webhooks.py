"""Signatures of webhook messages: made by a coordinator, checked by whoever receives them.

The form is that of Standard Webhooks 1.0.0 (github.com/standard-webhooks) for asymmetric keys: the
headers ``webhook-id``, ``webhook-timestamp`` (Unix seconds) and ``webhook-signature``, whose
``v1a,`` entry is the base64 of an Ed25519 signature over ``id.timestamp.body``. An id begins with
``msg_``, so these bytes are never those of another thing that the coordinator's key signs.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flopmarket.errors import Unauthenticated
from flopmarket.limits import WEBHOOK_TOLERANCE_SECONDS
from flopmarket.trust.keys import KeyPair, PublicKey

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
PUBLIC_KEY_PREFIX = "whpk_"

_MESSAGE_PREFIX = "msg_"
_SCHEME = "v1a,"
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_MAX_SIGNATURES = 8


class WebhookRefused(Unauthenticated):
    """A message was not signed by the coordinator, or is too old to be taken."""

    default_code = "WEBHOOK_REFUSED"


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A message whose signature is good.

    ``message_id`` is the same at every attempt: a receiver that has seen it is done. ``type`` is
    ``job.succeeded`` and the like; ``data`` is the job as it then was; ``sent_at_seconds`` is when
    this attempt was made.
    """

    message_id: str
    type: str
    sent_at_seconds: int
    data: Mapping[str, Any]


def webhook_headers(
    key: KeyPair, message_id: str, sent_at_seconds: int, body: bytes
) -> dict[str, str]:
    """Headers that prove ``body``; ``message_id`` begins with ``msg_``."""
    assert message_id.startswith(_MESSAGE_PREFIX), message_id
    signature = key.sign(_signed_bytes(message_id, str(sent_at_seconds), body))
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(sent_at_seconds),
        SIGNATURE_HEADER: _SCHEME + base64.b64encode(signature).decode("ascii"),
    }


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    key: PublicKey | str,
    *,
    now_seconds: float,
    tolerance_seconds: int = WEBHOOK_TOLERANCE_SECONDS,
) -> WebhookMessage:
    """The message, if the coordinator with ``key`` sent it within ``tolerance_seconds`` of now.

    ``body`` is what arrived, byte for byte. ``key`` is the coordinator's public key, or its text:
    ``whpk_`` and base64, or 64 hex digits (not the key's id). Names of headers may have any case;
    ``now_seconds`` is Unix time.
    Raises :class:`WebhookRefused`.
    """
    found = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = found.get(ID_HEADER, ""), found.get(TIMESTAMP_HEADER, "")
    public = key if isinstance(key, PublicKey) else public_key_of(key)
    named = message_id.startswith(_MESSAGE_PREFIX) and message_id.isascii()
    if not named or not _TIMESTAMP.fullmatch(timestamp):
        raise WebhookRefused(f"{ID_HEADER} or {TIMESTAMP_HEADER} is missing or malformed")
    content = _signed_bytes(message_id, timestamp, body)
    entries = found.get(SIGNATURE_HEADER, "").split(" ")[:_MAX_SIGNATURES]
    if not any(public.verifies(_signature(entry), content) for entry in entries):
        raise WebhookRefused("the message was not signed by this coordinator")
    age_seconds = now_seconds - int(timestamp)
    if abs(age_seconds) > tolerance_seconds:
        raise WebhookRefused(
            f"the message was sent {age_seconds:.0f} s ago, {tolerance_seconds} s are accepted",
            code="WEBHOOK_STALE",
            hint="check the clock of this machine",
        )
    try:
        content_json = json.loads(body)
        kind, data = content_json["type"], content_json["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        kind, data = None, None
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise WebhookRefused("the signed body is not a message", code="WEBHOOK_MALFORMED")
    return WebhookMessage(message_id, kind, int(timestamp), data)


def public_key_text(key: PublicKey) -> str:
    """The key in the words of Standard Webhooks, for libraries that verify."""
    return PUBLIC_KEY_PREFIX + base64.b64encode(key.raw).decode("ascii")


def public_key_of(text: str) -> PublicKey:
    """Inverse of :func:`public_key_text`; 64 hex digits are read, too."""
    try:
        if text.startswith(PUBLIC_KEY_PREFIX):
            return PublicKey(base64.b64decode(text.removeprefix(PUBLIC_KEY_PREFIX), validate=True))
        return PublicKey(bytes.fromhex(text))
    except (ValueError, binascii.Error):
        raise WebhookRefused(
            "the coordinator's key is neither whpk_ and base64 nor 64 hex digits",
            code="WEBHOOK_KEY",
        ) from None


def _signed_bytes(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _signature(entry: str) -> bytes:
    """The bytes of one entry; empty for another scheme, which no key verifies."""
    if not entry.startswith(_SCHEME):
        return b""
    try:
        return base64.b64decode(entry.removeprefix(_SCHEME), validate=True)
    except (ValueError, binascii.Error):
        return b""
