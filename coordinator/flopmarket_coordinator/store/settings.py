"""Texts that the coordinator remembers about itself: its currency, parameters by order."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import given

_setting = schema.setting
_GET = sa.select(_setting.c.value).where(_setting.c.name == given("which"))


def get(tx: Transaction, name: str) -> str | None:
    """The value of a setting; None when it was never put."""
    return tx.connection.execute(_GET, {"which": name}).scalar()


def put(tx: Transaction, name: str, value: str) -> None:
    """Remember a value."""
    changed = tx.connection.execute(
        sa.update(_setting).where(_setting.c.name == name).values(value=value)
    ).rowcount
    if not changed:
        tx.connection.execute(sa.insert(_setting).values(name=name, value=value))


def drop(tx: Transaction, name: str) -> bool:
    """Forget a value; whether there was one."""
    statement = sa.delete(_setting).where(_setting.c.name == name)
    return bool(tx.connection.execute(statement).rowcount)


def with_prefix(tx: Transaction, prefix: str) -> dict[str, str]:
    """Settings whose names begin with ``prefix``, without it."""
    found = tx.connection.execute(_with_prefix(prefix))
    return {row.name.removeprefix(prefix): row.value for row in found}


@cache
def _with_prefix(prefix: str) -> sa.Select[tuple[str, str]]:
    """The query of :func:`with_prefix`: there are few prefixes."""
    return sa.select(_setting.c.name, _setting.c.value).where(
        _setting.c.name.startswith(prefix, autoescape=True)
    )
