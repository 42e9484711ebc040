"""Tables of the tape: trades, candles, signed price snapshots.

Trades are derived from settled segments, candles from trades; both can be made anew. A count of
operations may pass 64 bits, so it is kept in two columns: whole PFLOP, and the rest below one.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, Index, Text

from flopmarket.trust.documents import WattsSource
from flopmarket_coordinator.store.schema.base import Serial, big, blob, metadata, one_of, text

trade = sa.Table(
    "trade",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=False),
    Column("segment_id", Serial, sa.ForeignKey("segment.segment_id"), nullable=False, unique=True),
    big("time_us"),
    text("work_class"),
    big("pflop"),
    big("flop_rest"),
    big("price_nano"),
    big("per_pflop_nano"),
    big("microjoules"),
    text("watts_source"),
    text("offer_id"),
    text("device_name"),
    blob("commitment_digest"),
    blob("tape_digest"),  # of the tape that ends with this trade
    Column("mode", Text, nullable=False, server_default=sa.text("'exact'")),
    CheckConstraint("price_nano > 0 AND per_pflop_nano > 0", name="prices_positive"),
    one_of("watts_source", WattsSource),
)
Index("ix_trade_time_number", trade.c.time_us, trade.c.number)
Index("ix_trade_class_time_number", trade.c.work_class, trade.c.time_us, trade.c.number)
Index(
    "ix_trade_class_mode_time_number",
    trade.c.work_class,
    trade.c.mode,
    trade.c.time_us,
    trade.c.number,
)
Index("ix_trade_offer_time_number", trade.c.offer_id, trade.c.time_us, trade.c.number)

candle = sa.Table(
    "candle",
    metadata,
    Column("work_class", Text, primary_key=True),
    Column("resolution_seconds", sa.BigInteger, primary_key=True, autoincrement=False),
    Column("start_us", sa.BigInteger, primary_key=True, autoincrement=False),
    Column("mode", Text, primary_key=True),
    big("open_nano"),
    big("high_nano"),
    big("low_nano"),
    big("close_nano"),
    big("p10_nano"),
    big("p50_nano"),
    big("p90_nano"),
    big("paid_nano"),
    big("pflop"),
    big("flop_rest"),
    big("unknown_pflop"),
    big("unknown_flop_rest"),
    big("trades"),
    big("microjoules_measured"),
    big("microjoules_declared"),
    blob("spread"),
)

price_snapshot = sa.Table(
    "price_snapshot",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=False),
    big("as_of_us"),
    blob("digest"),
    blob("envelope"),
)
