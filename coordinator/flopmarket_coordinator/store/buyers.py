"""Budgets of accounts, grants of CI keys, and what jobs count against them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.market.money import Nano
from flopmarket.trust.documents import NO_LIMIT_NANO
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import KeyRow
from flopmarket_coordinator.store.rows import Rows, given

_budget = schema.budget
_grant = schema.key_grant
_job = schema.job
_job_grant = schema.job_grant

_USED = sa.func.coalesce(sa.func.sum(_job.c.billed_nano + _job.c.hold_nano), 0)
"""What jobs count with: billed for good, and held now."""


@dataclass(frozen=True, slots=True)
class GrantRow:
    """What an owner allows a CI key; the row with the largest number of a key is valid."""

    number: int
    key_id: str
    cap_nano: Nano
    monthly_nano: Nano
    expires_at_us: int
    envelope: bytes
    signed_at_us: int


_GRANTS = Rows(GrantRow, _grant)
_GRANT_OF_JOB = _GRANTS.select.join(_job_grant, _job_grant.c.grant_number == _grant.c.number).where(
    _job_grant.c.job_id == given("which")
)
_KEYS = Rows(KeyRow, schema.account_key)


def monthly_limit(tx: Transaction, account_id: str) -> Nano:
    """An account's limit of a month; ``NO_LIMIT_NANO`` when it set none."""
    query = sa.select(_budget.c.monthly_nano).where(_budget.c.account_id == account_id)
    found = tx.connection.execute(query).scalar()
    return NO_LIMIT_NANO if found is None else int(found)


def budget_signed_at_us(tx: Transaction, account_id: str) -> int:
    """When the account's present limit was signed, 0 for never."""
    query = sa.select(_budget.c.signed_at_us).where(_budget.c.account_id == account_id)
    return int(tx.connection.execute(query).scalar() or 0)


def set_monthly_limit(
    tx: Transaction, account_id: str, monthly_nano: Nano, envelope: bytes, signed_at_us: int
) -> None:
    """The account's limit from now on."""
    values = {"monthly_nano": monthly_nano, "envelope": envelope, "signed_at_us": signed_at_us}
    changed = tx.connection.execute(
        sa.update(_budget).where(_budget.c.account_id == account_id).values(**values)
    ).rowcount
    if not changed:
        tx.connection.execute(sa.insert(_budget).values(account_id=account_id, **values))


def add_grant(
    tx: Transaction,
    key_id: str,
    *,
    cap_nano: Nano,
    monthly_nano: Nano,
    expires_at_us: int,
    envelope: bytes,
    signed_at_us: int,
) -> None:
    """A grant that takes the place of the key's earlier ones."""
    tx.connection.execute(
        sa.insert(_grant).values(
            key_id=key_id,
            cap_nano=cap_nano,
            monthly_nano=monthly_nano,
            expires_at_us=expires_at_us,
            envelope=envelope,
            signed_at_us=signed_at_us,
        )
    )


def grant(tx: Transaction, key_id: str) -> GrantRow | None:
    """The valid grant of a CI key, None when it never had one."""
    query = (
        _GRANTS.select.where(_grant.c.key_id == key_id).order_by(_grant.c.number.desc()).limit(1)
    )
    return _GRANTS.first(tx, query)


def add_job_grant(tx: Transaction, job_id: str, key_id: str, grant_number: int) -> None:
    """This job was signed by that CI key under that grant."""
    tx.connection.execute(
        sa.insert(_job_grant).values(job_id=job_id, key_id=key_id, grant_number=grant_number)
    )


def grant_of_job(tx: Transaction, job_id: str) -> GrantRow | None:
    """The grant a job was signed under, None when its owner signed it."""
    return _GRANTS.first(tx, _GRANT_OF_JOB, {"which": job_id})


def used_by_account(tx: Transaction, account_id: str, since_us: int, until_us: int) -> Nano:
    """What jobs that the account submitted in [since, until) have billed and still hold."""
    query = sa.select(_USED).where(
        _job.c.buyer == account_id,
        _job.c.created_at_us >= since_us,
        _job.c.created_at_us < until_us,
    )
    return int(tx.connection.execute(query).scalar_one())


def used_by_key(tx: Transaction, key_id: str, since_us: int = 0, until_us: int = 2**62) -> Nano:
    """The same of jobs that one CI key signed; of all time by default."""
    query = (
        sa.select(_USED)
        .join(_job_grant, _job_grant.c.job_id == _job.c.job_id)
        .where(
            _job_grant.c.key_id == key_id,
            _job.c.created_at_us >= since_us,
            _job.c.created_at_us < until_us,
        )
    )
    return int(tx.connection.execute(query).scalar_one())


def ci_keys(tx: Transaction, account_id: str, limit: int) -> list[KeyRow]:
    """CI keys of an account, oldest first."""
    key = schema.account_key
    query = (
        _KEYS.select.where(key.c.account_id == account_id, key.c.role == KeyRole.CI.value)
        .order_by(key.c.created_at_us, key.c.key_id)
        .limit(limit)
    )
    return _KEYS.all(tx, query)


def set_label(tx: Transaction, key_id: str, label: str) -> None:
    """Call a key otherwise."""
    key = schema.account_key
    tx.connection.execute(sa.update(key).where(key.c.key_id == key_id).values(label=label))
