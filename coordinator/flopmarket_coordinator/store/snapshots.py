"""Signed price snapshots as kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows

_snapshot = schema.price_snapshot


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot: ``digest`` is what the next one names."""

    number: int
    as_of_us: int
    digest: bytes
    envelope: bytes


_SNAPSHOTS = Rows(SnapshotRow, _snapshot)


def add(tx: Transaction, number: int, as_of_us: int, digest: bytes, envelope: bytes) -> None:
    """Keep a new snapshot."""
    row = {"number": number, "as_of_us": as_of_us, "digest": digest, "envelope": envelope}
    tx.connection.execute(sa.insert(_snapshot).values(**row))


def get(tx: Transaction, number: int) -> SnapshotRow | None:
    """The snapshot with this number."""
    return _SNAPSHOTS.first(tx, _SNAPSHOTS.select.where(_snapshot.c.number == number))


def newest(tx: Transaction) -> SnapshotRow | None:
    """The newest snapshot."""
    query = _SNAPSHOTS.select.order_by(_snapshot.c.number.desc()).limit(1)
    return _SNAPSHOTS.first(tx, query)


def every(tx: Transaction) -> Iterator[SnapshotRow]:
    """All snapshots, in order of number."""
    for row in tx.connection.execute(_SNAPSHOTS.select.order_by(_snapshot.c.number)):
        yield _SNAPSHOTS.record(row)


def oldest_number(tx: Transaction) -> int:
    """The oldest number that is kept; 0 without any."""
    return int(tx.connection.execute(sa.select(sa.func.min(_snapshot.c.number))).scalar() or 0)


def drop_before(tx: Transaction, number: int) -> None:
    """Forget the snapshots before a number."""
    tx.connection.execute(sa.delete(_snapshot).where(_snapshot.c.number < number))
