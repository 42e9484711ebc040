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

REGISTERED_ROLES = (
    KeyRole.OWNER, KeyRole.DEVICE, KeyRole.CI, KeyRole.OPERATOR, KeyRole.COORDINATOR
)  # fmt: skip

meta = sa.Table("meta", metadata, Column("name", Text, primary_key=True), big("value"))

account = sa.Table(
    "account",
    metadata,
    Column("account_id", Text, primary_key=True),
    text("display_name"),
    big("created_at_us"),
    big("audit_debt_nano", 0),  # for audits of its first units, until its pay has covered them
    big("frozen_until_us", 0),  # no withdrawals before
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
    Column("lineage", Text, nullable=False, server_default=sa.text("''")),  # '' for itself
    Column("successor", Text, nullable=False, server_default=sa.text("''")),  # after a rotation
    big("ended_at_us", 0),  # rotated or revoked by its owner then; 0 while in force
    Column("ended_by", LargeBinary, nullable=True),  # the document that ended it
    one_of("role", REGISTERED_ROLES),
)
sa.Index("ix_account_key_account_created", account_key.c.account_id, account_key.c.created_at_us)
sa.Index("ix_account_key_lineage", account_key.c.lineage)

# The chain of an account's owner keys (flopmarket.trust.ownership), each link as received.
ownership_link = sa.Table(
    "ownership_link",
    metadata,
    Column("account_id", Text, sa.ForeignKey("account.account_id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    text("owner_key_id"),  # who owns the account after it
    blob("envelope"),
    big("created_at_us"),
)

# A recovery that waits; at most one of an account.
recovery = sa.Table(
    "recovery",
    metadata,
    Column("account_id", Text, sa.ForeignKey("account.account_id"), primary_key=True),
    text("new_key_id"),
    blob("envelope"),
    big("started_at_us"),
    Column("due_at_us", BigInteger, nullable=False, index=True),
)

invitation = sa.Table(
    "invitation",
    metadata,
    Column("invitation_id", Text, primary_key=True),  # id of the invitation's key
    reference("account_id", "account.account_id"),
    blob("public_key"),
    text("label"),
    blob("envelope"),
    big("created_at_us"),
    big("expires_at_us"),
    big("revoked_at_us"),
    text("device_key_id"),  # who came with it; '' until then
    big("used_at_us"),
    Column("enrolment", LargeBinary, nullable=True),
)
sa.Index("ix_invitation_account_created", invitation.c.account_id, invitation.c.created_at_us)

# Invitations of operators, with each of which one account may be opened.
account_invitation = sa.Table(
    "account_invitation",
    metadata,
    Column("invitation_id", Text, primary_key=True),  # id of the invitation's key
    blob("public_key"),
    text("reason"),
    text("operator_key_id"),
    big("created_at_us"),
    big("expires_at_us"),
    big("revoked_at_us"),
    text("account_id"),  # that was opened with it; '' until then
    big("used_at_us"),
    Column("admission", LargeBinary, nullable=True),  # the document that used it, as received
)
sa.Index("ix_account_invitation_created", account_invitation.c.created_at_us)

session = sa.Table(
    "session",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    text("account_id"),
    text("key_id"),
    text("role"),
    Column("expires_at_us", BigInteger, nullable=False, index=True),
    big("created_at_us", 0),
    Column("purpose", Text, nullable=False, server_default=sa.text("''")),
)
sa.Index("ix_session_account", session.c.account_id)
sa.Index("ix_session_key", session.c.key_id)

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
