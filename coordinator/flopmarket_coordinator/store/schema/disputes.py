"""Tables of disputes: the question, and every event in order, so that a new process goes on."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, Text

from flopmarket_coordinator.store.schema.base import (
    Serial,
    big,
    blob,
    metadata,
    reference,
    some,
    text,
)

OPEN_DISPUTE = "ended_at_us = 0"

dispute = sa.Table(
    "dispute",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("dispute_id", Text, nullable=False, unique=True),  # hex digest of the opening
    reference("job_id", "job.job_id"),
    Column(
        "segment_id",
        BigInteger().with_variant(sa.Integer(), "sqlite"),
        sa.ForeignKey("segment.segment_id"),
        nullable=False,
    ),
    text("audit_id"),  # empty where no audit of another worker led to it
    blob("opening"),
    text("producer_key_id"),
    text("producer_account"),
    text("auditor_key_id"),  # the coordinator's own when the house is the party
    text("auditor_account"),
    text("auditor_device_id"),
    text("replay_artifact"),  # the durable state from which the parties run
    big("replay_step"),
    blob("replay_root"),
    text("level"),  # where the search stands, as the referee found it last; -1: nowhere
    big("step"),
    big("operation"),
    big("tile"),
    big("deadline_us"),
    big("event_count"),
    big("handled_count"),  # events that the level, place and deadline come from
    big("asked_again"),
    big("opened_at_us"),
    big("ended_at_us"),
    text("outcome"),
    text("reason"),
    Column("verdict", LargeBinary, nullable=True),  # signed DisputeVerdict
    text("transcript_artifact"),
    CheckConstraint("handled_count <= event_count", name="handled"),
    CheckConstraint(
        "(ended_at_us = 0) = (verdict IS NULL) AND (ended_at_us = 0) = (outcome = '')", name="ended"
    ),
)
some("ix_dispute_open", OPEN_DISPUTE, dispute.c.deadline_us)
Index("ix_dispute_job", dispute.c.job_id)
Index("ix_dispute_producer", dispute.c.producer_account, dispute.c.number)
Index("ix_dispute_auditor", dispute.c.auditor_account, dispute.c.number)

dispute_event = sa.Table(
    "dispute_event",
    metadata,
    Column("dispute_id", Text, sa.ForeignKey("dispute.dispute_id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    # move, clock, again; kept: a checksum list; refused: a move whose list is not the signed one
    text("kind"),
    text("party"),
    big("at_us"),
    blob("envelope"),
    blob("payload"),  # the list, or nothing where it is an artifact
    text("payload_artifact"),
)
