"""Migration 0002 on a store with rows: old offers leave the list, old open jobs stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from flopmarket.errors import Conflict
from flopmarket_coordinator.store import engine, migrate


@pytest.fixture
def first_schema(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database of the first revision."""
    store = engine.open_store(f"sqlite:///{tmp_path / 'old.db'}")
    with migrate._references_later(store):  # rows here stand alone
        upgrade(store, "0001")
        yield store
    store.dispose()


def upgrade(store: sa.Engine, revision: str) -> None:
    config = migrate._config()
    with store.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def insert(store: sa.Engine, table: str, **values: object) -> None:
    """A row with these values; what else must be there is zero or empty."""
    found = sa.Table(table, sa.MetaData(), autoload_with=store)
    row: dict[str, object] = {}
    for column in found.columns:
        if column.name in values:
            row[column.name] = values[column.name]
        elif not column.nullable and column.autoincrement is not True:
            row[column.name] = column.type.python_type()
    with store.begin() as connection:
        connection.execute(sa.insert(found).values(**row))


def test_offers_signed_without_a_region_leave_the_list(first_schema: sa.Engine) -> None:
    insert(first_schema, "offer", offer_id="old", listed=True, envelope=b"v1", terms=b"v1")
    upgrade(first_schema, "0002")
    with first_schema.connect() as connection:
        row = connection.exec_driver_sql("SELECT offer_id, listed, terms FROM offer").one()
    assert tuple(row) == ("old", 0, b"v1")


@pytest.mark.parametrize("state", ["queued", "running", "verifying"])
def test_open_jobs_without_an_order_stop_the_migration(first_schema: sa.Engine, state: str) -> None:
    insert(first_schema, "job", number=1, job_id="old", state=state)
    with pytest.raises(Conflict) as error:
        upgrade(first_schema, "0002")
    assert error.value.code == "MIGRATION_REFUSED" and "1 jobs" in error.value.message


def test_jobs_that_have_ended_are_kept(first_schema: sa.Engine) -> None:
    insert(first_schema, "job", number=1, job_id="old", state="succeeded")
    upgrade(first_schema, "0002")
    with first_schema.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM job").scalar_one() == 1
