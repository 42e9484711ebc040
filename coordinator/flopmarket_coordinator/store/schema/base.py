"""What every table is made of, for SQLite and PostgreSQL; every constraint has a name, so that
migrations can alter it.

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

from flopmarket.trust.audit_policy import RULES

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

# A 64-bit key that SQLite numbers by itself must be spelled INTEGER there.
Serial = BigInteger().with_variant(sa.Integer(), "sqlite")
LIVE_LEASE = "state IN ('offered', 'running')"
LIVE_SEGMENT = "state IN ('committed', 'verified', 'settled')"
UNFINISHED_JOB = "state IN ('queued', 'running', 'verifying')"
AUDITOR = f"listed AND streak >= {RULES.onboarding_streak}"
IN_CLASS = "listed AND device_class <> ''"
HOUSE_TASK = "house_task <> ''"
WAITING_PAY = "held_state = 'waiting'"
UNTOLD_LEASE = "state IN ('revoked', 'expired') AND NOT told"


def one_of(name: str, values: Iterable[StrEnum]) -> CheckConstraint:
    """A CHECK that a column holds one of the values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({listed})", name=f"{name}_known")


def text(name: str) -> Column[str]:
    """A text that is always there; unknown is the empty text."""
    return Column(name, Text, nullable=False)


def big(name: str, default: int | None = None) -> Column[int]:
    """A signed 64-bit integer."""
    server_default = None if default is None else sa.text(str(default))
    return Column(name, BigInteger, nullable=False, server_default=server_default)


def flag(name: str) -> Column[bool]:
    """True or false."""
    return Column(name, Boolean(create_constraint=False), nullable=False)


def blob(name: str) -> Column[bytes]:
    """Bytes, stored as received."""
    return Column(name, LargeBinary, nullable=False)


def reference(name: str, target: str) -> Column[str]:
    """A text that names a row of another table."""
    return Column(name, Text, sa.ForeignKey(target), nullable=False)


def partial(name: str, where: str, *columns: Column[str] | Column[int]) -> Index:
    """A unique index over the rows that satisfy ``where``."""
    clause = sa.text(where)
    return Index(name, *columns, unique=True, sqlite_where=clause, postgresql_where=clause)


def some(name: str, where: str, *columns: Column[str] | Column[int]) -> Index:
    """An index over the rows that satisfy ``where``."""
    clause = sa.text(where)
    return Index(name, *columns, sqlite_where=clause, postgresql_where=clause)
