"""The tables, for SQLite and PostgreSQL; every constraint has a name, so migrations can alter it.

Ids are text, digests 32 raw bytes, instants BIGINT microseconds since the Unix epoch, amounts
BIGINT nano-units, states TEXT with a CHECK, signed bytes as received. What must never happen to
money or leases is a constraint here: a transfer is immutable, a hold is resolved once, no account
but ``external`` goes below zero, a chain has one live lease, an offer runs one lease.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, LargeBinary, Text

from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.core.ledger import EXTERNAL, TransferKind
from flopmarket_coordinator.core.lifecycle import JobState, LeaseState, SegmentState

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

# A 64-bit key that SQLite numbers by itself must be spelled INTEGER there.
_Serial = BigInteger().with_variant(sa.Integer(), "sqlite")
_LIVE_LEASE = "state IN ('offered', 'running')"
_LIVE_SEGMENT = "state IN ('committed', 'verified', 'settled')"


def _one_of(name: str, values: Iterable[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({listed})", name=f"{name}_known")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _big(name: str, default: int | None = None) -> Column[int]:
    server_default = None if default is None else sa.text(str(default))
    return Column(name, BigInteger, nullable=False, server_default=server_default)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean(create_constraint=False), nullable=False)


def _blob(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


def _reference(name: str, target: str) -> Column[str]:
    return Column(name, Text, sa.ForeignKey(target), nullable=False)


def _partial(name: str, where: str, *columns: Column[str] | Column[int]) -> Index:
    clause = sa.text(where)
    return Index(name, *columns, unique=True, sqlite_where=clause, postgresql_where=clause)


meta = sa.Table("meta", metadata, Column("name", Text, primary_key=True), _big("value"))

account = sa.Table(
    "account",
    metadata,
    Column("account_id", Text, primary_key=True),
    _text("display_name"),
    _big("created_at_us"),
)

account_key = sa.Table(
    "account_key",
    metadata,
    Column("key_id", Text, primary_key=True),
    _reference("account_id", "account.account_id"),
    _text("role"),
    _blob("public_key"),
    _text("label"),
    _big("created_at_us"),
    _flag("revoked"),
    _text("banned_reason"),
    _one_of("role", KeyRole),
)

session = sa.Table(
    "session",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    _text("account_id"),
    _text("key_id"),
    _text("role"),
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
    _blob("payload_hash"),
    _text("answer"),
    _big("created_at_us"),
)

ledger_account = sa.Table(
    "ledger_account",
    metadata,
    Column("ledger_account_id", Text, primary_key=True),
    _big("balance_nano"),
    _big("reserved_nano"),
    CheckConstraint(
        f"ledger_account_id = '{EXTERNAL}' OR balance_nano >= reserved_nano", name="covered"
    ),
    CheckConstraint("reserved_nano >= 0", name="reserved_not_negative"),
)

transfer = sa.Table(
    "transfer",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("transfer_id", Text, nullable=False, unique=True),
    _text("kind"),
    Column(
        "debit", Text, sa.ForeignKey("ledger_account.ledger_account_id"), nullable=False, index=True
    ),
    Column(
        "credit",
        Text,
        sa.ForeignKey("ledger_account.ledger_account_id"),
        nullable=False,
        index=True,
    ),
    _big("amount_nano"),
    Column("pending_id", Text, sa.ForeignKey("transfer.transfer_id"), nullable=True),
    _text("purpose"),
    Column("job_id", Text, nullable=False, index=True),
    _text("reference"),
    _big("created_at_us"),
    CheckConstraint("amount_nano > 0", name="amount_positive"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("(kind IN ('post', 'void')) = (pending_id IS NOT NULL)", name="resolves"),
    _one_of("kind", TransferKind),
)
_partial("uq_transfer_resolved_once", "pending_id IS NOT NULL", transfer.c.pending_id)

offer = sa.Table(
    "offer",
    metadata,
    Column("offer_id", Text, primary_key=True),
    _reference("account_id", "account.account_id"),
    Column("device_key_id", Text, sa.ForeignKey("account_key.key_id"), nullable=False, index=True),
    _text("device_id"),
    _blob("envelope"),
    _blob("terms"),
    _flag("listed"),
    _big("updated_at_us"),
    _big("verified_segments"),
    _big("rejected_segments"),
    _big("streak"),
)

worker = sa.Table(
    "worker",
    metadata,
    Column("device_key_id", Text, sa.ForeignKey("account_key.key_id"), primary_key=True),
    _text("session_id"),
    _text("agent_version"),
    _flag("connected"),
    _big("last_seen_us"),
)

artifact = sa.Table(
    "artifact",
    metadata,
    Column("digest", Text, primary_key=True),
    _big("size_bytes"),
    _big("created_at_us"),
)

artifact_grant = sa.Table(
    "artifact_grant",
    metadata,
    Column("digest", Text, sa.ForeignKey("artifact.digest"), primary_key=True),
    Column("account_id", Text, primary_key=True),
)

job = sa.Table(
    "job",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("job_id", Text, nullable=False, unique=True),
    _reference("buyer", "account.account_id"),
    _text("title"),
    _text("kind"),
    _text("state"),
    _text("reason"),
    _text("ending"),  # final state it is on its way to, once outstanding audits are done
    _blob("envelope"),
    _blob("spec"),
    _text("program_artifact"),
    _text("frozen_artifact"),
    _text("state_artifact"),
    _text("data_artifact"),
    _flag("stateless"),
    _text("work"),
    _big("peak_memory_bytes"),
    _big("steps"),
    _big("segment_steps"),
    _big("ceiling_nano"),
    _big("billed_nano"),
    _big("fee_nano"),
    _text("hold_id"),
    _big("hold_number"),
    _big("hold_nano"),
    _big("fence"),
    _big("event_count"),
    _big("created_at_us"),
    _big("deadline_us"),
    _big("ended_at_us"),
    Column("receipt", LargeBinary, nullable=True),
    CheckConstraint("billed_nano <= ceiling_nano", name="within_ceiling"),
    _one_of("state", JobState),
)
Index("ix_job_buyer_number", job.c.buyer, job.c.number)
Index("ix_job_state", job.c.state)

lease = sa.Table(
    "lease",
    metadata,
    Column("lease_id", Text, primary_key=True),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    _big("fence"),
    Column("offer_id", Text, sa.ForeignKey("offer.offer_id"), nullable=False),
    Column("device_key_id", Text, nullable=False, index=True),
    _text("device_id"),
    _text("device_name"),
    _text("account_id"),
    _flag("chain"),
    _big("first_step"),
    _big("step_count"),
    _big("first_segment"),
    _text("state_artifact"),
    _blob("state_root"),
    _big("ask_nano_per_hour"),
    _big("step_picoseconds"),
    _big("next_step"),
    _big("next_segment"),
    _blob("next_root"),
    _text("state"),
    _text("reason"),
    _text("detail"),
    _flag("told"),  # whether the worker was told the offer, or the revocation
    _big("created_at_us"),
    _big("expires_at_us"),
    _big("ended_at_us"),
    sa.UniqueConstraint("job_id", "fence"),
    _one_of("state", LeaseState),
)
_partial("uq_lease_one_live_per_chain", f"chain AND {_LIVE_LEASE}", lease.c.job_id)
_partial("uq_lease_one_live_per_offer", _LIVE_LEASE, lease.c.offer_id)
Index("ix_lease_state_expires", lease.c.state, lease.c.expires_at_us)

segment = sa.Table(
    "segment",
    metadata,
    Column("segment_id", _Serial, primary_key=True, autoincrement=True),
    Column("job_id", Text, sa.ForeignKey("job.job_id"), nullable=False, index=True),
    Column("lease_id", Text, sa.ForeignKey("lease.lease_id"), nullable=False, index=True),
    Column("segment_index", BigInteger, nullable=False),
    _big("first_step"),
    _big("steps"),
    _text("state"),
    _text("reason"),
    _text("account_id"),
    _text("device_key_id"),
    _text("device_id"),
    _text("device_name"),
    _text("offer_id"),
    _big("price_nano"),
    _big("fee_nano"),
    _big("to_bond_nano"),
    _big("to_held_nano"),
    _text("held_state"),  # '', held, released, forfeited: where to_held_nano is
    _blob("root_before"),
    _blob("root_after"),
    _blob("outputs_root"),
    _text("outputs_artifact"),
    _text("checkpoint_artifact"),
    _blob("commitment"),
    Column("commitment_digest", LargeBinary, nullable=False, unique=True),
    Column("verdict", LargeBinary, nullable=True),
    _flag("verdict_accepted"),
    _big("committed_at_us"),
    _one_of("state", SegmentState),
)
_partial("uq_segment_live_step", _LIVE_SEGMENT, segment.c.job_id, segment.c.first_step)
Index("ix_segment_state", segment.c.state, segment.c.segment_id)

event = sa.Table(
    "event",
    metadata,
    Column("job_id", Text, sa.ForeignKey("job.job_id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    _big("time_us"),
    _text("kind"),
    _text("text"),
    _text("cause"),
)
