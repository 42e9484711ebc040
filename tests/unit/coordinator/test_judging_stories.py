"""Random stories of honest workers, liars and late faults: the books are right after every step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError
from flopmarket.market.price import split_fee
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.ledger import Purpose, Transfer
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, JobState, SegmentState
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import jobs, schema, segments
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import DOLLAR, digest_of, state

MONEY = 1_000 * DOLLAR
STAKES = (0, 20_000, 500 * DOLLAR)
"""Nothing: all is audited. Little: some is, and a stake that does not cover much. All that is paid
before anybody recomputes it."""
WINDOWS = (0, 3_600 * SECOND_US)


class Story:
    """One market, and what a test does to it."""

    def __init__(self, folder: Path, stake: int, held_us: int) -> None:
        rules = replace(
            RULES, full_streak=0, onboarding_streak=0, onboarding_ppm=0, floor_ppm=1, held_units=4
        )
        self.world = World(
            folder,
            Parameters(
                held_us=held_us,
                audit_rules=rules,
                audit_waits=Waits(jitter_us=0),
                bond_target_nano=10_000,
                decline_pause_us=0,
                presence_ttl_us=10**15,
                quarantine_us=0,
                house_disputes=False,
            ),
        )
        self.stake = stake
        self.buyer = self.world.buyer(money=MONEY)
        self.workers: dict[str, Worker] = {}
        self.liars: set[str] = set()
        self.leases: dict[str, LeaseOffered] = {}
        self.jobs: list[str] = []
        for name in ("ann", "bob"):
            self.join(name)

    def join(self, name: str) -> None:
        worker = self.world.worker(name)
        if self.stake:
            self.world.deposit(worker.account, self.stake, name, DepositTarget.BOND)
        self.workers[worker.device_id] = worker

    def submit(self, stateless: bool, keep: int) -> None:
        name = f"job {len(self.jobs)}"
        job = self.buyer.submit(
            name, stateless=stateless, steps=9, checkpoint_segments=1 if stateless else keep
        )
        self.jobs.append(job.job_id)

    def work(self, lies: bool, keep: bool) -> None:
        """Whoever has a lease commits a segment; whoever is offered one takes it."""
        for lease in self.world.offers():
            self.leases[lease.lease_id] = self.workers[lease.device_id].accept(lease)
        for lease_id, lease in list(self.leases.items()):
            worker = self.workers[lease.device_id]
            worker.lie = (lambda step: digest_of(f"wrong {step}")) if lies else None
            if lies:
                self.liars.add(worker.account)
            try:
                if not worker.commit(lease, keep=keep).accepted:
                    del self.leases[lease_id]
            except FlopmarketError:  # banned, or its lease has ended
                del self.leases[lease_id]
                if worker.account in self.liars and len(self.workers) < 6:
                    self.join(f"another {len(self.workers)}")

    def look_at(self, pick: int) -> None:
        """The house recomputes one segment that counts, however long ago it was paid."""
        every = [row for job in self.jobs for row in self.world.see(segments.of_job, job)]
        live = [row for row in every if row.state in LIVE_SEGMENT_STATES]
        if live:
            row = live[pick % len(live)]
            self.world.do(lambda tx: segments.update(tx, row, house_task="recompute"))
            self.world.audit()

    def check(self) -> None:
        """Nothing is created, buyers pay for what counts, honest workers have what they earned."""
        assert self.world.findings() == ()
        transfers = self.world.see(_transfers)
        paid = 0
        for job_id in self.jobs:
            job = self.world.see(jobs.get, job_id)
            assert job is not None
            rows = self.world.see(segments.of_job, job_id)
            counted = sum(row.bill_nano for row in rows if row.state is SegmentState.SETTLED)
            assert job.billed_nano == counted, "nothing void is billed"
            paid += job.billed_nano + job.unreturned_nano + job.hold_nano
        refunds = sum(item.amount_nano for item in transfers if item.purpose is Purpose.REFUND)
        assert self.buyer.available == MONEY - paid + refunds
        for worker in self.workers.values():
            if worker.account not in self.liars:
                self._check_honest(worker, transfers)

    def _check_honest(self, worker: Worker, transfers: list[Transfer]) -> None:
        rows = [row for job in self.jobs for row in self.world.see(segments.of_job, job)]
        mine = [row for row in rows if row.account_id == worker.account]
        assert all(row.state is not SegmentState.REJECTED for row in mine), "never accused"
        fee_ppm = self.world.parameters.fee_ppm
        earned = sum(
            split_fee(row.price_nano, fee_ppm).worker_nano - row.to_audit_nano
            for row in mine
            if row.settled_at_us
        )
        made_good = sum(
            item.amount_nano
            for item in transfers
            if item.purpose is Purpose.COMPENSATION and item.credit.startswith(worker.account)
        )
        money = worker.balances
        has = money.available_nano + money.held_nano + money.bond_nano
        assert has == self.stake + earned + made_good, "paid work stays paid"


def _transfers(tx: Transaction) -> list[Transfer]:
    rows = tx.connection.execute(schema.transfer.select()).mappings()
    return [Transfer.of_row(row) for row in rows]


actions = st.one_of(
    st.tuples(st.just("submit"), st.booleans(), st.integers(1, 3)),
    st.tuples(st.just("work"), st.sampled_from([False, False, True]), st.just(True)),
    st.tuples(st.just("work"), st.booleans(), st.booleans()),
    st.tuples(st.just("audit"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("look"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("time"), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(
    stake=st.sampled_from(STAKES),
    held_us=st.sampled_from(WINDOWS),
    steps=st.lists(actions, min_size=4, max_size=25),
)
def test_whatever_happens_the_books_are_right(
    stake: int, held_us: int, steps: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), stake, held_us)
        story.submit(False, 1)
        for kind, first, second in steps:
            match kind:
                case "submit":
                    story.submit(bool(first), second)
                case "work":
                    story.work(bool(first), bool(second))
                case "audit":
                    for _ in range(first):
                        story.world.audit()
                case "look":
                    story.look_at(first)
                case "time":
                    story.world.now_us += 1_800 * SECOND_US
                    story.world.do(story.world.application.release_pay)
                case _:
                    story.buyer.cancel(story.jobs[first % len(story.jobs)])
            story.check()
        story.world.close()


def test_the_right_state_is_reached_whatever_was_claimed(tmp_path: Path) -> None:
    """A job with a liar in it ends with the bits of an honest run, and costs no more than one."""
    story = Story(tmp_path, STAKES[2], 0)
    story.submit(False, 1)
    story.work(lies=True, keep=True)
    story.world.audit_all()
    story.look_at(0)
    (job_id,) = story.jobs
    for _ in range(12):
        story.work(lies=False, keep=True)
        story.world.audit_all()
    story.check()
    assert story.buyer.job(job_id).state is JobState.SUCCEEDED
    rows = story.world.see(segments.of_job, job_id)
    settled = [row for row in rows if row.state is SegmentState.SETTLED]
    assert [row.root_after for row in settled] == [state(3), state(6), state(9)]
    assert settled[0].first_step == 0 and len(rows) > len(settled)
    story.world.close()
