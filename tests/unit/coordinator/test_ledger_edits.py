"""A ledger file edited by hand: the checker names the first bad row, whichever cell it was."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from flopmarket.trust.documents import Withdrawal, WithdrawalDecision
from flopmarket_coordinator.core.invariants import Finding
from flopmarket_coordinator.core.ledger_check import LEDGER_RULES
from flopmarket_coordinator.store import engine
from tests.unit.coordinator.databases import sqlite_only
from tests.unit.coordinator.tampering import APPEND_ONLY
from tests.unit.coordinator.world import World

pytestmark = sqlite_only

# Columns that nothing in the books says again: what an owner or operator signed, kept as evidence.
EVIDENCE = {("withdrawal", "envelope"), ("withdrawal", "decision")}
KEYS = {
    "transfer": "number",
    "ledger_batch": "number",
    "ledger_head": "batch_count",
    "ledger_account": "ledger_account_id",
    "ledger_expiry": "transfer_id",
    "withdrawal": "withdrawal_id",
}
NAMES = {
    "transfer": "transfer {}",
    "ledger_batch": "batch {}",
    "ledger_head": "head of {} batches",
    "ledger_account": "{}",
    "ledger_expiry": "{}",
    "withdrawal": "withdrawal {}",
}


@dataclass(repr=False)
class Books:
    """A market with some history, and its file."""

    world: World
    file: Path
    cells: list[tuple[str, Any, str]]
    """Table, key of a row, column."""

    def edited(self, folder: Path, *statements: tuple[str, tuple[Any, ...]]) -> tuple[Finding, ...]:
        """What the checker finds in a copy that somebody edited."""
        copy = folder / "edited.db"
        shutil.copy(self.file, copy)
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA foreign_keys = OFF")
            for table in APPEND_ONLY:
                for verb in ("update", "delete"):
                    connection.execute(f"DROP TRIGGER {table}_no_{verb}")
            for statement, values in statements:
                assert connection.execute(statement, values).rowcount == 1, statement
        store = engine.open_store(f"sqlite:///{copy}")
        try:
            with engine.read(store, self.world.now_us) as tx:
                return self.world.application.check(tx)
        finally:
            store.dispose()
            copy.unlink()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """Deposits, a job that ran, one that is held, withdrawals in every state, signed heads."""
    world = World(tmp_path_factory.mktemp("books"))
    buyer = world.buyer()
    worker = world.worker("ann")
    buyer.submit()
    (lease,) = world.offers()
    worker.run(lease)
    world.do(world.application.tend_ledger)
    world.audit_all()
    asked = []
    for name in ("paid", "rejected", "open", "late"):
        body = Withdrawal(buyer.account, 7, "USD", name, name)
        asked.append(world.do(world.application.withdraw, world.sign(body, buyer.key)))
        world.now_us += 1
    for row, paid in zip(asked, (True, False), strict=False):
        decision = WithdrawalDecision(row.withdrawal_id, paid, "wire")
        world.do(world.application.decide_withdrawal, world.sign(decision, world.operator))
    buyer.submit("second")
    world.now_us += 120_000_000
    world.do(world.application.tend_ledger)
    assert world.findings() == ()
    cells = []
    with closing(sqlite3.connect(world.path)) as connection:
        connection.row_factory = sqlite3.Row
        file = world.path.with_name("books.db")
        connection.execute("VACUUM INTO ?", (str(file),))
        for table, key in KEYS.items():
            for row in connection.execute(f"SELECT * FROM {table}").fetchall():
                columns = [name for name in tuple(row.keys()) if (table, name) not in EVIDENCE]
                cells += [(table, row[key], column) for column in columns]
    yield Books(world, file, cells)
    world.close()


def another(value: Any, data: st.DataObject) -> Any:
    """A plausible other value for a cell, or an implausible one."""
    if isinstance(value, int):
        return data.draw(st.sampled_from((value + 1, value - 1, -value - 1, value + 10**9, "x")))
    if isinstance(value, bytes):
        at = data.draw(st.integers(0, len(value) - 1))
        flipped = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        return data.draw(st.sampled_from((flipped, value[:-1], value + b"x", b"")))
    if value is None:
        return "something"
    others = ("", "x", value + " ", "direct", "pending", "post", "void", "pay", "paid", "rejected")
    return data.draw(st.sampled_from([item for item in others if item != value]))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_every_edited_cell_is_found_and_named(
    books: Books, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    table, key, column = data.draw(st.sampled_from(books.cells))
    name = KEYS[table]
    with closing(sqlite3.connect(books.world.path)) as connection:
        query = f"SELECT {column} FROM {table} WHERE {name} = ?"
        (value,) = connection.execute(query, (key,)).fetchone()
    changed = another(value, data)
    statement = f"UPDATE {table} SET {column} = ? WHERE {name} = ?"
    try:
        found = books.edited(tmp_path_factory.mktemp("edit"), (statement, (changed, key)))
    except sqlite3.IntegrityError:
        reject()  # a key that another row has: the file itself refuses
    names = {finding.row for finding in found}
    expected = {NAMES[table].format(key)}
    if column == name:  # its name itself: the row that is there now, or the gap where it was
        expected |= {NAMES[table].format(changed), f"transfer {key}"}
    assert names & expected, (table, key, column, value, changed, found)


@pytest.mark.parametrize("table", ["transfer", "ledger_batch"])
def test_a_deleted_row_is_named(books: Books, tmp_path: Path, table: str) -> None:
    rows = sorted({key for name, key, _ in books.cells if name == table})
    for key in rows:
        found = books.edited(tmp_path, (f"DELETE FROM {table} WHERE number = ?", (key,)))
        assert NAMES[table].format(key) in {finding.row for finding in found[:3]} or (
            table == "ledger_batch" and key == rows[-1] and "in no batch" in found[0].text
        ), (key, found)


def test_a_duplicated_transfer_is_named(books: Books, tmp_path: Path) -> None:
    last = max(key for name, key, _ in books.cells if name == "transfer")
    columns = (
        "kind, debit, credit, amount_nano, NULL, purpose, job_id, reference, created_at_us, "
        "expires_at_us, leaf"
    )
    copy = (
        "INSERT INTO transfer (number, transfer_id, kind, debit, credit, amount_nano, pending_id, "
        "purpose, job_id, reference, created_at_us, expires_at_us, leaf) "
        f"SELECT {last + 1}, 'copy', {columns} FROM transfer WHERE number = 1"
    )
    found = books.edited(tmp_path, (copy, ()))
    assert f"transfer {last + 1}" in {finding.row for finding in found}
    assert {"transfer-hash", "batch-root", "balance-cache"} <= {item.rule for item in found}


def test_two_edits_that_cancel_out_are_found_too(books: Books, tmp_path: Path) -> None:
    """Balances agree with the edited transfers: only the hashes tell."""
    found = books.edited(
        tmp_path,
        ("UPDATE transfer SET amount_nano = amount_nano + 5 WHERE number = 1", ()),
        (
            "UPDATE ledger_account SET balance_nano = balance_nano + 5 "
            "WHERE ledger_account_id = (SELECT credit FROM transfer WHERE number = 1)",
            (),
        ),
        (
            "UPDATE ledger_account SET balance_nano = balance_nano - 5 "
            "WHERE ledger_account_id = (SELECT debit FROM transfer WHERE number = 1)",
            (),
        ),
    )
    assert found[0].rule == "transfer-hash" and found[0].row == "transfer 1"


def test_every_rule_of_the_ledger_has_found_something(books: Books, tmp_path: Path) -> None:
    run = ("UPDATE transfer SET amount_nano = 1 WHERE number = 1", ())
    edits = {
        "transfer-hash": run,
        "batch-root": ("UPDATE ledger_batch SET root_before = transfers_root WHERE number = 2", ()),
        "signed-head": (
            "UPDATE ledger_head SET envelope = x'00' WHERE batch_count = "
            "(SELECT min(batch_count) FROM ledger_head)",
            (),
        ),
        "ledger-accounts": (
            "DELETE FROM ledger_account WHERE ledger_account_id = 'platform/issue'",
            (),
        ),
        "overdraft": (
            "UPDATE ledger_account SET overdraft_nano = 1 WHERE ledger_account_id = 'platform/fee'",
            (),
        ),
        "coins-inside": ("INSERT OR REPLACE INTO setting VALUES ('currency', 'flopcoin')", ()),
        "expiry-list": (
            "DELETE FROM ledger_expiry WHERE transfer_id = "
            "(SELECT min(transfer_id) FROM ledger_expiry)",
            (),
        ),
        "withdrawal": ("UPDATE withdrawal SET state = 'paid' WHERE destination = 'open'", ()),
    }
    assert set(edits) == set(LEDGER_RULES)
    for rule, edit in edits.items():
        found = books.edited(tmp_path, edit)
        assert rule in {finding.rule for finding in found}, (rule, found)


def test_a_copy_that_nobody_edited_is_right(books: Books, tmp_path: Path) -> None:
    assert books.edited(tmp_path) == ()
