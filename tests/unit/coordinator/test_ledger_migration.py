"""A database with money in it comes through the migration that hashes the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import DBAPIError, IntegrityError

from flopmarket.trust import ledger_log as log
from flopmarket_coordinator.core.ledger import Purpose, Transfer, TransferKind, transfer_id
from flopmarket_coordinator.store import engine, ledger, ledger_log, migrate, schema
from tests import postgres
from tests.unit.coordinator.databases import ON_POSTGRESQL

OLD = """
INSERT INTO ledger_account (ledger_account_id, balance_nano, reserved_nano) VALUES
 ('platform/external', -10, 0), ('a/available', 7, 2), ('b/available', 3, 0);
INSERT INTO transfer (number, transfer_id, kind, debit, credit, amount_nano, pending_id, purpose,
 job_id, reference, created_at_us) VALUES
 (1, 't1', 'direct', 'platform/external', 'a/available', 10, NULL, 'deposit', '', 'cash', 5),
 (3, 't2', 'direct', 'a/available', 'b/available', 3, NULL, 'pay', 'j', '', 6),
 (7, 't3', 'pending', 'a/available', 'b/available', 4, NULL, 'hold', 'j', '', 7),
 (8, 't4', 'void', 'a/available', 'b/available', 4, 't3', 'hold', 'j', '', 8),
 (9, 't5', 'pending', 'a/available', 'b/available', 2, NULL, 'hold', 'j', '', 9)
"""


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if ON_POSTGRESQL:
        cluster = postgres.cluster()
        url = cluster.url(cluster.create())
    made = engine.open_store(url)
    yield made
    made.dispose()


def before_the_log(store: sa.Engine) -> None:
    config = migrate._config()
    with store.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for statement in OLD.split(";"):
            connection.exec_driver_sql(statement)


def test_transfers_that_exist_become_the_first_batch(store: sa.Engine) -> None:
    before_the_log(store)
    migrate.upgrade(store)
    migrate.check_current(store)
    with engine.read(store, 0) as tx:
        rows = tx.connection.execute(sa.select(schema.transfer).order_by("number")).mappings().all()
        assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
        assert [row["transfer_id"] for row in rows] == ["t1", "t2", "t3", "t4", "t5"]
        assert ledger_log.position(tx) == ledger_log.Position(1, 5)
        (holder,) = ledger_log.prove(tx, [3], 1)
        log.check_batch(holder.batch, holder.proof, 1, ledger_log.root(tx, 1))
        hashed = log.LedgerTransfer(
            3, "t3", "pending", "a/available", "b/available", 4, "hold", "j", "", "", 0, 7
        )
        log.check_transfer(hashed, holder.batch, holder.tree.proof(2))
        assert ledger.balance(tx, "platform/issue") == (0, 0)
    with pytest.raises(DBAPIError, match="immutable"), engine.write(store, 0) as tx:
        tx.connection.exec_driver_sql("UPDATE transfer SET amount_nano = 1")
    with pytest.raises(IntegrityError), engine.write(store, 0) as tx:
        tx.connection.exec_driver_sql("UPDATE ledger_account SET balance_nano = 1")


def test_the_ledger_goes_on_after_it(store: sa.Engine) -> None:
    before_the_log(store)
    migrate.upgrade(store)
    pay = Transfer(
        transfer_id("x", 1), TransferKind.DIRECT, "a/available", "b/available", 5, Purpose.PAY
    )
    with engine.write(store, 10) as tx:
        ledger.execute(tx, pay)
    with engine.read(store, 10) as tx:
        assert ledger_log.position(tx) == ledger_log.Position(2, 6)
        assert ledger.balance(tx, "a/available") == (2, 2)
        hashes = ledger_log.consistency(tx, 1, 2)
        log.check_consistency(1, ledger_log.root(tx, 1), 2, ledger_log.root(tx, 2), hashes)


def test_an_empty_database_has_an_empty_log(store: sa.Engine) -> None:
    migrate.upgrade(store)
    with engine.read(store, 0) as tx:
        assert ledger_log.position(tx) == ledger_log.Position(0, 0)
        assert ledger_log.root(tx, 0) == log.fold([])
