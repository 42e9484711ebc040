"""A job that a CI key signed: the worker follows the chain from the owner to the spec by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.spec import JobSpec, job_id
from flopmarket.trust.documents import NO_LIMIT_NANO, DeviceGrant
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import common_pb2, worker_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_worker.lease_offer import read_offer
from tests.integration.worker.fake_job import BUYER, COORDINATOR, spec_for
from tests.integration.worker.fakes import FakeCoordinator

CI = KeyPair.from_seed(b"i" * 32)
MALLORY = KeyPair.from_seed(b"m" * 32)
NOW_US, END_US = 1_000, 10_000
SPEC = replace(spec_for(100, 10), deadline_us=END_US)
GRANT = DeviceGrant(
    BUYER.key_id, CI.public.raw, "nightly", KeyRole.CI, 10**9, NO_LIMIT_NANO, END_US
)


def sealed(body: Document, key: KeyPair, audience: str = COORDINATOR.key_id) -> common_pb2.Envelope:
    return envelope_to_proto(
        seal(body, key, audience=audience, nonce=b"g" * 16, issued_at_us=1, expires_at_us=END_US)
    )


def offered(spec: JobSpec = SPEC, signer: KeyPair = CI) -> worker_pb2.LeaseOffered:
    message = FakeCoordinator().offer("f" * 64, spec).message
    message.job_id = job_id(spec).hex()
    message.spec.CopyFrom(sealed(spec, signer))
    message.spec_public_key = signer.public.raw
    message.grant.CopyFrom(sealed(GRANT, BUYER))
    message.buyer_public_key = BUYER.public.raw
    return message


def read(message: worker_pb2.LeaseOffered, now_us: int | None = NOW_US) -> JobSpec:
    return read_offer(message, audience=COORDINATOR.key_id, now_us=now_us).spec


def test_a_granted_key_may_sign_for_its_owner() -> None:
    assert read(offered()) == SPEC


def with_grant(grant: DeviceGrant, key: KeyPair = BUYER, **options: Any) -> Callable[[Any], None]:
    return lambda message: message.grant.CopyFrom(sealed(grant, key, **options))


def without_grant(message: worker_pb2.LeaseOffered) -> None:
    message.ClearField("grant")


def altered_grant(message: worker_pb2.LeaseOffered) -> None:
    payload = message.grant.payload
    message.grant.payload = payload[:-1] + bytes([payload[-1] ^ 1])


def own_grant(message: worker_pb2.LeaseOffered) -> None:
    """Mallory calls itself the owner."""
    with_grant(GRANT, MALLORY)(message)
    message.buyer_public_key = MALLORY.public.raw


def spec_as_grant(message: worker_pb2.LeaseOffered) -> None:
    message.grant.CopyFrom(sealed(SPEC, BUYER))


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (without_grant, "GRANT_MISSING"),
        (own_grant, "GRANT_MISSING"),
        (altered_grant, "ENVELOPE_BAD_SIGNATURE"),
        (with_grant(GRANT, CI), "ENVELOPE_UNKNOWN_KEY"),
        (spec_as_grant, "ENVELOPE_WRONG_TYPE"),
        (with_grant(GRANT, audience="0" * 64), "ENVELOPE_WRONG_AUDIENCE"),
        (with_grant(replace(GRANT, account_id=MALLORY.key_id)), "GRANT_OTHER_ACCOUNT"),
        (with_grant(replace(GRANT, device_key=MALLORY.public.raw)), "GRANT_OTHER_KEY"),
        (
            with_grant(DeviceGrant(BUYER.key_id, CI.public.raw, "card", KeyRole.DEVICE)),
            "GRANT_OTHER_KEY",
        ),
        (with_grant(replace(GRANT, expires_at_us=NOW_US)), "GRANT_EXPIRED"),
        (with_grant(replace(GRANT, expires_at_us=END_US - 1)), "GRANT_OUTLIVED"),
        (with_grant(replace(GRANT, cap_nano=10**9 - 1)), "GRANT_CAP"),
        (with_grant(replace(GRANT, monthly_nano=10**9 - 1)), "GRANT_CAP"),
    ],
)
def test_a_broken_chain_is_refused(forge: Callable[[Any], None], code: str) -> None:
    message = offered()
    forge(message)
    with pytest.raises(FlopmarketError) as caught:
        read(message)
    assert caught.value.code == code


def test_a_key_without_any_grant_signs_for_nobody() -> None:
    message = offered(signer=MALLORY)
    with pytest.raises(FlopmarketError) as caught:
        read(message)
    assert caught.value.code == "GRANT_OTHER_KEY"


def test_work_under_way_goes_on_after_the_grant_has_ended() -> None:
    """A lease that was checked before and is found on disk is not asked for the time again."""
    late = offered()
    assert read_offer(late, audience=None).spec == SPEC
