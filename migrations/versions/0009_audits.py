"""Audits: the terms of each lease's draws, what was drawn, and what the house still has to do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_HOUSE_TASK = "house_task <> ''"
_AUDITOR = "listed AND streak >= 50"


def upgrade() -> None:
    _challenges()
    _audits()


def _challenges() -> None:
    """Segments that wait are recomputed by the house, as they would have been."""
    op.create_table(
        "challenge_document",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_challenge_document")),
    )
    op.create_table(
        "challenge",
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("rules", sa.LargeBinary(), nullable=False),
        sa.Column("candidates", sa.LargeBinary(), nullable=False),
        sa.Column("house", sa.LargeBinary(), nullable=False),
        sa.Column("right_verdicts", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.lease_id"], name=op.f("fk_challenge_lease_id_lease")
        ),
        *(
            sa.ForeignKeyConstraint(
                [name],
                ["challenge_document.digest"],
                name=op.f(f"fk_challenge_{name}_challenge_document"),
            )
            for name in ("rules", "candidates", "house")
        ),
        sa.PrimaryKeyConstraint("lease_id", name=op.f("pk_challenge")),
    )
    op.create_table(
        "challenge_record",
        sa.Column("segment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segment_id"],
            ["segment.segment_id"],
            name=op.f("fk_challenge_record_segment_id_segment"),
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.lease_id"], name=op.f("fk_challenge_record_lease_id_lease")
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_challenge_record")),
        sa.UniqueConstraint("lease_id", "number", name=op.f("uq_challenge_record_lease_id_number")),
    )
    for column in (
        sa.Column("house_task", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("files_checked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("auditor", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("challenge_digest", sa.LargeBinary(), nullable=True),
    ):
        op.add_column("segment", column)
    op.execute("UPDATE segment SET house_task = 'recompute' WHERE state = 'committed'")
    op.execute(
        sa.text(
            "UPDATE segment SET files_checked = :yes WHERE state IN ('verified', 'settled')"
        ).bindparams(sa.bindparam("yes", True, sa.Boolean()))
    )
    _index("ix_segment_house_task", "segment", ["house_task", "segment_id"], _HOUSE_TASK)
    # Zero until the device lists its offer again, which it does whenever it connects.
    op.add_column(
        "offer", sa.Column("audit_lot", sa.BigInteger(), nullable=False, server_default="0")
    )
    _index("ix_offer_auditors", "offer", ["audit_lot"], _AUDITOR)


def _audits() -> None:
    """Audits by workers of other accounts, as leases whose fences count apart."""
    op.add_column(
        "job", sa.Column("audit_fence", sa.BigInteger(), nullable=False, server_default="0")
    )
    with op.batch_alter_table("lease") as batch_op:
        batch_op.add_column(
            sa.Column("audit_id", sa.Text(), nullable=False, server_default=sa.text("''"))
        )
        batch_op.drop_constraint(op.f("uq_lease_job_id_fence"), type_="unique")
        batch_op.drop_index("uq_lease_one_live_per_chain")
    for name, columns, where in (
        (
            "uq_lease_one_live_per_chain",
            ["job_id"],
            "chain AND audit_id = '' AND state IN ('offered', 'running')",
        ),
        ("uq_lease_job_id_fence", ["job_id", "fence"], "audit_id = ''"),
        ("uq_lease_audit_fence", ["job_id", "fence"], "audit_id <> ''"),
    ):
        _index(name, "lease", columns, where, unique=True)
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("segment_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("question_id", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("auditors", sa.Text(), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("auditor_key_id", sa.Text(), nullable=False),
        sa.Column("auditor_account_id", sa.Text(), nullable=False),
        sa.Column("auditor_inner", sa.LargeBinary(), nullable=False),
        sa.Column("auditor_secret", sa.LargeBinary(), nullable=False),
        sa.Column("worker_secret", sa.LargeBinary(), nullable=False),
        sa.Column("seal_number", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "purpose IN ('audit', 'cross', 'canary', 'dual')",
            name=op.f("ck_audit_purpose_known"),
        ),
        sa.CheckConstraint(
            "phase IN ('delayed', 'asking', 'sealing', 'auditor-opens', 'worker-opens', "
            "'dispute', 'house', 'ended')",
            name=op.f("ck_audit_phase_known"),
        ),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name=op.f("fk_audit_segment_id_segment")
        ),
        sa.ForeignKeyConstraint(
            ["question_id"], ["segment.segment_id"], name=op.f("fk_audit_question_id_segment")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_audit_job_id_job")),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_job_id", "audit", ["job_id"])
    op.create_index("ix_audit_segment", "audit", ["segment_id"])
    is_open = "phase <> 'ended'"
    untold = "phase IN ('auditor-opens', 'worker-opens') AND NOT told"
    _index("ix_audit_open_deadline", "audit", ["deadline_us"], is_open)
    _index("ix_audit_untold", "audit", ["created_at_us"], untold)
    one_open = f"purpose <> 'cross' AND {is_open}"
    _index("uq_audit_one_open", "audit", ["segment_id"], one_open, unique=True)
    op.create_table(
        "audit_commitment",
        sa.Column("commitment_digest", sa.LargeBinary(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("segment_index", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("price_nano", sa.BigInteger(), nullable=False),
        sa.Column("root_before", sa.LargeBinary(), nullable=False),
        sa.Column("root_after", sa.LargeBinary(), nullable=False),
        sa.Column("outputs_root", sa.LargeBinary(), nullable=False),
        sa.Column("outputs_artifact", sa.Text(), nullable=False),
        sa.Column("checkpoint_artifact", sa.Text(), nullable=False),
        sa.Column("sealed_inner", sa.LargeBinary(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("rate_ppm", sa.BigInteger(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("challenge_value", sa.LargeBinary(), nullable=False),
        sa.Column("committed_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_id"], ["audit.audit_id"], name=op.f("fk_audit_commitment_audit_id_audit")
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.lease_id"], name=op.f("fk_audit_commitment_lease_id_lease")
        ),
        sa.PrimaryKeyConstraint("commitment_digest", name=op.f("pk_audit_commitment")),
        sa.UniqueConstraint(
            "lease_id", "segment_index", name=op.f("uq_audit_commitment_lease_id_segment_index")
        ),
    )
    op.create_index("ix_audit_commitment_audit_id", "audit_commitment", ["audit_id"])


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    clause = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=clause, postgresql_where=clause
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
