"""Tables of draws: the terms of each lease, what they name by digest, and what was drawn."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, LargeBinary, Text

from flopmarket_coordinator.store.schema.base import big, blob, flag, metadata

challenge_document = sa.Table(
    "challenge_document",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    blob("document"),  # encoded AuditRules or AuditorList; many leases share one
)


def _named(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, sa.ForeignKey("challenge_document.digest"), nullable=False)


challenge = sa.Table(
    "challenge",
    metadata,
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), primary_key=True),
    blob("envelope"),  # signed ChallengeTerms
    _named("rules"),
    _named("candidates"),
    _named("house"),
    big("audit_steps", 0),  # drawn from each audited segment; 0: the house recomputes it whole
    big("right_verdicts"),  # recorded so far, of segments of this lease that were drawn
)

challenge_record = sa.Table(
    "challenge_record",
    metadata,
    Column(
        "segment_id",
        BigInteger,
        sa.ForeignKey("segment.segment_id"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), nullable=False),
    big("number"),  # of the lease's commitments, from one
    flag("audited"),
    blob("document"),  # an encoded ChallengeRecord
    sa.UniqueConstraint("lease_id", "number"),
)
