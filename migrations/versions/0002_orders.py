"""Orders: jobs are signed with one, offers state a region and currency-neutral prices.

Both live in signed documents, which are stored as received: no column changes. Offers that were
signed before cannot be read any more; they are taken off the list, and their workers list new
ones when they connect. Jobs that were signed before cannot be matched any more, so that a store
with unfinished ones is refused.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flopmarket.errors import Conflict

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FINAL = ("succeeded", "cancelled", "failed")


def upgrade() -> None:
    job = sa.table("job", sa.column("state", sa.Text()))
    offer = sa.table("offer", sa.column("listed", sa.Boolean()))
    connection = op.get_bind()
    unfinished = connection.execute(
        sa.select(sa.func.count()).select_from(job).where(job.c.state.not_in(_FINAL))
    ).scalar_one()
    if unfinished:
        raise Conflict(
            f"{unfinished} jobs are unfinished, and were signed without an order",
            code="MIGRATION_REFUSED",
            hint="finish or cancel them with the version that took them, then migrate",
        )
    connection.execute(sa.update(offer).values(listed=False))


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
