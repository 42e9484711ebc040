"""Differences inside a class of devices: arbiters as audits, and the strikes of what is undecided.

Audits ask arbiters and look back; an arbiter's names the audit that it decides.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_PURPOSES = "purpose IN ('audit', 'cross', 'canary', 'dual', 'arbiter', 'look-back')"
_PHASES = (
    "phase IN ('delayed', 'asking', 'sealing', 'auditor-opens', 'worker-opens', 'dispute', "
    "'arbitration', 'house', 'ended')"
)
_STRIKES = "kind IN ('flip', 'silence', 'auditor-silent', 'auditor-wrong', 'class-undecided')"


def upgrade() -> None:
    parent = sa.Column("parent_id", sa.Text(), nullable=False, server_default=sa.text("''"))
    op.add_column("audit", parent)
    until = sa.Column("until_us", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column("audit", until)
    op.drop_index("uq_audit_one_open", table_name="audit")
    _allow("audit", {"purpose": _PURPOSES, "phase": _PHASES})
    _allow("strike", {"kind": _STRIKES})
    one_open = "purpose NOT IN ('cross', 'arbiter') AND phase <> 'ended'"
    _index("uq_audit_one_open", ["segment_id"], one_open, unique=True)
    _index("ix_audit_parent", ["parent_id"], "parent_id <> ''", unique=False)


def _allow(table: str, checks: dict[str, str]) -> None:
    """Replace what columns may hold. SQLite builds the table anew, without its checks."""
    rebuilt = op.get_context().dialect.name == "sqlite"
    with op.batch_alter_table(table, recreate="always" if rebuilt else "never") as batch:
        for column, allowed in checks.items():
            name = op.f(f"ck_{table}_{column}_known")
            if not rebuilt:
                batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, sa.text(allowed))


def _index(name: str, columns: list[str], where: str, *, unique: bool) -> None:
    clause = sa.text(where)
    op.create_index(
        name, "audit", columns, unique=unique, sqlite_where=clause, postgresql_where=clause
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
