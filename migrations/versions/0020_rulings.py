"""Since when a class alone decides, and what was held against somebody by an index.

Of what was decided before only the beginning of its audit is known.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_KNOWN = """
UPDATE audit SET arbitrated_at_us = created_at_us
WHERE purpose <> 'arbiter' AND (phase = 'arbitration' OR (
    phase = 'ended'
    AND job_id IN (SELECT job_id FROM job WHERE mode = 'class')
    AND (
        finding IN ('REFUTED', 'CONFIRMED')
        OR finding = 'UNDECIDED' AND outcome IN ('ROOTS_DIFFER', 'UNANSWERED_DIFFERENCE')
        OR finding = 'UNDECIDED' AND outcome = 'NO_AUDITOR' AND purpose IN ('audit', 'dual')
    )
))
"""


def upgrade() -> None:
    since = sa.Column("arbitrated_at_us", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("audit", since)
    op.execute(_KNOWN)
    _index("ix_audit_arbitrated", "audit", "arbitrated_at_us", "arbitrated_at_us > 0")
    against = "outcome IN ('DIFFERS', 'FAULT', 'SECOND_OPINION', 'UNUSABLE')"
    _index("ix_step_audit_against", "step_audit", "created_at_us", against)


def _index(name: str, table: str, column: str, where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, [column], sqlite_where=clause, postgresql_where=clause)


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
