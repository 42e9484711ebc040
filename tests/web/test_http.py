"""The HTTP layer: pages, JSON, headers, errors; over the sample market."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from flopmarket.limits import MAX_BOARD_QUERY_CHARACTERS
from flopmarket_coordinator.web import assets
from flopmarket_coordinator.web.security import CONTENT_SECURITY_POLICY, host_name
from tests.web.sample import CLASSES, NOTICE, NOW_US, Mood, SampleMarket
from tests.web.sample_offers import HOSTILE_NAMES

Open = Callable[..., TestClient]
JOB, WAITING, NO_JOB = "5f" * 32, "a1" * 32, "0" * 64
PAGES = ("/", "/class/dot-f32", "/offers", "/jobs", f"/jobs/{JOB}", "/devices", "/about")
PUBLIC_JSON = ("spot", "offers", "book", "history", "trades")


def text_of(page: str) -> str:
    """What a reader sees, roughly: the page without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_pages_answer_without_javascript(open_board: Open, path: str) -> None:
    answer = open_board().get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert NOTICE in answer.text
    assert '<html lang="en"' in answer.text
    assert answer.text.count("<h1>") == 1
    assert "style=" not in answer.text
    assert not re.search(r"\son[a-z]+=", answer.text)


def test_the_market_page_names_prices_with_unit_and_class(open_board: Open) -> None:
    client = open_board()
    text, spot = client.get("/").text, client.get("/api/v1/spot.json").json()
    assert "$ per PFLOP" in text
    for one in spot["classes"]:
        assert f'href="/class/{one["work_class"]}"' in text
    assert {one["work_class"] for one in spot["classes"]} == set(CLASSES)


def test_the_class_page_has_what_its_charts_draw_as_tables(open_board: Open) -> None:
    client = open_board()
    text = text_of(client.get("/class/dot-f32?resolution=1h").text)
    candles = client.get("/api/v1/history.json?resolution=1h").json()["candles"]
    assert f"{candles[-1]['close_nano'] / 1e9:.4g}" in text
    book = client.get("/api/v1/book.json").json()
    assert f"{book['bids'][0]['price_nano'] / 1e9:.4g}" in text


def test_offers_are_filtered_and_sorted(open_board: Open) -> None:
    client = open_board()
    whole = client.get("/api/v1/offers.json?rows=200").json()
    some = client.get("/api/v1/offers.json?rows=200&memory=16&sort=-memory&idle=1").json()
    ids = {offer["offer_id"] for offer in whole["offers"]}
    assert {offer["offer_id"] for offer in some["offers"]} < ids
    sizes = [offer["memory_bytes"] for offer in some["offers"]]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= 16 << 30
    page = client.get("/offers?memory=16&sort=-memory&idle=1").text
    assert f"{len(sizes)} offers" in page
    assert 'aria-sort="descending"' in page


def test_pages_of_offers_follow_each_other(open_board: Open) -> None:
    client, seen, query = open_board(), [], "?rows=20"
    for _ in range(10):
        page = client.get(f"/api/v1/offers.json{query}").json()
        seen += [offer["offer_id"] for offer in page["offers"]]
        if not page["next_page"]:
            break
        query = f"?rows=20&page={page['next_page']}"
    assert len(seen) == len(set(seen)) == page["matching"]


def test_a_waiting_job_says_why(open_board: Open) -> None:
    text = text_of(open_board().get(f"/jobs/{WAITING}").text)
    assert "Why it waits" in text
    assert "asks more than the limit" in text
    assert "MAX_PRICE" in text


def test_a_job_page_has_cost_segments_and_audits(open_board: Open) -> None:
    text = text_of(open_board().get(f"/jobs/{JOB}").text)
    assert "Billed so far, of a ceiling of" in text
    assert "$0.6120" in text
    assert "1 refused by an audit" in text
    assert "an audit recomputed it with another state root" in text
    assert "loss" in text


def device_path(client: TestClient) -> str:
    found = re.search(r'href="(/devices/[^"]+)"', client.get("/devices").text)
    assert found is not None
    return found[1]


def test_a_device_page_adds_up(open_board: Open) -> None:
    client = open_board()
    page = client.get(device_path(client) + "?tariff=0.25").text
    points = re.search(r'data-points="([^"]+)"', page)
    assert points is not None
    days = json.loads(html.unescape(points[1]))
    rows = re.findall(r"<time datetime=\"\d{4}-\d\d-\d\d\">", page)
    assert len(rows) == len(days)
    assert all(net <= gross for _, gross, net in days)


def test_electricity_is_unknown_without_a_tariff_or_watts(open_board: Open) -> None:
    client = open_board()
    path = device_path(client)
    assert "give a tariff to see it" not in client.get(path).text
    assert client.get(path + "?tariff=-1").status_code == 400
    assert client.get(path + "?tariff=cheap").status_code == 400


def test_without_a_key_there_are_no_jobs_and_no_devices(open_board: Open) -> None:
    client = open_board(SampleMarket(days=1, with_key=False))
    for path in ("/jobs", f"/jobs/{JOB}", "/devices", f"/api/v1/jobs/{JOB}.json"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "BOARD_NO_KEY" in answer.text
    assert 'href="/jobs"' not in client.get("/").text


# --- when things are not well ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/offers", "/class/dot-f32", "/jobs", "/devices"])
def test_an_absent_coordinator_is_a_page_with_503(open_board: Open, path: str) -> None:
    answer = open_board(SampleMarket(mood=Mood.AWAY, days=0)).get(path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.headers["cache-control"] == "private, no-store"
    assert "The coordinator is away" in answer.text
    assert "Try again" in answer.text


def test_a_coordinator_that_goes_away_leaves_its_last_figures(open_board: Open) -> None:
    market, now = SampleMarket(days=1), [100.0]
    client = open_board(market, monotonic=lambda: now[0])
    assert client.get("/").status_code == 200
    market.mood = Mood.AWAY
    now[0] += 90
    answer = client.get("/")
    assert answer.status_code == 200
    assert "The coordinator does not answer." in answer.text
    assert "What you see is 1 min old." in answer.text
    assert client.get("/api/v1/spot.json").json()["stale"] == "COORDINATOR_UNREACHABLE"
    assert "flopmarket_up 0.0" in client.get("/metrics").text


def test_a_slow_coordinator_is_504_the_first_time(open_board: Open) -> None:
    client = open_board(SampleMarket(mood=Mood.SLOW, days=0, slow_seconds=0.01))
    assert client.get("/").status_code == 504
    assert "The coordinator is slow" in client.get("/").text


def test_an_empty_market_is_an_answer(open_board: Open) -> None:
    client = open_board(SampleMarket(mood=Mood.EMPTY, days=0))
    assert "The market is open and empty" in client.get("/").text
    assert "No live offer satisfies this" in client.get("/offers").text
    assert "No job yet." in client.get("/jobs").text
    assert "No device of yours is connected." in client.get("/devices").text
    assert client.get("/class/dot-f32").status_code == 404
    assert client.get("/api/v1/spot.json").json()["classes"] == []
    for name in PUBLIC_JSON:
        assert client.get(f"/api/v1/{name}.json").status_code == 200
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/offers.json?sort=beauty", 400, "BOARD_PARAMETER"),
        ("/api/v1/offers.json?colour=red", 400, "BOARD_PARAMETER"),
        ("/api/v1/history.json?resolution=2m", 400, "BOARD_RESOLUTION"),
        (f"/api/v1/book.json?work_class={'x' * 300}", 400, "BOARD_PARAMETER"),
        (f"/api/v1/jobs/{NO_JOB}.json", 404, "JOB_NOT_FOUND"),
        (f"/api/v1/jobs/{NO_JOB}/events", 404, "JOB_NOT_FOUND"),
        ("/api/v1/nothing", 404, "NOT_FOUND"),
        ("/static/0000/board.css", 404, "BOARD_NO_FILE"),
        ("/static/0000/..%2fapp.py", 404, "NOT_FOUND"),
        (f"/api/v1/spot.json?{'x' * MAX_BOARD_QUERY_CHARACTERS}y", 414, "BOARD_QUERY_TOO_LONG"),
    ],
)
def test_errors_for_programs_are_problem_json(
    open_board: Open, path: str, status: int, code: str
) -> None:
    answer = open_board().get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]


@pytest.mark.parametrize("path", ["/nothing", f"/jobs/{NO_JOB}", "/devices/none", "/class/none"])
def test_errors_for_people_are_pages(open_board: Open, path: str) -> None:
    answer = open_board().get(path)
    assert answer.status_code == 404
    assert "Not here" in answer.text


# --- JSON, CSV, caching ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC_JSON)
def test_json_has_as_of_currency_and_an_etag(open_board: Open, name: str) -> None:
    client = open_board()
    answer = client.get(f"/api/v1/{name}.json")
    body = answer.json()
    assert body["as_of_us"] == NOW_US
    assert body["currency"] == "USD"
    assert answer.headers["cache-control"].startswith("public, max-age=")
    again = client.get(answer.url.path, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == answer.headers["etag"]


def test_counts_of_operations_are_exact_texts(open_board: Open) -> None:
    candle = open_board().get("/api/v1/history.json?resolution=1d").json()["candles"][0]
    assert isinstance(candle["operations"], str)
    assert int(candle["operations"]) > 2**53
    assert candle["pflop"] == pytest.approx(int(candle["operations"]) / 1e15)


def test_csv_and_json_are_the_same_candles(open_board: Open) -> None:
    client = open_board()
    answer = client.get("/api/v1/history.csv?work_class=dot-int&resolution=1h")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="dot-int-1h.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    candles = client.get("/api/v1/history.json?work_class=dot-int&resolution=1h").json()["candles"]
    assert [int(row["close_nano"]) for row in rows] == [c["close_nano"] for c in candles]
    assert [row["operations"] for row in rows] == [c["operations"] for c in candles]


def test_the_signed_snapshot_is_passed_on_byte_for_byte(open_board: Open) -> None:
    assert open_board().get("/api/v1/snapshot.json").content == (
        b'{"payload":"c2FtcGxl","payloadType":"sample","signatures":[]}'
    )


def test_many_viewers_are_few_questions(open_board: Open) -> None:
    market = SampleMarket(days=1)
    client = open_board(market, monotonic=lambda: 0.0)
    for _ in range(20):
        for path in ("/", "/class/dot-f32", "/offers", "/api/v1/spot.json", "/metrics"):
            assert client.get(path).status_code == 200
    assert market.calls["spot"] == 1
    assert market.calls["trades"] == 1
    assert market.calls["offers"] == 2
    assert market.calls["history"] == len(CLASSES) + 1
    assert market.calls["book"] == len(CLASSES)


# --- what a browser may do ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/v1/spot.json", "/metrics", "/static/0/x"])
def test_every_answer_has_the_headers(open_board: Open, path: str) -> None:
    headers = open_board().get(path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_policy_allows_own_files_only() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["base-uri"] == "'none'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert {rules[r] for r in ("script-src", "style-src", "connect-src")} == {"'self'"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("board.example", 421),
        ("127.0.0.1.board.example", 421),
        ("localhost.board.example:8080", 421),
        ("", 421),
    ],
)
def test_only_known_names_are_answered(open_board: Open, host: str, status: int) -> None:
    assert open_board().get("/api/v1/spot.json", headers={"host": host}).status_code == status


def test_hosts_are_read_without_port_and_case() -> None:
    assert host_name("Board.Example:8080") == "board.example"
    assert host_name("[2001:DB8::1]:8080") == "2001:db8::1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/api/v1/spot.json", "/jobs"])
def test_nothing_can_be_changed(open_board: Open, method: str, path: str) -> None:
    answer = open_board().request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_own_jobs_are_not_kept_by_anybody(open_board: Open) -> None:
    client = open_board()
    for path in ("/jobs", f"/jobs/{JOB}", f"/api/v1/jobs/{JOB}.json", device_path(client)):
        assert client.get(path).headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("path", ["/", "/offers?rows=200", "/jobs", f"/jobs/{JOB}", "/devices"])
def test_hostile_names_are_text(open_board: Open, path: str) -> None:
    page = open_board(SampleMarket(days=1, hostile=True)).get(path).text
    for name in HOSTILE_NAMES[:2]:
        assert name not in page
    assert "\u202e" not in page
    assert not re.search(r"<(?!script (?:src|integrity))script", page)
    assert "<img" not in page


def test_hostile_names_arrive_in_the_page(open_board: Open) -> None:
    client = open_board(SampleMarket(days=1, hostile=True))
    assert "&lt;img src=x onerror=" in client.get("/offers").text
    assert "&lt;script&gt;document.title=" in client.get(f"/jobs/{JOB}").text


# --- files ----------------------------------------------------------------------------------------


def test_the_chart_library_is_the_file_that_was_looked_at() -> None:
    """Its upstream release, byte for byte; pages carry the digest, so browsers check it too."""
    assert assets.asset(assets.CHARTS_NAME).digest == assets.CHARTS_SHA256


@pytest.mark.parametrize("name", [*assets.OWN, assets.CHARTS_NAME])
def test_files_are_kept_for_ever_under_their_digest(open_board: Open, name: str) -> None:
    answer = open_board().get(assets.address(name))
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]


def test_pages_load_only_files_there_are(open_board: Open) -> None:
    client = open_board()
    for path in PAGES:
        for file in re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get(path).text):
            assert client.get(file).status_code == 200, file


def test_every_link_of_a_page_leads_somewhere(open_board: Open) -> None:
    client = open_board()
    for path in PAGES:
        for link in set(re.findall(r'href="(/[^"]*)"', client.get(path).text)):
            assert client.get(html.unescape(link)).status_code == 200, f"{link} on {path}"
