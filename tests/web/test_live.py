"""Event streams over a real socket: what browsers follow, and what the board lets go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flopmarket.limits import MAX_BOARD_LISTENERS
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import JobEvent
from tests.browser.serving import Served, served
from tests.web.sample import NOW_US, SampleMarket


@pytest.fixture
def board() -> Iterator[Served]:
    with served(SampleMarket(days=1)) as running:
        yield running


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Name and data of each event of a stream."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_trade_reaches_every_follower_of_its_class(board: Served) -> None:
    def follow(query: str) -> Any:
        return httpx.stream("GET", f"{board.address}/api/v1/trades{query}", timeout=10)

    with follow("") as whole, follow("?work_class=f64") as other:
        assert whole.headers["content-type"].startswith("text/event-stream")
        assert whole.headers["cache-control"] == "no-store"
        everything, nothing = events(whole), events(other)
        name, first = next(everything)
        assert name == "tape"
        assert first["begins"]
        assert len(first["trades"]) == 20
        assert next(nothing)[1]["trades"] == []
        board.trade_now("dot-int", 3.5, "Card & Co")
        _, fresh = next(everything)
        assert not fresh["begins"]
        assert [t["device_name"] for t in fresh["trades"]] == ["Card & Co"]
        assert fresh["trades"][0]["pflop"] == 3.5
        assert next(nothing)[1]["trades"] == [], "only its as_of moved on"
    assert board.market.calls["trades"] == 1


def test_a_mode_is_followed_alone(board: Served) -> None:
    def follow(mode: Mode) -> Any:
        address = f"{board.address}/api/v1/trades?mode={mode}"
        return httpx.stream("GET", address, timeout=10)

    with follow(Mode.CLASS) as one, follow(Mode.EXACT) as other:
        classed, exact = events(one), events(other)
        assert {trade["mode"] for trade in next(classed)[1]["trades"]} == {"class"}
        assert {trade["mode"] for trade in next(exact)[1]["trades"]} == {"exact"}
        board.trade_now("dot-int", 3.5, "Fast card", Mode.CLASS)
        assert [trade["device_name"] for trade in next(classed)[1]["trades"]] == ["Fast card"]
        assert next(exact)[1]["trades"] == [], "only its as_of moved on"


def test_a_job_is_followed(board: Served) -> None:
    job = "5f" * 32
    httpx.get(f"{board.address}/jobs/{job}").raise_for_status()
    address = f"{board.address}/api/v1/jobs/{job}/events"
    with httpx.stream("GET", address, timeout=10) as answer:
        heard = events(answer)
        board.job_event(JobEvent(0, NOW_US, "progress", "", 11_300, {"loss": 0.19}))
        board.job_event(JobEvent(500, NOW_US, "committed", "segment 14", 0, {}))
        name, progress = next(heard)
        assert name == "progress"
        assert (progress["step"], progress["scalars"]) == (11_300, {"loss": 0.19})
        name, story = next(heard)
        assert (name, story["text"]) == ("story", "segment 14")
    found = httpx.get(f"{board.address}/api/v1/jobs/{job}.json").json()
    assert found["step"] == 11_300
    assert found["curves"]["loss"][-1] == [11_300, 0.19]


def test_streams_end_when_the_board_stops() -> None:
    with served(SampleMarket(days=1)) as running:
        stream = httpx.stream("GET", f"{running.address}/api/v1/trades", timeout=10)
        answer = stream.__enter__()
        heard = events(answer)
        next(heard)
    assert list(heard)[-1] == ("end", {})
    stream.__exit__(None, None, None)


def test_one_browser_too_many_is_told(board: Served) -> None:
    board.board.tape.listeners.seats.taken = MAX_BOARD_LISTENERS
    answer = httpx.get(f"{board.address}/api/v1/trades")
    assert answer.status_code == 503
    assert answer.json()["code"] == "BOARD_FULL"
    assert answer.headers["retry-after"]
    assert httpx.get(board.address).status_code == 200, "pages do not need a seat"
