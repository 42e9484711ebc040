"""The table of step audits: segments whose workers answer for steps that were drawn."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Text

from flopmarket_coordinator.core.auditing import StepPhase
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

OPEN_STEP_AUDIT = "phase <> 'ended'"
UNTOLD_STEP_AUDIT = "phase IN ('roots', 'states') AND NOT told"
STEPS_AGAINST = "outcome IN ('DIFFERS', 'FAULT', 'SECOND_OPINION', 'UNUSABLE')"

step_audit = sa.Table(
    "step_audit",
    metadata,
    Column("step_audit_id", Text, primary_key=True),
    Column("segment_id", BigInteger, sa.ForeignKey("segment.segment_id"), nullable=False),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    text("phase"),
    big("number"),  # of the claims of the lease, which draws its steps; 0 before there is one
    blob("value"),  # of the lease's chain, which draws the steps; empty before the claim
    flag("with_values"),
    blob("claim"),  # envelopes of StepClaim and StepAnswer, as received
    blob("answer"),
    text("files"),  # artifacts that the two name, one a line
    flag("told"),  # whether the worker was asked on its connection
    big("deadline_us"),
    text("outcome"),
    text("detail"),
    big("created_at_us"),
    big("ended_at_us"),
    one_of("phase", StepPhase),
)
some("ix_step_audit_open_deadline", OPEN_STEP_AUDIT, step_audit.c.deadline_us)
some("ix_step_audit_untold", UNTOLD_STEP_AUDIT, step_audit.c.created_at_us)
some("ix_step_audit_against", STEPS_AGAINST, step_audit.c.created_at_us)
sa.Index("ix_step_audit_segment", step_audit.c.segment_id)
partial("uq_step_audit_one_open", OPEN_STEP_AUDIT, step_audit.c.segment_id)
