"""Where the coordinator of a test keeps its rows: a SQLite file, or a throw-away cluster.

``FLOPMARKET_TEST_DATABASE=postgresql`` chooses the second for everything under this folder.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from flopmarket_coordinator.store import engine, migrate
from tests import postgres

ON_POSTGRESQL = os.environ.get("FLOPMARKET_TEST_DATABASE", "sqlite") == "postgresql"
sqlite_only = pytest.mark.skipif(ON_POSTGRESQL, reason="about files of SQLite")


class Database:
    """One migrated database of its own. ``path`` is where it is, or would be, as a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "coordinator.db"
        self._name = ""
        if ON_POSTGRESQL:
            self._name = postgres.cluster().create(_server_template())
        else:
            shutil.copy(_file_template(), self.path)

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return postgres.cluster().url(self._name) if self._name else f"sqlite:///{self.path}"

    def drop(self) -> None:
        """Remove it from the cluster; a file goes with its folder."""
        if self._name:
            postgres.cluster().drop(self._name)


@cache
def _file_template() -> Path:
    """A migrated file, made once and copied for every test."""
    path = Path(mkdtemp(prefix="flopmarket-test-")) / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@cache
def _server_template() -> str:
    """A migrated database, made once and copied for every test."""
    if reason := postgres.missing():
        pytest.skip(reason)
    name = postgres.cluster().create()
    _migrate(postgres.cluster().url(name))
    return name


def _migrate(url: str) -> None:
    made = engine.open_store(url)
    migrate.upgrade(made)
    made.dispose()
