"""Tables of prediction: what each segment was expected to take and took, and what it taught."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Text

from flopmarket_coordinator.store.schema.base import big, metadata, text

delivery = sa.Table(
    "delivery",
    metadata,
    Column(
        "segment_id",
        BigInteger,
        sa.ForeignKey("segment.segment_id"),
        primary_key=True,
        autoincrement=False,
    ),
    text("offer_id"),
    text("device_name"),
    text("work_class"),
    text("program"),
    big("step_picoseconds"),  # of one step by the benchmark alone: decides the family
    big("roofline_us"),
    big("predicted_us"),
    big("measured_us"),  # what is believed of the worker's report; 0 when it made none
    big("setup_roofline_us"),
    big("setup_predicted_us"),
    big("setup_measured_us"),
    big("settled_at_us"),  # 0 until the segment is paid
)
Index("ix_delivery_settled", delivery.c.settled_at_us)
Index("ix_delivery_offer_settled", delivery.c.offer_id, delivery.c.settled_at_us)
Index("ix_delivery_class_settled", delivery.c.work_class, delivery.c.settled_at_us)

promise = sa.Table(
    "promise",
    metadata,
    Column("job_id", Text, sa.ForeignKey("job.job_id"), primary_key=True),
    Column("offer_id", Text, primary_key=True, index=True),
    big("step_ppm"),
    big("setup_ppm"),
)

calibration = sa.Table(
    "calibration",
    metadata,
    Column("scope", Text, primary_key=True),  # an offer, or the house that audits
    Column("family", Text, primary_key=True),
    text("ratios_ppm"),  # JSON, [program or "", ratio] each, oldest first
    big("factor_ppm"),
    big("deliveries"),
    big("updated_at_us"),
)
