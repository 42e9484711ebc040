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
from flopmarket_coordinator.core.lifecycle import LEASE_TRANSITIONS, LeaseState, check_transition
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.parts import parts
from flopmarket_coordinator.store.records import LeaseRow, OfferRow
from flopmarket_coordinator.store.rows import Rows, any_of, constant, constants, given
from flopmarket_coordinator.store.schema.base import LIVE_LEASE

_offer = schema.offer
_worker = schema.worker
_lease = schema.lease
_key = schema.account_key
_artifact = schema.artifact
_grant = schema.artifact_grant
_meta = schema.meta
# Asked for by nearly every command: building a statement costs more than running it.
_OFFERS = Rows(OfferRow, _offer)
_LEASES = Rows(LeaseRow, _lease)
_LEASES_IN_ORDER = _LEASES.select.order_by(_lease.c.created_at_us, _lease.c.lease_id)
_IS_LIVE = sa.text(f"lease.{LIVE_LEASE}")  # as the partial indexes spell it
_OFFER_BY_ID = _OFFERS.select.where(_offer.c.offer_id == given("which"))
_ADD_OFFER = sa.insert(_offer)
_UPDATE_OFFER = sa.update(_offer).where(_offer.c.offer_id == given("which"))
_RIGHT_OUTCOME = _UPDATE_OFFER.values(
    verified_segments=_offer.c.verified_segments + 1, streak=_offer.c.streak + 1
)
_WRONG_OUTCOME = _UPDATE_OFFER.values(rejected_segments=_offer.c.rejected_segments + 1, streak=0)
_LISTED_OFFERS = _OFFERS.select.where(
    _offer.c.device_key_id == given("which"), _offer.c.listed
).order_by(_offer.c.offer_id)
_UNLIST = (
    sa.update(_offer)
    .where(
        _offer.c.device_key_id == given("which"),
        _offer.c.listed,
        _offer.c.offer_id.not_in(any_of("keep")),
    )
    .values(listed=False, updated_at_us=given("now_us"))
    .returning(_offer.c.offer_id)
)
_ADD_WORKER = sa.insert(_worker)
_UPDATE_WORKER = sa.update(_worker).where(_worker.c.device_key_id == given("which"))
_SAW = (
    sa.update(_worker)
    .where(_worker.c.device_key_id.in_(any_of("some")))
    .values(last_seen_us=given("now_us"))
)
_ADD_LEASE = sa.insert(_lease)
_UPDATE_LEASE = sa.update(_lease).where(_lease.c.lease_id == given("which"))
_LEASE_BY_ID = _LEASES.select.where(_lease.c.lease_id == given("which"))
_LIVE_OF_JOB = _LEASES_IN_ORDER.where(
    _IS_LIVE, _lease.c.job_id == given("which"), _lease.c.audit_id == constant("")
)
_LIVE_OF_KEY = _LEASES_IN_ORDER.where(_IS_LIVE, _lease.c.device_key_id == given("which"))
_LIVE_OF_KEYS = _LEASES_IN_ORDER.where(_IS_LIVE, _lease.c.device_key_id.in_(any_of("some")))
_EXPIRED = _LEASES_IN_ORDER.where(_IS_LIVE, _lease.c.expires_at_us <= given("now_us"))
_UNTOLD = _LEASES_IN_ORDER.where(sa.text(schema.UNTOLD_LEASE))
_UNTOLD_AUDITS = _LEASES_IN_ORDER.where(
    _IS_LIVE,
    _lease.c.state == constant(LeaseState.OFFERED),
    sa.not_(_lease.c.told),
    _lease.c.audit_id != constant(""),
)
_LIVE_OF_OFFER = sa.select(_lease.c.lease_id).where(_IS_LIVE, _lease.c.offer_id == given("which"))
_RECENT_RETURNS = (
    sa.select(_lease.c.offer_id, sa.func.max(_lease.c.ended_at_us))
    .where(
        _lease.c.job_id == given("which"),
        _lease.c.state.in_(constants((LeaseState.RELEASED, LeaseState.EXPIRED))),
        _lease.c.ended_at_us > given("since_us"),
    )
    .group_by(_lease.c.offer_id)
)
_HAD_LEASE = (
    sa.select(_lease.c.lease_id)
    .where(_lease.c.job_id == given("which"), _lease.c.account_id == given("account"))
    .limit(1)
)
_RENEW = (
    sa.update(_lease)
    .where(
        _lease.c.device_key_id == given("which"),
        _lease.c.lease_id.in_(any_of("leases")),
        _lease.c.state == constant(LeaseState.RUNNING),
    )
    .values(expires_at_us=given("until_us"))
)
_ARTIFACT_SIZE = sa.select(_artifact.c.size_bytes).where(_artifact.c.digest == given("which"))
_ADD_ARTIFACT = sa.insert(_artifact)
_THIS_GRANT = sa.and_(_grant.c.digest == given("which"), _grant.c.account_id == given("account"))
_ADD_GRANT = sa.insert(_grant)
_RENEW_GRANT = sa.update(_grant).where(_THIS_GRANT).values(created_at_us=given("now_us"))
_GRANTED = sa.select(_grant.c.digest).where(_THIS_GRANT)
_STORED_BYTES = (
    sa.select(sa.func.coalesce(sa.func.sum(_artifact.c.size_bytes), 0))
    .join(_grant, _grant.c.digest == _artifact.c.digest)
    .where(_grant.c.account_id == given("which"))
)
_META = sa.select(_meta.c.value).where(_meta.c.name == given("which"))
_UPDATE_META = sa.update(_meta).where(_meta.c.name == given("which"))
_ADD_META = sa.insert(_meta)


def put_offer(tx: Transaction, offer_id: str, values: Mapping[str, Any]) -> None:
    """List an offer, new or changed. What its device did so far stays."""
    changed = tx.connection.execute(_UPDATE_OFFER, {"which": offer_id, **values}).rowcount
    if not changed:
        nothing = {"verified_segments": 0, "rejected_segments": 0, "streak": 0}
        tx.connection.execute(_ADD_OFFER, {"offer_id": offer_id, **nothing, **values})
    tx.note(OfferChanged(offer_id))


def offer(tx: Transaction, offer_id: str) -> OfferRow | None:
    """An offer, listed or not."""
    return _OFFERS.first(tx, _OFFER_BY_ID, {"which": offer_id})


def listed_offers(tx: Transaction, device_key_id: str) -> list[OfferRow]:
    """Offers of a key that are not withdrawn, by id."""
    return _OFFERS.all(tx, _LISTED_OFFERS, {"which": device_key_id})


def offers_of_account(tx: Transaction, account_id: str, limit: int) -> list[OfferRow]:
    """Offers of an account, listed or not, those that changed last first."""
    query = (
        _OFFERS.select.where(_offer.c.account_id == account_id)
        .order_by(_offer.c.updated_at_us.desc(), _offer.c.offer_id)
        .limit(limit)
    )
    return _OFFERS.all(tx, query, {})


def count_listed_offers(tx: Transaction) -> int:
    """How many offers are listed."""
    query = sa.select(sa.func.count()).select_from(_offer).where(_offer.c.listed)
    return int(tx.connection.execute(query).scalar_one())


def unlist_offers(tx: Transaction, device_key_id: str, keep: Collection[str] = ()) -> None:
    """Withdraw the offers of a key, except those kept."""
    values = {"which": device_key_id, "keep": list(keep), "now_us": tx.now_us}
    for offer_id in tx.connection.execute(_UNLIST, values).scalars():
        tx.note(OfferChanged(offer_id))


def count_outcome(tx: Transaction, offer_id: str, *, right: bool) -> None:
    """Remember one audited segment of a device."""
    tx.connection.execute(_RIGHT_OUTCOME if right else _WRONG_OUTCOME, {"which": offer_id})
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
    changed = tx.connection.execute(_UPDATE_WORKER, {"which": device_key_id, **values}).rowcount
    if not changed:
        tx.connection.execute(_ADD_WORKER, {"device_key_id": device_key_id, **values})
    tx.note(PresenceChanged(device_key_id))


def lost_worker(tx: Transaction, device_key_id: str) -> None:
    """A connection ended."""
    tx.connection.execute(_UPDATE_WORKER, {"which": device_key_id, "connected": False})
    tx.note(PresenceChanged(device_key_id))


def saw_workers(tx: Transaction, device_key_ids: Sequence[str]) -> None:
    """Signs of life of many. One that comes after the end of its connection brings nobody back."""
    for some in parts(device_key_ids):
        tx.connection.execute(_SAW, {"some": some, "now_us": tx.now_us})
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
    tx.connection.execute(_ADD_LEASE, values)
    tx.note(LeaseChanged(values["lease_id"]))


def lease(tx: Transaction, lease_id: str) -> LeaseRow | None:
    """The lease with this id."""
    return _LEASES.first(tx, _LEASE_BY_ID, {"which": lease_id})


def update_lease(tx: Transaction, lease_id: str, **values: Any) -> None:
    """Change columns other than the state."""
    tx.connection.execute(_UPDATE_LEASE, {"which": lease_id, **values})
    tx.note(LeaseChanged(lease_id))


def move_lease(tx: Transaction, row: LeaseRow, target: LeaseState, **values: Any) -> None:
    """Change the state of a lease as it was read."""
    check_transition(
        LEASE_TRANSITIONS, row.state, target, name=f"lease {row.lease_id} fence {row.fence}"
    )
    update_lease(tx, row.lease_id, state=target.value, **values)


def count_live_leases(tx: Transaction) -> int:
    """How many leases run or are offered."""
    query = sa.select(sa.func.count()).select_from(_lease).where(_IS_LIVE)
    return int(tx.connection.execute(query).scalar_one())


def count_live_leases_of_account(tx: Transaction, account_id: str) -> int:
    """How many leases the devices of an account hold or are offered, of audits too."""
    query = (
        sa.select(sa.func.count())
        .select_from(_lease)
        .where(_IS_LIVE, _lease.c.account_id == account_id)
    )
    return int(tx.connection.execute(query).scalar_one())


def live_leases_of_job(tx: Transaction, job_id: str) -> list[LeaseRow]:
    """Live leases of a job, those of audits left out."""
    return _LEASES.all(tx, _LIVE_OF_JOB, {"which": job_id})


def live_leases_of_key(tx: Transaction, device_key_id: str) -> list[LeaseRow]:
    """Live leases of a worker."""
    return _LEASES.all(tx, _LIVE_OF_KEY, {"which": device_key_id})


def live_leases_of_keys(tx: Transaction, device_key_ids: Sequence[str]) -> list[LeaseRow]:
    """Live leases of many workers."""
    found: list[LeaseRow] = []
    for some in parts(device_key_ids):
        found += _LEASES.all(tx, _LIVE_OF_KEYS, {"some": some})
    return found


def expired_leases(tx: Transaction) -> list[LeaseRow]:
    """Live leases whose time is over."""
    return _LEASES.all(tx, _EXPIRED, {"now_us": tx.now_us})


def untold_revocations(tx: Transaction) -> list[LeaseRow]:
    """Leases that the coordinator ended and whose worker does not know yet."""
    return _LEASES.all(tx, _UNTOLD, {})


def offer_is_leased(tx: Transaction, offer_id: str) -> bool:
    """Whether a device has a live lease."""
    return tx.connection.execute(_LIVE_OF_OFFER, {"which": offer_id}).first() is not None


def untold_audit_offers(tx: Transaction) -> list[LeaseRow]:
    """Leases of audits that are offered, and whose worker was not told yet."""
    return _LEASES.all(tx, _UNTOLD_AUDITS, {})


def recent_returns(tx: Transaction, job_id: str, since_us: int) -> dict[str, int]:
    """Offers that gave a lease of this job back since then, or let it run out, and when last."""
    found = tx.connection.execute(_RECENT_RETURNS, {"which": job_id, "since_us": since_us})
    return {offer_id: int(ended_us) for offer_id, ended_us in found}


def had_lease(tx: Transaction, job_id: str, account_id: str) -> bool:
    """Whether a worker of this account ever had a lease of this job."""
    values = {"which": job_id, "account": account_id}
    return tx.connection.execute(_HAD_LEASE, values).first() is not None


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
        _RENEW, {"which": device_key_id, "leases": list(lease_ids), "until_us": expires_at_us}
    )


def extend_everything(tx: Transaction, by_us: int) -> None:
    """The coordinator was away: time stood still for leases and workers."""
    tx.connection.execute(
        sa.update(_lease).where(_IS_LIVE).values(expires_at_us=_lease.c.expires_at_us + by_us)
    )
    tx.connection.execute(sa.update(_worker).values(last_seen_us=_worker.c.last_seen_us + by_us))
    tx.note(EveryPresenceChanged())


def add_artifact(tx: Transaction, digest: str, size_bytes: int, account_id: str) -> None:
    """These bytes are stored, and this account uploaded them now and may read them."""
    if artifact_size(tx, digest) is None:
        tx.connection.execute(
            _ADD_ARTIFACT, {"digest": digest, "size_bytes": size_bytes, "created_at_us": tx.now_us}
        )
    renewed = tx.connection.execute(
        _RENEW_GRANT, {"which": digest, "account": account_id, "now_us": tx.now_us}
    ).rowcount
    if not renewed:
        tx.connection.execute(
            _ADD_GRANT, {"digest": digest, "account_id": account_id, "created_at_us": tx.now_us}
        )


def may_read(tx: Transaction, digest: str, account_id: str) -> bool:
    """Whether this account uploaded these bytes itself."""
    values = {"which": digest, "account": account_id}
    return tx.connection.execute(_GRANTED, values).first() is not None


def artifact_size(tx: Transaction, digest: str) -> int | None:
    """Size of stored bytes; None when they are not here."""
    return tx.connection.execute(_ARTIFACT_SIZE, {"which": digest}).scalar()


def stored_bytes(tx: Transaction, account_id: str) -> int:
    """Bytes of all artifacts that the account uploaded."""
    return int(tx.connection.execute(_STORED_BYTES, {"which": account_id}).scalar_one())


def artifact_totals(tx: Transaction) -> tuple[int, int]:
    """How many artifacts are stored, and their bytes."""
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(_artifact.c.size_bytes), 0)
    ).select_from(_artifact)
    count, size = tx.connection.execute(query).one()
    return int(count), int(size)


def get_meta(tx: Transaction, name: str) -> int | None:
    """A number the coordinator remembers about itself."""
    return tx.connection.execute(_META, {"which": name}).scalar()


def set_meta(tx: Transaction, name: str, value: int) -> None:
    """Remember a number."""
    changed = tx.connection.execute(_UPDATE_META, {"which": name, "value": value}).rowcount
    if not changed:
        tx.connection.execute(_ADD_META, {"name": name, "value": value})
