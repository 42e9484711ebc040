"""Benchmark challenges: the standing of each offer, the open ones, and the last that ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket.limits import MAX_KEPT_CHALLENGES
from flopmarket_coordinator.core.changes import OfferChanged
from flopmarket_coordinator.core.lifecycle import LIVE_LEASE_STATES
from flopmarket_coordinator.core.proving import Standing
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import constant, given

_benchmark = schema.benchmark
_challenge = schema.benchmark_challenge
_offer = schema.offer
_worker = schema.worker
_lease = schema.lease
_key = schema.account_key
_LIVE = [state.value for state in LIVE_LEASE_STATES]
_FIELDS = [field.name for field in dataclasses.fields(Standing)]
_STANDING = sa.select(_benchmark).where(_benchmark.c.offer_id == given("which"))


@dataclass(frozen=True, slots=True)
class Present:
    """A listed offer whose worker is connected. ``busy``: a live lease or an open challenge."""

    offer_id: str
    device_key_id: str
    account_id: str
    device_id: str
    card_fingerprint: str
    terms: bytes
    busy: bool
    next_try_us: int
    failures: int
    joint_with: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChallengeRow:
    """One challenge; ``ended_at_us`` 0 while it is open."""

    challenge_id: str
    offer_id: str
    group_id: str
    joint: bool
    plan: bytes
    reason: str
    detail: str
    flops_per_second: int
    asked_at_us: int
    ended_at_us: int


def is_challenged(offer_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether an offer has an open challenge, as part of a query."""
    is_open = _challenge.c.ended_at_us == constant(0)
    return sa.exists().where(_challenge.c.offer_id == offer_id, is_open)


def standing(tx: Transaction, offer_id: str) -> Standing | None:
    """Where an offer stands; None when it was never challenged."""
    row = tx.connection.execute(_STANDING, {"which": offer_id}).mappings().first()
    return None if row is None else _standing(row)


def all_standings(tx: Transaction) -> dict[str, Standing]:
    """Where every offer stands that was challenged."""
    rows = tx.connection.execute(sa.select(_benchmark)).mappings()
    return {row["offer_id"]: _standing(row) for row in rows}


def put_standing(tx: Transaction, offer_id: str, value: Standing) -> None:
    """Remember where an offer stands."""
    values = {name: getattr(value, name) for name in _FIELDS}
    values["joint_with"] = json.dumps(value.joint_with)
    update = sa.update(_benchmark).where(_benchmark.c.offer_id == offer_id).values(**values)
    if not tx.connection.execute(update).rowcount:
        tx.connection.execute(sa.insert(_benchmark).values(offer_id=offer_id, **values))
    tx.note(OfferChanged(offer_id))


def due(tx: Transaction, since_us: int, limit: int) -> list[str]:
    """Present, idle offers whose time has come, those that waited longest first."""
    when = sa.func.coalesce(_benchmark.c.next_try_us, 0)
    query = (
        _present(since_us, _offer.c.offer_id)
        .where(when <= tx.now_us, ~_busy())
        .order_by(when, _offer.c.offer_id)
        .limit(limit)
    )
    return list(tx.connection.execute(query).scalars())


def present(tx: Transaction, since_us: int, limit: int) -> list[Present]:
    """Every listed offer whose worker gave a sign of life since then, by id."""
    query = (
        _present(
            since_us,
            _offer.c.offer_id,
            _offer.c.device_key_id,
            _offer.c.account_id,
            _offer.c.device_id,
            _offer.c.card_fingerprint,
            _offer.c.terms,
            _busy().label("busy"),
            sa.func.coalesce(_benchmark.c.next_try_us, 0).label("next_try_us"),
            sa.func.coalesce(_benchmark.c.failures, 0).label("failures"),
            sa.func.coalesce(_benchmark.c.joint_with, "[]").label("joint_with"),
        )
        .order_by(_offer.c.offer_id)
        .limit(limit)
    )
    return [
        Present(**{**row, "busy": bool(row["busy"]), "joint_with": _names(row["joint_with"])})
        for row in tx.connection.execute(query).mappings()
    ]


def hasten(tx: Transaction, offer_ids: Collection[str]) -> None:
    """These offers are due now, unless a refused challenge has them wait."""
    tx.connection.execute(
        sa.update(_benchmark)
        .where(_benchmark.c.offer_id.in_(list(offer_ids)), _benchmark.c.failures == 0)
        .values(next_try_us=tx.now_us)
    )


def open_challenge(tx: Transaction, row: ChallengeRow) -> None:
    """A device is asked now."""
    tx.connection.execute(sa.insert(_challenge).values(**dataclasses.asdict(row)))
    tx.note(OfferChanged(row.offer_id))


def challenge(tx: Transaction, challenge_id: str) -> ChallengeRow | None:
    """One challenge, open or ended."""
    rows = _challenges(tx, _challenge.c.challenge_id == challenge_id)
    return rows[0] if rows else None


def open_challenges(tx: Transaction) -> list[ChallengeRow]:
    """All that have not ended."""
    return _challenges(tx, _challenge.c.ended_at_us == constant(0))


def challenges_of_group(tx: Transaction, group_id: str) -> list[ChallengeRow]:
    """Challenges of one moment."""
    return _challenges(tx, _challenge.c.group_id == group_id)


def end_challenge(tx: Transaction, row: ChallengeRow, outcome: Mapping[str, str | int]) -> None:
    """A challenge is over; the oldest ones of the offer are forgotten."""
    tx.connection.execute(
        sa.update(_challenge)
        .where(_challenge.c.challenge_id == row.challenge_id)
        .values(ended_at_us=tx.now_us, **outcome)
    )
    kept = (
        sa.select(_challenge.c.challenge_id)
        .where(_challenge.c.offer_id == row.offer_id)
        .order_by(_challenge.c.asked_at_us.desc(), _challenge.c.challenge_id)
        .limit(MAX_KEPT_CHALLENGES)
    )
    tx.connection.execute(
        sa.delete(_challenge).where(
            _challenge.c.offer_id == row.offer_id,
            _challenge.c.ended_at_us > 0,
            _challenge.c.challenge_id.not_in(kept),
        )
    )
    tx.note(OfferChanged(row.offer_id))


def _present(since_us: int, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return (
        sa.select(*columns)
        .select_from(_offer)
        .join(_worker, _worker.c.device_key_id == _offer.c.device_key_id)
        .join(_key, _key.c.key_id == _offer.c.device_key_id)
        .outerjoin(_benchmark, _benchmark.c.offer_id == _offer.c.offer_id)
        .where(
            _offer.c.listed,
            _worker.c.connected,
            _worker.c.last_seen_us >= since_us,
            ~_key.c.revoked,
        )
    )


def _busy() -> sa.ColumnElement[bool]:
    leased = sa.exists().where(_lease.c.offer_id == _offer.c.offer_id, _lease.c.state.in_(_LIVE))
    return leased | is_challenged(_offer.c.offer_id)


def _challenges(tx: Transaction, where: sa.ColumnElement[bool]) -> list[ChallengeRow]:
    query = (
        sa.select(_challenge)
        .where(where)
        .order_by(_challenge.c.asked_at_us, _challenge.c.challenge_id)
    )
    return [ChallengeRow(**row) for row in tx.connection.execute(query).mappings()]


def _standing(row: sa.RowMapping) -> Standing:
    values = {name: row[name] for name in _FIELDS}
    return Standing(**{**values, "joint_with": _names(values["joint_with"])})


def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
