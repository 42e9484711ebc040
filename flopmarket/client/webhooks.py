"""For receivers of webhooks: whether a message that arrived is the coordinator's."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flopmarket.limits import WEBHOOK_TOLERANCE_SECONDS
from flopmarket.trust import webhooks
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.webhooks import WebhookMessage, WebhookRefused


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    key: PublicKey | str,
    *,
    tolerance_seconds: int = WEBHOOK_TOLERANCE_SECONDS,
) -> WebhookMessage:
    """The message in a request, if the coordinator with ``key`` sent it a moment ago.

    ``body`` is what arrived, byte for byte. ``key`` is ``client.coordinator().public_key``, or its
    text (``whpk_`` and base64, or 64 hex digits), as ``flop webhook list`` shows it. Raises
    :class:`WebhookRefused`. The same message may come again: its ``message_id`` is then the same.
    """
    return webhooks.verify_webhook(
        headers, body, key, now_seconds=time.time(), tolerance_seconds=tolerance_seconds
    )


__all__ = ["WebhookMessage", "WebhookRefused", "verify_webhook"]
