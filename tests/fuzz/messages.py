"""Targets: messages that arrive over the network with a signature of somebody's."""

from __future__ import annotations

import json

from google.protobuf.message import DecodeError

from flopmarket.trust.keys import KeyPair
from flopmarket.trust.webhooks import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    public_key_of,
    public_key_text,
    verify_webhook,
    webhook_headers,
)
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.core.payments import RailMessage
from flopmarket_coordinator.rails import SIGNATURE_HEADER as PAYMENT_HEADER
from flopmarket_coordinator.rails import WebhookRail
from flopmarket_worker.lease_offer import read_offer
from tests.fuzz.target import Target
from tests.integration.worker.fake_job import BUYER, COORDINATOR, spec_for
from tests.integration.worker.fakes import FakeCoordinator
from tests.unit.worker import test_grants

KEY = KeyPair.from_seed(b"w" * 32)
RAIL = WebhookRail("fuzz", b"s" * 32)
NOW_SECONDS = 1_700_000_000
NOW_US = NOW_SECONDS * 1_000_000
BODY = json.dumps({"type": "job.succeeded", "data": {"job_id": "7"}}).encode()


def read_webhook(data: bytes) -> object:
    """Lines: id, timestamp, signatures; then the body. Header bytes need not be text."""
    lines = [*data.split(b"\n", 3), b"", b"", b""]
    message_id, timestamp, signature = (
        line.decode("utf-8", "surrogateescape") for line in lines[:3]
    )
    headers = {ID_HEADER: message_id, TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature}
    return verify_webhook(headers, lines[3], KEY.public, now_seconds=NOW_SECONDS)


def read_webhook_signed(data: bytes) -> object:
    """A body that the coordinator has signed."""
    headers = webhook_headers(KEY, "msg_1", NOW_SECONDS, data)
    return verify_webhook(headers, data, KEY.public, now_seconds=NOW_SECONDS)


def read_webhook_stamp(data: bytes) -> object:
    """A timestamp that the coordinator has signed, whatever it says."""
    stamp = data.decode("utf-8", "replace")
    content = b"msg_1." + stamp.encode() + b"." + BODY
    headers = webhook_headers(KEY, "msg_1", NOW_SECONDS, BODY)
    headers |= {TIMESTAMP_HEADER: stamp, SIGNATURE_HEADER: _entry(content)}
    return verify_webhook(headers, BODY, KEY.public, now_seconds=NOW_SECONDS)


def _entry(content: bytes) -> str:
    import base64

    return "v1a," + base64.b64encode(KEY.sign(content)).decode("ascii")


def read_webhook_key(data: bytes) -> object:
    return public_key_of(data.decode("utf-8", "surrogateescape"))


def webhook_seeds() -> dict[str, bytes]:
    headers = webhook_headers(KEY, "msg_1", NOW_SECONDS, BODY)
    names = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    return {"good": "\n".join(headers[name] for name in names).encode() + b"\n" + BODY}


def read_payment(data: bytes) -> object:
    """A line for the header, then the body of a payment provider's message."""
    header, _, body = data.partition(b"\n")
    message = RailMessage(body, {PAYMENT_HEADER: header.decode("utf-8", "surrogateescape")})
    return RAIL.notice(message, NOW_US)


def read_payment_signed(data: bytes) -> object:
    notice = RAIL.notice(RailMessage(data, {PAYMENT_HEADER: RAIL.sign(data, NOW_US)}), NOW_US)
    for name in ("request_id", "account_id", "reference", "withdrawal_id", "currency"):
        getattr(notice, name, "").encode("utf-8")  # it becomes a row of the ledger
    return notice


DEPOSIT = json.dumps(
    {
        "kind": "deposit", "request_id": "r", "account_id": "a", "amount": "25.00",
        "currency": "USD", "reference": "wire 7",
    }
).encode()  # fmt: skip
PAYOUT = json.dumps(
    {"kind": "payout", "withdrawal_id": "w", "paid": True, "reference": "sent"}
).encode()


def read_lease_offer(data: bytes) -> object:
    """What a worker is offered, by a coordinator that it need not trust."""
    message = worker_pb2.LeaseOffered()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None  # gRPC answers such bytes itself
    return read_offer(message, audience=COORDINATOR.key_id, now_us=test_grants.NOW_US)


def lease_offer_seeds() -> dict[str, bytes]:
    plain = FakeCoordinator().offer("f" * 64, spec_for(100, 10)).message
    assert plain.spec_public_key == BUYER.public.raw
    return {
        "owner": plain.SerializeToString(deterministic=True),
        "granted": test_grants.offered().SerializeToString(deterministic=True),
    }


TARGETS = (
    Target("webhook", read_webhook, webhook_seeds),
    Target(
        "webhook-signed",
        read_webhook_signed,
        lambda: {"good": BODY, "list": b"[]", "no-type": b'{"data": {}}'},
    ),
    Target("webhook-stamp", read_webhook_stamp, lambda: {"now": str(NOW_SECONDS).encode()}, 1024),
    Target(
        "webhook-key",
        read_webhook_key,
        lambda: {
            "words": public_key_text(KEY.public).encode(),
            "hex": KEY.public.raw.hex().encode(),
        },
        256,
    ),
    Target(
        "payment",
        read_payment,
        lambda: {"deposit": RAIL.sign(DEPOSIT, NOW_US).encode() + b"\n" + DEPOSIT},
    ),
    Target("payment-signed", read_payment_signed, lambda: {"deposit": DEPOSIT, "payout": PAYOUT}),
    Target("lease-offer", read_lease_offer, lease_offer_seeds),
)
