"""Prediction: what leases expected, what devices delivered, and the factors learned from it.

Jobs also keep what their segments come to, which was counted at every commitment before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LEASE_COLUMNS = (
    ("roofline_picoseconds", "0"),
    ("factor_ppm", "1000000"),
    ("setup_roofline_us", "0"),
    ("setup_predicted_us", "0"),
    ("accepted_at_us", "0"),
    ("measured_us", "0"),
)
JOB_COLUMNS = ("settled_steps", "checked_steps", "live_steps", "unaudited_segments")
DELIVERY_FIGURES = (
    "step_picoseconds",
    "roofline_us",
    "predicted_us",
    "measured_us",
    "setup_roofline_us",
    "setup_predicted_us",
    "setup_measured_us",
    "settled_at_us",
)


def upgrade() -> None:
    """Leases that exist keep their terms; nothing is learned from what they still deliver."""
    with op.batch_alter_table("lease") as batch_op:
        batch_op.add_column(
            sa.Column("work_class", sa.Text(), nullable=False, server_default=sa.text("''"))
        )
        for name, default in LEASE_COLUMNS:
            batch_op.add_column(
                sa.Column(name, sa.BigInteger(), nullable=False, server_default=default)
            )
    for name in JOB_COLUMNS:
        op.add_column("job", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    # Every job has ended: what was verified is paid or void, and nothing waits.
    job, segment = (
        sa.table(name, *(sa.column(column) for column in columns))
        for name, columns in (
            ("job", ("job_id", *JOB_COLUMNS)),
            ("segment", ("job_id", "state", "steps")),
        )
    )
    paid = (
        sa.select(sa.func.coalesce(sa.func.sum(segment.c.steps), 0))
        .where(segment.c.job_id == job.c.job_id, segment.c.state == "settled")
        .scalar_subquery()
    )
    op.execute(sa.update(job).values(settled_steps=paid, checked_steps=paid, live_steps=paid))
    op.create_table(
        "delivery",
        sa.Column("segment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("work_class", sa.Text(), nullable=False),
        sa.Column("program", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in DELIVERY_FIGURES),
        sa.ForeignKeyConstraint(
            ["segment_id"], ["segment.segment_id"], name=op.f("fk_delivery_segment_id_segment")
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_delivery")),
    )
    op.create_index("ix_delivery_settled", "delivery", ["settled_at_us"])
    op.create_index("ix_delivery_offer_settled", "delivery", ["offer_id", "settled_at_us"])
    op.create_index("ix_delivery_class_settled", "delivery", ["work_class", "settled_at_us"])
    op.create_table(
        "promise",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("offer_id", sa.Text(), nullable=False),
        sa.Column("step_ppm", sa.BigInteger(), nullable=False),
        sa.Column("setup_ppm", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_promise_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", "offer_id", name=op.f("pk_promise")),
    )
    op.create_index(op.f("ix_promise_offer_id"), "promise", ["offer_id"])
    op.create_table(
        "calibration",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("ratios_ppm", sa.Text(), nullable=False),
        sa.Column("factor_ppm", sa.BigInteger(), nullable=False),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "family", name=op.f("pk_calibration")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
