"""The tape by mode: whose price is shown to whom, and a tape from before there were modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from flopmarket.errors import InvalidInput
from flopmarket.market.snapshot import verify_snapshot
from flopmarket.market.tape import EMPTY_TAPE, digest_of_tape
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.types_market import DepthQuery
from flopmarket_coordinator.application.types_tape import HistoryQuery, PriceReport, TradesQuery
from flopmarket_coordinator.core.tape import KEPT_CANDLES, check_mode
from flopmarket_coordinator.store import engine, migrate, schema, tape_rebuild
from tests.unit.coordinator.auditors import Club
from tests.unit.coordinator.class_market import class_market
from tests.unit.coordinator.classed import class_of_kind, fast_worker
from tests.unit.coordinator.databases import sqlite_only
from tests.unit.coordinator.test_orders_migration import insert, upgrade
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import ASK

CLASS = "elementwise-f32"


def prices(world: World, mode: Mode) -> PriceReport:
    return world.see(lambda tx: world.application.prices(tx, mode))


def asks(world: World, mode: Mode) -> dict[str, int | None]:
    return {
        price.work_class: price.spot.per_pflop_nano
        for price in prices(world, mode).prices
        if price.spot is not None
    }


# --- what is offered ------------------------------------------------------------------------------


def test_a_fast_only_device_makes_no_price_for_exact_work(world: World) -> None:
    fast_worker(world, "fast", ask=ASK // 10)
    assert asks(world, Mode.EXACT) == {}
    world.worker("exact", ask=ASK)
    exact = asks(world, Mode.EXACT)
    fast_worker(world, "faster", ask=ASK // 100)
    assert asks(world, Mode.EXACT) == exact and CLASS in exact
    report = world.see(world.application.depth, DepthQuery(CLASS))
    assert (report.mode, report.offers) == (Mode.EXACT, 1)
    number = world.do(world.application.take_snapshot)
    file = world.see(world.application.snapshot, number).envelope
    signed = verify_snapshot(file, world.key.public).snapshot
    assert {price.work_class: price.ask_nano for price in signed.prices} == exact


def test_class_mode_shows_devices_that_somebody_else_can_audit(world: World) -> None:
    fast_worker(world, "lonely", "rare card", ask=ASK // 4)
    assert asks(world, Mode.CLASS) == {}
    fast_worker(world, "of the same owner", "rare card", owner="owner of lonely")
    assert asks(world, Mode.CLASS) == {}
    fast_worker(world, "another", "rare card", ask=ASK)
    book = world.see(world.application.depth, DepthQuery(CLASS, mode=Mode.CLASS))
    assert book.offers == 3 and asks(world, Mode.CLASS)[CLASS] == book.asks[0].per_pflop_nano


def test_a_bid_is_of_the_mode_of_its_job(world: World) -> None:
    world.worker("exact"), fast_worker(world, "one"), fast_worker(world, "two")
    buyer = world.buyer()
    buyer.submit("exact", max_price_nano=9)
    bound = {"mode": Mode.CLASS, "class_digest": class_of_kind()}
    buyer.submit("class", max_price_nano=900, **bound)
    assert world.offers() == [], "too little money for any of them: both orders rest"
    bids = {
        mode: [price.spot.bid_nano for price in prices(world, mode).prices if price.spot]
        for mode in Mode
    }
    exact, classed, tolerance = (
        [bid for bid in bids[mode] if bid] for mode in (Mode.EXACT, Mode.CLASS, Mode.TOLERANCE)
    )
    assert len(exact) == len(classed) == 1 and exact != classed and tolerance == []
    mids = {mode: [p.mid_nano for p in prices(world, mode).prices if p.mid_nano] for mode in Mode}
    assert len(mids[Mode.EXACT]) == 1
    assert mids[Mode.CLASS] == [], "bid and ask may be of two classes"


def test_a_mode_that_nobody_knows_is_refused() -> None:
    assert check_mode("") is Mode.EXACT and check_mode("class") is Mode.CLASS
    with pytest.raises(InvalidInput) as refused:
        check_mode("swift")
    assert refused.value.code == "MODE_UNKNOWN"


# --- what was paid --------------------------------------------------------------------------------


def test_trades_and_candles_are_of_the_mode_of_their_job(club: Club) -> None:
    world = club.world
    class_market(club, steps=12)
    club.turn(80)
    sold = world.see(world.application.trades, TradesQuery())
    by_mode = {
        mode: world.see(world.application.trades, TradesQuery(mode=mode)).trades for mode in Mode
    }
    classed = by_mode[Mode.CLASS]
    assert classed and {trade.mode for trade in classed} == {Mode.CLASS}
    assert sorted(trade.number for each in by_mode.values() for trade in each) == [
        trade.number for trade in sold.trades
    ]
    work_class = classed[0].work_class
    for mode, trades in by_mode.items():
        for resolution in KEPT_CANDLES:
            asked = HistoryQuery(work_class, resolution, mode=mode)
            page = world.see(world.application.history, asked)
            assert sum(candle.trades for candle in page.candles) == len(trades)
            assert {candle.mode for candle in page.candles} <= {mode}
        last = {price.work_class: price.last for price in prices(world, mode).prices}
        assert last.get(work_class) == (trades[-1] if trades else None)
    before = _tape(world)
    assert world.do(tape_rebuild.rebuild) == len(sold.trades) and _tape(world) == before


def test_the_tape_tells_a_mode_that_was_changed_later(club: Club) -> None:
    world = club.world
    class_market(club, steps=12)
    club.turn(80)
    trades = world.see(world.application.trades, TradesQuery()).trades
    number = world.do(world.application.take_snapshot)
    file = world.see(world.application.snapshot, number).envelope
    signed = verify_snapshot(file, world.key.public).snapshot
    assert signed.tape_digest == digest_of_tape(trades) != EMPTY_TAPE
    at = next(at for at, trade in enumerate(trades) if trade.mode is Mode.CLASS)
    exact = replace(trades[at], mode=Mode.EXACT)
    assert digest_of_tape([*trades[:at], exact, *trades[at + 1 :]]) != signed.tape_digest
    world.expect_damage()
    with world.store.begin() as connection:
        connection.exec_driver_sql("UPDATE trade SET mode = 'exact'")
    found = {item.rule: item.text for item in world.findings()}
    assert "mode is exact, it follows class" in found["trade-derived"]


def _tape(world: World) -> list[list[tuple[object, ...]]]:
    def look(tx: engine.Transaction) -> list[list[tuple[object, ...]]]:
        return [
            [tuple(row) for row in tx.connection.execute(sa.select(table).order_by(*table.c))]
            for table in (schema.trade, schema.candle)
        ]

    return world.see(look)


# --- a tape without modes -------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database of the revision before."""
    store = engine.open_store(f"sqlite:///{tmp_path / 'old.db'}")
    with migrate._references_later(store):  # rows here stand alone
        upgrade(store, "0018")
        yield store
    store.dispose()


@sqlite_only
def test_what_was_on_the_tape_is_in_exact_mode(before: sa.Engine) -> None:
    prices = {"price_nano": 7, "per_pflop_nano": 7, "watts_source": "unknown"}
    insert(before, "trade", number=1, segment_id=5, work_class=CLASS, tape_digest=b"d", **prices)
    candle = {"work_class": CLASS, "resolution_seconds": 60, "start_us": 60, "high_nano": 9}
    insert(before, "candle", **candle, spread=b"s")
    upgrade(before, "0019")
    with before.connect() as connection:
        (trade,) = connection.execute(sa.select(schema.trade)).mappings()
        (kept,) = connection.execute(sa.select(schema.candle)).mappings()
    assert (trade["number"], trade["mode"], trade["tape_digest"]) == (1, "exact", b"d")
    assert {name: kept[name] for name in candle} == candle
    assert (kept["mode"], kept["spread"], kept["trades"]) == ("exact", b"s", 0)
    insert(before, "candle", **candle, mode="class")  # a candle of its own
    with pytest.raises(sa.exc.IntegrityError):
        insert(before, "candle", **candle, mode="exact")
