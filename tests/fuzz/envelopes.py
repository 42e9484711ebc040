"""Targets: envelopes as they arrive, and what lies behind a good signature."""

from __future__ import annotations

from dataclasses import replace

from flopmarket.trust.documents import NO_LIMIT_NANO, CancelRequest, DeviceGrant
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import (
    Envelope,
    Header,
    keys_by_id,
    open_envelope,
    payload_type_of,
    seal,
    sign_payload,
)
from flopmarket.trust.grants import check_job_within, open_ci_grant
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.replay import MemoryReplayCache
from tests.fuzz.target import Target, check_same

OWNER, CI, COORDINATOR = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
NOW_US = 1_800_000_000_000_000
CANCEL = CancelRequest(bytes(range(32)), "stop-1")
GRANT = DeviceGrant(
    OWNER.key_id, CI.public.raw, "nightly", KeyRole.CI, 10**9, NO_LIMIT_NANO, 2 * NOW_US
)
HEADER = Header(COORDINATOR.key_id, b"\x11" * 16, NOW_US - 1, NOW_US + 1, b"")


def _open(envelope: Envelope) -> object:
    return open_envelope(
        envelope,
        CancelRequest,
        keys=keys_by_id(OWNER.public, CI.public),
        audience=COORDINATOR.key_id,
        now_us=NOW_US,
        replay=MemoryReplayCache(lambda: NOW_US),
    )


def read_binary(data: bytes) -> object:
    envelope = Envelope.from_bytes(data)
    check_same(envelope.to_bytes(), data)
    check_same(Envelope.from_json(envelope.to_json()).to_bytes(), data)
    return _open(envelope)


def read_json(data: bytes) -> object:
    envelope = Envelope.from_json(data)
    check_same(Envelope.from_bytes(envelope.to_bytes()).to_json(), envelope.to_json())
    return _open(envelope)


def read_signed(data: bytes) -> object:
    """Bytes that a registered key has signed as if they were a cancellation."""
    return _open(sign_payload(payload_type_of(CancelRequest), data, OWNER))


def read_grant(data: bytes) -> object:
    """Bytes that an owner key has signed as if they were a grant."""
    envelope = sign_payload(payload_type_of(DeviceGrant), data, OWNER)
    grant = open_ci_grant(envelope, OWNER.public, CI.public, audience=COORDINATOR.key_id)
    check_job_within(grant, max_price_nano=1, deadline_us=NOW_US, now_us=NOW_US)
    return grant


def _sealed() -> Envelope:
    return seal(
        CANCEL, OWNER, audience=COORDINATOR.key_id, nonce=b"\x11" * 16,
        issued_at_us=NOW_US - 1, expires_at_us=NOW_US + 1,
    )  # fmt: skip


def binary_seeds() -> dict[str, bytes]:
    good = _sealed()
    return {
        "cancel": good.to_bytes(),
        "unsigned": replace(good, signatures=()).to_bytes(),
        "signed-twice": replace(good, signatures=good.signatures * 2).to_bytes(),
    }


def json_seeds() -> dict[str, bytes]:
    good = _sealed()
    return {
        "cancel": good.to_json(),
        "unsigned": replace(good, signatures=()).to_json(),
        "no-payload": replace(good, payload=b"").to_json(),
    }


def signed_seeds() -> dict[str, bytes]:
    return {
        "cancel": encode(replace(HEADER, body=encode(CANCEL))),
        "empty-body": encode(HEADER),
        "expired": encode(replace(HEADER, expires_at_us=NOW_US, body=encode(CANCEL))),
    }


def grant_seeds() -> dict[str, bytes]:
    device = replace(GRANT, role=KeyRole.DEVICE, cap_nano=0, monthly_nano=0, expires_at_us=0)
    return {
        "ci": encode(replace(HEADER, body=encode(GRANT))),
        "device": encode(replace(HEADER, body=encode(device))),
        "ended": encode(replace(HEADER, body=encode(replace(GRANT, expires_at_us=1)))),
    }


TARGETS = (
    Target("envelope-binary", read_binary, binary_seeds),
    Target("envelope-json", read_json, json_seeds),
    Target("envelope-signed", read_signed, signed_seeds),
    Target("grant", read_grant, grant_seeds),
)
