"""``flop prices`` and the Python client against a coordinator that traded a little."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flopmarket.cli.main import main
from flopmarket.cli.prices import METRICS, RESOLUTIONS
from flopmarket.client import Client
from flopmarket.client.prices import RESOLUTIONS as CLIENT_RESOLUTIONS
from flopmarket.client.results_prices import Book
from flopmarket.errors import FlopmarketError
from flopmarket_coordinator.core.book.listing import NUMBERS
from flopmarket_coordinator.core.tape import KEPT_CANDLES
from tests.integration.coordinator.live_world import CALM, LiveWorld
from tests.integration.coordinator.market import running_market
from tests.unit.coordinator.classed import fast_worker

CLASS = "elementwise-f32"


class Served:
    """A coordinator on a thread of its own; ``world`` acts on it from any other."""

    def __init__(self, folder: Path) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(folder)))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self, folder: Path) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with running_market(folder, audit=False, **CALM) as market:
            self.world = LiveWorld(market)
            self.address = market.coordinator.address
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Three trades, one offer, one resting order, two snapshots."""
    served = Served(tmp_path_factory.mktemp("market"))
    world = served.world
    world.sell(3)
    world.buyer("another").submit("resting", max_price_nano=10)
    world.match()
    for _ in range(2):
        world.do(world.application.take_snapshot)
    yield served
    served.close()


@pytest.fixture
def client(market: Served) -> Iterator[Client]:
    with Client(market.address) as made:
        yield made


@pytest.fixture
def flop(market: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``flop prices`` with these arguments, without any key or settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FLOPMARKET_ADDRESS", market.address)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ("prices", *arguments), prog_name="flop")

    return run


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- the client -----------------------------------------------------------------------------------


def test_spot_book_and_history_agree(client: Client) -> None:
    (spot,) = (price for price in client.spot().prices if price.work_class == CLASS)
    book = client.book(CLASS)
    assert spot.per_pflop == book.asks[0].per_pflop and spot.bid == book.bids[0].per_pflop
    assert spot.mid is not None and spot.bid is not None and spot.per_pflop is not None
    assert spot.mid.nano == -(-(spot.per_pflop.nano + spot.bid.nano) // 2)
    assert (book.offers, book.orders) == (spot.offers, spot.orders) == (1, 1)
    assert book.asks[0].pflop_per_hour == book.asks[0].idle_pflop_per_hour > 0
    assert book.bids[0].pflop > 0
    trades = list(client.trades(CLASS))
    assert [trade.number for trade in trades] == [1, 2, 3]
    assert spot.last == trades[-1].per_pflop and spot.last_trade_us == trades[-1].time_us
    for resolution in CLIENT_RESOLUTIONS:
        history = client.history(CLASS, resolution)
        assert sum(candle.trades for candle in history.candles) == 3
        assert sum(candle.flops for candle in history.candles) == sum(t.flops for t in trades)
        assert history.candles[-1].close == trades[-1].per_pflop
    assert list(client.trades(offer_id="no such offer")) == []
    assert client.spot("f64").prices == ()


def test_a_filter_gives_a_subset_and_sorting_keeps_it(client: Client, market: Served) -> None:
    for name, ask in (("near", 100_000_000), ("far", 900_000_000), ("other", 900_000_000)):
        market.world.worker(name, ask=ask)
    try:
        every = list(client.offers())
        some = list(client.offers(filters=["ask_per_hour>=900000000", "device_name~card of"]))
        assert {offer.offer_id for offer in some} < {offer.offer_id for offer in every}
        assert all(offer.ask_per_hour.nano >= 900_000_000 for offer in some) and len(some) == 2
        for metric in METRICS:
            for sign in ("", "-"):
                found = list(client.offers(order_by=sign + metric))
                assert {o.offer_id for o in found} == {o.offer_id for o in every}
        dearest = list(client.offers(order_by="-ask_per_hour"))
        assert [o.offer_id for o in dearest[:2]] == sorted(o.offer_id for o in some)
        page = client.offers_page(page_size=3, filters=["state=idle"])
        rest = client.offers_page(filters=["state=idle"], page_token=page.next_page_token)
        assert (len(page.offers), len(rest.offers), page.matching) == (3, 1, 4)
    finally:
        market.world.do(_unlist, ("near", "far", "other"))


def _unlist(tx: Any, names: tuple[str, ...]) -> None:
    from flopmarket.trust.keys import KeyPair
    from flopmarket_coordinator.store import work
    from tests.unit.coordinator.world import digest_of

    for name in names:
        key = KeyPair.from_seed(digest_of(f"device {name}"))
        work.unlist_offers(tx, key.key_id)


@pytest.mark.parametrize(
    ("filters", "code"),
    [
        (["luck>=1"], "FILTER_FIELD_UNKNOWN"),
        (["memory~1"], "FILTER_OP_UNKNOWN"),
        (["memory>=many"], "FILTER_VALUE"),
        (["suited_for=cooking"], "FILTER_VALUE"),
        (["memory"], "FILTER_MALFORMED"),
        ([">=5"], "FILTER_MALFORMED"),
        (["memory>="], "FILTER_MALFORMED"),
        (["memory>=1"] * 17, "LIMIT_EXCEEDED"),
    ],
)
def test_conditions_that_make_no_sense(client: Client, filters: list[str], code: str) -> None:
    with pytest.raises(FlopmarketError) as error:
        list(client.offers(filters=filters))
    assert error.value.code == code


def test_streams_of_the_client(client: Client, market: Served) -> None:
    trades = client.watch_trades(CLASS)
    first = next(trades)
    assert first.is_snapshot and [trade.number for trade in first.trades] == [1, 2, 3]
    changes = client.watch_book(CLASS)
    book: Book = client.book(CLASS).after(next(changes))
    market.world.worker("passing by", ask=77_000_000)
    while len(book.asks) < 2:
        book = book.after(next(changes))
    assert book == client.book(CLASS, 50) or book.asks == client.book(CLASS, 50).asks
    market.world.do(_unlist, ("passing by",))
    while len(book.asks) > 1:
        book = book.after(next(changes))
    assert book.bids == client.book(CLASS).bids and book.offers == 1
    trades.close()  # type: ignore[attr-defined]
    changes.close()  # type: ignore[attr-defined]


@pytest.fixture
def fast_only(market: Served) -> Iterator[None]:
    """Two owners have cheap devices that take no exact jobs."""
    names = ("fast", "faster")
    for name in names:
        fast_worker(market.world, name, ask=1_000_000)  # type: ignore[arg-type]
    yield
    market.world.do(_unlist, names)


@pytest.mark.usefixtures("fast_only")
def test_prices_are_of_one_mode_and_exact_unless_another_is_asked_for(client: Client) -> None:
    exact, book = client.spot(), client.book(CLASS)
    assert (exact.mode, book.mode, client.history(CLASS).mode) == ("exact",) * 3
    assert book.offers == 1 and exact == replace(client.spot(mode="exact"), as_of_us=exact.as_of_us)
    for mode in ("class", "tolerance"):
        spot, other = client.spot(CLASS, mode), client.book(CLASS, mode=mode)
        (price,) = spot.prices
        assert (spot.mode, other.mode) == (mode, mode)
        assert price.per_pflop == other.asks[0].per_pflop and price.per_pflop is not None
        assert price.per_pflop.nano < book.asks[0].per_pflop.nano
        assert (price.offers, price.orders, price.last) == (2, 0, None) and other.bids == ()
        history = client.history(CLASS, mode=mode)
        assert (history.mode, history.candles) == (mode, ())
        assert list(client.trades(CLASS, mode=mode)) == []
        first = next(client.watch_book(CLASS, mode=mode))
        assert first.offers == 2 and first.asks == other.asks
        assert next(client.watch_trades(CLASS, mode=mode)).trades == ()
    assert {trade.mode for trade in client.trades(CLASS)} == {"exact"}
    assert len(list(client.trades(CLASS, mode="exact"))) == 3
    seen = next(client.watch_trades(CLASS, mode="exact"))
    assert len(seen.trades) == 3
    for refused, code in (
        (lambda: client.spot(mode="swift"), "MODE_UNKNOWN"),
        (lambda: client.book(mode="x" * 10_000), "LIMIT_EXCEEDED"),
        (lambda: list(client.trades(mode="swift")), "MODE_UNKNOWN"),
        (lambda: next(client.watch_book(mode="swift")), "MODE_UNKNOWN"),
        (lambda: next(client.watch_trades(CLASS, seen.resume_token)), "RESUME_TOKEN_INVALID"),
    ):
        with pytest.raises(FlopmarketError) as error:
            refused()
        assert error.value.code == code


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.usefixtures("fast_only")
def test_modes(flop: Any) -> None:
    (exact,) = lines(flop("spot", "--class", CLASS, "--json"))
    (classed,) = lines(flop("spot", "--class", CLASS, "--mode", "class", "--json"))
    assert (exact["mode"], classed["mode"]) == ("exact", "class")
    assert exact["prices"][0]["per_pflop_nano"] > classed["prices"][0]["per_pflop_nano"]
    assert "exact mode as of" in flop("spot").stderr
    shown = flop("book", "--class", CLASS, "--mode", "tolerance")
    assert "tolerance mode" in shown.stderr and "2 offers" in shown.stdout
    assert len(lines(flop("offers", "--json"))) == 3
    assert [offer["modes"] for offer in lines(flop("offers", "--mode", "exact", "--json"))] == [
        ["exact"]
    ]
    assert len(lines(flop("offers", "--mode", "class", "--filter", "state=idle", "--json"))) == 2
    assert "no trades" in flop("trades", "--mode", "class").stderr
    assert {trade["mode"] for trade in lines(flop("trades", "--json"))} == {"exact"}
    assert "no trades" in flop("history", "--class", CLASS, "--mode", "class").stderr
    watched = flop("watch", "--book", "--class", CLASS, "--mode", "class", "--count", "1")
    assert "2 offers" in watched.stdout and "  class  " in watched.stdout
    (first,) = lines(flop("watch", "--mode", "tolerance", "--count", "1", "--json"))
    assert first["is_snapshot"] and first["trades"] == []
    assert flop("spot", "--mode", "swift").exit_code == 2


def test_names_of_the_command_line_are_those_of_the_service() -> None:
    assert tuple(NUMBERS) == METRICS
    assert tuple(CLIENT_RESOLUTIONS) == RESOLUTIONS
    assert tuple(CLIENT_RESOLUTIONS.values()) == tuple(KEPT_CANDLES)


def test_spot(flop: Any) -> None:
    shown = flop("spot")
    assert CLASS in shown.stdout and "card of worker of job" in shown.stdout
    (found,) = lines(flop("spot", "--class", CLASS, "--json"))
    (price,) = found["prices"]
    assert price["per_pflop_nano"] > price["bid_nano"] > 0 and price["last_nano"] > 0
    assert found["trade_sequence"] == 3 and price["currency"] == "USD"


def test_offers(flop: Any) -> None:
    assert "no offers" in flop("offers", "--filter", "flops_per_watt>=2e10").stderr
    (offer,) = lines(flop("offers", "--sort", "-memory", "--filter", "state=idle", "--json"))
    assert offer["reliability"] == 1.0 and offer["prices"][0]["per_pflop_nano"] > 0
    assert flop("offers", "--sort", "luck").exit_code == 2
    bad = flop("offers", "--filter", "luck>1")
    assert bad.exit_code == 2 and "FILTER_FIELD_UNKNOWN" in bad.stderr


def test_book(flop: Any) -> None:
    shown = flop("book", "--class", CLASS)
    assert "1 offers" in shown.stdout and "1 orders" in shown.stdout
    (found,) = lines(flop("book", "--class", CLASS, "--json"))
    assert len(found["asks"]) == len(found["bids"]) == 1
    empty = flop("book", "--class", "f64")
    assert empty.exit_code == 0 and "nothing is asked" in empty.stderr
    assert flop("book", "--class", "nothing").exit_code == 2


def test_history_as_csv_has_its_units_in_the_header(flop: Any, client: Client) -> None:
    done = flop("history", "--class", CLASS, "--resolution", "1d", "--csv")
    assert done.exit_code == 0 and done.stdout_bytes.count(b"\r\n") == 2
    header, row = csv.reader(io.StringIO(done.stdout, newline=""))
    found = dict(zip(header, row, strict=True))
    (candle,) = client.history(CLASS, "1d").candles
    assert found["volume_FLOP"] == str(candle.flops) and found["trades"] == "3"
    assert found["start_us"] == str(candle.start_us)
    assert f"{candle.close}" == f"${found['close_USD_per_PFLOP']}" or "." in str(candle.close)
    assert found["measured_J"] == found["declared_J"] == "0.0"


def test_history_of_a_time_without_trades(flop: Any) -> None:
    quiet = flop("history", "--class", CLASS, "--since", "2020-01-01", "--until", "2020-02-01")
    assert quiet.exit_code == 0 and "no trades in this time" in quiet.stderr
    assert flop("history", "--since", "2021-01-01", "--until", "2020-01-01").exit_code == 2
    assert flop("history", "--since", "yesterday").exit_code == 2
    (found,) = lines(flop("history", "--class", CLASS, "--since", "24h", "--json"))
    assert found["candles"] and found["resolution_seconds"] == 3_600


def test_trades(flop: Any) -> None:
    assert "card of worker of job" in flop("trades").stdout
    found = lines(flop("trades", "--class", CLASS, "--json"))
    assert [trade["number"] for trade in found] == [1, 2, 3]
    rows = list(csv.DictReader(io.StringIO(flop("trades", "--csv").stdout, newline="")))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["commitment_digest"] == found[0]["commitment_digest"]


def test_watch_ends_after_a_count_and_goes_on_behind_a_token(flop: Any) -> None:
    (first,) = lines(flop("watch", "--count", "1", "--json"))
    assert first["is_snapshot"] and len(first["trades"]) == 3
    (again,) = lines(flop("watch", "--count", "1", "--resume", first["resume_token"], "--json"))
    assert not again["is_snapshot"] and again["trades"] == []
    assert "card of worker" in flop("watch", "--count", "1").stdout
    (book,) = lines(flop("watch", "--book", "--class", CLASS, "--count", "1", "--json"))
    assert book["is_snapshot"] and book["offers"] == 1
    assert "1 offers" in flop("watch", "--book", "--class", CLASS, "--count", "1").stdout
    assert flop("watch", "--resume", "nonsense").exit_code == 2


def test_a_snapshot_is_kept_and_verified_offline(
    flop: Any, market: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = market.world.see(market.world.application.snapshot, 0).number
    for number in (newest - 1, newest):
        done = flop("snapshot", "--number", str(number), "-o", f"{number}.json")
        assert done.exit_code == 0 and "valid snapshot" in done.stdout
    assert flop("snapshot", "-o", f"{newest}.json").exit_code == 5
    files = [f"{newest - 1}.json", f"{newest}.json"]
    monkeypatch.setenv("FLOPMARKET_ADDRESS", "127.0.0.1:1")  # nobody is asked
    key_id = market.world.key.key_id
    found = lines(flop("verify", *files[::-1], "--key", key_id, "--json"))
    assert [item["number"] for item in found] == [newest - 1, newest]
    assert found[1]["previous"] == found[0]["digest"] and found[1]["trusted"]
    assert found[1]["trades"] == 3
    assert "anybody could have made" in flop("verify", files[0]).stderr
    wrong = flop("verify", files[0], "--key", "0" * 64)
    assert wrong.exit_code == 1 and "SNAPSHOT_WRONG_KEY" in wrong.stderr
    Path(files[0]).write_text(Path(files[0]).read_text().replace("A", "B", 1))
    assert flop("verify", files[0]).exit_code != 0
    assert flop("snapshot", "--number", "999").exit_code == 7  # the address is nobody's
