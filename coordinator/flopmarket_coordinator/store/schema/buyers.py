"""Tables of what owners decide about spending, and of who is told about their jobs."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Text

from flopmarket_coordinator.core.webhooks import DeliveryState
from flopmarket_coordinator.store.schema.base import (
    Serial,
    big,
    blob,
    flag,
    metadata,
    one_of,
    reference,
    text,
)
from flopmarket_coordinator.store.schema.jobs import job, segment

budget = sa.Table(
    "budget",
    metadata,
    Column("account_id", Text, sa.ForeignKey("account.account_id"), primary_key=True),
    big("monthly_nano"),
    blob("envelope"),  # the owner's signed BudgetChange, as received
    big("signed_at_us"),
    CheckConstraint("monthly_nano >= 0", name="not_negative"),
)

key_grant = sa.Table(
    "key_grant",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("key_id", Text, sa.ForeignKey("account_key.key_id"), nullable=False),
    big("cap_nano"),
    big("monthly_nano"),
    big("expires_at_us"),
    blob("envelope"),  # the owner's signed DeviceGrant, as received
    big("signed_at_us"),
    CheckConstraint("cap_nano >= 0 AND monthly_nano >= 0", name="not_negative"),
)
Index("ix_key_grant_key_number", key_grant.c.key_id, key_grant.c.number)

Index("ix_job_buyer_created", job.c.buyer, job.c.created_at_us)
Index("ix_segment_job_step", segment.c.job_id, segment.c.first_step, segment.c.segment_id)

# Jobs that CI keys signed, each with the grant that was valid then.
job_grant = sa.Table(
    "job_grant",
    metadata,
    Column("job_id", Text, sa.ForeignKey("job.job_id"), primary_key=True),
    Column("key_id", Text, nullable=False, index=True),
    Column("grant_number", BigInteger, sa.ForeignKey("key_grant.number"), nullable=False),
)

webhook = sa.Table(
    "webhook",
    metadata,
    Column("webhook_id", Text, primary_key=True),
    reference("account_id", "account.account_id"),
    text("url"),
    text("events"),  # names with blanks between them
    flag("enabled"),
    text("disabled_reason"),
    big("failures"),
    text("last_error"),
    big("created_at_us"),
    big("delivered_at_us"),
    sa.UniqueConstraint("account_id", "url"),
)

webhook_delivery = sa.Table(
    "webhook_delivery",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("message_id", Text, nullable=False, unique=True),
    Column(
        "webhook_id",
        Text,
        sa.ForeignKey("webhook.webhook_id", ondelete="CASCADE"),
        nullable=False,
    ),
    text("event"),
    text("body"),
    text("state"),
    big("attempts"),
    big("due_at_us"),
    text("last_error"),
    big("created_at_us"),
    big("ended_at_us"),
    one_of("state", DeliveryState),
)
Index("ix_webhook_delivery_state_due", webhook_delivery.c.state, webhook_delivery.c.due_at_us)
Index("ix_webhook_delivery_webhook_state", webhook_delivery.c.webhook_id, webhook_delivery.c.state)
