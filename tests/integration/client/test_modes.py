"""Modes as a buyer's client signs them: what is quoted, what is chosen, what is refused."""

from __future__ import annotations

import pytest

from flopmarket.client import Client
from flopmarket.errors import InvalidInput, Unavailable
from flopmarket.jobs.spec import NO_CLASS, Mode
from tests.integration.client.double_jobs import GOOD_CLASS
from tests.integration.client.doubles import FakeCoordinator, TinyJob


def test_a_job_is_exact_unless_something_else_is_said(
    client: Client, fake: FakeCoordinator
) -> None:
    spec = fake.jobs[client.submit(TinyJob()).job_id].spec
    assert (spec.mode, spec.class_digest) == (Mode.EXACT, NO_CLASS)
    assert client.quote(TinyJob()).mode == "exact"


def test_a_class_job_is_bound_to_the_class_that_the_quote_chose(
    client: Client, fake: FakeCoordinator
) -> None:
    quote = client.quote(TinyJob(), mode="class")
    assert quote.device_class == GOOD_CLASS.hex()
    assert [(item.devices, item.other_accounts) for item in quote.classes] == [(1, 0), (3, 2)]
    for max_price in (None, "0.02"):
        handle = client.submit(TinyJob(), max_price, mode="class")
        assert fake.jobs[handle.job_id].spec.class_digest == GOOD_CLASS
    named = "ab" * 32
    handle = client.submit(TinyJob(), mode="class", device_class=named)
    assert fake.jobs[handle.job_id].spec.class_digest.hex() == named


def test_no_class_no_job(client: Client, fake: FakeCoordinator) -> None:
    fake.tricks.add("no-class")
    with pytest.raises(Unavailable) as none:
        client.submit(TinyJob(), mode="class")
    assert none.value.code == "CLASS_NONE"
    assert fake.jobs == {}


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"mode": "swift"}, "MODE_UNKNOWN"),
        ({"mode": "class", "device_class": "ab"}, "JOB_CLASS"),
        ({"mode": "exact", "device_class": "ab" * 32}, "JOB_CLASS"),
    ],
)
def test_modes_and_classes_are_checked_before_anything_is_sent(
    client: Client, fake: FakeCoordinator, asked: dict[str, str], code: str
) -> None:
    for call in (client.quote, client.submit):
        with pytest.raises(InvalidInput) as refused:
            call(TinyJob(), **asked)
        assert refused.value.code == code
    assert "QuoteJob" not in fake.calls and not fake.jobs
