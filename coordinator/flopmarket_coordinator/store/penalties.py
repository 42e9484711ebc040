"""Strikes, devices in quarantine, debts for audits, and what is promised to auditors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.market.money import Nano
from flopmarket_coordinator.core.penalties import AuditPayState, StrikeKind
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import any_of, given

_strike = schema.strike
_quarantine = schema.quarantine
_pay = schema.audit_pay
_account = schema.account
_segment = schema.segment
_OF_DEVICE_BEFORE = sa.and_(
    _segment.c.device_key_id.in_(any_of("keys")), _segment.c.segment_id < given("before")
)
_DELIVERED_UP_TO = sa.select(sa.func.count()).select_from(
    sa.select(_segment.c.segment_id).where(_OF_DEVICE_BEFORE).limit(given("most")).subquery()
)
_QUARANTINED = sa.select(
    _quarantine.c.device_key_id,
    _quarantine.c.reason,
    _quarantine.c.since_us,
    _quarantine.c.until_us,
).where(_quarantine.c.device_key_id == given("which"), _quarantine.c.lifted_us == 0)
_DEBT = sa.select(_account.c.audit_debt_nano).where(_account.c.account_id == given("which"))
_ADD_DEBT = (
    sa.update(_account)
    .where(_account.c.account_id == given("which"))
    .values(audit_debt_nano=_account.c.audit_debt_nano + given("amount_nano"))
)
_RESERVE_PAY = sa.insert(_pay)
_PAY = sa.select(_pay).where(_pay.c.lease_id == given("which"))
_CLOSE_PAY = sa.update(_pay).where(_pay.c.lease_id == given("which"))


@dataclass(frozen=True, slots=True)
class Strike:
    """One strike of a device. ``unit`` is how many segments it had delivered before."""

    kind: StrikeKind
    unit: int
    segment_id: int
    reason: str
    created_at_us: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A device that is not offered before ``until_us`` and a new admission."""

    device_key_id: str
    reason: str
    since_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class AuditPay:
    """Money reserved for the auditor that holds an audit lease."""

    lease_id: str
    account_id: str
    from_audit_nano: Nano
    from_fee_nano: Nano
    paid_nano: Nano
    state: AuditPayState


def units(tx: Transaction, keys: Collection[str], before_segment: int) -> int:
    """Segments that a device had delivered before this one."""
    query = (
        sa.select(sa.func.count())
        .select_from(_segment)
        .where(_segment.c.device_key_id.in_(keys), _segment.c.segment_id < before_segment)
    )
    return int(tx.connection.execute(query).scalar_one())


def delivered_fewer(tx: Transaction, keys: Collection[str], before_segment: int, than: int) -> bool:
    """Whether a device had delivered fewer segments; does not count further than needed."""
    values = {"keys": list(keys), "before": before_segment, "most": than}
    return int(tx.connection.execute(_DELIVERED_UP_TO, values).scalar_one()) < than


def add_strike(
    tx: Transaction,
    *,
    device_key_id: str,
    account_id: str,
    kind: StrikeKind,
    unit: int,
    segment_id: int,
    reason: str,
) -> None:
    """Remember a strike."""
    tx.connection.execute(
        sa.insert(_strike).values(
            device_key_id=device_key_id,
            account_id=account_id,
            kind=kind.value,
            unit=unit,
            segment_id=segment_id,
            reason=reason[:500],
            created_at_us=tx.now_us,
        )
    )


def strikes(tx: Transaction, keys: Collection[str], since_unit: int) -> list[Strike]:
    """Strikes of a device since one of its units, oldest first."""
    query = (
        sa.select(_strike)
        .where(_strike.c.device_key_id.in_(keys), _strike.c.unit > since_unit)
        .order_by(_strike.c.number)
    )
    return [
        Strike(
            StrikeKind(row["kind"]),
            row["unit"],
            row["segment_id"],
            row["reason"],
            row["created_at_us"],
        )
        for row in tx.connection.execute(query).mappings()
    ]


def quarantine(tx: Transaction, device_key_id: str, reason: str, until_us: int) -> None:
    """A device gets no work until then and before it was admitted again."""
    tx.connection.execute(
        sa.delete(_quarantine).where(_quarantine.c.device_key_id == device_key_id)
    )
    tx.connection.execute(
        sa.insert(_quarantine).values(
            device_key_id=device_key_id,
            reason=reason[:500],
            since_us=tx.now_us,
            until_us=until_us,
            lifted_us=0,
        )
    )


def in_quarantine(tx: Transaction, device_key_id: str) -> Quarantine | None:
    """The quarantine that a device is in now."""
    row = tx.connection.execute(_QUARANTINED, {"which": device_key_id}).first()
    return None if row is None else Quarantine(*row)


def any_in_quarantine(tx: Transaction, keys: Collection[str]) -> Quarantine | None:
    """The quarantine that one of these keys is in now."""
    return next((one for key in keys if (one := in_quarantine(tx, key)) is not None), None)


def lift(tx: Transaction, device_key_id: str) -> None:
    """A device was admitted again."""
    tx.connection.execute(
        sa.update(_quarantine)
        .where(_quarantine.c.device_key_id == device_key_id, _quarantine.c.lifted_us == 0)
        .values(lifted_us=tx.now_us)
    )


def debt(tx: Transaction, account_id: str) -> Nano:
    """What an account owes for audits of its first units."""
    return int(tx.connection.execute(_DEBT, {"which": account_id}).scalar() or 0)


def add_debt(tx: Transaction, account_id: str, amount_nano: Nano) -> None:
    """More debt, or less of it."""
    tx.connection.execute(_ADD_DEBT, {"which": account_id, "amount_nano": amount_nano})


def reserve_pay(
    tx: Transaction, lease_id: str, account_id: str, from_audit_nano: Nano, from_fee_nano: Nano
) -> None:
    """Remember what is promised to the auditor of a lease."""
    tx.connection.execute(
        _RESERVE_PAY,
        {
            "lease_id": lease_id,
            "account_id": account_id,
            "from_audit_nano": from_audit_nano,
            "from_fee_nano": from_fee_nano,
            "paid_nano": 0,
            "state": AuditPayState.RESERVED.value,
        },
    )


def audit_pay(tx: Transaction, lease_id: str) -> AuditPay | None:
    """What was promised for an audit lease."""
    row = tx.connection.execute(_PAY, {"which": lease_id}).mappings().first()
    if row is None:
        return None
    return AuditPay(**(dict(row) | {"state": AuditPayState(row["state"])}))


def close_pay(tx: Transaction, lease_id: str, state: AuditPayState, paid_nano: Nano) -> None:
    """An auditor was paid, or will not be."""
    tx.connection.execute(
        _CLOSE_PAY, {"which": lease_id, "state": state.value, "paid_nano": paid_nano}
    )
