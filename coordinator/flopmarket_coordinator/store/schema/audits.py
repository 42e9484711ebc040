"""Tables of audits: segments that workers of other accounts recompute, and what they answered."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, LargeBinary, Text

from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.store.schema.base import (
    big,
    blob,
    flag,
    metadata,
    one_of,
    partial,
    some,
    text,
)

OPEN_AUDIT = "phase <> 'ended'"
UNTOLD_AUDIT = "phase IN ('auditor-opens', 'worker-opens') AND NOT told"
ARBITRATED = "arbitrated_at_us > 0"

audit = sa.Table(
    "audit",
    metadata,
    Column("audit_id", Text, primary_key=True),
    text("purpose"),
    Column("segment_id", BigInteger, sa.ForeignKey("segment.segment_id"), nullable=False),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    # The segment that is compared: the drawn one, or an earlier one of the way that differed.
    Column("question_id", BigInteger, sa.ForeignKey("segment.segment_id"), nullable=False),
    text("phase"),
    text("auditors"),  # device keys in the order drawn, one a line
    big("asked"),
    big("deadline_us"),
    text("lease_id"),  # of the auditor in charge; empty while nobody has the work
    text("auditor_key_id"),
    text("auditor_account_id"),
    blob("auditor_inner"),
    blob("auditor_secret"),  # envelopes of the openings, as received
    blob("worker_secret"),
    big("seal_number"),  # of the answers to one producing lease; 0 before there is one
    flag("told"),  # whether the party that is to open was asked on its connection
    text("outcome"),
    text("finding"),  # what the house found, where it recomputed
    big("created_at_us"),
    big("ended_at_us"),
    # Of an arbiter's: the audit whose difference it decides.
    Column("parent_id", Text, nullable=False, server_default=sa.text("''")),
    big("until_us", 0),  # until when auditors are asked again, where nobody else can look
    big("arbitrated_at_us", 0),  # since when its class alone decides: two differ, or nobody came
    one_of("purpose", AuditPurpose),
    one_of("phase", AuditPhase),
)
some("ix_audit_open_deadline", OPEN_AUDIT, audit.c.deadline_us)
some("ix_audit_untold", UNTOLD_AUDIT, audit.c.created_at_us)
sa.Index("ix_audit_segment", audit.c.segment_id)
some("ix_audit_parent", "parent_id <> ''", audit.c.parent_id)
some("ix_audit_arbitrated", ARBITRATED, audit.c.arbitrated_at_us)
partial(
    "uq_audit_one_open",
    f"purpose NOT IN ('cross', 'arbiter') AND {OPEN_AUDIT}",
    audit.c.segment_id,
)

audit_commitment = sa.Table(
    "audit_commitment",
    metadata,
    Column("commitment_digest", LargeBinary, primary_key=True),
    Column("audit_id", Text, sa.ForeignKey("audit.audit_id"), nullable=False, index=True),
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), nullable=False),
    Column("segment_index", BigInteger, nullable=False),
    big("first_step"),
    big("steps"),
    big("price_nano"),
    blob("root_before"),
    blob("root_after"),
    blob("outputs_root"),
    text("outputs_artifact"),
    text("checkpoint_artifact"),
    blob("sealed_inner"),
    blob("commitment"),
    big("rate_ppm"),
    flag("audited"),
    blob("challenge_value"),
    big("committed_at_us"),
    sa.UniqueConstraint("lease_id", "segment_index"),
)
