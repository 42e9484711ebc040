"""Webhook signatures: what a receiver believes and what it does not."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flopmarket.client import verify_webhook as verify_now
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.webhooks import (
    WebhookRefused,
    public_key_of,
    public_key_text,
    verify_webhook,
    webhook_headers,
)

KEY = KeyPair.from_seed(b"w" * 32)
OTHER = KeyPair.from_seed(b"x" * 32)
BODY = json.dumps({"type": "job.succeeded", "data": {"job_id": "7"}}).encode()
NOW = 1_700_000_000
HEADERS = webhook_headers(KEY, "msg_1", NOW, BODY)


def test_the_form_is_that_of_standard_webhooks() -> None:
    assert set(HEADERS) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    scheme, _, signature = HEADERS["webhook-signature"].partition(",")
    assert scheme == "v1a"
    public = Ed25519PublicKey.from_public_bytes(KEY.public.raw)
    public.verify(base64.b64decode(signature), b"msg_1.1700000000." + BODY)
    text = public_key_text(KEY.public)
    assert text.startswith("whpk_")
    assert public_key_of(text) == public_key_of(KEY.public.raw.hex()) == KEY.public


@pytest.mark.parametrize("key", [KEY.public, public_key_text(KEY.public), KEY.public.raw.hex()])
def test_a_good_message_is_read(key: object) -> None:
    shouted = {name.upper(): value for name, value in HEADERS.items()}
    for headers in (HEADERS, shouted, HEADERS | {"content-type": "application/json"}):
        message = verify_webhook(headers, BODY, key, now_seconds=NOW + 9)  # type: ignore[arg-type]
        assert (message.message_id, message.type) == ("msg_1", "job.succeeded")
        assert message.data == {"job_id": "7"}


def test_one_of_several_signatures_is_enough() -> None:
    rotated = HEADERS | {"webhook-signature": f"v1,AAAA v1a,!! {HEADERS['webhook-signature']}"}
    assert verify_webhook(rotated, BODY, KEY.public, now_seconds=NOW).message_id == "msg_1"


@pytest.mark.parametrize(
    ("changes", "body", "code"),
    [
        ({}, BODY + b" ", "WEBHOOK_REFUSED"),
        ({"webhook-id": "msg_2"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-id": "1"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-id": ""}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-timestamp": str(NOW + 1)}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-timestamp": "soon"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-timestamp": "-5"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-timestamp": "9" * 5_000}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-timestamp": "\u0661\u0667"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-id": "msg_\udcff"}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-signature": ""}, BODY, "WEBHOOK_REFUSED"),
        ({"webhook-signature": "v1," + "A" * 86 + "=="}, BODY, "WEBHOOK_REFUSED"),
        (webhook_headers(OTHER, "msg_1", NOW, BODY), BODY, "WEBHOOK_REFUSED"),
        (webhook_headers(KEY, "msg_1", NOW, b"[]"), b"[]", "WEBHOOK_MALFORMED"),
        (webhook_headers(KEY, "msg_1", NOW, b"{}"), b"{}", "WEBHOOK_MALFORMED"),
        (webhook_headers(KEY, "msg_1", NOW, b"\xff"), b"\xff", "WEBHOOK_MALFORMED"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, str], body: bytes, code: str) -> None:
    with pytest.raises(WebhookRefused) as caught:
        verify_webhook(HEADERS | changes, body, KEY.public, now_seconds=NOW)
    assert caught.value.code == code


@pytest.mark.parametrize("drift", [301, -301])
def test_old_and_future_messages_are_refused(drift: int) -> None:
    with pytest.raises(WebhookRefused) as caught:
        verify_webhook(HEADERS, BODY, KEY.public, now_seconds=NOW + drift)
    assert caught.value.code == "WEBHOOK_STALE"
    with pytest.raises(WebhookRefused):
        verify_now(HEADERS, BODY, KEY.public)  # by the clock of this machine


@pytest.mark.parametrize("text", ["", "whpk_", "whpk_!!", "zz", "ab"])
def test_a_malformed_key_is_said_to_be(text: str) -> None:
    with pytest.raises(Exception) as caught:
        public_key_of(text)
    assert getattr(caught.value, "code", "") in ("WEBHOOK_KEY", "PUBLIC_KEY_MALFORMED")
