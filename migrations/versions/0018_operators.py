"""Who invites and is watched; wrong answers to challenges, and cards that are known again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


_STRIKES = (
    "kind IN ('flip', 'silence', 'auditor-silent', 'auditor-wrong', 'tolerance-outside', "
    "'class-undecided', 'benchmark-wrong')"
)


def upgrade() -> None:
    op.create_table(
        "account_invitation",
        sa.Column("invitation_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("operator_key_id", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("used_at_us", sa.BigInteger(), nullable=False),
        sa.Column("admission", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("invitation_id", name=op.f("pk_account_invitation")),
    )
    op.create_index("ix_account_invitation_created", "account_invitation", ["created_at_us"])
    _draws()
    _strikes()
    told = sa.Column("card_fingerprint", sa.Text(), nullable=False, server_default=sa.text("''"))
    op.add_column("offer", told)


def _strikes() -> None:
    """Replace what kinds a strike may have. SQLite builds the table anew, without its checks."""
    rebuilt = op.get_context().dialect.name == "sqlite"
    with op.batch_alter_table("strike", recreate="always" if rebuilt else "never") as batch:
        name = op.f("ck_strike_kind_known")
        if not rebuilt:
            batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, sa.text(_STRIKES))


def _draws() -> None:
    op.create_table(
        "cross_draw",
        sa.Column("segment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("auditor_key_id", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name=op.f("fk_cross_draw_segment_id_segment")
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.lease_id"], name=op.f("fk_cross_draw_lease_id_lease")
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_cross_draw")),
        sa.UniqueConstraint("lease_id", "number", name=op.f("uq_cross_draw_lease_id_number")),
    )
    op.create_table(
        "canary_day",
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_canary_day")),
    )
    op.create_table(
        "canary_draw",
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("known", sa.LargeBinary(), nullable=True),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["day"], ["canary_day.day"], name=op.f("fk_canary_draw_day_canary_day")
        ),
        sa.ForeignKeyConstraint(
            ["known"],
            ["challenge_document.digest"],
            name=op.f("fk_canary_draw_known_challenge_document"),
        ),
        sa.PrimaryKeyConstraint("day", "number", name=op.f("pk_canary_draw")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
