"""What audits add to a lease and to a commitment, beside a book of 100,000 offers.

Prints medians and the 5th and 95th percentile of processor time, on SQLite.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flopmarket.limits import MAX_CHAIN_VALUES
from flopmarket.trust.challenge import Chain, ChainName, Purpose
from flopmarket.trust.encoding import encode
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.store import engine, schema, work
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import digest_of

OFFERS = 100_000
LEASES = 60
DRAWS = 2_000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        offers = int(sys.argv[1]) if len(sys.argv) > 1 else OFFERS
        buyer = world.buyer()
        _fill(world, offers)
        print(f"{offers} offers, all of them experienced and bonded")
        rows = []
        whole = []
        for number in range(LEASES):
            job = buyer.submit(f"job {number}", steps=1_000, segment_steps=1)
            start = time.thread_time()
            (lease,) = world.offers()
            whole.append(time.thread_time() - start)
            rows.append(lease)
            buyer.cancel(job.job_id)
        _show("a round of matching with one lease", whole)
        application = world.application
        row = world.see(work.lease, rows[-1].lease_id)
        assert row is not None
        job = world.see(application._job, row.job_id)
        columns = {name: getattr(row, name) for name in row.__dataclass_fields__}

        def challenge(tx: Transaction, number: int) -> None:
            name = f"{number:032x}"
            other = columns | {"lease_id": name, "fence": number + 2}
            work.add_lease(tx, {**other, "state": "finished", "chain": False, "told": True})
            start = time.thread_time()
            application._challenge(tx, job, other)
            spent.append(time.thread_time() - start)

        spent: list[float] = []
        for number in range(LEASES):
            world.do(challenge, number)
        _show("of which the challenge (1,000 values)", spent)

        def draws(tx: Transaction) -> list[float]:
            taken = []
            for number in range(DRAWS):
                this = replace(row, next_segment=number % 1_000)
                claim = digest_of(f"claim {number}")
                start = time.thread_time()
                application._draw(tx, this, claim, 1_000)
                taken.append(time.thread_time() - start)
            return taken

        _show("a draw", world.see(draws))
        world.close()
    for values in (1_000, MAX_CHAIN_VALUES):
        name = ChainName("bench", Purpose.AUDIT)
        taken = [_timed(partial(Chain, bytes(32), name, values)) for _ in range(5)]
        _show(f"deriving a chain of {values} values", taken)


def _fill(world: World, count: int) -> None:
    """Offers of as many accounts, written at once."""
    worker = world.worker("first")
    rows: dict[str, list[dict[str, Any]]] = {"account": [], "key": [], "offer": [], "bond": []}
    with engine.read(world.store, world.now_us) as tx:
        (known,) = work.listed_offers(tx, worker.key.key_id)
    values = {name: getattr(known, name) for name in known.__dataclass_fields__}
    for number in range(count):
        owner, key = digest_of(f"owner {number}").hex(), digest_of(f"key {number}").hex()
        terms = replace(worker.terms(), account_id=owner, device_key_id=key, device_id=key)
        rows["account"].append({"account_id": owner, "display_name": "", "created_at_us": 0})
        rows["key"].append(
            {
                "key_id": key,
                "account_id": owner,
                "role": KeyRole.DEVICE.value,
                "public_key": bytes(32),
                "label": "",
                "created_at_us": 0,
                "revoked": False,
                "banned_reason": "",
            }
        )
        own = {"offer_id": key, "account_id": owner, "device_key_id": key, "device_id": key}
        lot = {"audit_lot": world.application._chains.lot(key), "streak": 50}
        rows["offer"].append(values | own | lot | {"terms": encode(terms)})
        rows["bond"].append(
            {
                "ledger_account_id": f"{owner}/bond",
                "balance_nano": 10**9,
                "reserved_nano": 0,
                "overdraft_nano": 0,
            }
        )
    tables = (schema.account, schema.account_key, schema.offer, schema.ledger_account)
    with world.store.begin() as connection:
        for table, content in zip(tables, rows.values(), strict=True):
            connection.execute(sa.insert(table), content)
    world.expect_damage()
    world.restart()


def _timed(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def _show(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    middle = statistics.median(ordered)
    print(f"{name}: {middle * 1e3:.3f} ms ({low * 1e3:.3f} to {high * 1e3:.3f})")


if __name__ == "__main__":
    main()
