"""Tables of benchmark challenges: where each device stands, and what came of its challenges."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text

from flopmarket_coordinator.store.schema.base import big, blob, flag, metadata, partial, text

OPEN_CHALLENGE = "ended_at_us = 0"

# One row for each offer that was ever challenged.
benchmark = sa.Table(
    "benchmark",
    metadata,
    Column("offer_id", Text, sa.ForeignKey("offer.offer_id"), primary_key=True),
    blob("identity"),  # digest of the device as it was when it was proved
    big("flops_per_second"),  # running average of accepted challenges, 0 before the first
    big("joint_flops_per_second"),  # of the newest one at the same moment as others; 0 without
    text("joint_with"),  # JSON: offers of that moment
    text("sharing"),  # '', separate, one_card, unclear
    big("bandwidth_bytes_per_second"),
    big("memory_bytes"),
    big("delivered_ppm"),  # running average over verified work, 0 before the first
    big("proved_at_us"),  # 0 while unproved
    text("reason"),
    text("detail"),
    big("challenged_at_us"),
    big("failures"),  # in a row, void challenges included
    big("next_try_us"),
    Column("report", LargeBinary, nullable=True),  # of the newest accepted one, signed
)

benchmark_challenge = sa.Table(
    "benchmark_challenge",
    metadata,
    Column("challenge_id", Text, primary_key=True),
    Column("offer_id", Text, sa.ForeignKey("offer.offer_id"), nullable=False),
    text("group_id"),  # challenges of one moment; empty for one alone
    flag("joint"),
    blob("plan"),
    text("reason"),
    text("detail"),
    Column("flops_per_second", BigInteger, nullable=False),
    big("asked_at_us"),
    big("ended_at_us"),  # 0 while open
)
partial("uq_benchmark_challenge_open", OPEN_CHALLENGE, benchmark_challenge.c.offer_id)
Index(
    "ix_benchmark_challenge_offer",
    benchmark_challenge.c.offer_id,
    benchmark_challenge.c.ended_at_us,
)
