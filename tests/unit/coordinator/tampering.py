"""What somebody with the database file can do to the books."""

from __future__ import annotations

import sqlalchemy as sa

from flopmarket.trust.ledger_log import LedgerTransfer, transfer_leaf
from flopmarket_coordinator.store import engine, ledger_log, schema
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import World

APPEND_ONLY = ("transfer", "event", "ledger_batch", "ledger_head")


def drop_guards(tx: Transaction) -> None:
    """Take the triggers off that refuse changes; the file is the editor's."""
    run = tx.connection.exec_driver_sql
    if tx.connection.dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for verb in ("update", "delete"):
                run(f"DROP TRIGGER IF EXISTS {table}_no_{verb}")
        run("PRAGMA ignore_check_constraints = ON")
    else:
        for table in APPEND_ONLY:
            run(f"DROP TRIGGER IF EXISTS {table}_no_change ON {table}")


def rewrite(world: World, change: str) -> None:
    """Change the past and compute every hash again, as if it had always been so."""
    with engine.write(world.store, world.now_us) as tx:
        drop_guards(tx)
        run = tx.connection.exec_driver_sql
        run(change)
        query = "SELECT last_transfer, created_at_us FROM ledger_batch ORDER BY number"
        ends = run(query).all()
        run("DELETE FROM ledger_batch")
        leaves = _hash_again(tx)
        for last, created_at_us in ends:
            before = ledger_log.position(tx)
            batch = leaves[before.transfer_count : last]
            if batch:
                at_that_time = Transaction(tx.connection, created_at_us)
                ledger_log.append_leaves(at_that_time, before, batch)


def _hash_again(tx: Transaction) -> list[bytes]:
    table = schema.transfer
    leaves: list[bytes] = []
    for row in tx.connection.execute(sa.select(table).order_by(table.c.number)).mappings().all():
        fields = {name: row[name] for name in LedgerTransfer.__dataclass_fields__}
        leaf = transfer_leaf(LedgerTransfer(**(fields | {"pending_id": row["pending_id"] or ""})))
        query = sa.update(table).where(table.c.number == row["number"]).values(leaf=leaf)
        tx.connection.execute(query)
        leaves.append(leaf)
    return leaves
