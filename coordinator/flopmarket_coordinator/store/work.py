"""Offers, workers' presence, leases, artifacts and who may read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flopmarket_coordinator.core.changes import (
    EveryPresenceChanged,
    LeaseChanged,
    OfferChanged,
    PresenceChanged,
)
from flopmarket_coordinator.core.lifecycle import (
    LEASE_TRANSITIONS,
    LIVE_LEASE_STATES,
    LeaseState,
    check_transition,
)
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.parts import parts
from flopmarket_coordinator.store.records import LeaseRow, OfferRow, to_record

_offer = schema.offer
_worker = schema.worker
_lease = schema.lease
_artifact = schema.artifact
_grant = schema.artifact_grant
_meta = schema.meta
_LIVE = [state.value for state in LIVE_LEASE_STATES]
# Asked for by nearly every command: building a statement costs more than running it.
_LEASE_BY_ID = sa.select(_lease).where(_lease.c.lease_id == sa.bindparam("name"))


def put_offer(tx: Transaction, offer_id: str, values: Mapping[str, Any]) -> None:
    """List an offer, new or changed. What its device did so far stays."""
    changed = tx.connection.execute(
        sa.update(_offer).where(_offer.c.offer_id == offer_id).values(**values)
    ).rowcount
    if not changed:
        tx.connection.execute(
            sa.insert(_offer).values(
                offer_id=offer_id, verified_segments=0, rejected_segments=0, streak=0, **values
            )
        )
    tx.note(OfferChanged(offer_id))


def offer(tx: Transaction, offer_id: str) -> OfferRow | None:
    """An offer, listed or not."""
    row = (
        tx.connection.execute(sa.select(_offer).where(_offer.c.offer_id == offer_id))
        .mappings()
        .first()
    )
    return None if row is None else to_record(OfferRow, row)


def listed_offers(tx: Transaction, device_key_id: str) -> list[OfferRow]:
    """Offers of a key that are not withdrawn, by id."""
    query = (
        sa.select(_offer)
        .where(_offer.c.device_key_id == device_key_id, _offer.c.listed)
        .order_by(_offer.c.offer_id)
    )
    return [to_record(OfferRow, row) for row in tx.connection.execute(query).mappings()]


def offers_of_account(tx: Transaction, account_id: str, limit: int) -> list[OfferRow]:
    """Offers of an account, listed or not, those that changed last first."""
    query = (
        sa.select(_offer)
        .where(_offer.c.account_id == account_id)
        .order_by(_offer.c.updated_at_us.desc(), _offer.c.offer_id)
        .limit(limit)
    )
    return [to_record(OfferRow, row) for row in tx.connection.execute(query).mappings()]


def count_listed_offers(tx: Transaction) -> int:
    """How many offers are listed."""
    query = sa.select(sa.func.count()).select_from(_offer).where(_offer.c.listed)
    return int(tx.connection.execute(query).scalar_one())


def unlist_offers(tx: Transaction, device_key_id: str, keep: Collection[str] = ()) -> None:
    """Withdraw the offers of a key, except those kept."""
    withdrawn = tx.connection.execute(
        sa.update(_offer)
        .where(
            _offer.c.device_key_id == device_key_id,
            _offer.c.listed,
            _offer.c.offer_id.not_in(list(keep)),
        )
        .values(listed=False, updated_at_us=tx.now_us)
        .returning(_offer.c.offer_id)
    )
    for offer_id in withdrawn.scalars():
        tx.note(OfferChanged(offer_id))


def count_outcome(tx: Transaction, offer_id: str, *, right: bool) -> None:
    """Remember one audited segment of a device."""
    values: dict[str, Any]
    if right:
        values = {
            "verified_segments": _offer.c.verified_segments + 1,
            "streak": _offer.c.streak + 1,
        }
    else:
        values = {"rejected_segments": _offer.c.rejected_segments + 1, "streak": 0}
    tx.connection.execute(sa.update(_offer).where(_offer.c.offer_id == offer_id).values(**values))
    tx.note(OfferChanged(offer_id))


def end_streak(tx: Transaction, keys: Collection[str]) -> None:
    """A device was found wrong in something that is no segment of its own."""
    ended = tx.connection.execute(
        sa.update(_offer)
        .where(_offer.c.device_key_id.in_(keys))
        .values(streak=0)
        .returning(_offer.c.offer_id)
    )
    for offer_id in ended.scalars():
        tx.note(OfferChanged(offer_id))


def put_worker(tx: Transaction, device_key_id: str, session_id: str, agent_version: str) -> None:
    """A worker said hello."""
    values = {
        "session_id": session_id,
        "agent_version": agent_version,
        "connected": True,
        "last_seen_us": tx.now_us,
    }
    changed = tx.connection.execute(
        sa.update(_worker).where(_worker.c.device_key_id == device_key_id).values(**values)
    ).rowcount
    if not changed:
        tx.connection.execute(sa.insert(_worker).values(device_key_id=device_key_id, **values))
    tx.note(PresenceChanged(device_key_id))


def lost_worker(tx: Transaction, device_key_id: str) -> None:
    """A connection ended."""
    tx.connection.execute(
        sa.update(_worker).where(_worker.c.device_key_id == device_key_id).values(connected=False)
    )
    tx.note(PresenceChanged(device_key_id))


def saw_workers(tx: Transaction, device_key_ids: Sequence[str]) -> None:
    """Signs of life of many. One that comes after the end of its connection brings nobody back."""
    for some in parts(device_key_ids):
        tx.connection.execute(
            sa.update(_worker)
            .where(_worker.c.device_key_id.in_(some))
            .values(last_seen_us=tx.now_us)
        )
    for device_key_id in device_key_ids:
        tx.note(PresenceChanged(device_key_id))


def forget_connections(tx: Transaction) -> None:
    """Nobody is connected: a process that just started has no streams."""
    tx.connection.execute(sa.update(_worker).values(connected=False))
    tx.note(EveryPresenceChanged())


def present_workers(tx: Transaction, since_us: int) -> set[str]:
    """Device keys that are connected and gave a sign of life since then."""
    query = sa.select(_worker.c.device_key_id).where(
        _worker.c.connected, _worker.c.last_seen_us >= since_us
    )
    return set(tx.connection.execute(query).scalars())


def add_lease(tx: Transaction, values: Mapping[str, Any]) -> None:
    """A new lease."""
    tx.connection.execute(sa.insert(_lease).values(**values))
    tx.note(LeaseChanged(values["lease_id"]))


def lease(tx: Transaction, lease_id: str) -> LeaseRow | None:
    """The lease with this id."""
    row = tx.connection.execute(_LEASE_BY_ID, {"name": lease_id}).mappings().first()
    return None if row is None else to_record(LeaseRow, row)


def update_lease(tx: Transaction, lease_id: str, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(sa.update(_lease).where(_lease.c.lease_id == lease_id).values(**values))
    tx.note(LeaseChanged(lease_id))


def move_lease(tx: Transaction, row: LeaseRow, target: LeaseState, **values: Any) -> None:
    """Change the state of a lease as it was read."""
    check_transition(
        LEASE_TRANSITIONS, row.state, target, name=f"lease {row.lease_id} fence {row.fence}"
    )
    update_lease(tx, row.lease_id, state=target.value, **values)


def _leases(tx: Transaction, *conditions: sa.ColumnElement[bool] | sa.TextClause) -> list[LeaseRow]:
    query = sa.select(_lease).where(*conditions).order_by(_lease.c.created_at_us, _lease.c.lease_id)
    return [to_record(LeaseRow, row) for row in tx.connection.execute(query).mappings()]


def count_live_leases(tx: Transaction) -> int:
    """How many leases run or are offered."""
    query = sa.select(sa.func.count()).select_from(_lease).where(_lease.c.state.in_(_LIVE))
    return int(tx.connection.execute(query).scalar_one())


def count_live_leases_of_account(tx: Transaction, account_id: str) -> int:
    """How many leases the devices of an account hold or are offered, of audits too."""
    query = (
        sa.select(sa.func.count())
        .select_from(_lease)
        .where(_lease.c.state.in_(_LIVE), _lease.c.account_id == account_id)
    )
    return int(tx.connection.execute(query).scalar_one())


def live_leases_of_job(tx: Transaction, job_id: str) -> list[LeaseRow]:
    """Live leases of a job, those of audits left out."""
    return _leases(
        tx, _lease.c.state.in_(_LIVE), _lease.c.job_id == job_id, _lease.c.audit_id == ""
    )


def live_leases_of_key(tx: Transaction, device_key_id: str) -> list[LeaseRow]:
    """Live leases of a worker."""
    return _leases(tx, _lease.c.state.in_(_LIVE), _lease.c.device_key_id == device_key_id)


def live_leases_of_keys(tx: Transaction, device_key_ids: Sequence[str]) -> list[LeaseRow]:
    """Live leases of many workers."""
    found: list[LeaseRow] = []
    for some in parts(device_key_ids):
        found += _leases(tx, _lease.c.state.in_(_LIVE), _lease.c.device_key_id.in_(some))
    return found


def expired_leases(tx: Transaction) -> list[LeaseRow]:
    """Live leases whose time is over."""
    return _leases(tx, _lease.c.state.in_(_LIVE), _lease.c.expires_at_us <= tx.now_us)


def untold_revocations(tx: Transaction) -> list[LeaseRow]:
    """Leases that the coordinator ended and whose worker does not know yet."""
    return _leases(tx, sa.text(schema.UNTOLD_LEASE))


def offer_is_leased(tx: Transaction, offer_id: str) -> bool:
    """Whether a device has a live lease."""
    query = sa.select(_lease.c.lease_id).where(
        _lease.c.state.in_(_LIVE), _lease.c.offer_id == offer_id
    )
    return tx.connection.execute(query).first() is not None


def untold_audit_offers(tx: Transaction) -> list[LeaseRow]:
    """Leases of audits that are offered, and whose worker was not told yet."""
    return _leases(
        tx,
        _lease.c.state == LeaseState.OFFERED.value,
        sa.not_(_lease.c.told),
        _lease.c.audit_id != "",
    )


def recent_returns(tx: Transaction, job_id: str, since_us: int) -> dict[str, int]:
    """Offers that gave a lease of this job back since then, or let it run out, and when last."""
    ended = [LeaseState.RELEASED.value, LeaseState.EXPIRED.value]
    query = (
        sa.select(_lease.c.offer_id, sa.func.max(_lease.c.ended_at_us))
        .where(
            _lease.c.job_id == job_id,
            _lease.c.state.in_(ended),
            _lease.c.ended_at_us > since_us,
        )
        .group_by(_lease.c.offer_id)
    )
    return {offer_id: int(ended_us) for offer_id, ended_us in tx.connection.execute(query)}


def had_lease(tx: Transaction, job_id: str, account_id: str) -> bool:
    """Whether a worker of this account ever had a lease of this job."""
    query = sa.select(_lease.c.lease_id).where(
        _lease.c.job_id == job_id, _lease.c.account_id == account_id
    )
    return tx.connection.execute(query.limit(1)).first() is not None


def refusing_owners(tx: Transaction, job_id: str, reason: str) -> int:
    """Accounts whose workers gave this job back for a reason."""
    query = sa.select(sa.func.count(sa.distinct(_lease.c.account_id))).where(
        _lease.c.job_id == job_id, _lease.c.reason == reason, _lease.c.audit_id == ""
    )
    return int(tx.connection.execute(query).scalar_one())


def renew_leases(
    tx: Transaction, device_key_id: str, lease_ids: Collection[str], expires_at_us: int
) -> None:
    """Leases of this worker that are running live until then."""
    tx.connection.execute(
        sa.update(_lease)
        .where(
            _lease.c.device_key_id == device_key_id,
            _lease.c.lease_id.in_(list(lease_ids)),
            _lease.c.state == LeaseState.RUNNING.value,
        )
        .values(expires_at_us=expires_at_us)
    )


def extend_everything(tx: Transaction, by_us: int) -> None:
    """The coordinator was away: time stood still for leases and workers."""
    tx.connection.execute(
        sa.update(_lease)
        .where(_lease.c.state.in_(_LIVE))
        .values(expires_at_us=_lease.c.expires_at_us + by_us)
    )
    tx.connection.execute(sa.update(_worker).values(last_seen_us=_worker.c.last_seen_us + by_us))
    tx.note(EveryPresenceChanged())


def add_artifact(tx: Transaction, digest: str, size_bytes: int, account_id: str) -> None:
    """These bytes are stored, and this account uploaded them now and may read them."""
    known = tx.connection.execute(
        sa.select(_artifact.c.digest).where(_artifact.c.digest == digest)
    ).first()
    if known is None:
        tx.connection.execute(
            sa.insert(_artifact).values(
                digest=digest, size_bytes=size_bytes, created_at_us=tx.now_us
            )
        )
    renewed = tx.connection.execute(
        sa.update(_grant)
        .where(_grant.c.digest == digest, _grant.c.account_id == account_id)
        .values(created_at_us=tx.now_us)
    ).rowcount
    if not renewed:
        tx.connection.execute(
            sa.insert(_grant).values(digest=digest, account_id=account_id, created_at_us=tx.now_us)
        )


def may_read(tx: Transaction, digest: str, account_id: str) -> bool:
    """Whether this account uploaded these bytes itself."""
    query = sa.select(_grant.c.digest).where(
        _grant.c.digest == digest, _grant.c.account_id == account_id
    )
    return tx.connection.execute(query).first() is not None


def artifact_size(tx: Transaction, digest: str) -> int | None:
    """Size of stored bytes; None when they are not here."""
    query = sa.select(_artifact.c.size_bytes).where(_artifact.c.digest == digest)
    return tx.connection.execute(query).scalar()


def stored_bytes(tx: Transaction, account_id: str) -> int:
    """Bytes of all artifacts that the account uploaded."""
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(_artifact.c.size_bytes), 0))
        .join(_grant, _grant.c.digest == _artifact.c.digest)
        .where(_grant.c.account_id == account_id)
    )
    return int(tx.connection.execute(query).scalar_one())


def artifact_totals(tx: Transaction) -> tuple[int, int]:
    """How many artifacts are stored, and their bytes."""
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(_artifact.c.size_bytes), 0)
    ).select_from(_artifact)
    count, size = tx.connection.execute(query).one()
    return int(count), int(size)


def get_meta(tx: Transaction, name: str) -> int | None:
    """A number the coordinator remembers about itself."""
    return tx.connection.execute(sa.select(_meta.c.value).where(_meta.c.name == name)).scalar()


def set_meta(tx: Transaction, name: str, value: int) -> None:
    """Remember a number."""
    changed = tx.connection.execute(
        sa.update(_meta).where(_meta.c.name == name).values(value=value)
    ).rowcount
    if not changed:
        tx.connection.execute(sa.insert(_meta).values(name=name, value=value))
