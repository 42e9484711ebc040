"""Modes on the board: prices of one mode at a time, and devices that say which they take."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web import present
from flopmarket_coordinator.web.model import OfferQuery, TapeMessage
from flopmarket_coordinator.web.remote import conditions
from tests.web.sample import CLASSES, NOW_US
from tests.web.sample_offers import FAST_ONLY
from tests.web.test_feed import TRADE, followed, trade
from tests.web.test_http import text_of

Open = Callable[..., TestClient]


def spot(client: TestClient, query: str = "") -> dict[str, dict[str, Any]]:
    found = client.get(f"/api/v1/spot.json{query}").json()
    return {one["work_class"]: one for one in found["classes"]}


def test_the_cheapest_device_makes_no_exact_price_unless_it_is_exact(open_board: Open) -> None:
    client = open_board()
    exact, classed = spot(client), spot(client, "?mode=class")
    assert exact == spot(client, "?mode=exact")
    offers = client.get("/api/v1/offers.json?rows=200").json()["offers"]
    for name in CLASSES:
        able = [offer["prices"][name] for offer in offers if "exact" in offer["modes"]]
        assert exact[name]["ask_nano"] == min(able) and exact[name]["offers"] == len(able)
        assert classed[name]["device_name"] == FAST_ONLY
        assert classed[name]["ask_nano"] != exact[name]["ask_nano"]
        assert exact[name]["device_name"] != FAST_ONLY
    assert spot(client, "?mode=tolerance") == {}


def test_pages_are_of_one_mode_and_lead_to_the_others(open_board: Open) -> None:
    client = open_board()
    page = client.get("/").text
    assert FAST_ONLY not in text_of(page)
    assert '<body data-mode="exact">' in page and 'href="/class/dot-f32"' in page
    assert re.search(r'<a href="/" aria-current="true"[^>]*>exact</a>', page)
    other = client.get("/?mode=class").text
    assert FAST_ONLY in text_of(other) and "classes of devices together" in text_of(other)
    assert '<body data-mode="class">' in other and 'href="/class/dot-f32?mode=class"' in other
    assert "in tolerance mode now" in text_of(client.get("/?mode=tolerance").text)


def test_a_class_page_keeps_its_mode(open_board: Open) -> None:
    client = open_board()
    page = client.get("/class/dot-f32?mode=class&resolution=1h").text
    assert "mode=class" in re.findall(r'data-source="(/api/v1/book[^"]*)"', page)[0]
    for address in re.findall(r'href="(\?resolution=[^"]*)"[^>]*>[0-9]', page):
        assert address.endswith("&amp;mode=class")
    assert 'href="?resolution=1h&amp;mode=tolerance"' in page and 'href="?resolution=1h"' in page
    book = client.get("/api/v1/book.json?mode=class").json()
    assert (book["mode"], book["offers"]) == ("class", 1)
    assert f"{book['asks'][0]['price_nano'] / 1e9:.4g}" in text_of(page)
    assert "No trade of this class" in client.get("/class/dot-f32?mode=tolerance").text
    assert client.get("/class/nothing?mode=tolerance").status_code == 404


def test_history_and_trades_are_those_of_a_mode(open_board: Open) -> None:
    with open_board() as client:
        sold = {}
        for mode in Mode:
            found = client.get(f"/api/v1/history.json?mode={mode}&resolution=1h").json()
            assert found["mode"] == mode
            sold[mode] = sum(candle["trades"] for candle in found["candles"])
        assert sold[Mode.EXACT] > sold[Mode.CLASS] > sold[Mode.TOLERANCE] == 0
        name = client.get("/api/v1/history.csv?mode=class").headers["content-disposition"]
        assert name == 'attachment; filename="dot-f32-class-5m.csv"'


def test_devices_show_their_modes_and_are_filtered_by_them(open_board: Open) -> None:
    client = open_board()
    whole = client.get("/api/v1/offers.json?rows=200").json()
    some = client.get("/api/v1/offers.json?rows=200&mode=class").json()
    (fast_only,) = some["offers"]
    assert (fast_only["modes"], fast_only["device_class"]) == (["class", "tolerance"], "5f0c" * 16)
    exact = client.get("/api/v1/offers.json?rows=200&mode=exact").json()
    assert exact["matching"] == whole["matching"] - 1
    page = client.get("/offers?mode=class").text
    assert "class, tolerance" in text_of(page) and "5f0c5f0c5f0c" in text_of(page)
    assert "<option selected>class</option>" in page
    assert conditions(OfferQuery(mode="class")) == ["mode=class"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/spot.json?mode=swift", "MODE_UNKNOWN"),
        ("/api/v1/book.json?mode=swift", "MODE_UNKNOWN"),
        ("/api/v1/history.json?mode=swift", "MODE_UNKNOWN"),
        ("/api/v1/trades.json?mode=swift", "MODE_UNKNOWN"),
        ("/api/v1/trades?mode=swift", "MODE_UNKNOWN"),
        ("/api/v1/offers.json?mode=swift", "BOARD_PARAMETER"),
    ],
)
def test_a_mode_there_is_not(open_board: Open, path: str, code: str) -> None:
    refused = open_board().get(path)
    assert (refused.status_code, refused.json()["code"]) == (400, code)
    assert open_board().get("/?mode=swift").status_code == 400


def test_a_busy_mode_pushes_no_other_off_the_tape() -> None:
    rare = dataclasses.replace(TRADE, number=1, mode=Mode.CLASS)
    tape = followed([TapeMessage(NOW_US, (rare, *(trade(n) for n in range(2, 300))), True)])
    assert [t.number for t in tape.recent("dot-f32", mode=Mode.CLASS)] == [1]
    assert tape.recent("dot-f32", 1, Mode.EXACT)[0].number == 299
    assert tape.recent("dot-f32", mode=Mode.TOLERANCE) == ()


def test_every_mode_has_words() -> None:
    assert set(present.MODES) == set(Mode)
    assert present.in_mode("/a", "exact") == "/a"
    assert present.in_mode("/a?b=c", "class") == "/a?b=c&mode=class"
