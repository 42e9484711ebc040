"""The tape as it grows and as it is read: trades and candles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from flopmarket.market.tape import EMPTY_TAPE, Trade, tape_digest
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.tape import (
    KEPT_CANDLES,
    Candle,
    key_at,
    trade_of,
    with_trade,
)
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import any_of, given
from flopmarket_coordinator.store.tape_rows import (
    candle_row,
    insert_trades,
    key_of,
    settling,
    to_candle,
    to_trade,
    trade_row,
)

_trade = schema.trade
_candle = schema.candle
_SHOWN = [column for column in _candle.c if column.name != "spread"]
_CANDLE_KEY = ("work_class", "resolution_seconds", "start_us", "mode")
_NEWEST = sa.select(_trade.c.number, _trade.c.tape_digest).order_by(_trade.c.number.desc()).limit(1)
_OF_RESOLUTION = sa.and_(
    _candle.c.work_class == given("class"),
    _candle.c.mode == given("mode"),
    _candle.c.resolution_seconds == given("resolution"),
)
_NEWEST_START = (
    sa.select(_candle.c.start_us)
    .where(_OF_RESOLUTION)
    .order_by(_candle.c.start_us.desc())
    .offset(given("skipped"))
    .limit(1)
)
_DROP_OLDER = sa.delete(_candle).where(_OF_RESOLUTION, _candle.c.start_us < given("oldest"))
_CANDLES_AT = sa.select(_candle).where(
    sa.tuple_(*(_candle.c[name] for name in _CANDLE_KEY)).in_(any_of("keys"))
)
_ADD_CANDLE = sa.insert(_candle)
_UPDATE_CANDLE = sa.update(_candle).where(
    *(_candle.c[name] == given(f"at_{name}") for name in _CANDLE_KEY)
)

# --- trades ---------------------------------------------------------------------------------------


def print_trade(tx: Transaction, segment_id: int) -> int:
    """Print the segment that is being paid now; its trade's number, 0 when it has no unit price."""
    number, before = newest(tx)
    trade = trade_of(settling(tx, segment_id, number + 1))
    if trade is None:
        return 0
    insert_trades(tx, [trade_row(trade, segment_id, tape_digest(before, trade))])
    _addto_candles(tx, trade)
    return trade.number


def newest(tx: Transaction) -> tuple[int, bytes]:
    """Number of the newest trade and digest of the tape it ends; ``(0, EMPTY_TAPE)`` at first."""
    row = tx.connection.execute(_NEWEST).first()
    return (0, EMPTY_TAPE) if row is None else (row.number, row.tape_digest)


def trade(tx: Transaction, number: int) -> Trade | None:
    """The trade with this number."""
    found = tx.connection.execute(sa.select(_trade).where(_trade.c.number == number)).mappings()
    row = found.first()
    return None if row is None else to_trade(row)


def trades_after(
    tx: Transaction, number: int, limit: int, work_class: str = "", mode: Mode | None = None
) -> list[Trade]:
    """Trades behind a number, in order; of all classes and modes by default."""
    query = _selected(work_class, mode).where(_trade.c.number > number)
    query = query.order_by(_trade.c.number).limit(limit)
    return [to_trade(row) for row in tx.connection.execute(query).mappings()]


def newest_trades(
    tx: Transaction, limit: int, work_class: str = "", mode: Mode | None = None
) -> list[Trade]:
    """The newest trades, oldest first; of all classes and modes by default."""
    query = _selected(work_class, mode).order_by(_trade.c.number.desc()).limit(limit)
    return [to_trade(row) for row in tx.connection.execute(query).mappings()][::-1]


def trades_between(
    tx: Transaction,
    *,
    work_class: str,
    mode: Mode | None,
    offer_id: str,
    from_us: int,
    to_us: int,
    after: tuple[int, int] | None,
    limit: int,
) -> list[Trade]:
    """Trades in ``[from_us, to_us)`` by time and number, behind the position ``after``."""
    query = _selected(work_class, mode)
    query = query.where(_trade.c.time_us >= from_us, _trade.c.time_us < to_us)
    if offer_id:
        query = query.where(_trade.c.offer_id == offer_id)
    if after is not None:
        place = sa.tuple_(_trade.c.time_us, _trade.c.number)
        query = query.where(place > sa.tuple_(*map(sa.literal, after)))
    query = query.order_by(_trade.c.time_us, _trade.c.number).limit(limit)
    return [to_trade(row) for row in tx.connection.execute(query).mappings()]


def last_trades(tx: Transaction, work_classes: Iterable[str], mode: Mode) -> dict[str, Trade]:
    """The newest trade in a mode of each class that has one, by time and then by number."""
    found: dict[str, Trade] = {}
    for work_class in work_classes:
        query = _selected(work_class, mode)
        query = query.order_by(_trade.c.time_us.desc(), _trade.c.number.desc()).limit(1)
        row = tx.connection.execute(query).mappings().first()
        if row is not None:
            found[work_class] = to_trade(row)
    return found


def _selected(work_class: str, mode: Mode | None) -> sa.Select[Any]:
    """Trades of a class and a mode; of all for "" and None."""
    query = sa.select(_trade)
    if work_class:
        query = query.where(_trade.c.work_class == work_class)
    return query if mode is None else query.where(_trade.c.mode == mode.value)


# --- candles --------------------------------------------------------------------------------------


def candles_between(
    tx: Transaction,
    work_class: str,
    mode: Mode,
    resolution_seconds: int,
    from_us: int,
    to_us: int,
    limit: int,
) -> list[Candle]:
    """Candles that start in ``[from_us, to_us)``, oldest first."""
    query = (
        sa.select(*_SHOWN)
        .where(
            _candle.c.work_class == work_class,
            _candle.c.mode == mode.value,
            _candle.c.resolution_seconds == resolution_seconds,
            _candle.c.start_us >= from_us,
            _candle.c.start_us < to_us,
        )
        .order_by(_candle.c.start_us)
        .limit(limit)
    )
    return [to_candle(row) for row in tx.connection.execute(query).mappings()]


def kept_since_us(tx: Transaction, work_class: str, mode: Mode, resolution_seconds: int) -> int:
    """Start of the oldest candle once older ones have been dropped; 0 before that."""
    values = {
        "class": work_class,
        "mode": mode.value,
        "resolution": resolution_seconds,
        "skipped": KEPT_CANDLES[resolution_seconds] - 1,
    }
    return tx.connection.execute(_NEWEST_START, values).scalar() or 0


def _addto_candles(tx: Transaction, trade: Trade) -> None:
    keys = [key_at(trade, resolution) for resolution in KEPT_CANDLES]
    named = [(*key[:3], key[3].value) for key in keys]
    rows = tx.connection.execute(_CANDLES_AT, {"keys": named}).mappings()
    present = {key_of(candle): candle for candle in map(to_candle, rows)}
    changed = [
        candle_row(with_trade(present[key], trade, key[1])) for key in keys if key in present
    ]
    if changed:
        tx.connection.execute(_UPDATE_CANDLE, [_as_parameters(row) for row in changed])
    for key in keys:
        if key not in present:
            _begin_candle(tx, with_trade(None, trade, key[1]))


def _begin_candle(tx: Transaction, candle: Candle) -> None:
    """A first trade of a period; the oldest candle makes room. A period too old stays dropped."""
    work_class, resolution, start_us, mode = key_of(candle)
    if start_us < kept_since_us(tx, work_class, mode, resolution):
        return
    tx.connection.execute(_ADD_CANDLE, candle_row(candle))
    oldest = kept_since_us(tx, work_class, mode, resolution)
    if oldest:
        values = {"class": work_class, "mode": mode.value, "resolution": resolution}
        tx.connection.execute(_DROP_OLDER, {**values, "oldest": oldest})


def _as_parameters(row: Mapping[str, Any]) -> dict[str, Any]:
    """A candle's row for :data:`_UPDATE_CANDLE`: its key names where, the rest says what."""
    return {(f"at_{name}" if name in _CANDLE_KEY else name): value for name, value in row.items()}
