"""Copies of a SQLite database, and what a copy says about itself."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def copy_database(source: Path, target: Path) -> None:
    """SQLite's own online backup: one consistent state, writers go on meanwhile."""
    target.unlink(missing_ok=True)
    with _opened(source) as origin, _opened(target) as copy:
        origin.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named_artifacts(database: Path) -> list[str]:
    """Digests of all artifacts that the database names."""
    with _opened(database) as connection:
        rows = connection.execute("SELECT digest FROM artifact ORDER BY digest").fetchall()
    return [str(row[0]) for row in rows]


def revision(database: Path) -> str:
    """The migration that the database is at."""
    with _opened(database) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()
