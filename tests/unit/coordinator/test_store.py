"""The database: schema, constraints that hold even if code were wrong, and the tick."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from flopmarket.errors import Conflict, FlopmarketError, Unavailable
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import Balance, account_of
from flopmarket_coordinator.store import engine, ledger, migrate, schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.tick import Tick
from tests.unit.coordinator.databases import sqlite_only
from tests.unit.coordinator.world import World


def test_migrations_make_exactly_the_schema(world: World) -> None:
    migrate.check_current(world.store)
    with world.store.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []


def test_an_empty_database_is_refused_until_migrated(tmp_path: Path) -> None:
    store = engine.open_store(f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(Conflict) as error:
        migrate.check_current(store)
    assert error.value.code == "SCHEMA_OUTDATED"
    migrate.upgrade(store)
    migrate.upgrade(store)
    migrate.check_current(store)
    store.dispose()


def test_the_schema_is_valid_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE" in str(CreateIndex(index).compile(dialect=dialect))


@sqlite_only
def test_settings_that_keep_money_safe(world: World) -> None:
    with world.store.connect() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfer SET amount_nano = 1",
        "DELETE FROM transfer",
        "UPDATE event SET text = 'nothing happened'",
        "DELETE FROM event",
    ],
)
def test_history_cannot_be_changed(world: World, statement: str) -> None:
    world.buyer().submit()
    with pytest.raises(DBAPIError, match="immutable"), engine.write(world.store, 0) as tx:
        tx.connection.exec_driver_sql(statement)


def test_constraints_hold_without_the_code(world: World) -> None:
    buyer = world.buyer()
    world.worker("ann")
    buyer.submit()
    world.match()
    overdraw = "UPDATE ledger_account SET balance_nano = -1 WHERE ledger_account_id <> 'x'"
    overbill = "UPDATE job SET billed_nano = ceiling_nano + 1"
    states = "UPDATE job SET state = 'lost'"
    for statement in (overdraw, overbill, states):
        with pytest.raises(IntegrityError), engine.write(world.store, 0) as tx:
            tx.connection.exec_driver_sql(statement)
    with engine.read(world.store, 0) as tx:
        row = dict(tx.connection.execute(sa.select(schema.lease)).mappings().one())
    twin = row | {"lease_id": "second", "fence": 2}
    with pytest.raises(IntegrityError), engine.write(world.store, 0) as tx:
        tx.connection.execute(sa.insert(schema.lease).values(**twin))


def test_a_hold_is_resolved_once(world: World) -> None:
    buyer = world.buyer()
    transfer, hold = escrow.open_hold("job", buyer.account, 10)
    world.do(ledger.execute, transfer)
    void = escrow.close_hold("job", buyer.account, hold)
    assert world.do(ledger.execute, void) == world.do(ledger.execute, void)
    from dataclasses import replace

    again = replace(void, transfer_id="another id")
    with pytest.raises(FlopmarketError) as error:
        world.do(ledger.execute, again)
    assert error.value.code == "HOLD_RESOLVED"
    with pytest.raises(FlopmarketError) as error:
        world.do(ledger.execute, replace(transfer, amount_nano=11))
    assert error.value.code == "TRANSFER_ID_REUSED"


def pay(world: World, account: str, name: str):  # type: ignore[no-untyped-def]
    """A command that moves one nano-unit, and its effect on the balance."""

    def run(tx: Transaction) -> int:
        ledger.execute(tx, escrow.deposit("op", name, account, Balance.AVAILABLE, 1, ""))
        return ledger.balance(tx, account_of(account, Balance.AVAILABLE))[0]

    return run


def test_commands_of_a_batch_commit_together_and_fail_alone(world: World) -> None:
    account = world.buyer(money=0).account
    commits: list[int] = []
    sa.event.listen(world.store, "commit", lambda _connection: commits.append(1))

    def broken(tx: Transaction) -> int:
        pay(world, account, "undone")(tx)
        raise Conflict("no", code="NO")

    async def scenario() -> list[object]:
        tick = Tick(world.store, lambda: world.now_us, max_wait_seconds=0.2, max_commands=8)
        await tick.start()
        commands = [tick.submit(pay(world, account, f"p{at}")) for at in range(7)]
        answers = await asyncio.gather(*commands, tick.submit(broken), return_exceptions=True)
        seen = await tick.read(
            lambda tx: ledger.balance(tx, account_of(account, Balance.AVAILABLE))[0]
        )
        await tick.stop()
        with pytest.raises(Unavailable):
            await tick.submit(broken)
        return [*answers, seen]

    *answers, error, seen = asyncio.run(scenario())
    assert sorted(answers) == list(range(1, 8)) and isinstance(error, Conflict)  # type: ignore[type-var]
    assert seen == 7 and len(commits) == 1


def test_answers_come_after_the_commit(world: World) -> None:
    account = world.buyer(money=0).account
    seen: list[int] = []

    async def scenario() -> None:
        tick = Tick(world.store, lambda: world.now_us)
        await tick.start()
        await tick.submit(pay(world, account, "one"))
        other = engine.open_store(world.database.url)  # as another process sees it
        with engine.read(other, 0) as tx:
            seen.append(ledger.balance(tx, account_of(account, Balance.AVAILABLE))[0])
        other.dispose()
        await tick.stop()

    asyncio.run(scenario())
    assert seen == [1]


def test_a_failed_commit_answers_nobody_with_success(world: World) -> None:
    account = world.buyer(money=0).account

    def refuse(_connection: sa.Connection) -> None:
        raise sa.exc.OperationalError("COMMIT", None, OSError("disk full"))

    async def scenario() -> tuple[Unavailable, int]:
        tick = Tick(world.store, lambda: world.now_us)
        await tick.start()
        sa.event.listen(world.store, "commit", refuse)
        with pytest.raises(Unavailable) as refused:
            await tick.submit(pay(world, account, "lost"))
        sa.event.remove(world.store, "commit", refuse)
        again = await tick.submit(pay(world, account, "lost"))
        await tick.stop()
        return refused.value, again

    error, again = asyncio.run(scenario())
    assert error.code == "STORE_FAILED" and error.retryable
    assert again == 1


_KILLED = """
import os, sys
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import Balance
from flopmarket_coordinator.store import engine, ledger
store = engine.open_store(sys.argv[1])
with engine.write(store, 1) as tx:
    ledger.execute(tx, escrow.deposit("op", "r", sys.argv[2], Balance.AVAILABLE, 5, ""))
    if sys.argv[3] == "before":
        os._exit(9)
os._exit(9)
"""


@pytest.mark.parametrize(("moment", "kept"), [("before", 0), ("after", 5)])
def test_a_process_killed_around_the_commit_leaves_all_or_nothing(
    world: World, moment: str, kept: int
) -> None:
    """Killed between commit and reply, the retry with the same id finds the first one's effect."""
    account = world.buyer(money=0).account
    world.store.dispose()
    command = [sys.executable, "-c", _KILLED, world.database.url, account, moment]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    world.start()
    available = account_of(account, Balance.AVAILABLE)
    assert world.see(ledger.balance, available)[0] == kept
    retry = escrow.deposit("op", "r", account, Balance.AVAILABLE, 5, "")
    world.do(ledger.execute, retry)
    assert world.see(ledger.balance, available)[0] == 5
