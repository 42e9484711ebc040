"""Keys: successors, chains of owner keys, recoveries, invitations, origin of sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _columns()
    op.create_table(
        "ownership_link",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner_key_id", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.account_id"],
            name=op.f("fk_ownership_link_account_id_account"),
        ),
        sa.PrimaryKeyConstraint("account_id", "number", name=op.f("pk_ownership_link")),
    )
    op.create_table(
        "recovery",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("new_key_id", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("started_at_us", sa.BigInteger(), nullable=False),
        sa.Column("due_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_recovery_account_id_account")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_recovery")),
    )
    op.create_index("ix_recovery_due_at_us", "recovery", ["due_at_us"])
    op.create_table(
        "invitation",
        sa.Column("invitation_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger(), nullable=False),
        sa.Column("device_key_id", sa.Text(), nullable=False),
        sa.Column("used_at_us", sa.BigInteger(), nullable=False),
        sa.Column("enrolment", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_invitation_account_id_account")
        ),
        sa.PrimaryKeyConstraint("invitation_id", name=op.f("pk_invitation")),
    )
    op.create_index("ix_invitation_account_created", "invitation", ["account_id", "created_at_us"])


def _columns() -> None:
    op.add_column("account", _number("frozen_until_us"))
    op.add_column("account_key", _text("lineage"))
    op.add_column("account_key", _text("successor"))
    op.add_column("account_key", _number("ended_at_us"))
    op.add_column("account_key", sa.Column("ended_by", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_account_key_account_created", "account_key", ["account_id", "created_at_us"]
    )
    op.create_index("ix_account_key_lineage", "account_key", ["lineage"])
    op.add_column("session", _number("created_at_us"))
    op.add_column("session", _text("purpose"))
    op.create_index("ix_session_account", "session", ["account_id"])
    op.create_index("ix_session_key", "session", ["key_id"])


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''"))


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
