"""What devices proved in benchmark challenges, and the challenges themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "benchmark",
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        _big("flops_per_second"),
        _big("joint_flops_per_second"),
        _text("joint_with"),
        _text("sharing"),
        _big("bandwidth_bytes_per_second"),
        _big("memory_bytes"),
        _big("delivered_ppm"),
        _big("proved_at_us"),
        _text("reason"),
        _text("detail"),
        _big("challenged_at_us"),
        _big("failures"),
        _big("next_try_us"),
        sa.Column("report", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["offer_id"], ["offer.offer_id"], name="fk_benchmark_offer_id_offer"
        ),
        sa.PrimaryKeyConstraint("offer_id", name="pk_benchmark"),
    )
    op.create_table(
        "benchmark_challenge",
        _text("challenge_id"),
        _text("offer_id"),
        _text("group_id"),
        sa.Column("joint", sa.Boolean(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        _text("reason"),
        _text("detail"),
        _big("flops_per_second"),
        _big("asked_at_us"),
        _big("ended_at_us"),
        sa.ForeignKeyConstraint(
            ["offer_id"], ["offer.offer_id"], name="fk_benchmark_challenge_offer_id_offer"
        ),
        sa.PrimaryKeyConstraint("challenge_id", name="pk_benchmark_challenge"),
    )
    clause = sa.text("ended_at_us = 0")
    op.create_index(
        "uq_benchmark_challenge_open",
        "benchmark_challenge",
        ["offer_id"],
        unique=True,
        sqlite_where=clause,
        postgresql_where=clause,
    )
    op.create_index(
        "ix_benchmark_challenge_offer", "benchmark_challenge", ["offer_id", "ended_at_us"]
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)
