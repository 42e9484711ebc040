"""The tape of a real application: what prints, what is kept, and what the checker finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import IntegrityError

from flopmarket.errors import FlopmarketError
from flopmarket.market.headline import PFLOP
from flopmarket.market.snapshot import check_chain, verify_snapshot
from flopmarket.market.tape import EMPTY_TAPE, digest_of_tape
from flopmarket.trust.documents import WattsSource
from flopmarket_coordinator.application.types_tape import HistoryQuery, TradesQuery
from flopmarket_coordinator.application.types_working import HeldLease
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import engine, migrate, schema, tape, tape_rebuild
from tests.unit.coordinator.databases import sqlite_only
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import ASK

MINUTE_US = 60 * SECOND_US


def sell(
    world: World, segments: int = 3, name: str = "job", pause_us: int = 0, ask: int = ASK
) -> None:
    """A job of so many segments is bought, computed, verified and paid, one segment at a time."""
    buyer = world.buyer(f"buyer of {name}")
    worker = world.worker(f"worker of {name}", ask=ask)
    buyer.submit(name, steps=3 * segments)
    (lease,) = world.offers()
    worker.accept(lease)
    for _ in range(segments):
        worker.commit(lease, 3)
        world.audit_all()
        world.now_us += pause_us


def history(world: World, **query: object):  # type: ignore[no-untyped-def]
    asked = HistoryQuery(**{"work_class": "elementwise-f32", **query})  # type: ignore[arg-type]
    return world.see(world.application.history, asked)


def trades(world: World, **query: object):  # type: ignore[no-untyped-def]
    return world.see(world.application.trades, TradesQuery(**query))  # type: ignore[arg-type]


def test_an_empty_market_is_an_answer(world: World) -> None:
    assert history(world).candles == () and trades(world).trades == ()
    report = world.see(world.application.prices)
    assert (report.prices, report.trades, report.as_of_us) == ((), 0, world.now_us)


def test_a_settled_segment_prints_and_nothing_else_does(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("ann")
    buyer.submit(steps=6)
    (lease,) = world.offers()
    worker.accept(lease)
    worker.commit(lease, 3)
    assert trades(world).trades == ()  # committed, not verified
    world.audit_all()
    (trade,) = trades(world).trades
    segment = world.see(lambda tx: tx.connection.execute(sa.select(schema.segment)).one())
    assert trade.price_nano == segment.price_nano
    assert trade.commitment_digest == segment.commitment_digest
    assert (trade.number, trade.time_us) == (1, world.now_us)
    assert trade.work_class == "elementwise-f32"
    assert trade.per_pflop_nano == -(-segment.price_nano * PFLOP // trade.flops)
    assert trade.watts_source is WattsSource.UNKNOWN and trade.microjoules == 0


def test_power_is_that_of_the_lease(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("ann")
    terms = worker.terms
    worker.terms = lambda: replace(  # type: ignore[method-assign]
        terms(), watts_milli=50_000, watts_source=WattsSource.MEASURED
    )
    worker.hello()
    buyer.submit(steps=3)
    (lease,) = world.offers()
    worker.accept(lease)
    worker.terms = terms  # type: ignore[method-assign]
    worker.hello((HeldLease(lease.lease_id, lease.fence),))
    worker.commit(lease, 3)
    world.audit_all()
    (trade,) = trades(world).trades
    assert trade.watts_source is WattsSource.MEASURED
    seconds = lease.price.step_picoseconds * 3 / 1e12
    assert trade.joules == pytest.approx(seconds * 50, rel=1e-6)
    (candle,) = history(world).candles
    assert candle.microjoules_measured == trade.microjoules
    assert candle.flops_of_unknown_power == candle.microjoules_declared == 0


def test_candles_agree_with_trades_at_every_resolution(world: World) -> None:
    sell(world, 8, pause_us=40 * SECOND_US)
    made = trades(world).trades
    assert [trade.number for trade in made] == list(range(1, 9))
    for resolution in (60, 300, 3_600, 86_400):
        page = history(world, resolution_seconds=resolution)
        assert sum(candle.trades for candle in page.candles) == 8
        assert sum(candle.flops for candle in page.candles) == sum(t.flops for t in made)
        assert sum(candle.paid_nano for candle in page.candles) == sum(t.price_nano for t in made)
        starts = [candle.start_us for candle in page.candles]
        assert starts == sorted(set(starts))
        assert all(start % (resolution * SECOND_US) == 0 for start in starts)


def test_prices_show_the_last_trade_without_any_offer(world: World) -> None:
    sell(world, 1)
    world.now_us += 86_400 * SECOND_US  # everybody is gone
    (price,) = world.see(world.application.prices).prices
    assert price.spot is None or price.spot.per_pflop_nano is None
    assert price.mid_nano is None
    assert price.last is not None and price.last.number == 1


def test_pages_of_history_and_trades_follow_one_another(world: World) -> None:
    sell(world, 7, pause_us=MINUTE_US)
    whole = history(world, resolution_seconds=60).candles
    seen, token = [], ""
    for _ in range(10):
        page = history(world, resolution_seconds=60, page_size=2, page_token=token)
        seen += page.candles
        token = page.next_page_token
        if not token:
            break
    assert tuple(seen) == whole and len(whole) == 7
    first = trades(world, page_size=3)
    second = trades(world, page_size=10, page_token=first.next_page_token)
    assert [t.number for t in first.trades + second.trades] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "other",
    [
        {"work_class": "dot-f32"},
        {"resolution_seconds": 300},
        {"from_us": 1},
        {"to_us": 2**62},
    ],
)
def test_a_page_token_of_another_query_is_refused(world: World, other: dict[str, object]) -> None:
    sell(world, 3, pause_us=MINUTE_US)
    token = history(world, resolution_seconds=60, page_size=1).next_page_token
    assert token
    with pytest.raises(FlopmarketError) as error:
        history(world, **{"resolution_seconds": 60, "page_token": token} | other)
    assert error.value.code == "PAGE_TOKEN_INVALID"
    with pytest.raises(FlopmarketError):
        trades(world, page_token=token)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"work_class": "dot-f33"}, "WORK_CLASS_UNKNOWN"),
        ({"resolution_seconds": 59}, "RESOLUTION_UNKNOWN"),
        ({"resolution_seconds": 2**32 - 1}, "RESOLUTION_UNKNOWN"),
        ({"from_us": 5, "to_us": 4}, "RANGE_INVALID"),
        ({"from_us": -(2**63)}, "RANGE_INVALID"),
        ({"page_size": -1}, "PAGE_SIZE"),
        ({"page_token": "00"}, "PAGE_TOKEN_INVALID"),
    ],
)
def test_questions_that_make_no_sense(world: World, query: dict[str, object], code: str) -> None:
    with pytest.raises(FlopmarketError) as error:
        history(world, **query)
    assert error.value.code == code


def test_the_future_has_no_candles(world: World) -> None:
    sell(world, 1)
    assert history(world, from_us=2**62).candles == ()
    assert history(world, from_us=2**63 - 1, to_us=2**63 - 1).candles == ()


def test_a_clock_that_steps_back_keeps_numbers_and_candles_right(world: World) -> None:
    sell(world, 2, "first")
    world.now_us -= 10 * MINUTE_US
    sell(world, 2, "second", ask=ASK - 1_000_000)
    made = sorted(trades(world).trades, key=lambda trade: trade.number)
    assert [trade.number for trade in made] == [1, 2, 3, 4]
    assert made[2].time_us < made[1].time_us
    minutes = history(world, resolution_seconds=60).candles
    assert [candle.trades for candle in minutes] == [2, 2]
    (day,) = history(world, resolution_seconds=86_400).candles
    assert (day.open_nano, day.close_nano) == (made[0].per_pflop_nano, made[3].per_pflop_nano)


def test_only_the_newest_candles_are_kept(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    from flopmarket_coordinator.core import tape as core

    kept = {60: 3, 300: 2, 3_600: 5, 86_400: 5}
    monkeypatch.setattr(core, "KEPT_CANDLES", kept)
    monkeypatch.setattr(tape, "KEPT_CANDLES", kept)
    monkeypatch.setattr(core.candles_of, "__defaults__", (kept,))  # the checker asks it
    sell(world, 6, pause_us=2 * MINUTE_US)
    page = history(world, resolution_seconds=60)
    assert len(page.candles) == 3
    assert page.kept_since_us == page.candles[0].start_us
    assert history(world, resolution_seconds=86_400).kept_since_us == 0
    world.now_us -= 60 * MINUTE_US  # late: its minute is no longer kept, its hour is
    sell(world, 1, "late", ask=ASK - 1_000_000)
    assert history(world, resolution_seconds=60).candles == page.candles
    assert sum(c.trades for c in history(world, resolution_seconds=3_600).candles) == 7
    world.check()


def test_a_segment_prints_once(world: World) -> None:
    sell(world, 1)
    with pytest.raises(IntegrityError):
        world.do(tape.print_trade, 1)
    assert len(trades(world).trades) == 1


# --- made anew ------------------------------------------------------------------------------------


def everything(world: World) -> list[list[tuple[object, ...]]]:
    tables = (schema.trade, schema.candle)

    def look(tx: engine.Transaction) -> list[list[tuple[object, ...]]]:
        return [
            [tuple(row) for row in tx.connection.execute(sa.select(table).order_by(*table.c))]
            for table in tables
        ]

    return world.see(look)


def test_the_tape_made_anew_is_the_tape(world: World) -> None:
    sell(world, 4, pause_us=MINUTE_US)
    before = everything(world)
    assert world.do(tape_rebuild.rebuild) == 4
    assert everything(world) == before


@sqlite_only
def test_segments_settled_before_there_was_a_tape_print_by_the_migration(
    world: World, tmp_path: Path
) -> None:
    """A database of the revision before, with settled segments, gets their trades."""
    sell(world, 3, pause_us=MINUTE_US)
    right = everything(world)
    old = tmp_path / "old.db"
    _as_before_the_tape(world, old)
    store = engine.open_store(f"sqlite:///{old}")
    migrate.upgrade(store)
    world.store.dispose()
    shutil.copy(old, world.path)
    world.start()
    assert [row[2:] for row in everything(world)[0]] == [row[2:] for row in right[0]]
    assert everything(world)[1] == right[1]
    store.dispose()


def _as_before_the_tape(world: World, path: Path) -> None:
    """Copy what revision 0004 knew into a database of that revision."""
    store = engine.open_store(f"sqlite:///{path}")
    config = migrate._config()
    with store.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
    store.dispose()
    store = engine.open_store(f"sqlite:///{path}")
    with store.begin() as connection:
        present = sa.MetaData()
        present.reflect(connection)
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        with world.store.connect() as source:
            for table in present.sorted_tables:
                if table.name == "alembic_version":
                    continue
                names = ", ".join(f'"{column.name}"' for column in table.columns)
                rows = source.exec_driver_sql(f"SELECT {names} FROM {table.name}").all()
                marks = ", ".join("?" * len(table.columns))
                for row in rows:
                    connection.exec_driver_sql(
                        f"INSERT INTO {table.name} ({names}) VALUES ({marks})", tuple(row)
                    )
    store.dispose()


# --- signed snapshots -----------------------------------------------------------------------------


def test_snapshots_are_numbered_chained_and_cover_the_tape(world: World) -> None:
    empty = world.do(world.application.take_snapshot)
    sell(world, 2)
    world.worker("waiting")
    world.buyer("bidder").submit("open order", max_price_nano=10)
    for _ in range(2):
        world.now_us += SECOND_US
        last = world.do(world.application.take_snapshot)
    assert (empty, last) == (1, 3)
    read = [
        verify_snapshot(
            world.see(world.application.snapshot, number).envelope, world.key.public
        ).snapshot
        for number in (1, 2, 3)
    ]
    check_chain(read)
    assert read[0].prices == () and read[0].tape_digest == EMPTY_TAPE
    assert read[2].trades == 2
    assert read[2].tape_digest == digest_of_tape(trades(world).trades)
    (price,) = (item for item in read[2].prices if item.work_class == "elementwise-f32")
    assert price.ask_nano is not None and price.offers > 0
    assert price.last_nano == trades(world).trades[-1].per_pflop_nano
    assert world.see(world.application.snapshot, 0).number == 3


def test_old_snapshots_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from flopmarket_coordinator.application import tape as room

    monkeypatch.setattr(room, "MAX_PRICE_SNAPSHOTS", 2)
    for _ in range(5):
        world.do(world.application.take_snapshot)
    newest = world.see(world.application.snapshot, 0)
    assert (newest.number, newest.oldest_number) == (5, 4)
    for gone in (3, 6, 2**63 - 1):
        with pytest.raises(FlopmarketError) as error:
            world.see(world.application.snapshot, gone)
        assert error.value.code == "SNAPSHOT_UNKNOWN"


# --- the checker ----------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[World]:
    """A market whose tape a test breaks on purpose."""
    (tmp_path / "broken").mkdir()
    made = World(tmp_path / "broken")
    sell(made, 3, pause_us=MINUTE_US)
    made.do(made.application.take_snapshot)
    made.do(made.application.take_snapshot)
    made.check()
    yield made
    made.close()


@sqlite_only
@pytest.mark.parametrize(
    ("statement", "rule", "row"),
    [
        ("UPDATE trade SET price_nano = price_nano + 1 WHERE number = 2", "trade-derived", "2"),
        ("UPDATE trade SET time_us = 1 WHERE number = 1", "trade-derived", "trade 1"),
        ("UPDATE trade SET device_name = 'another' WHERE number = 3", "trade-derived", "trade 3"),
        ("UPDATE trade SET tape_digest = x'00' WHERE number = 3", "trade-derived", "trade 3"),
        ("DELETE FROM trade WHERE number = 2", "trade-derived", "trade 2"),
        ("DELETE FROM trade WHERE number = 3", "trade-derived", "trade 3"),
        ("UPDATE segment SET trade_number = 0 WHERE trade_number = 3", "trade-printed", "3"),
        ("UPDATE segment SET settled_at_us = 5 WHERE trade_number = 2", "trade-derived", "2"),
        ("UPDATE lease SET milliwatts = 7", "trade-derived", "trade 1"),
        ("UPDATE candle SET high_nano = high_nano + 1", "candle-derived", "elementwise-f32 60"),
        ("UPDATE candle SET spread = x'ff'", "candle-derived", "candle"),
        ("DELETE FROM candle WHERE resolution_seconds = 300", "candle-derived", "300 s"),
        (
            "INSERT INTO candle"
            " SELECT 'f64', 60, 0, 'exact', 1,1,1,1, 1,1,1, 1, 1, 0, 0, 0, 1, 0, 0, x''",
            "candle-derived",
            "candle f64 60 s 0",
        ),
        ("UPDATE price_snapshot SET envelope = x'7b7d' WHERE number = 2", "price-snapshot", "2"),
        ("UPDATE price_snapshot SET digest = x'00' WHERE number = 1", "price-snapshot", "1"),
    ],
)
def test_an_edit_by_hand_is_named(broken: World, statement: str, rule: str, row: str) -> None:
    with broken.store.begin() as connection:
        connection.exec_driver_sql(statement)
    found = {item.rule: item.row for item in broken.see(broken.application.check)}
    assert row in found.get(rule, ""), found
