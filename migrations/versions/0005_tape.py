"""The tape: trades and history; what a trade needs is kept with its lease and segment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column(
        "lease", sa.Column("milliwatts", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column(
        "lease", sa.Column("watts_source", sa.Text(), nullable=False, server_default="unknown")
    )
    op.add_column(
        "segment", sa.Column("settled_at_us", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column(
        "segment", sa.Column("trade_number", sa.BigInteger(), nullable=False, server_default="0")
    )
    # When a segment was paid stands in the story of its job, one line a payment.
    op.execute(
        "UPDATE segment SET settled_at_us = (SELECT MAX(event.time_us) FROM event"
        " WHERE event.job_id = segment.job_id AND event.kind = 'paid'"
        " AND event.cause = 'segment ' || CAST(segment.segment_id AS TEXT))"
        " WHERE state = 'settled' AND EXISTS (SELECT 1 FROM event"
        " WHERE event.job_id = segment.job_id AND event.kind = 'paid'"
        " AND event.cause = 'segment ' || CAST(segment.segment_id AS TEXT))"
    )
    op.create_index(
        "uq_segment_trade_number",
        "segment",
        ["trade_number"],
        unique=True,
        sqlite_where=sa.text("trade_number > 0"),
        postgresql_where=sa.text("trade_number > 0"),
    )
    op.create_table(
        "trade",
        sa.Column("number", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("segment_id", _SERIAL, nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("work_class", sa.Text(), nullable=False),
        sa.Column("pflop", sa.BigInteger(), nullable=False),
        sa.Column("flop_rest", sa.BigInteger(), nullable=False),
        sa.Column("price_nano", sa.BigInteger(), nullable=False),
        sa.Column("per_pflop_nano", sa.BigInteger(), nullable=False),
        sa.Column("microjoules", sa.BigInteger(), nullable=False),
        sa.Column("watts_source", sa.Text(), nullable=False),
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("commitment_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tape_digest", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "price_nano > 0 AND per_pflop_nano > 0", name=op.f("ck_trade_prices_positive")
        ),
        sa.CheckConstraint(
            "watts_source IN ('declared', 'measured', 'unknown')",
            name=op.f("ck_trade_watts_source_known"),
        ),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name=op.f("fk_trade_segment_id_segment")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_trade")),
        sa.UniqueConstraint("segment_id", name=op.f("uq_trade_segment_id")),
    )
    op.create_index("ix_trade_time_number", "trade", ["time_us", "number"])
    op.create_index("ix_trade_class_time_number", "trade", ["work_class", "time_us", "number"])
    op.create_index("ix_trade_offer_time_number", "trade", ["offer_id", "time_us", "number"])
    op.create_table(
        "candle",
        sa.Column("work_class", sa.Text(), nullable=False),
        sa.Column("resolution_seconds", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start_us", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("open_nano", sa.BigInteger(), nullable=False),
        sa.Column("high_nano", sa.BigInteger(), nullable=False),
        sa.Column("low_nano", sa.BigInteger(), nullable=False),
        sa.Column("close_nano", sa.BigInteger(), nullable=False),
        sa.Column("p10_nano", sa.BigInteger(), nullable=False),
        sa.Column("p50_nano", sa.BigInteger(), nullable=False),
        sa.Column("p90_nano", sa.BigInteger(), nullable=False),
        sa.Column("paid_nano", sa.BigInteger(), nullable=False),
        sa.Column("pflop", sa.BigInteger(), nullable=False),
        sa.Column("flop_rest", sa.BigInteger(), nullable=False),
        sa.Column("unknown_pflop", sa.BigInteger(), nullable=False),
        sa.Column("unknown_flop_rest", sa.BigInteger(), nullable=False),
        sa.Column("trades", sa.BigInteger(), nullable=False),
        sa.Column("microjoules_measured", sa.BigInteger(), nullable=False),
        sa.Column("microjoules_declared", sa.BigInteger(), nullable=False),
        sa.Column("spread", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "work_class", "resolution_seconds", "start_us", name=op.f("pk_candle")
        ),
    )
    op.create_table(
        "price_snapshot",
        sa.Column("number", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("as_of_us", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_price_snapshot")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
