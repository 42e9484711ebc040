"""Levels of verification: what a job chose, what that adds to its prices and what it came to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs that exist were bought before there was a choice: they cost nothing beyond the fee."""
    verification = sa.Column(
        "verification", sa.Text(), nullable=False, server_default=sa.text("'deter'")
    )
    op.add_column("job", verification)
    for table, name in (
        ("job", "surcharge_ppm"),
        ("job", "surcharge_nano"),
        ("segment", "surcharge_nano"),
    ):
        op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
