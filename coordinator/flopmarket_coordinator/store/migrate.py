"""Bringing a database to the schema of this release, with Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from flopmarket.errors import Conflict, NotFound
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.tape_rebuild import rebuild

_FIRST_WITH_TAPE = "0005"


def upgrade(engine: sa.Engine) -> None:
    """Apply every migration that is missing, in one transaction.

    SQLite rebuilds a table to change it; references to it are checked once, at the end. A tape
    that is new is printed from what was settled before.
    """
    config = _config()
    with _references_later(engine), engine.begin() as connection:
        config.attributes["connection"] = connection
        before = MigrationContext.configure(connection).get_current_revision() or ""
        command.upgrade(config, "head")
        if before < _FIRST_WITH_TAPE:
            rebuild(Transaction(connection, 0))
        if engine.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise Conflict(f"table {broken[0]} has a dangling row", code="MIGRATION_FAILED")


@contextmanager
def _references_later(engine: sa.Engine) -> Iterator[None]:
    """New connections of a SQLite engine do not enforce foreign keys inside the block."""
    if engine.dialect.name != "sqlite":
        yield
        return

    def relax(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = OFF")

    engine.dispose()
    event.listen(engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(engine, "connect", relax)
        engine.dispose()


def check_current(engine: sa.Engine) -> None:
    """:class:`Conflict` ``SCHEMA_OUTDATED`` unless the database has this release's schema."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present != head:
        raise Conflict(
            f"the database is at revision {present}, this release wants {head}",
            code="SCHEMA_OUTDATED",
            hint="run `flop coordinator migrate`",
        )


def migrations_folder() -> Path:
    """Where the migrations are: beside the package in a wheel, at the top of a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise NotFound(
        "this installation has no migrations", code="MIGRATIONS_MISSING", hint="reinstall it"
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config
