"""A board over the sample market, with a client that needs no socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from flopmarket_coordinator.web.app import application
from flopmarket_coordinator.web.board import Board
from tests.web.sample import NOW_US, SampleMarket


@pytest.fixture
def open_board() -> Iterator[Callable[..., TestClient]]:
    """Open a board over a market; its client is closed with the test."""
    with ExitStack() as stack:

        def open_(market: SampleMarket | None = None, **options: object) -> TestClient:
            board = Board(
                market or SampleMarket(days=2),
                clock=lambda: NOW_US / 1e6,
                tariff_nano_per_kwh=300_000_000,
                **options,  # type: ignore[arg-type]
            )
            client = TestClient(application(board), base_url="http://127.0.0.1:8080")
            return stack.enter_context(client)

        yield open_
