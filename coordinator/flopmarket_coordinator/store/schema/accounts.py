"""Tables of accounts, their keys and sessions, answered requests, and single values."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, LargeBinary, Text

from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.store.schema.base import (
    big,
    blob,
    flag,
    metadata,
    one_of,
    reference,
    text,
)

meta = sa.Table("meta", metadata, Column("name", Text, primary_key=True), big("value"))

account = sa.Table(
    "account",
    metadata,
    Column("account_id", Text, primary_key=True),
    text("display_name"),
    big("created_at_us"),
)

account_key = sa.Table(
    "account_key",
    metadata,
    Column("key_id", Text, primary_key=True),
    reference("account_id", "account.account_id"),
    text("role"),
    blob("public_key"),
    text("label"),
    big("created_at_us"),
    flag("revoked"),
    text("banned_reason"),
    one_of("role", KeyRole),
)

session = sa.Table(
    "session",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    text("account_id"),
    text("key_id"),
    text("role"),
    Column("expires_at_us", BigInteger, nullable=False, index=True),
)

used_nonce = sa.Table(
    "used_nonce",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("nonce", LargeBinary, primary_key=True),
    Column("expires_at_us", BigInteger, nullable=False, index=True),
)

request = sa.Table(
    "request",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    blob("payload_hash"),
    text("answer"),
    big("created_at_us"),
)
