"""The book in memory says what the store says, whatever happened in between."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flopmarket.errors import FlopmarketError
from flopmarket_coordinator.application.bookkeeping import BookKeeper
from flopmarket_coordinator.application.types_working import Instruction, LeaseOffered
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import engine, jobs
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import ASK

NAMES = ("ann", "bob", "cas")


def book_and_store_agree(world: World) -> None:
    """Every offer and every order of the book is what reading the store anew gives."""
    application = world.application
    fresh = BookKeeper(world.parameters.presence_ttl_us)
    world.see(fresh.load)
    assert application.keeper.book.listings() == fresh.book.listings()

    def orders(tx: Transaction) -> dict[str, object]:
        found = {}
        for job in jobs.unfinished(tx):
            order = application._open_order(tx, job)
            if order is not None:
                found[job.job_id] = order
        return found

    changed = set(application.keeper.changed_jobs(world.now_us))
    right = {name: order for name, order in world.see(orders).items() if name not in changed}
    held = {order.job_id: order for order in application.keeper.book.orders()}
    assert {name: order for name, order in held.items() if name not in changed} == right


class Histories(RuleBasedStateMachine):
    """Workers, buyers, audits, time and failures of commits, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name), _parameters())
        self.buyer: Buyer = self.world.buyer(money=10**15)
        self.workers: dict[str, Worker] = {}
        self.leases: list[tuple[Worker, LeaseOffered]] = []
        self.jobs: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.check()
            self.world.close()
            self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES), ask=st.sampled_from((1, ASK, 2 * ASK, 2**62)))
    def say_hello(self, name: str, ask: int) -> None:
        worker = self.workers.get(name)
        if worker is None:
            self.workers[name] = self.world.worker(name, ask=ask)
            return
        worker.ask = ask
        try:
            worker.hello()
        except FlopmarketError as error:
            assert error.code in {"KEY_REVOKED", "SIGNER_REVOKED", "DEVICE_BANNED", "KEY_BANNED"}

    @rule(stateless=st.booleans(), price=st.sampled_from((10**6, 10**11)))
    def submit(self, stateless: bool, price: int) -> None:
        number = len(self.jobs)
        view = self.buyer.submit(f"job {number}", stateless=stateless, max_price_nano=price)
        self.jobs.append(view.job_id)

    @rule()
    def match(self) -> None:
        keys = {worker.key.key_id: worker for worker in self.workers.values()}
        for lease in self.world.offers():
            worker = keys[lease.device_key_id]
            self.leases.append((worker, worker.accept(lease)))

    @rule(data=st.data(), lie=st.booleans())
    def commit(self, data: st.DataObject, lie: bool) -> None:
        if not self.leases:
            return
        worker, lease = data.draw(st.sampled_from(self.leases))
        first, _, _ = worker.position[lease.lease_id]
        left = lease.first_step + lease.step_count - first
        if left <= 0:
            return
        worker.lie = (lambda step: b"x" * 32) if lie else None
        try:
            worker.commit(lease, min(3, left))
        except FlopmarketError:
            self.leases.remove((worker, lease))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.leases:
            worker, lease = data.draw(st.sampled_from(self.leases))
            self.leases.remove((worker, lease))
            try:
                worker.release(lease)
            except FlopmarketError as error:
                assert error.code

    @rule()
    def audit(self) -> None:
        self.world.audit()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        open_jobs = [j for j in self.jobs if self.buyer.job(j).state not in FINAL_JOB_STATES]
        if open_jobs:
            self.buyer.cancel(data.draw(st.sampled_from(open_jobs)))

    @rule(seconds=st.sampled_from((1, 61, 400)), resumed=st.booleans())
    def let_time_pass(self, seconds: int, resumed: bool) -> None:
        self.world.now_us += seconds * SECOND_US
        self.world.do(lambda tx: self.world.application.expire(tx, resumed=resumed))

    @rule()
    def lose_a_commit(self) -> None:
        """What a command did and the book has followed is undone with its transaction."""
        application = self.world.application

        class PowerCut(Exception):
            pass

        try:
            with engine.write(self.world.store, self.world.now_us) as tx:
                application.match(tx)
                application.keeper.applied(tx, tuple(tx.changes))
                raise PowerCut
        except PowerCut:
            self.world.see(application.keeper.reset)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "world"):
            book_and_store_agree(self.world)


def _parameters() -> Parameters:
    return Parameters(
        bond_target_nano=0,
        decline_pause_us=60 * SECOND_US,
        presence_ttl_us=3_600 * SECOND_US,
        house_disputes=False,
    )


def test_a_lost_commit_is_forgotten_and_the_next_round_does_the_same_again(world: World) -> None:
    """Nothing else happens between, so that only the reset can put the book right."""
    buyer, application = world.buyer(), world.application
    world.worker("ann")
    buyer.submit()
    given: tuple[Instruction, ...] = ()
    with pytest.raises(RuntimeError), engine.write(world.store, world.now_us) as tx:
        given = application.match(tx)
        application.keeper.applied(tx, tuple(tx.changes))
        raise RuntimeError("the power was cut")
    assert [listing.busy for listing in application.keeper.book.listings()] == [True]
    world.see(application.keeper.reset)
    book_and_store_agree(world)
    (again,) = world.offers()
    (first,) = given
    assert isinstance(first, LeaseOffered)
    assert (again.job_id, again.first_step, again.fence) == (first.job_id, 0, first.fence)


def test_a_failed_command_leaves_the_round_undone(world: World) -> None:
    """A round that was decided and not carried out puts no order to sleep."""
    buyer, application = world.buyer(), world.application
    world.worker("ann")
    buyer.submit()
    with pytest.raises(RuntimeError), engine.write(world.store, world.now_us) as tx:
        application.match(tx)
        raise RuntimeError("the command failed")
    assert len(world.offers()) == 1
    book_and_store_agree(world)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, phases=[Phase.generate]
)
