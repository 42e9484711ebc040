"""Tables of the draws beside audits: who watches auditors, by a second audit or by a canary."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, LargeBinary, Text

from flopmarket_coordinator.store.schema.base import big, blob, metadata, text

cross_draw = sa.Table(
    "cross_draw",
    metadata,
    # The drawn segment whose auditor has answered.
    Column(
        "segment_id",
        BigInteger,
        sa.ForeignKey("segment.segment_id"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), nullable=False),
    big("number"),  # of the draws of the producing lease, from one
    blob("document"),  # an encoded CrossRecord
    blob("answer"),  # the auditor's signed commitment
    text("auditor_key_id"),
    text("audit_id"),  # of the second audit; empty where none was begun
    sa.UniqueConstraint("lease_id", "number"),
)

canary_day = sa.Table(
    "canary_day",
    metadata,
    Column("day", BigInteger, primary_key=True, autoincrement=False),  # since the epoch, UTC
    blob("envelope"),  # signed CanaryTerms
    big("created_at_us"),
)

canary_draw = sa.Table(
    "canary_draw",
    metadata,
    Column(
        "day",
        BigInteger,
        sa.ForeignKey("canary_day.day"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    blob("document"),  # an encoded CanaryRecord
    # The encoded list that a canary was chosen from.
    Column("known", LargeBinary, sa.ForeignKey("challenge_document.digest"), nullable=True),
    text("audit_id"),  # of the canary; empty where none went out
)
