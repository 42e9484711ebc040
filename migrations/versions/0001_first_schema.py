"""The first schema: accounts, ledger, offers, jobs, leases, segments, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


APPEND_ONLY = ("transfer", "event")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_account")),
    )
    op.create_table(
        "artifact",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifact")),
    )
    op.create_table(
        "ledger_account",
        sa.Column("ledger_account_id", sa.Text(), nullable=False),
        sa.Column("balance_nano", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "ledger_account_id = 'platform/external' OR balance_nano >= reserved_nano",
            name=op.f("ck_ledger_account_covered"),
        ),
        sa.CheckConstraint(
            "reserved_nano >= 0", name=op.f("ck_ledger_account_reserved_not_negative")
        ),
        sa.PrimaryKeyConstraint("ledger_account_id", name=op.f("pk_ledger_account")),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
    )
    op.create_table(
        "request",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("payload_hash", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "method", "request_id", name=op.f("pk_request")),
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_session")),
    )
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_session_expires_at_us"), ["expires_at_us"], unique=False
        )

    op.create_table(
        "used_nonce",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "nonce", name=op.f("pk_used_nonce")),
    )
    with op.batch_alter_table("used_nonce", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_used_nonce_expires_at_us"), ["expires_at_us"], unique=False
        )

    op.create_table(
        "account_key",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("banned_reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "role IN ('owner', 'device', 'ci', 'operator', 'coordinator')",
            name=op.f("ck_account_key_role_known"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_account_key_account_id_account")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_account_key")),
    )
    op.create_table(
        "artifact_grant",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["artifact.digest"], name=op.f("fk_artifact_grant_digest_artifact")
        ),
        sa.PrimaryKeyConstraint("digest", "account_id", name=op.f("pk_artifact_grant")),
    )
    op.create_table(
        "job",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("buyer", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ending", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("program_artifact", sa.Text(), nullable=False),
        sa.Column("frozen_artifact", sa.Text(), nullable=False),
        sa.Column("state_artifact", sa.Text(), nullable=False),
        sa.Column("data_artifact", sa.Text(), nullable=False),
        sa.Column("stateless", sa.Boolean(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("segment_steps", sa.BigInteger(), nullable=False),
        sa.Column("ceiling_nano", sa.BigInteger(), nullable=False),
        sa.Column("billed_nano", sa.BigInteger(), nullable=False),
        sa.Column("fee_nano", sa.BigInteger(), nullable=False),
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("hold_number", sa.BigInteger(), nullable=False),
        sa.Column("hold_nano", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'verifying', 'succeeded', 'cancelled', 'failed')",
            name=op.f("ck_job_state_known"),
        ),
        sa.CheckConstraint("billed_nano <= ceiling_nano", name=op.f("ck_job_within_ceiling")),
        sa.ForeignKeyConstraint(
            ["buyer"], ["account.account_id"], name=op.f("fk_job_buyer_account")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_job")),
        sa.UniqueConstraint("job_id", name=op.f("uq_job_job_id")),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index("ix_job_buyer_number", ["buyer", "number"], unique=False)
        batch_op.create_index("ix_job_state", ["state"], unique=False)

    op.create_table(
        "transfer",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("pending_id", sa.Text(), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(kind IN ('post', 'void')) = (pending_id IS NOT NULL)",
            name=op.f("ck_transfer_resolves"),
        ),
        sa.CheckConstraint(
            "kind IN ('direct', 'pending', 'post', 'void')", name=op.f("ck_transfer_kind_known")
        ),
        sa.CheckConstraint("amount_nano > 0", name=op.f("ck_transfer_amount_positive")),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_transfer_two_accounts")),
        sa.ForeignKeyConstraint(
            ["credit"],
            ["ledger_account.ledger_account_id"],
            name=op.f("fk_transfer_credit_ledger_account"),
        ),
        sa.ForeignKeyConstraint(
            ["debit"],
            ["ledger_account.ledger_account_id"],
            name=op.f("fk_transfer_debit_ledger_account"),
        ),
        sa.ForeignKeyConstraint(
            ["pending_id"], ["transfer.transfer_id"], name=op.f("fk_transfer_pending_id_transfer")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_transfer")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_transfer_transfer_id")),
    )
    with op.batch_alter_table("transfer", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_transfer_credit"), ["credit"], unique=False)
        batch_op.create_index(batch_op.f("ix_transfer_debit"), ["debit"], unique=False)
        batch_op.create_index(batch_op.f("ix_transfer_job_id"), ["job_id"], unique=False)
        batch_op.create_index(
            "uq_transfer_resolved_once",
            ["pending_id"],
            unique=True,
            sqlite_where=sa.text("pending_id IS NOT NULL"),
            postgresql_where=sa.text("pending_id IS NOT NULL"),
        )

    op.create_table(
        "event",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_event_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", "sequence", name=op.f("pk_event")),
    )
    op.create_table(
        "offer",
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("device_key_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=False),
        sa.Column("verified_segments", sa.BigInteger(), nullable=False),
        sa.Column("rejected_segments", sa.BigInteger(), nullable=False),
        sa.Column("streak", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_offer_account_id_account")
        ),
        sa.ForeignKeyConstraint(
            ["device_key_id"],
            ["account_key.key_id"],
            name=op.f("fk_offer_device_key_id_account_key"),
        ),
        sa.PrimaryKeyConstraint("offer_id", name=op.f("pk_offer")),
    )
    with op.batch_alter_table("offer", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_offer_device_key_id"), ["device_key_id"], unique=False)

    op.create_table(
        "worker",
        sa.Column("device_key_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("last_seen_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_key_id"],
            ["account_key.key_id"],
            name=op.f("fk_worker_device_key_id_account_key"),
        ),
        sa.PrimaryKeyConstraint("device_key_id", name=op.f("pk_worker")),
    )
    op.create_table(
        "lease",
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("device_key_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("chain", sa.Boolean(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("step_count", sa.BigInteger(), nullable=False),
        sa.Column("first_segment", sa.BigInteger(), nullable=False),
        sa.Column("state_artifact", sa.Text(), nullable=False),
        sa.Column("state_root", sa.LargeBinary(), nullable=False),
        sa.Column("ask_nano_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("step_picoseconds", sa.BigInteger(), nullable=False),
        sa.Column("next_step", sa.BigInteger(), nullable=False),
        sa.Column("next_segment", sa.BigInteger(), nullable=False),
        sa.Column("next_root", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('offered', 'running', 'finished', 'released', 'expired', 'revoked')",
            name=op.f("ck_lease_state_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_lease_job_id_job")),
        sa.ForeignKeyConstraint(
            ["offer_id"], ["offer.offer_id"], name=op.f("fk_lease_offer_id_offer")
        ),
        sa.PrimaryKeyConstraint("lease_id", name=op.f("pk_lease")),
        sa.UniqueConstraint("job_id", "fence", name=op.f("uq_lease_job_id_fence")),
    )
    with op.batch_alter_table("lease", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lease_device_key_id"), ["device_key_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_lease_job_id"), ["job_id"], unique=False)
        batch_op.create_index("ix_lease_state_expires", ["state", "expires_at_us"], unique=False)
        batch_op.create_index(
            "uq_lease_one_live_per_chain",
            ["job_id"],
            unique=True,
            sqlite_where=sa.text("chain AND state IN ('offered', 'running')"),
            postgresql_where=sa.text("chain AND state IN ('offered', 'running')"),
        )
        batch_op.create_index(
            "uq_lease_one_live_per_offer",
            ["offer_id"],
            unique=True,
            sqlite_where=sa.text("state IN ('offered', 'running')"),
            postgresql_where=sa.text("state IN ('offered', 'running')"),
        )

    op.create_table(
        "segment",
        sa.Column(
            "segment_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("segment_index", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("device_key_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("price_nano", sa.BigInteger(), nullable=False),
        sa.Column("fee_nano", sa.BigInteger(), nullable=False),
        sa.Column("to_bond_nano", sa.BigInteger(), nullable=False),
        sa.Column("to_held_nano", sa.BigInteger(), nullable=False),
        sa.Column("held_state", sa.Text(), nullable=False),
        sa.Column("root_before", sa.LargeBinary(), nullable=False),
        sa.Column("root_after", sa.LargeBinary(), nullable=False),
        sa.Column("outputs_root", sa.LargeBinary(), nullable=False),
        sa.Column("outputs_artifact", sa.Text(), nullable=False),
        sa.Column("checkpoint_artifact", sa.Text(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("commitment_digest", sa.LargeBinary(), nullable=False),
        sa.Column("verdict", sa.LargeBinary(), nullable=True),
        sa.Column("verdict_accepted", sa.Boolean(), nullable=False),
        sa.Column("committed_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('committed', 'verified', 'settled', 'rejected', 'void')",
            name=op.f("ck_segment_state_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_segment_job_id_job")),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.lease_id"], name=op.f("fk_segment_lease_id_lease")
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_segment")),
        sa.UniqueConstraint("commitment_digest", name=op.f("uq_segment_commitment_digest")),
    )
    with op.batch_alter_table("segment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_segment_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_segment_lease_id"), ["lease_id"], unique=False)
        batch_op.create_index("ix_segment_state", ["state", "segment_id"], unique=False)
        batch_op.create_index(
            "uq_segment_live_step",
            ["job_id", "first_step"],
            unique=True,
            sqlite_where=sa.text("state IN ('committed', 'verified', 'settled')"),
            postgresql_where=sa.text("state IN ('committed', 'verified', 'settled')"),
        )

    for table in APPEND_ONLY:
        for statement in _immutable(table, op.get_bind().dialect.name):
            op.execute(statement)


def _immutable(table: str, dialect: str) -> tuple[str, ...]:
    """Statements that refuse any change of a table's rows."""
    message = f"{table} rows are immutable"
    if dialect == "sqlite":
        return tuple(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            for verb in ("UPDATE", "DELETE")
        )
    return (
        f"CREATE FUNCTION {table}_immutable() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{message}'; END $$",
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_immutable()",
    )


def downgrade() -> None:
    raise NotImplementedError("there is nothing before the first schema; restore a backup")
