"""What invitations of every kind are: named by a key, used once, in time, or revoked before."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import Rows

Row = TypeVar("Row")


def state_of(used_at_us: int, revoked_at_us: int, expires_at_us: int, now_us: int) -> str:
    """What an invitation is now: open, used, revoked or expired."""
    if used_at_us:
        return "used"
    if revoked_at_us:
        return "revoked"
    return "expired" if expires_at_us <= now_us else "open"


class OneTime(Generic[Row]):
    """The invitations of ``table``, which are read as ``record``."""

    def __init__(self, table: sa.Table, record: type[Row]) -> None:
        self.table = table
        self._rows = Rows(record, table)

    def get(self, tx: Transaction, invitation_id: str) -> Row | None:
        """One invitation."""
        query = self._rows.select.where(self.table.c.invitation_id == invitation_id)
        return self._rows.first(tx, query)

    def newest(self, tx: Transaction, limit: int, *where: sa.ColumnElement[bool]) -> list[Row]:
        """Invitations that ``where`` holds for, newest first."""
        columns = self.table.c
        query = (
            self._rows.select.where(*where)
            .order_by(columns.created_at_us.desc(), columns.invitation_id)
            .limit(limit)
        )
        return self._rows.all(tx, query)

    def count_open(self, tx: Transaction, *where: sa.ColumnElement[bool]) -> int:
        """How many that ``where`` holds for can still be used."""
        in_time = self.table.c.expires_at_us > tx.now_us
        query = sa.select(sa.func.count()).where(self.unused, in_time, *where)
        return int(tx.connection.execute(query).scalar_one())

    def use(self, tx: Transaction, invitation_id: str, **values: Any) -> None:
        """Something came with it now; the caller's columns say what."""
        self._change(
            tx, self.table.c.invitation_id == invitation_id, used_at_us=tx.now_us, **values
        )

    def revoke(self, tx: Transaction, *where: sa.ColumnElement[bool]) -> None:
        """Nobody may use those any more that ``where`` holds for."""
        self._change(tx, *where, revoked_at_us=tx.now_us)

    @property
    def unused(self) -> sa.ColumnElement[bool]:
        """Neither used nor revoked."""
        return sa.and_(self.table.c.used_at_us == 0, self.table.c.revoked_at_us == 0)

    def _change(self, tx: Transaction, *where: sa.ColumnElement[bool], **values: Any) -> None:
        tx.connection.execute(sa.update(self.table).where(*where).values(**values))
