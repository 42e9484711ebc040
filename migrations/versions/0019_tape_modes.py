"""Trades and candles by mode. What is on the tape already is in exact mode."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_KEY = ("work_class", "resolution_seconds", "start_us", "mode")
_FIGURES = (
    "open_nano", "high_nano", "low_nano", "close_nano", "p10_nano", "p50_nano", "p90_nano",
    "paid_nano", "pflop", "flop_rest", "unknown_pflop", "unknown_flop_rest", "trades",
    "microjoules_measured", "microjoules_declared",
)  # fmt: skip


def upgrade() -> None:
    """Digests of the tape stay: a trade in exact mode counts in them as it did before."""
    op.add_column("trade", _exact())
    op.create_index(
        "ix_trade_class_mode_time_number", "trade", ["work_class", "mode", "time_us", "number"]
    )
    if op.get_context().dialect.name == "sqlite":
        _copy_candles()
        return
    op.add_column("candle", _exact())
    op.drop_constraint(op.f("pk_candle"), "candle", type_="primary")
    op.create_primary_key(op.f("pk_candle"), "candle", list(_KEY))


def _exact() -> sa.Column[str]:
    return sa.Column("mode", sa.Text(), nullable=False, server_default=sa.text("'exact'"))


def _copy_candles() -> None:
    """SQLite cannot give a table another key."""
    made = op.create_table(
        "candle_by_mode",
        sa.Column("work_class", sa.Text(), nullable=False),
        sa.Column("resolution_seconds", sa.BigInteger(), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        _exact(),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _FIGURES),
        sa.Column("spread", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(*_KEY, name=op.f("pk_candle")),
    )
    names = (*_KEY[:3], *_FIGURES, "spread")
    before = sa.table("candle", *map(sa.column, names))
    op.execute(made.insert().from_select(names, sa.select(*before.c)))
    op.drop_table("candle")
    op.rename_table("candle_by_mode", "candle")


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
