"""What leases predicted, what devices delivered, and the factors that this taught."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from flopmarket.limits import MAX_CALIBRATED_PROGRAMS
from flopmarket.market.calibrate import NO_FACTORS, PROGRAM, Factors, Running, restated
from flopmarket.market.work import Promise
from flopmarket_coordinator.core.changes import CalibrationChanged
from flopmarket_coordinator.core.lifecycle import LIVE_LEASE_STATES
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows, any_of, given

HOUSE = "house"
"""The scope of what the coordinator's own auditor takes."""

_LIVE = [state.value for state in LIVE_LEASE_STATES]
_delivery = schema.delivery
_calibration = schema.calibration
_promise = schema.promise


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One segment: expected and taken time in microseconds, setup apart. ``measured_us`` is 0 when
    the worker reported nothing, ``settled_at_us`` until the segment is paid."""

    segment_id: int
    offer_id: str
    device_name: str
    work_class: str
    program: str
    step_picoseconds: int
    roofline_us: int
    predicted_us: int
    measured_us: int
    setup_roofline_us: int
    setup_predicted_us: int
    setup_measured_us: int
    settled_at_us: int


_DELIVERIES = Rows(DeliveryRow, _delivery)
_ADD_DELIVERY = sa.insert(_delivery)
_DELIVERY = _DELIVERIES.select.where(_delivery.c.segment_id == given("which"))
_SETTLE = (
    sa.update(_delivery)
    .where(_delivery.c.segment_id == given("which"))
    .values(settled_at_us=given("now_us"))
    .returning(*_DELIVERIES.columns)
)
_OF_SCOPE = _calibration.c.scope == given("which")
_RUNNING = sa.select(_calibration).where(_OF_SCOPE, _calibration.c.family.in_(any_of("families")))
_REMEMBER_MORE = (
    sa.update(_calibration)
    .where(_OF_SCOPE, _calibration.c.family == given("of_family"))
    .values(deliveries=_calibration.c.deliveries + 1)
)
_REMEMBER_FIRST = sa.insert(_calibration)
_PROGRAMS = sa.and_(_OF_SCOPE, _calibration.c.family.startswith(PROGRAM, autoescape=True))
_FORGET_PROGRAMS = sa.delete(_calibration).where(
    _PROGRAMS,
    _calibration.c.family.not_in(
        sa.select(_calibration.c.family)
        .where(_PROGRAMS)
        .order_by(_calibration.c.updated_at_us.desc(), _calibration.c.family)
        .limit(MAX_CALIBRATED_PROGRAMS)
    ),
)
_FACTORS = sa.select(_calibration.c.scope, _calibration.c.family, _calibration.c.factor_ppm)
_FACTORS_OF = _FACTORS.where(_OF_SCOPE)
_LOWEST = sa.select(
    _promise.c.offer_id, sa.func.min(_promise.c.step_ppm), sa.func.min(_promise.c.setup_ppm)
).group_by(_promise.c.offer_id)
_LOWEST_OF = _LOWEST.where(_promise.c.offer_id == given("which"))
_END_PROMISES = (
    sa.delete(_promise).where(_promise.c.job_id == given("which")).returning(_promise.c.offer_id)
)


def add_delivery(tx: Transaction, row: DeliveryRow) -> None:
    """Write down a commitment's times."""
    tx.connection.execute(_ADD_DELIVERY, asdict(row))


def delivery(tx: Transaction, segment_id: int) -> DeliveryRow | None:
    """The times of a segment; None for one of an older version."""
    return _DELIVERIES.first(tx, _DELIVERY, {"which": segment_id})


def settle_delivery(tx: Transaction, segment_id: int) -> DeliveryRow | None:
    """The times of a segment that is paid now; None for one of an older version."""
    return _DELIVERIES.first(tx, _SETTLE, {"which": segment_id, "now_us": tx.now_us})


def settled_deliveries(
    tx: Transaction, work_class: str, offer_id: str, limit: int
) -> list[DeliveryRow]:
    """The newest measured deliveries of paid segments; "" for every class or offer."""
    query = _DELIVERIES.select.where(_delivery.c.settled_at_us > 0, _delivery.c.measured_us > 0)
    if work_class:
        query = query.where(_delivery.c.work_class == work_class)
    if offer_id:
        query = query.where(_delivery.c.offer_id == offer_id)
    query = query.order_by(_delivery.c.settled_at_us.desc()).limit(limit)
    return _DELIVERIES.all(tx, query, {})


def running(tx: Transaction, scope: str, families: Collection[str]) -> dict[str, Running]:
    """What is remembered of these families of an offer."""
    found = tx.connection.execute(_RUNNING, {"which": scope, "families": list(families)})
    return {
        row.family: Running(
            tuple((name, ratio) for name, ratio in json.loads(row.ratios_ppm)), row.factor_ppm
        )
        for row in found
    }


def remember(tx: Transaction, scope: str, changed: Mapping[str, Running]) -> None:
    """Keep what was learned of an offer's families, and forget its oldest programs."""
    for family, item in changed.items():
        values = {
            "ratios_ppm": json.dumps(item.ratios_ppm, separators=(",", ":")),
            "factor_ppm": item.factor_ppm,
            "updated_at_us": tx.now_us,
        }
        known = tx.connection.execute(
            _REMEMBER_MORE, {"which": scope, "of_family": family, **values}
        ).rowcount
        if not known:
            tx.connection.execute(
                _REMEMBER_FIRST, {"scope": scope, "family": family, "deliveries": 1, **values}
            )
            if family.startswith(PROGRAM):
                _forget_programs(tx, scope)


def restate(tx: Transaction, scope: str, was: int, now: int) -> None:
    """A proof moved an offer's rate: see :func:`flopmarket.market.calibrate.restated`."""
    families = tx.connection.execute(
        sa.select(_calibration.c.family).where(_calibration.c.scope == scope)
    ).scalars()
    known = running(tx, scope, list(families))
    for family, item in restated(known, was, now).items():
        tx.connection.execute(
            sa.update(_calibration)
            .where(_calibration.c.scope == scope, _calibration.c.family == family)
            .values(
                ratios_ppm=json.dumps(item.ratios_ppm, separators=(",", ":")),
                factor_ppm=item.factor_ppm,
            )
        )
    tx.note(CalibrationChanged(scope))


def factors_of(tx: Transaction, scope: str) -> Factors:
    """The factors of one offer; NO_FACTORS when it delivered nothing yet."""
    return _factors(tx, scope).get(scope, NO_FACTORS)


def all_factors(tx: Transaction) -> dict[str, Factors]:
    """The factors of every offer that delivered something."""
    return _factors(tx)


def add_promises(tx: Transaction, job_id: str, promised: Mapping[str, Promise]) -> None:
    """Remember the factors that a job was quoted with, until it ends.

    They are the present ones of these offers, so no bound changes now.
    """
    if promised:
        rows = [{"job_id": job_id, "offer_id": name, **asdict(it)} for name, it in promised.items()]
        tx.connection.execute(sa.insert(_promise), rows)


def promises(tx: Transaction, job_id: str) -> dict[str, Promise]:
    """The factors that a job was quoted with, by offer."""
    query = sa.select(_promise).where(_promise.c.job_id == job_id)
    return {
        row.offer_id: Promise(row.step_ppm, row.setup_ppm) for row in tx.connection.execute(query)
    }


def end_promises(tx: Transaction, job_id: str) -> None:
    """The job has ended and is priced no more."""
    for offer_id in sorted(tx.connection.execute(_END_PROMISES, {"which": job_id}).scalars()):
        tx.note(CalibrationChanged(offer_id))


def ratios(tx: Transaction, scopes: Iterable[str], family: str) -> list[int]:
    """The remembered ratios of one family, of several offers together."""
    query = sa.select(_calibration.c.ratios_ppm).where(
        _calibration.c.scope.in_(list(scopes)), _calibration.c.family == family
    )
    found = tx.connection.execute(query).scalars()
    return [ratio for text in found for _, ratio in json.loads(text)]


def busy_picoseconds(tx: Transaction, offer_ids: Sequence[str]) -> dict[str, int]:
    """What the live leases of these offers still take, by their own predictions."""
    lease = schema.lease
    left = lease.c.first_step + lease.c.step_count - lease.c.next_step
    query = sa.select(lease.c.offer_id, left, lease.c.step_picoseconds).where(
        lease.c.state.in_(_LIVE), lease.c.offer_id.in_(offer_ids)
    )
    return {
        offer_id: max(1, steps * step_picoseconds)
        for offer_id, steps, step_picoseconds in tx.connection.execute(query)
    }


def _factors(tx: Transaction, scope: str = "") -> dict[str, Factors]:
    """Factors by offer, of one or of all."""
    values = {"which": scope} if scope else {}
    learned = tx.connection.execute(_FACTORS_OF if scope else _FACTORS, values)
    lowest = tx.connection.execute(_LOWEST_OF if scope else _LOWEST, values)
    by_scope: dict[str, dict[str, int]] = {}
    for name, family, factor_ppm in learned:
        by_scope.setdefault(name, {})[family] = factor_ppm
    factors = {name: Factors(by_family) for name, by_family in by_scope.items()}
    for name, step_ppm, setup_ppm in lowest:
        if name in factors:  # else a promise is what a new device has anyway
            factors[name] = factors[name].with_promise(Promise(step_ppm, setup_ppm))
    return factors


def _forget_programs(tx: Transaction, scope: str) -> None:
    """Keep the programs that ran last; classes and the device itself are few and stay."""
    tx.connection.execute(_FORGET_PROGRAMS, {"which": scope})
