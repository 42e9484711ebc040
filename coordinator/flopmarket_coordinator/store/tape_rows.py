"""Rows of trades and candles, and what a trade is made of: segment, lease, job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flopmarket.market.headline import PFLOP, program_class
from flopmarket.market.tape import Trade
from flopmarket.market.work import StepWork
from flopmarket.trust.documents import WattsSource
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core import sketch
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.tape import Candle, CandleKey, Settlement
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import given

_job = schema.job
_lease = schema.lease
_segment = schema.segment


_FACTS = (
    sa.select(
        _segment.c.segment_id,
        _segment.c.trade_number,
        _segment.c.settled_at_us,
        _segment.c.steps,
        _segment.c.price_nano,
        _segment.c.offer_id,
        _segment.c.device_name,
        _segment.c.commitment_digest,
        _lease.c.work_class,
        _lease.c.step_picoseconds,
        _lease.c.milliwatts,
        _lease.c.watts_source,
        _job.c.work,
        _job.c.mode,
    )
    .join(_lease, _lease.c.lease_id == _segment.c.lease_id)
    .join(_job, _job.c.job_id == _segment.c.job_id)
    .order_by(_segment.c.trade_number, _segment.c.settled_at_us, _segment.c.segment_id)
)
# What was printed stays printed, also when the segment turned out wrong afterwards.
_PRINTED = _FACTS.where(
    sa.or_(_segment.c.state == SegmentState.SETTLED.value, _segment.c.trade_number > 0)
)
_FACTS_OF = _FACTS.where(_segment.c.segment_id == given("which"))


_ADD_TRADES = sa.insert(schema.trade)


def facts(tx: Transaction, where: sa.ColumnElement[bool]) -> Iterator[Settlement]:
    """Settled segments."""
    for row in tx.connection.execute(_PRINTED.where(where)):
        yield _settlement(row, row.trade_number, row.settled_at_us)


def settling(tx: Transaction, segment_id: int, number: int) -> Settlement:
    """The segment that is being settled now, as trade ``number``."""
    row = tx.connection.execute(_FACTS_OF, {"which": segment_id}).one()
    return _settlement(row, row.trade_number or number, tx.now_us)


def _settlement(row: Any, number: int, time_us: int) -> Settlement:
    flops: Mapping[str, int] = json.loads(row.work)["flops"]
    # Leases made before classes were kept with them: the class of the program alone.
    work_class = row.work_class or program_class(StepWork(flops, 0, 0))
    return Settlement(
        number=number,
        time_us=time_us,
        segment_id=row.segment_id,
        work_class=work_class,
        flops_per_step=flops.get(work_class, 0),
        steps=row.steps,
        price_nano=row.price_nano,
        step_picoseconds=row.step_picoseconds,
        milliwatts=row.milliwatts,
        watts_source=WattsSource(row.watts_source),
        offer_id=row.offer_id,
        device_name=row.device_name,
        commitment_digest=row.commitment_digest,
        mode=Mode(row.mode),
    )


def insert_trades(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows that :func:`trade_row` made."""
    if rows:
        tx.connection.execute(_ADD_TRADES, [dict(row) for row in rows])


def trade_row(trade: Trade, segment_id: int, digest: bytes) -> dict[str, Any]:
    """A trade as its row; ``digest`` is that of the tape it ends."""
    pflop, flop_rest = divmod(trade.flops, PFLOP)
    return {
        "number": trade.number,
        "segment_id": segment_id,
        "time_us": trade.time_us,
        "work_class": trade.work_class,
        "pflop": pflop,
        "flop_rest": flop_rest,
        "price_nano": trade.price_nano,
        "per_pflop_nano": trade.per_pflop_nano,
        "microjoules": trade.microjoules,
        "watts_source": trade.watts_source.value,
        "offer_id": trade.offer_id,
        "device_name": trade.device_name,
        "commitment_digest": trade.commitment_digest,
        "tape_digest": digest,
        "mode": trade.mode.value,
    }


def to_trade(row: sa.RowMapping) -> Trade:
    """The trade of a row."""
    return Trade(
        number=row["number"],
        time_us=row["time_us"],
        work_class=row["work_class"],
        flops=row["pflop"] * PFLOP + row["flop_rest"],
        price_nano=row["price_nano"],
        per_pflop_nano=row["per_pflop_nano"],
        microjoules=row["microjoules"],
        watts_source=WattsSource(row["watts_source"]),
        offer_id=row["offer_id"],
        device_name=row["device_name"],
        commitment_digest=row["commitment_digest"],
        mode=Mode(row["mode"]),
    )


def key_of(candle: Candle) -> CandleKey:
    """What names a candle."""
    return candle.work_class, candle.resolution_seconds, candle.start_us, candle.mode


def candle_row(candle: Candle) -> dict[str, Any]:
    """A candle as its row."""
    pflop, flop_rest = divmod(candle.flops, PFLOP)
    unknown_pflop, unknown_flop_rest = divmod(candle.flops_of_unknown_power, PFLOP)
    return {
        "work_class": candle.work_class,
        "resolution_seconds": candle.resolution_seconds,
        "start_us": candle.start_us,
        "mode": candle.mode.value,
        "open_nano": candle.open_nano,
        "high_nano": candle.high_nano,
        "low_nano": candle.low_nano,
        "close_nano": candle.close_nano,
        "p10_nano": candle.p10_nano,
        "p50_nano": candle.p50_nano,
        "p90_nano": candle.p90_nano,
        "paid_nano": candle.paid_nano,
        "pflop": pflop,
        "flop_rest": flop_rest,
        "unknown_pflop": unknown_pflop,
        "unknown_flop_rest": unknown_flop_rest,
        "trades": candle.trades,
        "microjoules_measured": candle.microjoules_measured,
        "microjoules_declared": candle.microjoules_declared,
        "spread": sketch.to_bytes(candle.spread),
    }


def to_candle(row: sa.RowMapping) -> Candle:
    """The candle of a row; one that was read without its spread is only for showing."""
    return Candle(
        work_class=row["work_class"],
        resolution_seconds=row["resolution_seconds"],
        start_us=row["start_us"],
        open_nano=row["open_nano"],
        high_nano=row["high_nano"],
        low_nano=row["low_nano"],
        close_nano=row["close_nano"],
        p10_nano=row["p10_nano"],
        p50_nano=row["p50_nano"],
        p90_nano=row["p90_nano"],
        paid_nano=row["paid_nano"],
        flops=row["pflop"] * PFLOP + row["flop_rest"],
        flops_of_unknown_power=row["unknown_pflop"] * PFLOP + row["unknown_flop_rest"],
        trades=row["trades"],
        microjoules_measured=row["microjoules_measured"],
        microjoules_declared=row["microjoules_declared"],
        spread=sketch.from_bytes(row["spread"]) if "spread" in row else {},
        mode=Mode(row["mode"]),
    )
