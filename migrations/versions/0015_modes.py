"""Numerics of jobs and offers: exact, class, tolerance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What exists was bought and offered when exact mode was the only one."""
    for table, name, default in (
        ("job", "mode", "'exact'"),
        ("job", "device_class", "''"),
        ("offer", "device_class", "''"),
    ):
        column = sa.Column(name, sa.Text(), nullable=False, server_default=sa.text(default))
        op.add_column(table, column)
    exact = sa.Column("exact", sa.Boolean(), nullable=False, server_default=sa.true())
    op.add_column("offer", exact)
    classed = sa.text("listed AND device_class <> ''")
    op.create_index(
        "ix_offer_class",
        "offer",
        ["device_class", "audit_lot"],
        sqlite_where=classed,
        postgresql_where=classed,
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
