"""Work that others built on a wrong state: recomputed from where it began, then paid or judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flopmarket.market.price import split_fee
from flopmarket_coordinator.core.ledger import RESERVE
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.store import jobs
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from tests.unit.coordinator.judged import FLIP, balance, lie_at, made, reject, rows, staked
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import DOLLAR, digest_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made_world = made(tmp_path)
    yield made_world
    made_world.check()
    made_world.close()


def followed(
    world: World, *, stake: int = 500 * DOLLAR, made_up: bool = False, segments: int = 2
) -> tuple[Buyer, Worker, Worker, str]:
    """A cheat's wrong state on which another account went on; nothing of it was drawn or paid."""
    buyer, cheat = world.buyer(), staked(world, "cheat", stake=stake)
    job = buyer.submit(checkpoint_segments=8, steps=24)
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(3)
    assert cheat.commit(lease).accepted
    cheat.release(lease)
    world.do(world.application.offer_withdrawn, cheat.session, cheat.device_id)
    friend = staked(world, "follower", ask=200_000_000)
    (later,) = world.offers()
    assert later.first_step == 3
    friend.accept(later)
    for number in range(segments):
        friend.lie = lie_at(6 + 3 * number) if made_up and number == 0 else None
        assert friend.commit(later, keep=False).accepted
    world.read_files()
    return buyer, cheat, friend, job.job_id


def worker_part(world: World, found: list[SegmentRow]) -> int:
    return sum(split_fee(it.price_nano, world.parameters.fee_ppm).worker_nano for it in found)


def test_a_follower_is_paid_once_the_house_has_looked_from_the_state_it_was_given(
    world: World,
) -> None:
    buyer, _, friend, job_id = followed(world)
    wrong, *built = rows(world, job_id)
    reserve = balance(world, RESERVE)
    reject(world, wrong, None)
    assert friend.balances.available_nano == 0, "it is promised, not paid"
    world.check()
    task = world.see(world.application.next_audit)
    assert task is not None and task.segment_id == built[0].segment_id
    assert (task.replay_root, task.replay_step) == (digest_of("wrong 3"), 3)
    world.audit_all()
    assert friend.balances.available_nano == worker_part(world, built)
    assert balance(world, RESERVE) > reserve, "the stake paid for it"
    states = [row.state for row in rows(world, job_id)]
    assert states == [SegmentState.REJECTED, SegmentState.VOID, SegmentState.VOID]
    (again,) = world.offers()
    friend.run(again)
    world.audit_all()
    assert buyer.job(job_id).state is JobState.SUCCEEDED


def test_a_follower_that_made_its_work_up_is_judged_for_it(world: World) -> None:
    _, _, friend, job_id = followed(world, made_up=True)
    wrong, *_ = rows(world, job_id)
    reject(world, wrong, None)
    reserve = balance(world, RESERVE)
    world.audit_all()
    states = [row.state for row in rows(world, job_id)]
    assert states == [SegmentState.REJECTED, SegmentState.REJECTED, SegmentState.VOID]
    assert (friend.balances.available_nano, friend.balances.bond_nano) == (0, 0)
    assert balance(world, RESERVE) > reserve
    assert world.see(world.application.next_audit) is None, "nothing waits for what it built on it"


@pytest.mark.parametrize("stake", [0, 3_000])
def test_what_a_small_stake_does_not_cover_its_buyer_pays(world: World, stake: int) -> None:
    buyer, _, friend, job_id = followed(world, stake=stake or 1)
    wrong, *built = rows(world, job_id)
    reject(world, wrong, None)
    world.check()
    world.audit_all()
    due = worker_part(world, built)
    assert friend.balances.available_nano == due
    job = world.see(jobs.get, job_id)
    assert job is not None
    assert job.unreturned_nano == due - (stake or 1) // 2
    assert job.hold_nano == job.ceiling_nano - job.unreturned_nano
    (again,) = world.offers()
    friend.run(again)
    world.audit_all()
    assert buyer.job(job_id).state is JobState.SUCCEEDED


def test_after_a_flip_nobody_is_slashed_and_the_follower_is_paid(world: World) -> None:
    _, cheat, friend, job_id = followed(world)
    wrong, *built = rows(world, job_id)
    reserve = balance(world, RESERVE)
    reject(world, wrong, FLIP)
    world.audit_all()
    assert friend.balances.available_nano == worker_part(world, built)
    assert cheat.balances.bond_nano == 500 * DOLLAR
    assert balance(world, RESERVE) == reserve, "flips at will would empty it"


def test_the_buyer_is_spared_what_a_follower_made_up(world: World) -> None:
    _, _, _, job_id = followed(world, stake=1, made_up=True)
    wrong, *_ = rows(world, job_id)
    reject(world, wrong, None)
    job = world.see(jobs.get, job_id)
    assert job is not None and job.unreturned_nano > 0
    world.audit_all()
    job = world.see(jobs.get, job_id)
    assert job is not None and job.unreturned_nano == 0
    assert job.hold_nano == job.ceiling_nano


@pytest.mark.parametrize("stake", [1, 2_000, 4_000, 6_000, 8_000])
def test_promises_of_stake_and_buyer_end_in_any_order(world: World, stake: int) -> None:
    """The first claim is the stake's, the next is shared, the last is the buyer's."""
    buyer, _, friend, job_id = followed(world, stake=stake, made_up=True, segments=4)
    wrong, *_ = rows(world, job_id)
    reject(world, wrong, None)
    world.check()
    world.audit_all()
    world.check()
    job = world.see(jobs.get, job_id)
    assert job is not None and job.unreturned_nano == 0
    assert friend.balances.available_nano == 0
    assert buyer.available == 1_000 * DOLLAR - job.ceiling_nano


def test_a_job_that_ended_before_the_house_looked_frees_what_was_promised(world: World) -> None:
    buyer, _, _, job_id = followed(world, stake=1, made_up=True)
    wrong, *_ = rows(world, job_id)
    before = buyer.available + buyer.job(job_id).ceiling_nano
    reject(world, wrong, None)
    buyer.cancel(job_id)
    world.check()
    world.audit_all()
    assert buyer.available == before, "nothing was delivered, and nobody worked honestly for it"


def test_pay_of_a_follower_that_was_settled_waits_for_the_house(tmp_path: Path) -> None:
    world = made(tmp_path)
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit()
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(3)
    assert cheat.commit(lease).accepted
    cheat.release(lease)
    world.do(world.application.offer_withdrawn, cheat.session, cheat.device_id)
    friend = staked(world, "follower", ask=200_000_000)
    (later,) = world.offers()
    friend.accept(later)
    friend.lie = lie_at(6)
    assert friend.commit(later).accepted
    world.read_files()
    wrong, built = rows(world, job.job_id)
    assert built.state is SegmentState.SETTLED
    held = friend.balances.held_nano
    assert held > 0
    reject(world, wrong, None)
    assert friend.balances.held_nano == held
    found = world.see(jobs.get, job.job_id)
    assert found is not None and found.unreturned_nano == 0, "the stake returned it to the buyer"
    world.audit_all()
    assert (friend.balances.held_nano, friend.balances.bond_nano) == (0, 0)
    world.check()
    world.close()


def test_a_bond_stays_while_the_house_is_to_look_at_what_fell(world: World) -> None:
    _, _, friend, job_id = followed(world)
    reject(world, rows(world, job_id)[0], None)

    def waiting(tx: Transaction) -> int:
        from flopmarket_coordinator.store import held_pay

        return held_pay.open_checks(tx, friend.account)

    assert world.see(waiting) == 2
    world.audit_all()
    assert world.see(waiting) == 0


def test_the_reserve_pays_no_range_that_its_buyer_ordered_and_cancelled(world: World) -> None:
    """A second worker, one's own, only has to sit on the first range."""
    buyer = world.buyer()
    workers = {item.device_id: item for item in (staked(world, "ann"), staked(world, "bob"))}
    job = buyer.submit(stateless=True, steps=6)
    first, second = world.offers()
    workers[first.device_id].accept(first)
    done = workers[second.device_id]
    done.run(second)
    world.read_files()
    before, reserve = buyer.available + job.ceiling_nano, balance(world, RESERVE)
    buyer.cancel(job.job_id)
    (row,) = rows(world, job.job_id)
    assert (row.state, row.reason) == (SegmentState.VOID, "OUT_OF_ORDER")
    world.check()
    world.audit_all()
    due = worker_part(world, [row])
    assert done.balances.available_nano == due
    assert (buyer.available, balance(world, RESERVE)) == (before - due, reserve)
