"""Accounts, keys, sessions, used nonces, answered requests."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.core.changes import KeyChanged, SessionsEnded
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.parts import parts
from flopmarket_coordinator.store.records import KeyRow
from flopmarket_coordinator.store.rows import Rows, any_of, given

_key = schema.account_key
_session = schema.session
_nonce = schema.used_nonce
_request = schema.request
# Asked for by nearly every command: building a statement costs more than running it.
_ADD_ACCOUNT = sa.insert(schema.account)
_DISPLAY_NAME = sa.select(schema.account.c.display_name).where(
    schema.account.c.account_id == given("which")
)
_KEYS = Rows(KeyRow, _key)
_ADD_KEY = sa.insert(_key)
_BY_ID = _KEYS.select.where(_key.c.key_id == given("which"))
_BANNED_REASONS = sa.select(_key.c.key_id, _key.c.revoked, _key.c.banned_reason).where(
    _key.c.key_id.in_(any_of("some"))
)
_LINEAGE = sa.select(_key.c.lineage).where(_key.c.key_id == given("which"))
_SAME_LINEAGE = (
    sa.select(_key.c.key_id)
    .where(sa.or_(_key.c.key_id == given("first"), _key.c.lineage == given("first")))
    .order_by(_key.c.created_at_us, _key.c.key_id)
)
_SUCCESSOR = sa.select(_key.c.successor).where(_key.c.key_id == given("which"))
_ADD_SESSION = sa.insert(_session)
_SESSION = sa.select(_session).where(
    _session.c.token_hash == given("which"), _session.c.expires_at_us > given("now_us")
)
_FORGET_EXPIRED = tuple(
    sa.delete(table).where(table.c.expires_at_us <= given("now_us")) for table in (_session, _nonce)
)
_ADD_NONCE = sa.insert(_nonce)
_ANSWERED = sa.select(_request.c.payload_hash, _request.c.answer).where(
    _request.c.account_id == given("account"),
    _request.c.method == given("called"),
    _request.c.request_id == given("which"),
)
_ADD_REQUEST = sa.insert(_request)

ENDED = sa.and_(
    _key.c.ended_at_us > 0, sa.or_(_key.c.successor == "", _key.c.role != KeyRole.DEVICE.value)
)
"""Keys that act no more. A rotated device key still finishes what it began."""


def add_account(tx: Transaction, account_id: str, display_name: str) -> None:
    """A new account."""
    values = {
        "account_id": account_id,
        "display_name": display_name,
        "created_at_us": tx.now_us,
    }
    tx.connection.execute(_ADD_ACCOUNT, values)


def display_name(tx: Transaction, account_id: str) -> str | None:
    """Name of an account, None when there is no such account."""
    return tx.connection.execute(_DISPLAY_NAME, {"which": account_id}).scalar()


def add_key(
    tx: Transaction,
    key: PublicKey,
    account_id: str,
    role: KeyRole,
    label: str,
    lineage: str = "",
) -> None:
    """Register a key for an account; ``lineage`` when it takes another key's place."""
    tx.connection.execute(
        _ADD_KEY,
        {
            "key_id": key.key_id,
            "account_id": account_id,
            "role": role.value,
            "public_key": key.raw,
            "label": label,
            "created_at_us": tx.now_us,
            "revoked": False,
            "banned_reason": "",
            "lineage": lineage,
            "successor": "",
            "ended_at_us": 0,
        },
    )


def key(tx: Transaction, key_id: str) -> KeyRow | None:
    """A registered key."""
    return _KEYS.first(tx, _BY_ID, {"which": key_id})


def banned_reasons(tx: Transaction, key_ids: Sequence[str]) -> dict[str, str]:
    """Which of these keys may not act, or are unknown, and why."""
    reasons = dict.fromkeys(key_ids, "")
    for some in parts(key_ids):
        for key_id, revoked, reason in tx.connection.execute(_BANNED_REASONS, {"some": some}):
            if revoked:
                reasons[key_id] = reason
            else:
                del reasons[key_id]
    return reasons


def lineage(tx: Transaction, key_id: str) -> str:
    """The first of the keys that took each other's place up to this one; itself when unknown.

    What is remembered of a device is remembered under this: a rotated key has a new id only.
    """
    return tx.connection.execute(_LINEAGE, {"which": key_id}).scalar() or key_id


def same_lineage(tx: Transaction, key_id: str) -> list[str]:
    """Ids of all keys of a key's lineage, itself included, in order of their making."""
    first = lineage(tx, key_id)
    return list(tx.connection.execute(_SAME_LINEAGE, {"first": first}).scalars())


def answers_for(tx: Transaction, key_id: str) -> list[str]:
    """Keys whose work is to be answered for by whoever holds this one, itself first.

    The key that took their place answers for all of its lineage; a key whose own place is taken
    only for itself.
    """
    if tx.connection.execute(_SUCCESSOR, {"which": key_id}).scalar():
        return [key_id]
    return [key_id, *(each for each in same_lineage(tx, key_id) if each != key_id)]


def ban_key(tx: Transaction, key_id: str, reason: str) -> list[str]:
    """From now on this key may not act, nor those it took the place of, nor those that took its.

    Their ids: a key cannot be rotated out of a ban.
    """
    banned = same_lineage(tx, key_id)
    tx.connection.execute(
        sa.update(_key).where(_key.c.key_id.in_(banned)).values(revoked=True, banned_reason=reason)
    )
    for each in banned:
        tx.note(KeyChanged(each))
        end_sessions(tx, each)
    return banned


def unban_key(tx: Transaction, key_id: str) -> bool:
    """The key may act again, with its lineage; whether it was banned.

    What its owner ended meanwhile, or before, stays ended.
    """
    keys = same_lineage(tx, key_id)
    changed = tx.connection.execute(
        sa.update(_key)
        .where(_key.c.key_id.in_(keys), _key.c.banned_reason != "")
        .values(revoked=ENDED, banned_reason="")
    ).rowcount
    for each in keys:
        tx.note(KeyChanged(each))
    return bool(changed)


def keys_of_account(tx: Transaction, account_id: str) -> list[str]:
    """Ids of all keys of an account."""
    query = sa.select(_key.c.key_id).where(_key.c.account_id == account_id).order_by(_key.c.key_id)
    return list(tx.connection.execute(query).scalars())


def end_sessions(tx: Transaction, key_id: str) -> None:
    """Tokens of this key are worth nothing any more."""
    tx.note(SessionsEnded(key_id))
    tx.connection.execute(sa.delete(_session).where(_session.c.key_id == key_id))


def add_session(
    tx: Transaction,
    token_hash: bytes,
    account_id: str,
    key_id: str,
    role: str,
    expires_at_us: int,
    purpose: str = "",
) -> None:
    """Remember a bearer token by its hash."""
    tx.connection.execute(
        _ADD_SESSION,
        {
            "token_hash": token_hash,
            "account_id": account_id,
            "key_id": key_id,
            "role": role,
            "expires_at_us": expires_at_us,
            "created_at_us": tx.now_us,
            "purpose": purpose,
        },
    )


def session(tx: Transaction, token_hash: bytes) -> sa.RowMapping | None:
    """The session of a token that has not expired."""
    values = {"which": token_hash, "now_us": tx.now_us}
    return tx.connection.execute(_SESSION, values).mappings().first()


def forget_expired(tx: Transaction) -> None:
    """Drop sessions and nonces whose time is over."""
    for statement in _FORGET_EXPIRED:
        tx.connection.execute(statement, {"now_us": tx.now_us})


class StoredReplayCache:
    """A :class:`~flopmarket.trust.replay.ReplayCache` in the database of one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def remember(self, nonce: bytes, key_id: str, expires_at_us: int) -> bool:
        """See :class:`~flopmarket.trust.replay.ReplayCache`."""
        expires_at_us = min(expires_at_us, 2**63 - 1)
        values = {"key_id": key_id, "nonce": nonce, "expires_at_us": expires_at_us}
        try:
            with self._tx.connection.begin_nested():
                self._tx.connection.execute(_ADD_NONCE, values)
        except IntegrityError:
            return False
        return True


def answered(
    tx: Transaction, account_id: str, method: str, request_id: str
) -> tuple[bytes, str] | None:
    """``(payload hash, answer)`` of a request that was answered before."""
    values = {"account": account_id, "called": method, "which": request_id}
    row = tx.connection.execute(_ANSWERED, values).first()
    return None if row is None else (row.payload_hash, row.answer)


def remember_answer(
    tx: Transaction, account_id: str, method: str, request_id: str, payload_hash: bytes, answer: str
) -> None:
    """Record what a request was answered with, in the transaction that did it."""
    tx.connection.execute(
        _ADD_REQUEST,
        {
            "account_id": account_id,
            "method": method,
            "request_id": request_id,
            "payload_hash": payload_hash,
            "answer": answer,
            "created_at_us": tx.now_us,
        },
    )
