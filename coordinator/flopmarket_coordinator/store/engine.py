"""Opening the database, and the transaction that every use case gets.

SQLite: WAL, ``synchronous=FULL`` (an acknowledged payment survives a power cut), foreign keys on,
and writes that begin with BEGIN IMMEDIATE so that two writers never deadlock. Reads begin DEFERRED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

BUSY_TIMEOUT_MS = 5_000
_READ_ONLY = "flopmarket_read_only"


@dataclass(frozen=True, slots=True)
class Transaction:
    """One database transaction and the instant it counts as (microseconds since the epoch)."""

    connection: sa.Connection
    now_us: int


def open_store(url: str) -> sa.Engine:
    """An engine for ``sqlite:///path`` (or a PostgreSQL URL) with the project's settings."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def write(engine: sa.Engine, now_us: int) -> Iterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on an error."""
    with engine.begin() as connection:
        yield Transaction(connection, now_us)


@contextmanager
def read(engine: sa.Engine, now_us: int) -> Iterator[Transaction]:
    """A snapshot that changes nothing."""
    options = {_READ_ONLY: True}
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
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")
