"""The tape made anew from settled segments, and what it would be beside what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket.market.tape import EMPTY_TAPE, Trade, tape_digest
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.tape import CandleKey, candles_of, trade_of
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.tape_rows import candle_row, facts, insert_trades, trade_row

Row = Mapping[str, Any]

_segment = schema.segment
_trade = schema.trade
_candle = schema.candle
_REBUILD_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Derived:
    """A trade as its segment says it must be stored; no row when the segment prints none."""

    number: int
    segment_id: int
    trade: Trade | None
    row: Row | None


def rebuild(tx: Transaction) -> int:
    """Make trades and candles anew from the settled segments; how many trades there are.

    Segments that were settled before there was a tape get their numbers here, in order of
    settlement and behind those that have one.
    """
    tx.connection.execute(sa.delete(_candle))
    tx.connection.execute(sa.delete(_trade))
    number = _number_the_old(tx)
    rows: list[Row] = []

    def made() -> Iterator[Trade]:
        for item in derived(tx):
            if item.trade is not None and item.row is not None:
                rows.append(item.row)
                yield item.trade

    candles = candles_of(made())
    for first in range(0, len(rows), _REBUILD_ROWS):
        insert_trades(tx, rows[first : first + _REBUILD_ROWS])
    if candles:
        values = [candle_row(candle) for candle in candles.values()]
        tx.connection.execute(sa.insert(_candle), values)
    return number


def derived(tx: Transaction) -> Iterator[Derived]:
    """What every settled segment printed, in order of number; those that printed none first."""
    before = EMPTY_TAPE
    for item in facts(tx, sa.true()):
        trade = trade_of(item)
        if trade is None or item.number == 0:
            yield Derived(item.number, item.segment_id, trade, None)
            continue
        before = tape_digest(before, trade)
        yield Derived(
            item.number, item.segment_id, trade, trade_row(trade, item.segment_id, before)
        )


def stored_trades(tx: Transaction) -> Iterator[sa.RowMapping]:
    """All trades as stored, in order of number."""
    yield from tx.connection.execute(sa.select(_trade).order_by(_trade.c.number)).mappings()


def stored_candles(tx: Transaction) -> dict[CandleKey, sa.RowMapping]:
    """All candles as stored."""
    rows = tx.connection.execute(sa.select(_candle)).mappings()
    return {
        (row["work_class"], row["resolution_seconds"], row["start_us"], Mode(row["mode"])): row
        for row in rows
    }


def _number_the_old(tx: Transaction) -> int:
    """Number the segments that were settled before there was a tape; the last number."""
    old = facts(tx, _segment.c.trade_number == 0)
    printing = [item.segment_id for item in old if trade_of(item) is not None]
    known = sa.select(sa.func.coalesce(sa.func.max(_segment.c.trade_number), 0))
    last = int(tx.connection.execute(known).scalar_one())
    for number, segment_id in enumerate(printing, last + 1):
        tx.connection.execute(
            sa.update(_segment)
            .where(_segment.c.segment_id == segment_id)
            .values(trade_number=number)
        )
    return last + len(printing)
