"""Disputes about segments and everything that was said in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN = "ended_at_us = 0"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "dispute",
        sa.Column("number", _SERIAL, autoincrement=True, nullable=False),
        _text("dispute_id"),
        _text("job_id"),
        sa.Column("segment_id", _SERIAL, nullable=False),
        _text("audit_id"),
        _blob("opening"),
        _text("producer_key_id"),
        _text("producer_account"),
        _text("auditor_key_id"),
        _text("auditor_account"),
        _text("auditor_device_id"),
        _text("replay_artifact"),
        _big("replay_step"),
        _blob("replay_root"),
        _text("level"),
        _big("step"),
        _big("operation"),
        _big("tile"),
        _big("deadline_us"),
        _big("event_count"),
        _big("handled_count"),
        _big("asked_again"),
        _big("opened_at_us"),
        _big("ended_at_us"),
        _text("outcome"),
        _text("reason"),
        sa.Column("verdict", sa.LargeBinary(), nullable=True),
        _text("transcript_artifact"),
        sa.CheckConstraint("handled_count <= event_count", name="ck_dispute_handled"),
        sa.CheckConstraint(
            "(ended_at_us = 0) = (verdict IS NULL) AND (ended_at_us = 0) = (outcome = '')",
            name="ck_dispute_ended",
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name="fk_dispute_job_id_job"),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name="fk_dispute_segment_id_segment"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_dispute"),
        sa.UniqueConstraint("dispute_id", name="uq_dispute_dispute_id"),
    )
    clause = sa.text(_OPEN)
    op.create_index(
        "ix_dispute_open", "dispute", ["deadline_us"], sqlite_where=clause, postgresql_where=clause
    )
    op.create_index("ix_dispute_job", "dispute", ["job_id"])
    op.create_index("ix_dispute_producer", "dispute", ["producer_account", "number"])
    op.create_index("ix_dispute_auditor", "dispute", ["auditor_account", "number"])
    op.create_table(
        "dispute_event",
        _text("dispute_id"),
        _big("sequence"),
        _text("kind"),
        _text("party"),
        _big("at_us"),
        _blob("envelope"),
        _blob("payload"),
        _text("payload_artifact"),
        sa.ForeignKeyConstraint(
            ["dispute_id"], ["dispute.dispute_id"], name="fk_dispute_event_dispute_id_dispute"
        ),
        sa.PrimaryKeyConstraint("dispute_id", "sequence", name="pk_dispute_event"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
