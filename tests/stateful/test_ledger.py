"""The ledger against a model of plain dicts, under any sequence of commands, on both databases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from flopmarket.errors import FlopmarketError
from flopmarket.market.money import MAX_NANO
from flopmarket.trust import ledger_log as log
from flopmarket.trust.merkle import MerkleProof
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import (
    EXTERNAL,
    ISSUE,
    Purpose,
    Transfer,
    TransferKind,
    transfer_id,
)
from flopmarket_coordinator.store import engine, ledger, ledger_log, migrate
from flopmarket_coordinator.store.engine import Transaction
from tests import postgres

ACCOUNTS = ("a", "b", "c")
OVERDRAFT = {"a": 0, "b": 0, "c": 50}
OUTSIDE = (EXTERNAL, ISSUE)
accounts = st.sampled_from(ACCOUNTS)
amounts = st.one_of(st.integers(1, 100), st.integers(MAX_NANO - 5, MAX_NANO))


class LedgerMachine(RuleBasedStateMachine):
    """Deposits, payments, holds, posts, voids, expiries, retries, batches; some more than there is.

    Each rule is a transaction of its own and so a batch of the log, except ``together``, which
    is several transfers in one, of which the last may fail and undo all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="flopmarket-ledger-")
        self.store = engine.open_store(self.new_database())
        self.now_us = 1_000
        self.balance = dict.fromkeys((*ACCOUNTS, *OUTSIDE), 0)
        self.reserved = dict.fromkeys((*ACCOUNTS, *OUTSIDE), 0)
        self.holds: dict[str, Transfer] = {}
        self.resolved: set[str] = set()
        self.done: list[Transfer] = []
        self.tries = 0
        self.heads: list[tuple[int, bytes]] = [(0, log.fold([]))]

    def new_database(self) -> str:
        url = f"sqlite:///{Path(self.folder.name) / 'ledger.db'}"
        _migrate(url)
        return url

    @initialize()
    def begin(self) -> None:
        with engine.write(self.store, self.now_us) as tx:
            ledger.open_platform(tx)
            for name in ACCOUNTS:
                ledger.open_accounts(tx, [name], OVERDRAFT[name])

    def teardown(self) -> None:
        self.store.dispose()
        self.folder.cleanup()

    # --- the model ----------------------------------------------------------------------------

    def free(self, account: str) -> int:
        if account in OUTSIDE:
            return 2**80
        return self.balance[account] + OVERDRAFT[account] - self.reserved[account]

    def fits(self, debit: str, credit: str, amount: int) -> bool:
        low, high = self.balance[debit] - amount, self.balance[credit] + amount
        return low >= -MAX_NANO - 1 and high <= MAX_NANO

    def may(self, transfer: Transfer) -> bool:
        """Whether the model allows a new transfer."""
        amount = transfer.amount_nano
        if transfer.kind is TransferKind.DIRECT:
            fits = self.fits(transfer.debit, transfer.credit, amount)
            return fits and amount <= self.free(transfer.debit)
        if transfer.kind is TransferKind.PENDING:
            ends = transfer.expires_at_us
            late = 0 < ends <= self.now_us
            return not late and amount <= self.free(transfer.debit)
        hold = self.holds[transfer.pending_id]
        if hold.transfer_id in self.resolved or amount > hold.amount_nano:
            return False
        if transfer.kind is TransferKind.VOID:
            return True
        late = 0 < hold.expires_at_us <= self.now_us
        return not late and self.fits(hold.debit, hold.credit, amount)

    def do(self, transfer: Transfer) -> None:
        """What the model makes of an allowed transfer."""
        amount = transfer.amount_nano
        if transfer.kind is TransferKind.PENDING:
            self.reserved[transfer.debit] += amount
            self.holds[transfer.transfer_id] = transfer
            return
        if transfer.pending_id:
            self.resolved.add(transfer.pending_id)
            self.reserved[transfer.debit] -= self.holds[transfer.pending_id].amount_nano
        if transfer.kind is not TransferKind.VOID:
            self.balance[transfer.debit] -= amount
            self.balance[transfer.credit] += amount

    def make(
        self, kind: TransferKind, debit: str, credit: str, amount: int, **more: object
    ) -> Transfer:
        self.tries += 1
        identity = transfer_id("test", self.tries)
        return Transfer(identity, kind, debit, credit, amount, Purpose.PAY, **more)  # type: ignore[arg-type]

    def run(self, transfer: Transfer) -> None:
        """The same transfer on both sides."""
        allowed = self.may(transfer)
        assert self.commits(lambda tx: ledger.execute(tx, transfer)) == allowed
        if allowed:
            self.do(transfer)
            self.done.append(transfer)

    def commits(self, work: Callable[[Transaction], object]) -> bool:
        try:
            with engine.write(self.store, self.now_us) as tx:
                work(tx)
        except FlopmarketError:
            return False
        return True

    # --- rules --------------------------------------------------------------------------------

    @rule(source=st.sampled_from(OUTSIDE), to=accounts, amount=amounts)
    def deposit(self, source: str, to: str, amount: int) -> None:
        self.run(self.make(TransferKind.DIRECT, source, to, amount))

    @rule(debit=accounts, credit=accounts, amount=amounts)
    def pay(self, debit: str, credit: str, amount: int) -> None:
        if debit != credit:
            self.run(self.make(TransferKind.DIRECT, debit, credit, amount))

    @rule(debit=accounts, credit=accounts, amount=amounts, ttl=st.sampled_from((None, 0, 5, 50)))
    def hold(self, debit: str, credit: str, amount: int, ttl: int | None) -> None:
        if debit != credit:
            ends = 0 if ttl is None else self.now_us + ttl
            self.run(self.make(TransferKind.PENDING, debit, credit, amount, expires_at_us=ends))

    @rule(data=st.data(), amount=st.integers(1, 100), post=st.booleans())
    def resolve(self, data: st.DataObject, amount: int, post: bool) -> None:
        if not self.holds:
            return
        hold = self.holds[data.draw(st.sampled_from(sorted(self.holds)))]
        kind = TransferKind.POST if post else TransferKind.VOID
        moved = amount if post else hold.amount_nano
        self.run(self.make(kind, hold.debit, hold.credit, moved, pending_id=hold.transfer_id))

    @rule(count=st.integers(2, 6), amount=st.integers(1, 60), data=st.data())
    def together(self, count: int, amount: int, data: st.DataObject) -> None:
        """Several transfers in one transaction happen all or not at all."""
        before = dict(self.balance)
        batch: list[Transfer] = []
        allowed = True
        for _ in range(count):
            debit, credit = data.draw(st.permutations(ACCOUNTS))[:2]
            transfer = self.make(TransferKind.DIRECT, debit, credit, amount)
            batch.append(transfer)
            allowed = allowed and self.may(transfer)
            if allowed:
                self.do(transfer)
        assert self.commits(lambda tx: ledger.execute_all(tx, batch)) == allowed
        if allowed:
            self.done += batch
        else:
            self.balance = before

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same transfer again changes nothing; another under its id is refused."""
        if not self.done:
            return
        known = data.draw(st.sampled_from(self.done))
        assert self.commits(lambda tx: ledger.execute_all(tx, [known, known]))
        other = replace(known, reference="changed")
        assert not self.commits(lambda tx: ledger.execute(tx, other))

    @rule(passed=st.integers(-20, 40))
    def time(self, passed: int) -> None:
        """Clocks step back as well; then what had expired is only voided, as before."""
        self.now_us = max(self.now_us + passed, 1)

    @rule()
    def expire(self) -> None:
        """Everything whose time is over is voided, and nothing else."""
        late = {
            name
            for name, hold in self.holds.items()
            if 0 < hold.expires_at_us <= self.now_us and name not in self.resolved
        }
        found: list[Transfer] = []

        def sweep(tx: Transaction) -> None:
            found.extend(ledger.overdue(tx, 100))
            voids = [escrow.close_pending(item, paid=False, reference="expired") for item in found]
            ledger.execute_all(tx, voids)

        assert self.commits(sweep)
        assert {item.transfer_id for item in found} == late
        for item in found:
            void = escrow.close_pending(item, paid=False, reference="expired")
            self.do(void)
            self.done.append(void)

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        with engine.read(self.store, self.now_us) as tx:
            for account, balance in self.balance.items():
                assert ledger.balance(tx, account) == (balance, self.reserved[account])
                assert account in OUTSIDE or self.free(account) >= 0
                assert self.reserved[account] >= 0
            assert ledger_log.position(tx).transfer_count == len(self.done)
        assert sum(self.balance.values()) == 0

    @invariant()
    def continues_its_past(self) -> None:
        """Heads seen before are beginnings of the log, and the last transfer is provably in it."""
        with engine.read(self.store, self.now_us) as tx:
            position = ledger_log.position(tx)
            count, root = position.batch_count, ledger_log.root(tx, position.batch_count)
            for old_count, old_root in self.heads[-3:]:
                hashes = ledger_log.consistency(tx, old_count, count)
                log.check_consistency(old_count, old_root, count, root, hashes)
            if self.done:
                (holder,) = ledger_log.prove(tx, [position.transfer_count], count)
                log.check_batch(holder.batch, holder.proof, count, root)
                proof = holder.tree.proof(position.transfer_count - holder.first_transfer)
                assert isinstance(proof, MerkleProof)
        if self.heads[-1] != (count, root):
            self.heads.append((count, root))


class ServerMachine(LedgerMachine):
    """The same on PostgreSQL: a database of the throw-away cluster for every run."""

    def new_database(self) -> str:
        cluster = postgres.cluster()
        self.name = cluster.create(_server_template())
        return cluster.url(self.name)

    def teardown(self) -> None:
        super().teardown()
        postgres.cluster().drop(self.name)


_TEMPLATES: list[str] = []


def _server_template() -> str:
    if not _TEMPLATES:
        _TEMPLATES.append(postgres.cluster().create())
        _migrate(postgres.cluster().url(_TEMPLATES[0]))
    return _TEMPLATES[0]


def _migrate(url: str) -> None:
    store = engine.open_store(url)
    migrate.upgrade(store)
    store.dispose()


RUNS = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_on_sqlite() -> None:
    run_state_machine_as_test(LedgerMachine, settings=RUNS)


@pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-")
def test_on_postgresql() -> None:
    run_state_machine_as_test(ServerMachine, settings=RUNS)
