"""The ledger on SQLite against a model of plain dicts, under any sequence of commands."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flopmarket.errors import FlopmarketError
from flopmarket_coordinator.core.ledger import (
    EXTERNAL,
    Purpose,
    Transfer,
    TransferKind,
    transfer_id,
)
from flopmarket_coordinator.store import engine, ledger, migrate

ACCOUNTS = ("a", "b", "c")
accounts = st.sampled_from(ACCOUNTS)
amounts = st.integers(1, 100)


class LedgerMachine(RuleBasedStateMachine):
    """Deposits, payments, holds, posts, voids, retries; some of them more than there is."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flopmarket-ledger-"))
        self.store = engine.open_store(f"sqlite:///{self.folder / 'ledger.db'}")
        migrate.upgrade(self.store)
        self.balance = dict.fromkeys((*ACCOUNTS, EXTERNAL), 0)
        self.reserved = dict.fromkeys((*ACCOUNTS, EXTERNAL), 0)
        self.holds: dict[str, Transfer] = {}
        self.resolved: set[str] = set()
        self.done: list[Transfer] = []
        with engine.write(self.store, 0) as tx:
            ledger.open_accounts(tx, self.balance)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.dispose()
            shutil.rmtree(self.folder)

    def run_transfer(self, transfer: Transfer, *, allowed: bool) -> None:
        try:
            with engine.write(self.store, 0) as tx:
                ledger.execute(tx, transfer)
        except FlopmarketError:
            assert not allowed
        else:
            assert allowed
            self.done.append(transfer)

    def free(self, account: str) -> int:
        return self.balance[account] - self.reserved[account]

    def make(
        self, kind: TransferKind, debit: str, credit: str, amount: int, pending_id: str = ""
    ) -> Transfer:
        identity = transfer_id("test", len(self.done))
        return Transfer(identity, kind, debit, credit, amount, Purpose.PAY, pending_id=pending_id)

    @rule(to=accounts, amount=amounts)
    def deposit(self, to: str, amount: int) -> None:
        self.run_transfer(self.make(TransferKind.DIRECT, EXTERNAL, to, amount), allowed=True)
        self.balance[EXTERNAL] -= amount
        self.balance[to] += amount

    @rule(debit=accounts, credit=accounts, amount=amounts)
    def pay(self, debit: str, credit: str, amount: int) -> None:
        if debit == credit:
            return
        allowed = amount <= self.free(debit)
        self.run_transfer(self.make(TransferKind.DIRECT, debit, credit, amount), allowed=allowed)
        if allowed:
            self.balance[debit] -= amount
            self.balance[credit] += amount

    @rule(debit=accounts, credit=accounts, amount=amounts)
    def hold(self, debit: str, credit: str, amount: int) -> None:
        if debit == credit:
            return
        allowed = amount <= self.free(debit)
        transfer = self.make(TransferKind.PENDING, debit, credit, amount)
        self.run_transfer(transfer, allowed=allowed)
        if allowed:
            self.reserved[debit] += amount
            self.holds[transfer.transfer_id] = transfer

    @rule(data=st.data(), amount=amounts, post=st.booleans())
    def resolve(self, data: st.DataObject, amount: int, post: bool) -> None:
        if not self.holds:
            return
        hold = self.holds[data.draw(st.sampled_from(sorted(self.holds)))]
        kind = TransferKind.POST if post else TransferKind.VOID
        moved = amount if post else hold.amount_nano
        allowed = hold.transfer_id not in self.resolved and moved <= hold.amount_nano
        transfer = self.make(kind, hold.debit, hold.credit, moved, hold.transfer_id)
        self.run_transfer(transfer, allowed=allowed)
        if allowed:
            self.resolved.add(hold.transfer_id)
            self.reserved[hold.debit] -= hold.amount_nano
            if post:
                self.balance[hold.debit] -= moved
                self.balance[hold.credit] += moved

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same transfer again changes nothing; another under its id is refused."""
        if not self.done:
            return
        known = data.draw(st.sampled_from(self.done))
        with engine.write(self.store, 0) as tx:
            assert ledger.execute(tx, known) == known
        count = len(self.done)
        self.run_transfer(replace(known, reference="changed"), allowed=False)
        assert len(self.done) == count

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        with engine.read(self.store, 0) as tx:
            for account, balance in self.balance.items():
                assert ledger.balance(tx, account) == (balance, self.reserved[account])
                assert account == EXTERNAL or balance >= self.reserved[account] >= 0
        assert sum(self.balance.values()) == 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
