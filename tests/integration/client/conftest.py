"""Fixtures of the client tests: a fake coordinator and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flopmarket.client import Client
from tests.integration.client.double_server import RunningFake
from tests.integration.client.doubles import BUYER_KEY, FakeCoordinator


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with RunningFake() as running:
        yield running


@pytest.fixture
def client(fake: FakeCoordinator) -> Iterator[Client]:
    with Client(fake.address, BUYER_KEY) as made:
        yield made
