"""The price board beside a market day: its JSON against the same questions over gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from flopmarket.client import Client
from flopmarket.client.money import Money
from flopmarket.client.results_prices import History, Spot
from flopmarket.demo.claims import Claims

MAX_ANSWER_BYTES = 4 << 20
ANSWER_SECONDS = 10.0
AGREE_SECONDS = 20.0
_PAUSE_SECONDS = 0.3


def check_board(claims: Claims, url: str, client: Client, work_classes: Sequence[str]) -> None:
    """Spot and history of the board are those of the coordinator.

    The market may move between two questions, and the board keeps an answer for a moment: so both
    are asked until they agree, or some seconds have passed.
    """
    spot_agrees = _agrees(lambda: _board_spot(url), lambda: _spot(client.spot()))
    claims.check(
        "the board's spot.json is what gRPC says",
        f"{len(client.spot().prices)} classes at {url}",
        spot_agrees,
    )
    histories = [
        _agrees(
            lambda name=name: _board_history(url, name),  # type: ignore[misc]
            lambda name=name: _history(client.history(name, "1m")),  # type: ignore[misc]
        )
        for name in work_classes
    ]
    claims.check(
        "the board's history.json is what gRPC says",
        f"{', '.join(work_classes)}, candles of a minute",
        bool(histories) and all(histories),
    )


def _agrees(one: Callable[[], object], other: Callable[[], object]) -> bool:
    deadline = time.monotonic() + AGREE_SECONDS
    while one() != other():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _spot(spot: Spot) -> list[tuple[object, ...]]:
    return [
        (p.work_class, _nano(p.per_pflop), _nano(p.bid), _nano(p.last), p.offers, p.orders)
        for p in spot.prices
    ]


def _board_spot(url: str) -> list[tuple[object, ...]]:
    names = ("work_class", "ask_nano", "bid_nano", "last_nano", "offers", "orders")
    answer = _fetch(f"{url}/api/v1/spot.json")
    return [tuple(one[name] for name in names) for one in answer["classes"]]


def _history(history: History) -> list[tuple[object, ...]]:
    return [
        (c.start_us, c.open.nano, c.high.nano, c.low.nano, c.close.nano, str(c.flops), c.trades)
        for c in history.candles
    ]


def _board_history(url: str, work_class: str) -> list[tuple[object, ...]]:
    names = ("start_us", "open_nano", "high_nano", "low_nano", "close_nano", "operations", "trades")
    answer = _fetch(f"{url}/api/v1/history.json?work_class={work_class}&resolution=1m")
    return [tuple(one[name] for name in names) for one in answer["candles"]]


def _nano(price: Money | None) -> int | None:
    return None if price is None else price.nano


def _fetch(url: str) -> dict[str, Any]:
    place = urlsplit(url)
    connection = HTTPConnection(place.netloc, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"{place.path}?{place.query}")
        found: dict[str, Any] = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
        return found
    finally:
        connection.close()
