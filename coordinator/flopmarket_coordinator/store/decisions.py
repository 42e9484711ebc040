"""The trail of decisions, and operators' keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction

_decision = schema.decision
_operator = schema.operator_key

MAX_DETAIL_CHARACTERS = 1_000


class DecisionKind(StrEnum):
    """What was decided. Orders of operators have the names of ``AdminOrder``."""

    DRAIN = "drain"
    RESUME = "resume"
    BAN = "ban"
    UNBAN = "unban"
    REFUND = "refund"
    SET = "set"
    UNSET = "unset"
    ADD_OPERATOR = "add-operator"
    REMOVE_OPERATOR = "remove-operator"
    ADD_HOUSE = "add-house"
    REMOVE_HOUSE = "remove-house"
    INVITE = "invite"
    REVOKE_INVITE = "revoke-invite"
    ACCOUNT_INVITED = "account-invited"
    SLASH = "slash"
    STRIKE = "strike"
    QUARANTINE = "quarantine"
    LOOK_BACK = "look-back"
    OFFER_REFUSED = "offer-refused"
    WITHDRAWAL = "withdrawal"
    DEPOSIT = "deposit"
    COIN_GRANT = "coin-grant"
    WEBHOOK_DISABLED = "webhook-disabled"
    ARTIFACTS_COLLECTED = "artifacts-collected"


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the trail. ``cause`` is the id of what led to it."""

    number: int
    time_us: int
    kind: str
    subject: str
    actor_key_id: str
    cause: str
    reason: str
    detail: str


_COLUMNS = [_decision.c[name] for name in Decision.__dataclass_fields__]
_ADD = sa.insert(_decision).returning(_decision.c.number)


def record(
    tx: Transaction,
    kind: DecisionKind,
    subject: str,
    *,
    actor: str,
    cause: str,
    reason: str,
    detail: str = "",
    order_envelope: bytes | None = None,
) -> Decision:
    """Write one line, in the transaction that does what it says. ``actor`` is a key id."""
    values = {
        "time_us": tx.now_us,
        "kind": kind.value,
        "subject": subject,
        "actor_key_id": actor,
        "cause": cause,
        "reason": reason,
        "detail": detail[:MAX_DETAIL_CHARACTERS],
    }
    row = {**values, "order_envelope": order_envelope}
    number = tx.connection.execute(_ADD, row).scalar_one()
    return Decision(number, **values)  # type: ignore[arg-type]


def find(tx: Transaction, subject: str, kind: str, before: int, limit: int) -> list[Decision]:
    """Decisions with numbers below ``before``, newest first; empty texts match everything."""
    query = sa.select(*_COLUMNS).where(_decision.c.number < before)
    if subject:
        query = query.where(_decision.c.subject == subject)
    if kind:
        query = query.where(_decision.c.kind == kind)
    query = query.order_by(_decision.c.number.desc()).limit(limit)
    return [Decision(**row) for row in tx.connection.execute(query).mappings()]


def numbered(tx: Transaction, number: int) -> Decision:
    """The decision of this number, which exists."""
    query = sa.select(*_COLUMNS).where(_decision.c.number == number)
    return Decision(**tx.connection.execute(query).mappings().one())


def operator_keys(tx: Transaction) -> dict[str, PublicKey]:
    """Keys that orders added, by id."""
    query = sa.select(_operator.c.public_key).where(sa.not_(_operator.c.removed))
    found = (PublicKey(raw) for raw in tx.connection.execute(query).scalars())
    return {key.key_id: key for key in found}


def put_operator(tx: Transaction, key: PublicKey, *, removed: bool) -> None:
    """Add an operator's key, or take it away; a key taken away never comes back."""
    changed = tx.connection.execute(
        sa.update(_operator).where(_operator.c.key_id == key.key_id).values(removed=removed)
    ).rowcount
    if not changed:
        tx.connection.execute(
            sa.insert(_operator).values(
                key_id=key.key_id, public_key=key.raw, removed=removed, created_at_us=tx.now_us
            )
        )


def was_operator(tx: Transaction, key_id: str) -> bool:
    """Whether the key was added and taken away."""
    query = sa.select(_operator.c.removed).where(_operator.c.key_id == key_id)
    return bool(tx.connection.execute(query).scalar())
