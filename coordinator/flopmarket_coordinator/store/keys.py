"""What becomes of keys: rotated and revoked ones, chains of owner keys, recoveries, sessions."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.core.changes import KeyChanged, SessionsEnded
from flopmarket_coordinator.store import identity, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import KeyRow
from flopmarket_coordinator.store.rows import Rows

_account = schema.account
_key = schema.account_key
_link = schema.ownership_link
_recovery = schema.recovery
_session = schema.session


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One link of an account's chain; ``owner_key_id`` owns the account after it."""

    account_id: str
    number: int
    owner_key_id: str
    envelope: bytes
    created_at_us: int


@dataclass(frozen=True, slots=True)
class RecoveryRow:
    """A recovery that waits until ``due_at_us``."""

    account_id: str
    new_key_id: str
    envelope: bytes
    started_at_us: int
    due_at_us: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """An open session. ``session_id`` names it and opens nothing."""

    session_id: str
    key_id: str
    role: str
    purpose: str
    created_at_us: int
    expires_at_us: int


_KEYS = Rows(KeyRow, _key)
_LINKS = Rows(LinkRow, _link)
_RECOVERIES = Rows(RecoveryRow, _recovery)


# --- keys -----------------------------------------------------------------------------------------


def of_account(tx: Transaction, account_id: str, limit: int) -> list[KeyRow]:
    """Keys of an account, oldest first."""
    query = (
        _KEYS.select.where(_key.c.account_id == account_id)
        .order_by(_key.c.created_at_us, _key.c.key_id)
        .limit(limit)
    )
    return _KEYS.all(tx, query)


def count(tx: Transaction, account_id: str) -> int:
    """How many keys an account has or had."""
    query = sa.select(sa.func.count()).where(_key.c.account_id == account_id)
    return int(tx.connection.execute(query).scalar_one())


def predecessor(tx: Transaction, key_id: str) -> KeyRow | None:
    """The key whose place this one took."""
    query = _KEYS.select.where(_key.c.successor == key_id)
    return _KEYS.first(tx, query)


def replace(tx: Transaction, old: KeyRow, new: PublicKey, document: bytes | None) -> None:
    """Another key takes the place of ``old``. A device's offers become the new key's, unlisted.

    Only a device key may still act, to finish what it began.
    """
    identity.add_key(
        tx, new, old.account_id, KeyRole(old.role), old.label, lineage=old.lineage or old.key_id
    )
    tx.connection.execute(
        sa.update(_key)
        .where(_key.c.key_id == old.key_id)
        .values(
            successor=new.key_id,
            ended_at_us=tx.now_us,
            ended_by=document,
            revoked=old.role != KeyRole.DEVICE.value,
        )
    )
    for table, column in (
        (schema.offer, schema.offer.c.device_key_id),
        (schema.key_grant, schema.key_grant.c.key_id),
        (schema.job_grant, schema.job_grant.c.key_id),
    ):
        moved = {column.name: new.key_id}
        tx.connection.execute(sa.update(table).where(column == old.key_id).values(**moved))
    tx.note(KeyChanged(old.key_id))
    tx.note(KeyChanged(new.key_id))


def revoke(tx: Transaction, key_id: str, document: bytes | None) -> None:
    """The owner ends a key, for ever."""
    tx.connection.execute(
        sa.update(_key)
        .where(_key.c.key_id == key_id)
        .values(revoked=True, ended_at_us=tx.now_us, ended_by=document)
    )
    tx.note(KeyChanged(key_id))
    identity.end_sessions(tx, key_id)


# --- owners ---------------------------------------------------------------------------------------


def links(tx: Transaction, account_id: str) -> list[LinkRow]:
    """The account's chain, oldest link first."""
    query = _LINKS.select.where(_link.c.account_id == account_id).order_by(_link.c.number)
    return _LINKS.all(tx, query)


def add_link(tx: Transaction, account_id: str, number: int, owner: str, envelope: bytes) -> None:
    """One more link."""
    tx.connection.execute(
        sa.insert(_link).values(
            account_id=account_id,
            number=number,
            owner_key_id=owner,
            envelope=envelope,
            created_at_us=tx.now_us,
        )
    )


def owner(tx: Transaction, account_id: str) -> KeyRow | None:
    """The key that owns the account now."""
    query = _KEYS.select.where(
        _key.c.account_id == account_id,
        _key.c.role == KeyRole.OWNER.value,
        _key.c.successor == "",
    )
    return _KEYS.first(tx, query)


def freeze(tx: Transaction, account_id: str, until_us: int) -> None:
    """No withdrawals of this account before then."""
    later = sa.case((_account.c.frozen_until_us > until_us, _account.c.frozen_until_us),
                    else_=until_us)  # fmt: skip
    tx.connection.execute(
        sa.update(_account).where(_account.c.account_id == account_id).values(frozen_until_us=later)
    )


def frozen_until_us(tx: Transaction, account_id: str) -> int:
    """When withdrawals are possible again; in the past when they are."""
    query = sa.select(_account.c.frozen_until_us).where(_account.c.account_id == account_id)
    return int(tx.connection.execute(query).scalar() or 0)


# --- recoveries -----------------------------------------------------------------------------------


def recovery(tx: Transaction, account_id: str) -> RecoveryRow | None:
    """The recovery of an account that waits."""
    query = _RECOVERIES.select.where(_recovery.c.account_id == account_id)
    return _RECOVERIES.first(tx, query)


def start_recovery(
    tx: Transaction, account_id: str, new_key_id: str, envelope: bytes, due_at_us: int
) -> None:
    """A recovery begins to wait."""
    tx.connection.execute(
        sa.insert(_recovery).values(
            account_id=account_id,
            new_key_id=new_key_id,
            envelope=envelope,
            started_at_us=tx.now_us,
            due_at_us=due_at_us,
        )
    )


def end_recovery(tx: Transaction, account_id: str) -> None:
    """Nothing waits any more."""
    tx.connection.execute(sa.delete(_recovery).where(_recovery.c.account_id == account_id))


def due_recoveries(tx: Transaction, limit: int) -> list[str]:
    """Accounts whose recovery has waited long enough."""
    query = (
        sa.select(_recovery.c.account_id)
        .where(_recovery.c.due_at_us <= tx.now_us)
        .order_by(_recovery.c.due_at_us, _recovery.c.account_id)
        .limit(limit)
    )
    return list(tx.connection.execute(query).scalars())


# --- sessions -------------------------------------------------------------------------------------


def sessions(tx: Transaction, account_id: str, limit: int) -> list[SessionRow]:
    """Open sessions of an account, newest first."""
    query = (
        sa.select(_session)
        .where(_session.c.account_id == account_id, _session.c.expires_at_us > tx.now_us)
        .order_by(_session.c.created_at_us.desc(), _session.c.token_hash)
        .limit(limit)
    )
    return [
        SessionRow(
            session_id(row["token_hash"]),
            row["key_id"],
            row["role"],
            row["purpose"],
            row["created_at_us"],
            row["expires_at_us"],
        )
        for row in tx.connection.execute(query).mappings()
    ]


def end_session(tx: Transaction, account_id: str, name: str) -> str | None:
    """End the session of that id; the key it was of, None when there is none."""
    query = sa.select(_session.c.token_hash, _session.c.key_id).where(
        _session.c.account_id == account_id
    )
    for token_hash, key_id in tx.connection.execute(query):
        if session_id(token_hash) == name:
            statement = sa.delete(_session).where(_session.c.token_hash == token_hash)
            tx.connection.execute(statement)
            tx.note(SessionsEnded(key_id, name))
            return str(key_id)
    return None


def session_id(token_hash: bytes) -> str:
    """A public name of a session: of the hash of its token, which opens nothing."""
    return token_hash.hex()[:32]


def end_sessions_of_account(tx: Transaction, account_id: str) -> list[str]:
    """End all sessions of an account; the keys they were of."""
    keys = list(
        tx.connection.execute(
            sa.select(_session.c.key_id).where(_session.c.account_id == account_id).distinct()
        ).scalars()
    )
    tx.connection.execute(sa.delete(_session).where(_session.c.account_id == account_id))
    for key_id in keys:
        tx.note(SessionsEnded(key_id))
    return keys
