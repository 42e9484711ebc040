"""Throughput of the ledger through the real store path: transfers a second, with every rule.

One by one is one transfer and one durable commit each; batched is one call for many and one commit.
Each transfer is checked against balances, hashed, inserted, and covered by the batch's root. The
peer of the first is the disk: bare commits of one row each, in the same run. Run:
``python -m tests.bench.bench_ledger [--postgresql] [--repeats N]``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

import sqlalchemy as sa

from flopmarket.market.price import split_fee
from flopmarket.trust.audit_policy import PayDivision
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import (
    EXTERNAL,
    Balance,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    transfer_id,
)
from flopmarket_coordinator.store import engine, ledger, migrate
from tests import postgres

ACCOUNTS = 200
ONE_BY_ONE, BATCHED, SPLIT = split_fee(1_000, 30_000)
SETTLEMENTS = 500, 20_000, 200
FLOORS = {"one by one": 1_000, "batched": 20_000}
"""Transfers a second that SQLite must reach."""


class Bench:
    """One database with open accounts that own enough."""

    def __init__(self, store: sa.Engine) -> None:
        self.store = store
        self._serial = count()
        migrate.upgrade(store)
        names = [f"{at:064x}" for at in range(ACCOUNTS)]
        self.accounts = [account_of(name, Balance.AVAILABLE) for name in names]
        self.owners = names
        with engine.write(store, 1) as tx:
            ledger.open_platform(tx)
            for name in names:
                ledger.open_market_account(tx, name)
            ledger.execute_all(
                tx, [self._transfer(EXTERNAL, item, 10**15) for item in self.accounts]
            )

    def _transfer(self, debit: str, credit: str, amount: int) -> Transfer:
        identity = transfer_id("bench", next(self._serial))
        return Transfer(identity, TransferKind.DIRECT, debit, credit, amount, Purpose.PAY, "job")

    def _some(self, wanted: int) -> list[Transfer]:
        ring = self.accounts
        return [
            self._transfer(ring[at % ACCOUNTS], ring[(at * 7 + 1) % ACCOUNTS], 1 + at % 100)
            for at in range(wanted)
            if at % ACCOUNTS != (at * 7 + 1) % ACCOUNTS
        ]

    def one_by_one(self) -> float:
        transfers = self._some(ONE_BY_ONE)
        began = perf_counter()
        for transfer in transfers:
            with engine.write(self.store, 1) as tx:
                ledger.execute(tx, transfer)
        return len(transfers) / (perf_counter() - began)

    def batched(self) -> float:
        transfers = self._some(BATCHED)
        began = perf_counter()
        with engine.write(self.store, 1) as tx:
            ledger.execute_all(tx, transfers)
        return len(transfers) / (perf_counter() - began)

    def bare_commits(self) -> float:
        """Commits a second of one row each, without any ledger: what the disk allows."""
        with self.store.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS bare (text TEXT)")
        began = perf_counter()
        for _ in range(ONE_BY_ONE):
            with self.store.begin() as connection:
                connection.exec_driver_sql("INSERT INTO bare VALUES ('x')")
        return ONE_BY_ONE / (perf_counter() - began)

    def settlements(self) -> float:
        """Segments a second that one job pays, all in one commit: what a busy tick does."""
        job, buyer, worker = f"job {next(self._serial)}", self.owners[0], self.owners[1]
        opened, hold = escrow.open_hold(job, buyer, 10**9)
        began = perf_counter()
        with engine.write(self.store, 1) as tx:
            ledger.execute(tx, opened)
            for segment in range(SETTLEMENTS):
                done = escrow.settle_segment(
                    job_id=job, segment_id=segment, buyer=buyer, worker=worker, hold=hold,
                    price_nano=1_000, split=SPLIT, pay=PayDivision(0, 0, SPLIT.worker_nano),
                )  # fmt: skip
                ledger.execute_all(tx, done.transfers)
                assert done.hold is not None
                hold = done.hold
        return SETTLEMENTS / (perf_counter() - began)

    def rows_per_settlement(self) -> float:
        """Transfers that one paid segment adds, its part of the batch's fee included."""
        count = sa.text("SELECT count(*) FROM transfer")
        with self.store.connect() as connection:
            before = connection.execute(count).scalar_one()
        self.settlements()
        with self.store.connect() as connection:
            return float(connection.execute(count).scalar_one() - before) / SETTLEMENTS


def measure(run: Callable[[], float], repeats: int) -> list[float]:
    run()  # statements are compiled and pages are warm
    return sorted(run() for _ in range(repeats))


@contextmanager
def sqlite() -> Iterator[sa.Engine]:
    with tempfile.TemporaryDirectory(prefix="flopmarket-bench-") as folder:
        store = engine.open_store(f"sqlite:///{Path(folder) / 'ledger.db'}")
        yield store
        store.dispose()


@contextmanager
def postgresql() -> Iterator[sa.Engine]:
    cluster = postgres.Cluster(durable=True)
    store = engine.open_store(cluster.url(cluster.create()))
    try:
        yield store
    finally:
        store.dispose()
        cluster.stop()


def report(database: str, store: sa.Engine, repeats: int) -> dict[str, float]:
    """Print the medians and spreads; the medians."""
    bench = Bench(store)
    medians: dict[str, float] = {}
    for name, run, unit in (
        ("bare commits", bench.bare_commits, "commits/s"),
        ("one by one", bench.one_by_one, "transfers/s"),
        ("batched", bench.batched, "transfers/s"),
        ("settlements", bench.settlements, "segments/s"),
    ):
        rates = measure(run, repeats)
        medians[name] = statistics.median(rates)
        print(
            f"{database:<11} {name:<12} median {medians[name]:>8,.0f} {unit:<12} "
            f"({rates[0]:,.0f} to {rates[-1]:,.0f}, {repeats} runs)"
        )
    ratio = medians["bare commits"] / medians["one by one"]
    print(f"{database:<11} one by one takes {ratio:.1f} times a bare commit")
    print(f"{database:<11} {bench.rows_per_settlement():.2f} transfers a settled segment")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--postgresql", action="store_true", help="start a cluster and measure it")
    options = parser.parse_args()
    with sqlite() as store:
        medians = report("SQLite", store, options.repeats)
    for name, floor in FLOORS.items():
        verdict = "reached" if medians[name] >= floor else "MISSED"
        print(f"SQLite      {name:<12} floor  {floor:>8,} transfers/s: {verdict}")
    if options.postgresql:
        if reason := postgres.missing():
            raise SystemExit(reason)
        with postgresql() as store:
            report("PostgreSQL", store, options.repeats)


if __name__ == "__main__":
    main()
