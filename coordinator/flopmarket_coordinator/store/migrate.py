"""Bringing a database to the schema of this release, with Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from flopmarket.errors import Conflict, NotFound


def upgrade(engine: sa.Engine) -> None:
    """Apply every migration that is missing, in one transaction."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


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
