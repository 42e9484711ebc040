"""Tables of penalties: strikes, devices in quarantine, and what is promised to auditors."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Text

from flopmarket_coordinator.core.penalties import AuditPayState, StrikeKind
from flopmarket_coordinator.store.schema.base import (
    Serial,
    big,
    metadata,
    one_of,
    reference,
    text,
)

strike = sa.Table(
    "strike",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    text("device_key_id"),
    reference("account_id", "account.account_id"),
    text("kind"),
    big("unit"),  # segments that the device had delivered before
    big("segment_id"),  # 0 where it is about none
    text("reason"),
    big("created_at_us"),
    one_of("kind", StrikeKind),
)
Index("ix_strike_device", strike.c.device_key_id, strike.c.number)

quarantine = sa.Table(
    "quarantine",
    metadata,
    Column("device_key_id", Text, primary_key=True),
    text("reason"),
    big("since_us"),
    Column("until_us", BigInteger, nullable=False),
    big("lifted_us"),  # 0 until an offer after a new admission is listed
)

audit_pay = sa.Table(
    "audit_pay",
    metadata,
    Column("lease_id", Text, primary_key=True),
    reference("account_id", "account.account_id"),
    big("from_audit_nano"),  # reserved on platform/audit
    big("from_fee_nano"),  # reserved on platform/fee
    big("paid_nano"),
    text("state"),
    one_of("state", AuditPayState),
)
