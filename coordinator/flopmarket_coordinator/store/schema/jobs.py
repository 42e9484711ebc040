"""Tables of the demand side: jobs, leases, segments and their story."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, Text

from flopmarket_coordinator.core.lifecycle import JobState, LeaseState, SegmentState
from flopmarket_coordinator.store.schema.base import (
    HOUSE_TASK,
    LIVE_LEASE,
    LIVE_SEGMENT,
    UNFINISHED_JOB,
    UNTOLD_LEASE,
    WAITING_PAY,
    Serial,
    big,
    blob,
    flag,
    metadata,
    one_of,
    partial,
    reference,
    some,
    text,
)

job = sa.Table(
    "job",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("job_id", Text, nullable=False, unique=True),
    reference("buyer", "account.account_id"),
    text("title"),
    text("kind"),
    text("state"),
    text("reason"),
    text("ending"),  # final state it is on its way to, once outstanding audits are done
    blob("envelope"),
    blob("spec"),
    text("program_artifact"),
    text("frozen_artifact"),
    text("state_artifact"),
    text("data_artifact"),
    flag("stateless"),
    text("work"),
    big("peak_memory_bytes"),
    big("steps"),
    big("segment_steps"),
    big("ceiling_nano"),
    big("billed_nano"),
    big("fee_nano"),
    text("hold_id"),
    big("hold_number"),
    big("hold_nano"),
    big("fence"),
    big("event_count"),
    big("created_at_us"),
    big("deadline_us"),
    big("ended_at_us"),
    Column("receipt", LargeBinary, nullable=True),
    # What its segments come to, so that no commitment has to count them: steps paid without a gap,
    # steps verified without a gap, steps of live segments, segments that wait for an audit.
    big("settled_steps", 0),
    big("checked_steps", 0),
    big("live_steps", 0),
    big("unaudited_segments", 0),
    big("audit_fence", 0),  # audits count theirs apart
    # Level of verification; its share of every price and what it came to, which is billed too.
    Column("verification", Text, nullable=False, server_default=sa.text("'deter'")),
    big("surcharge_ppm", 0),
    big("surcharge_nano", 0),
    # What its verification relies on, and in class mode the class of devices (hex, else empty).
    Column("mode", Text, nullable=False, server_default=sa.text("'exact'")),
    Column("device_class", Text, nullable=False, server_default=sa.text("''")),
    # Of what was paid for segments that turned out wrong: what the buyer got back, and what even
    # the reserve lacked.
    big("returned_nano", 0),
    big("unreturned_nano", 0),
    CheckConstraint("billed_nano <= ceiling_nano", name="within_ceiling"),
    one_of("state", JobState),
)
Index("ix_job_buyer_number", job.c.buyer, job.c.number)
Index("ix_job_state", job.c.state)
some("ix_job_unfinished_deadline", UNFINISHED_JOB, job.c.deadline_us)

lease = sa.Table(
    "lease",
    metadata,
    Column("lease_id", Text, primary_key=True),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    big("fence"),
    Column("offer_id", Text, sa.ForeignKey("offer.offer_id"), nullable=False),
    Column("device_key_id", Text, nullable=False, index=True),
    text("device_id"),
    text("device_name"),
    text("account_id"),
    flag("chain"),
    big("first_step"),
    big("step_count"),
    big("first_segment"),
    text("state_artifact"),
    blob("state_root"),
    big("ask_nano_per_hour"),
    big("step_picoseconds"),
    big("next_step"),
    big("next_segment"),
    blob("next_root"),
    text("state"),
    text("reason"),
    text("detail"),
    flag("told"),  # whether the worker was told the offer, or the revocation
    big("created_at_us"),
    big("expires_at_us"),
    big("ended_at_us"),
    big("milliwatts", 0),  # power and its source as the offer stated them when it was leased
    Column("watts_source", Text, nullable=False, server_default=sa.text("'unknown'")),
    Column("work_class", Text, nullable=False, server_default=sa.text("''")),  # headline class
    big("roofline_picoseconds", 0),  # of one step, before the device's deliveries correct it
    big("factor_ppm", 1_000_000),
    big("setup_roofline_us", 0),
    big("setup_predicted_us", 0),
    big("accepted_at_us", 0),
    big("measured_us", 0),  # what was believed of the worker's reports so far
    # The audit that the lease is for. On the wire it looks like any other.
    Column("audit_id", Text, nullable=False, server_default=sa.text("''")),
    one_of("state", LeaseState),
)
partial("uq_lease_one_live_per_chain", f"chain AND audit_id = '' AND {LIVE_LEASE}", lease.c.job_id)
partial("uq_lease_job_id_fence", "audit_id = ''", lease.c.job_id, lease.c.fence)
partial("uq_lease_audit_fence", "audit_id <> ''", lease.c.job_id, lease.c.fence)
partial("uq_lease_one_live_per_offer", LIVE_LEASE, lease.c.offer_id)
Index("ix_lease_state_expires", lease.c.state, lease.c.expires_at_us)
some("ix_lease_untold", UNTOLD_LEASE, lease.c.created_at_us)

segment = sa.Table(
    "segment",
    metadata,
    Column("segment_id", Serial, primary_key=True, autoincrement=True),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), nullable=False, index=True),
    Column("segment_index", BigInteger, nullable=False),
    big("first_step"),
    big("steps"),
    text("state"),
    text("reason"),
    text("account_id"),
    text("device_key_id"),
    text("device_id"),
    text("device_name"),
    text("offer_id"),
    big("price_nano"),
    big("fee_nano"),
    big("to_bond_nano"),
    big("to_held_nano"),
    # Where to_held_nano is: '', held, waiting (the job ended), released, forfeited. The last one
    # before it is settled: the worker's part will go to the reserve.
    text("held_state"),
    blob("root_before"),
    blob("root_after"),
    blob("outputs_root"),
    text("outputs_artifact"),
    text("checkpoint_artifact"),
    blob("commitment"),
    Column("commitment_digest", LargeBinary, nullable=False, unique=True),
    Column("verdict", LargeBinary, nullable=True),
    flag("verdict_accepted"),
    big("committed_at_us"),
    big("settled_at_us", 0),  # 0 until it is paid
    big("trade_number", 0),  # 0 when nothing was printed on the tape
    # What the house still owes it ('', files, recompute), whether the house read its files and
    # found the committed roots in them, and whose key recomputed it ('' nobody's).
    Column("house_task", Text, nullable=False, server_default=sa.text("''")),
    Column("files_checked", sa.Boolean(), nullable=False, server_default=sa.false()),
    Column("auditor", Text, nullable=False, server_default=sa.text("''")),
    Column("challenge_digest", LargeBinary, nullable=True),
    big("surcharge_nano", 0),  # what the job's level of verification adds to the price
    big("to_audit_nano", 0),  # of its pay, what went to its worker's audits
    one_of("state", SegmentState),
)
Index("ix_segment_account", segment.c.account_id, segment.c.segment_id)
Index("ix_segment_device", segment.c.device_key_id, segment.c.segment_id)
some("ix_segment_waiting_account", WAITING_PAY, segment.c.account_id, segment.c.segment_id)
some("ix_segment_waiting_settled", WAITING_PAY, segment.c.settled_at_us)
partial("uq_segment_live_step", LIVE_SEGMENT, segment.c.job_id, segment.c.first_step)
partial("uq_segment_trade_number", "trade_number > 0", segment.c.trade_number)
Index("ix_segment_state", segment.c.state, segment.c.segment_id)
some("ix_segment_house_task", HOUSE_TASK, segment.c.house_task, segment.c.segment_id)

event = sa.Table(
    "event",
    metadata,
    Column("job_id", Text, sa.ForeignKey("job.job_id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    big("time_us"),
    text("kind"),
    text("text"),
    text("cause"),
)
