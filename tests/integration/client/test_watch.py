"""A watch over a real connection that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from flopmarket.client import Client
from flopmarket.client.client import SYSTEM_PORTS
from tests.integration.client.doubles import BUYER_KEY, FakeCoordinator, TinyJob


@pytest.fixture
def hasty(fake: FakeCoordinator) -> Iterator[Client]:
    ports = replace(SYSTEM_PORTS, sleep=lambda _: None)
    with Client(fake.address, BUYER_KEY, ports=ports) as made:
        yield made


def test_every_event_comes_once_over_dropped_connections(
    hasty: Client, fake: FakeCoordinator
) -> None:
    handle = hasty.submit(TinyJob())
    fake.drop_after = [2, 1, 0, 2]
    events = [e for e in hasty.watch(handle.job_id) if e.kind != "progress"]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    assert len(fake.watched_from) >= 4
    assert fake.watched_from[:2] == [0, 2]


def test_repeated_events_are_shown_once(hasty: Client, fake: FakeCoordinator) -> None:
    handle = hasty.submit(TinyJob())
    fake.tricks.add("repeat-events")
    sequences = [e.sequence for e in hasty.watch(handle.job_id) if e.kind != "progress"]
    assert sequences == [1, 2, 3, 4, 5, 6]


def test_a_watch_goes_on_after_the_coordinator_forgot_the_session(
    hasty: Client, fake: FakeCoordinator
) -> None:
    handle = hasty.submit(TinyJob())
    fake.tricks.add("forget-sessions")
    assert [e.kind for e in hasty.watch(handle.job_id)][-1] == "succeeded"
    assert fake.calls["OpenSession"] == 2


def test_a_watch_can_begin_in_the_middle(hasty: Client, fake: FakeCoordinator) -> None:
    handle = hasty.submit(TinyJob())
    assert [e.sequence for e in hasty.watch(handle.job_id, 4)] == [5, 6]


def test_leaving_early_ends_the_call(hasty: Client) -> None:
    handle = hasty.submit(TinyJob())
    events = hasty.watch(handle.job_id)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert hasty.job(handle.job_id).job_id == handle.job_id
