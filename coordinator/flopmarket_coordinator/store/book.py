"""What the order book in memory is made of, read from the tables: offers and their standing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import sqlalchemy as sa

from flopmarket.market.calibrate import NO_FACTORS, Factors
from flopmarket.market.offer import offer_from_terms
from flopmarket.market.proof import cut_rates
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.proving import Standing
from flopmarket_coordinator.store import benchmarks, prediction, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import any_of, given
from flopmarket_coordinator.store.schema.base import LIVE_LEASE

_offer = schema.offer
_worker = schema.worker
_lease = schema.lease
_key = schema.account_key
_LISTING = (
    sa.select(
        _offer.c.offer_id,
        _offer.c.terms,
        _offer.c.verified_segments,
        _offer.c.rejected_segments,
        _offer.c.updated_at_us,
        sa.func.coalesce(_worker.c.connected, sa.false()).label("connected"),
        sa.func.coalesce(_worker.c.last_seen_us, 0).label("seen_us"),
        _key.c.revoked.label("banned"),
        sa.or_(
            sa.exists().where(
                _lease.c.offer_id == _offer.c.offer_id, sa.text(f"lease.{LIVE_LEASE}")
            ),
            benchmarks.is_challenged(_offer.c.offer_id),
        ).label("busy"),
    )
    .join(_key, _key.c.key_id == _offer.c.device_key_id)
    .outerjoin(_worker, _worker.c.device_key_id == _offer.c.device_key_id)
    .where(_offer.c.listed)
)
_ALL_LISTINGS = _LISTING.order_by(_offer.c.offer_id)
_ONE_LISTING = _LISTING.where(_offer.c.offer_id == given("which"))
_PRESENCE = sa.select(_worker.c.device_key_id, _worker.c.connected, _worker.c.last_seen_us)
_PRESENCE_OF = _PRESENCE.where(_worker.c.device_key_id.in_(any_of("keys")))
_other = _lease.alias("other")
_LEASED = sa.select(
    _lease.c.offer_id,
    _lease.c.job_id,
    sa.or_(
        sa.exists().where(_other.c.offer_id == _lease.c.offer_id, sa.text(f"other.{LIVE_LEASE}")),
        benchmarks.is_challenged(_lease.c.offer_id),
    ).label("busy"),
).where(_lease.c.lease_id.in_(any_of("leases")))


def listings(tx: Transaction) -> Iterator[Listing]:
    """Every listed offer, by id."""
    factors, standings = prediction.all_factors(tx), benchmarks.all_standings(tx)
    for row in tx.connection.execute(_ALL_LISTINGS).mappings():
        offer_id = row["offer_id"]
        yield _listing(row, factors.get(offer_id, NO_FACTORS), standings.get(offer_id))


def listing(tx: Transaction, offer_id: str) -> Listing | None:
    """One offer, if it is listed."""
    row = tx.connection.execute(_ONE_LISTING, {"which": offer_id}).mappings().first()
    if row is None:
        return None
    factors = prediction.factors_of(tx, offer_id)
    return _listing(row, factors, benchmarks.standing(tx, offer_id))


def presence(
    tx: Transaction, device_key_ids: Collection[str] | None = None
) -> list[tuple[str, bool, int]]:
    """Key, whether it is connected, and its last sign of life: of some workers, or of all."""
    if device_key_ids is None:
        found = tx.connection.execute(_PRESENCE)
    else:
        found = tx.connection.execute(_PRESENCE_OF, {"keys": list(device_key_ids)})
    return [(key, connected, seen) for key, connected, seen in found]


def leased(tx: Transaction, lease_ids: Collection[str]) -> list[tuple[str, str, bool]]:
    """Offer, job, and whether the offer has a live lease now: of each of these leases."""
    found = tx.connection.execute(_LEASED, {"leases": list(lease_ids)})
    return [(offer, job, bool(held)) for offer, job, held in found]


def _listing(row: sa.RowMapping, factors: Factors, standing: Standing | None) -> Listing:
    offer = offer_from_terms(decode(OfferTerms, row["terms"]), factors)
    measured = None if standing is None else standing.measured
    if measured is not None:
        cut = cut_rates(offer.rates, measured)
        offer = replace(offer, rates=cut, delivered_ppm=measured.delivered_ppm)
    # A rotated device key keeps its offer: the id is that of the device's first key.
    offer = replace(offer, offer_id=row["offer_id"])
    return Listing(
        offer=offer,
        connected=bool(row["connected"]),
        seen_us=row["seen_us"],
        busy=bool(row["busy"]),
        banned=bool(row["banned"]),
        verified_segments=row["verified_segments"],
        rejected_segments=row["rejected_segments"],
        updated_at_us=row["updated_at_us"],
        proof=None if standing is None else standing.proof,
    )
