"""Tables of the supply side: offers and the workers behind them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Text

from flopmarket_coordinator.store.schema.base import (
    AUDITOR,
    IN_CLASS,
    big,
    blob,
    flag,
    metadata,
    reference,
    some,
    text,
)

offer = sa.Table(
    "offer",
    metadata,
    Column("offer_id", Text, primary_key=True),
    reference("account_id", "account.account_id"),
    Column("device_key_id", Text, sa.ForeignKey("account_key.key_id"), nullable=False, index=True),
    text("device_id"),
    blob("envelope"),
    blob("terms"),
    flag("listed"),
    big("updated_at_us"),
    big("verified_segments"),
    big("rejected_segments"),
    big("streak"),
    big("audit_lot", 0),  # where its key stands among those that audits are drawn from
    # Whether it takes jobs in exact mode; its class of devices (hex), if it takes those of one.
    Column("exact", sa.Boolean(), nullable=False, server_default=sa.true()),
    Column("device_class", Text, nullable=False, server_default=sa.text("''")),
    # What its owner tells of the very card, in hex; empty when not told.
    Column("card_fingerprint", Text, nullable=False, server_default=sa.text("''")),
)
some("ix_offer_auditors", AUDITOR, offer.c.audit_lot)
some("ix_offer_class", IN_CLASS, offer.c.device_class, offer.c.audit_lot)

worker = sa.Table(
    "worker",
    metadata,
    Column("device_key_id", Text, sa.ForeignKey("account_key.key_id"), primary_key=True),
    text("session_id"),
    text("agent_version"),
    flag("connected"),
    big("last_seen_us"),
)
