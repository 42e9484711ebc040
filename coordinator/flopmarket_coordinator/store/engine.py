"""Opening the database, and the transaction that every use case gets.

SQLite: WAL, ``synchronous=FULL`` (an acknowledged payment survives a power cut), foreign keys on,
and writes that begin with BEGIN IMMEDIATE so that two writers never deadlock. Reads begin DEFERRED.
PostgreSQL: its own durability; reads are REPEATABLE READ, so that one query sees one instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event

from flopmarket_coordinator.core.changes import Change

Store: TypeAlias = sa.Engine
"""An opened database."""

BUSY_TIMEOUT_MS = 5_000
PAGE_CACHE_KIB = 16 << 10  # of one connection: a large batch is not spilled half-way
CACHED_STATEMENTS = 1_024
"""Planned statements that one connection to SQLite keeps: more than the market has, as planning one
takes longer than running it. The driver's own default (128) is less than a busy market uses."""
_READ_ONLY = "flopmarket_read_only"


@dataclass(frozen=True, slots=True)
class Transaction:
    """One database transaction and the instant it counts as (microseconds since the epoch)."""

    connection: sa.Connection
    now_us: int
    changes: list[Change] = field(default_factory=list)
    """What the command that runs now has noted so far, in order."""
    _last: dict[Callable[[Transaction], None], None] = field(default_factory=dict)

    def note(self, change: Change) -> None:
        """Remember a change for the observers of the tick; a failed command's are dropped."""
        self.changes.append(change)

    def at_commit(self, run: Callable[[Transaction], None]) -> None:
        """Have ``run`` called once, inside this transaction, when everything else in it is done.

        It is called even when the command that asked for it failed: it looks at the rows that are
        there. An error in it undoes the transaction.
        """
        self._last[run] = None

    def finish(self) -> None:
        """Call what :meth:`at_commit` took; :func:`write` does, just before the commit."""
        for run in tuple(self._last):
            run(self)


def open_store(url: str) -> sa.Engine:
    """An engine for ``sqlite:///path`` (or a PostgreSQL URL) with the project's settings."""
    options: dict[str, Any] = {}
    if sa.make_url(url).get_backend_name() == "sqlite":
        options["connect_args"] = {"cached_statements": CACHED_STATEMENTS}
    engine = sa.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def write(engine: sa.Engine, now_us: int) -> Iterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on an error."""
    with engine.begin() as connection:
        transaction = Transaction(connection, now_us)
        yield transaction
        transaction.finish()


@contextmanager
def read(engine: sa.Engine, now_us: int) -> Iterator[Transaction]:
    """A snapshot that changes nothing."""
    options: dict[str, Any] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection:
        yield Transaction(connection, now_us)
        connection.rollback()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to say
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{PAGE_CACHE_KIB}",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")
