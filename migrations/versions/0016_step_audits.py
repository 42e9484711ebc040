"""Audits of drawn steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OPEN = "phase <> 'ended'"
_UNTOLD = "phase IN ('roots', 'states') AND NOT told"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(create_constraint=False), nullable=False)


def upgrade() -> None:
    """Leases of before have their segments recomputed whole."""
    steps = sa.Column("audit_steps", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column("challenge", steps)
    op.create_table(
        "step_audit",
        _text("step_audit_id"),
        sa.Column("segment_id", sa.BigInteger(), nullable=False),
        _text("job_id"),
        _text("phase"),
        _big("number"),
        _blob("value"),
        _flag("with_values"),
        _blob("claim"),
        _blob("answer"),
        _text("files"),
        _flag("told"),
        _big("deadline_us"),
        _text("outcome"),
        _text("detail"),
        _big("created_at_us"),
        _big("ended_at_us"),
        sa.CheckConstraint(
            "phase IN ('roots', 'states', 'house', 'ended')", name="ck_step_audit_phase_known"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name="fk_step_audit_job_id_job"),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name="fk_step_audit_segment_id_segment"
        ),
        sa.PrimaryKeyConstraint("step_audit_id", name="pk_step_audit"),
    )
    op.create_index("ix_step_audit_job_id", "step_audit", ["job_id"])
    op.create_index("ix_step_audit_segment", "step_audit", ["segment_id"])
    for name, columns, where in (
        ("ix_step_audit_open_deadline", ["deadline_us"], _OPEN),
        ("ix_step_audit_untold", ["created_at_us"], _UNTOLD),
    ):
        op.create_index(
            name,
            "step_audit",
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index(
        "uq_step_audit_one_open",
        "step_audit",
        ["segment_id"],
        unique=True,
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
