"""Tables of the operator: the trail of decisions, and the keys that may give orders."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Index, LargeBinary, Text

from flopmarket_coordinator.store.schema.base import Serial, big, blob, flag, metadata, text

decision = sa.Table(
    "decision",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    big("time_us"),
    text("kind"),
    text("subject"),
    text("actor_key_id"),
    text("cause"),
    text("reason"),
    text("detail"),
    Column("order_envelope", LargeBinary, nullable=True),  # None: the coordinator's own decision
)
Index("ix_decision_subject_number", decision.c.subject, decision.c.number)
Index("ix_decision_kind_number", decision.c.kind, decision.c.number)

operator_key = sa.Table(
    "operator_key",
    metadata,
    Column("key_id", Text, primary_key=True),
    blob("public_key"),
    flag("removed"),
    big("created_at_us"),
)
