"""Buyers: budgets, grants of CI keys, webhooks and their outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "budget",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("monthly_nano", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("monthly_nano >= 0", name=op.f("ck_budget_not_negative")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_budget_account_id_account")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_budget")),
    )
    op.create_table(
        "key_grant",
        sa.Column("number", serial, autoincrement=True, nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("cap_nano", sa.BigInteger(), nullable=False),
        sa.Column("monthly_nano", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "cap_nano >= 0 AND monthly_nano >= 0", name=op.f("ck_key_grant_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["key_id"], ["account_key.key_id"], name=op.f("fk_key_grant_key_id_account_key")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_key_grant")),
    )
    op.create_index("ix_key_grant_key_number", "key_grant", ["key_id", "number"])
    op.create_index("ix_job_buyer_created", "job", ["buyer", "created_at_us"])
    op.create_index("ix_segment_job_step", "segment", ["job_id", "first_step", "segment_id"])
    op.create_table(
        "job_grant",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("grant_number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_job_grant_job_id_job")),
        sa.ForeignKeyConstraint(
            ["grant_number"],
            ["key_grant.number"],
            name=op.f("fk_job_grant_grant_number_key_grant"),
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_grant")),
    )
    op.create_index(op.f("ix_job_grant_key_id"), "job_grant", ["key_id"])
    op.create_table(
        "webhook",
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_webhook_account_id_account")
        ),
        sa.PrimaryKeyConstraint("webhook_id", name=op.f("pk_webhook")),
        sa.UniqueConstraint("account_id", "url", name=op.f("uq_webhook_account_id_url")),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("number", serial, autoincrement=True, nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("due_at_us", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'given-up')",
            name=op.f("ck_webhook_delivery_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhook.webhook_id"],
            name=op.f("fk_webhook_delivery_webhook_id_webhook"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint("message_id", name=op.f("uq_webhook_delivery_message_id")),
    )
    op.create_index("ix_webhook_delivery_state_due", "webhook_delivery", ["state", "due_at_us"])
    op.create_index(
        "ix_webhook_delivery_webhook_state", "webhook_delivery", ["webhook_id", "state"]
    )


def downgrade() -> None:
    raise NotImplementedError("a buyer's limits would be lost; restore a backup")
