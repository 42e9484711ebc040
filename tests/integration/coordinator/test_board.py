"""The price board over a real coordinator: every question it asks is answered, and agrees."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flopmarket.client.client import Client
from flopmarket.client.config import Settings
from flopmarket.client.prices import RESOLUTIONS
from flopmarket.errors import NotFound, Unavailable
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.app import application
from flopmarket_coordinator.web.board import RESOLUTIONS as SHOWN
from flopmarket_coordinator.web.board import Board
from flopmarket_coordinator.web.model import OfferQuery
from flopmarket_coordinator.web.query import ORDERS
from flopmarket_coordinator.web.remote import RemoteGateway
from tests.integration.coordinator.market import Market, eventually
from tests.integration.coordinator.scripted import buyer_of, in_market, worker_of

ORIGINS = dict.fromkeys(("address", "key", "ca", "coordinator_key", "account"), "flag")


def settings(address: str, key: str = "") -> Settings:
    return Settings(address, key, "", "", "", ORIGINS)


def gateway_of(market: Market, folder: Path, key: KeyPair | None = None) -> RemoteGateway:
    path = folder / "board.pem"
    if key is not None:
        path.unlink(missing_ok=True)
        key.save(path)
    return RemoteGateway(settings(market.coordinator.address, str(path)), with_key=key is not None)


def browser(board: Board) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application(board)), base_url="http://127.0.0.1:8080"
    )


def test_the_board_and_the_coordinator_have_the_same_candles() -> None:
    assert {one.key: one.seconds for one in SHOWN.values()} == RESOLUTIONS


def test_a_market_day_on_the_board(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        public = Board(gateway_of(market, tmp_path))
        public.tape.start()
        async with browser(public) as reader:
            assert "The market is open and empty" in (await reader.get("/")).text
        await asyncio.sleep(2.1)  # what was empty is remembered for two seconds

        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        job = await buyer.submit(order=MARKET_ORDER)
        await worker.run_to_the_end()
        job = await buyer.ended(job.job_id)
        await prices(public, job.billed.nano)
        await own_job(Board(gateway_of(market, tmp_path, buyer.key)), job.job_id, job.billed.nano)
        owner = Board(
            gateway_of(market, tmp_path, worker.person.key), tariff_nano_per_kwh=300_000_000
        )
        await own_device(owner, market.coordinator.address, worker.person.key, job.billed.nano)
        await public.close()
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


async def prices(board: Board, billed_nano: int) -> None:
    """Spot, book, offers, history, tape, snapshot and metrics tell one story."""

    async def traded() -> Any:
        return len(board.tape.recent()) == 3

    await eventually(traded)
    trades = board.tape.recent()
    assert sum(trade.price_nano for trade in trades) == billed_nano
    name = trades[0].work_class
    async with browser(board) as reader:
        spot = (await reader.get("/api/v1/spot.json")).json()
        one = next(c for c in spot["classes"] if c["work_class"] == name)
        assert one["offers"] == 1
        assert one["last_nano"] == trades[0].unit_nano
        book = (await reader.get(f"/api/v1/book.json?work_class={name}")).json()
        assert book["asks"][0]["price_nano"] == one["ask_nano"]
        found = (await reader.get(f"/api/v1/offers.json?work_class={name}")).json()
        assert found["matching"] == 1
        assert found["offers"][0]["prices"][name] == one["ask_nano"]
        assert found["offers"][0]["modes"] == ["exact"] and {t.mode for t in trades} == {"exact"}
        for mode in ("class", "tolerance"):
            query = f"work_class={name}&mode={mode}"
            assert (await reader.get(f"/api/v1/spot.json?{query}")).json()["classes"] == []
            for figure, part in (("book", "asks"), ("history", "candles"), ("offers", "offers")):
                other = (await reader.get(f"/api/v1/{figure}.json?{query}")).json()
                assert other[part] == [], "an exact device sells nothing else"
            assert (await reader.get(f"/class/{name}?mode={mode}")).status_code == 200
        for key in SHOWN:
            query = f"work_class={name}&resolution={key}"
            candles = (await reader.get(f"/api/v1/history.json?{query}")).json()["candles"]
            assert sum(c["trades"] for c in candles) == 3
            assert sum(c["paid_nano"] for c in candles) == billed_nano
            assert sum(int(c["operations"]) for c in candles) == sum(t.operations for t in trades)
        assert (await reader.get("/api/v1/snapshot.json")).json()["payload"]
        for path in ("/", f"/class/{name}", "/offers", "/about"):
            assert (await reader.get(path)).status_code == 200, path
        metrics = (await reader.get("/metrics")).text
        samples = {
            (sample.name, sample.labels.get("work_class")): sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
        }
        assert samples["flopmarket_up", None] == 1
        assert samples["flopmarket_trades_24h", name] == 3
    await every_order_and_filter(board.gateway, one["ask_nano"])


async def every_order_and_filter(gateway: Any, ask_nano: int) -> None:
    """The coordinator knows every word of the offers page."""
    for order in ORDERS:
        for sign in ("", "-"):
            page = await gateway.offers(OfferQuery(order_by=sign + order))
            assert page.matching == 1
    kept = OfferQuery(
        min_memory_bytes=1 << 30, max_price_nano=10**15, device_name="test CARD", idle_only=True
    )
    assert (await gateway.offers(kept)).matching == 1
    for refused in (
        OfferQuery(min_memory_bytes=1 << 40),
        OfferQuery(max_price_nano=1),
        OfferQuery(min_flops_per_watt=1.0),
        OfferQuery(min_reliability=1.1),
        OfferQuery(region="nowhere"),
        OfferQuery(account_id="nobody"),
        OfferQuery(device_name="other"),
        OfferQuery(mode="class"),
    ):
        assert (await gateway.offers(refused)).matching == 0, refused


async def own_job(board: Board, job_id: str, billed_nano: int) -> None:
    """The buyer's pages."""
    async with browser(board) as reader:
        assert job_id in (await reader.get("/jobs")).text
        page = (await reader.get(f"/jobs/{job_id}")).text
        assert "succeeded" in page
        assert "all steps" in page or "paid" in page
        found = (await reader.get(f"/api/v1/jobs/{job_id}.json")).json()
        assert found["billed_nano"] == billed_nano
        assert [segment["state"] for segment in found["segments"]] == ["settled"] * 3
    assert [event.kind for event in board.job_feeds.story(job_id).events][-1] == "succeeded"
    assert (await board.gateway.why(job_id)).reasons == ()
    await board.close()


async def own_device(board: Board, address: str, key: KeyPair, billed_nano: int) -> None:
    """The owner's pages: what was paid, less the fee, is what the ledger says."""
    mine = (await board.devices()).value.offers
    assert [offer.account_id for offer in mine] == [board.gateway.account_id]
    earned = (await board.earnings(mine[0].offer_id)).value
    assert sum(day.gross_nano for day in earned.days) == billed_nano
    assert sum(day.segments for day in earned.days) == 3
    net = sum(day.gross_nano - day.fee_nano for day in earned.days)

    def balance() -> int:
        with Client(address, key) as client:
            account = client.account()
            return account.available.nano + account.held.nano + account.bond.nano

    assert await asyncio.to_thread(balance) == net
    assert {day.joules for day in earned.days} == {None}, "its watts are unknown"
    async with browser(board) as reader:
        page = (await reader.get(f"/devices/{mine[0].offer_id}")).text
        assert "watts unknown" in page
    await board.close()


def test_an_absent_coordinator_is_an_error_and_no_hang() -> None:
    async def run() -> None:
        gateway = RemoteGateway(settings("127.0.0.1:9"), with_key=False)
        assert gateway.account_id == ""
        with pytest.raises(Unavailable):
            await gateway.spot(Mode.EXACT)
        with pytest.raises(Unavailable):
            async for _ in gateway.trades():
                raise AssertionError("nobody is there")
        await gateway.close()

    async def limited() -> None:
        async with asyncio.timeout(30):
            await run()

    asyncio.run(limited())


def test_what_is_not_ours_is_not_found(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        buyer = await buyer_of(market)
        board = Board(gateway_of(market, tmp_path, buyer.key))
        with pytest.raises(NotFound):
            await board.job("0" * 64)
        async with browser(board) as reader:
            assert (await reader.get("/jobs/" + "0" * 64)).status_code == 404
            assert (await reader.get("/jobs/nonsense")).status_code == 400
            assert (await reader.get("/devices/nonsense")).status_code == 404
        await board.close()
        await buyer.close()

    in_market(tmp_path, scenario)
