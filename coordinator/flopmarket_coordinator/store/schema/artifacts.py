"""Tables of stored bytes and of who may read them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Index, Text

from flopmarket_coordinator.store.schema.base import big, metadata

artifact = sa.Table(
    "artifact",
    metadata,
    Column("digest", Text, primary_key=True),
    big("size_bytes"),
    big("created_at_us"),
)

artifact_grant = sa.Table(
    "artifact_grant",
    metadata,
    Column("digest", Text, sa.ForeignKey("artifact.digest"), primary_key=True),
    Column("account_id", Text, primary_key=True),
    big("created_at_us", 0),  # of the newest upload by this account
)
Index("ix_artifact_grant_account", artifact_grant.c.account_id)
