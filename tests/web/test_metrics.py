"""``/metrics``: names and units by convention, the same figures as the JSON."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.web.sample import CLASSES, Mood, SampleMarket

Open = Callable[..., TestClient]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(client: TestClient) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_figures_are_those_of_the_json(open_board: Open) -> None:
    client = open_board()
    found = samples(client)
    assert found["flopmarket_up", ()] == 1
    for one in client.get("/api/v1/spot.json").json()["classes"]:
        name = one["work_class"]

        def price(kind: str, name: str = name) -> float | None:
            labels = (("currency", "USD"), ("kind", kind), ("work_class", name))
            return found.get(("flopmarket_price_per_pflop", labels))

        assert price("best_ask") == one["ask_nano"] / 1e9
        assert (price("mid") is None) == (one["mid_nano"] is None)
        assert found["flopmarket_offers", (("work_class", name),)] == one["offers"]
    book = client.get("/api/v1/book.json").json()
    wanted = sum(level["pflop"] for level in book["bids"]) * 1e15
    assert found["flopmarket_bid_operations", (("work_class", "dot-f32"),)] == wanted
    idle = found[
        "flopmarket_ask_operations_per_second", (("state", "idle"), ("work_class", "dot-f32"))
    ]
    assert (
        0
        < idle
        < found[
            "flopmarket_ask_operations_per_second", (("state", "all"), ("work_class", "dot-f32"))
        ]
    )


def test_every_class_has_its_volume(open_board: Open) -> None:
    found = samples(open_board())
    for name in CLASSES:
        assert found["flopmarket_traded_operations_24h", (("work_class", name),)] > 0


def test_an_absent_coordinator_is_down_and_says_nothing_else(open_board: Open) -> None:
    found = samples(open_board(SampleMarket(mood=Mood.AWAY, days=0)))
    assert found == {("flopmarket_up", ()): 0.0}


def test_an_empty_market_has_no_prices(open_board: Open) -> None:
    found = samples(open_board(SampleMarket(mood=Mood.EMPTY, days=0)))
    assert found["flopmarket_up", ()] == 1
    assert not [name for name, _ in found if name == "flopmarket_price_per_pflop"]
