"""Indexes for what the dispatcher asks in every round, so that it reads no ended job or lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UNFINISHED = "state IN ('queued', 'running', 'verifying')"
_UNTOLD = "state IN ('revoked', 'expired') AND NOT told"


def upgrade() -> None:
    for name, table, columns, where in (
        ("ix_job_unfinished_deadline", "job", ["deadline_us"], _UNFINISHED),
        ("ix_lease_untold", "lease", ["created_at_us"], _UNTOLD),
    ):
        clause = sa.text(where)
        op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
