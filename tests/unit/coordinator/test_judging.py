"""Faults found late, strikes, auditors that were wrong, looking back: through the application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.market.price import split_fee
from flopmarket.trust.reason_codes import REASON_CODES, finding
from flopmarket.trust.receipt import Outcome, file_digest, verify_receipt
from flopmarket_coordinator.application.types_working import LeaseRevoked
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import AUDIT, FEE, RESERVE
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import VerdictCode, VoidReason
from flopmarket_coordinator.store import decisions, jobs, ledger, penalties, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from tests.unit.coordinator.judged import (
    DAY_US,
    FLIP,
    STAKE,
    balance,
    lie_at,
    made,
    reject,
    rows,
    settle_one,
    staked,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR, digest_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made_world = made(tmp_path)
    yield made_world
    made_world.check()
    made_world.close()


def recompute(world: World, row: SegmentRow) -> None:
    """The house looks at a segment again, whatever became of it."""

    def put(tx: Transaction) -> None:
        segments.update(tx, row, house_task="recompute")

    world.do(put)
    world.audit_all()


# --- a fault found late ---------------------------------------------------------------------------


def test_a_paid_segment_of_a_running_job_is_undone_and_the_work_is_done_anew(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit()
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(6)
    for _ in range(2):
        assert cheat.commit(lease).accepted
    world.audit_all()
    assert [row.state for row in rows(world, job.job_id)] == [SegmentState.SETTLED] * 2
    cheat.release(lease)
    world.do(world.application.offer_withdrawn, cheat.session, cheat.device_id)
    honest = staked(world, "honest", ask=200_000_000)
    (later,) = world.offers()
    assert later.first_step == 6
    honest.accept(later)
    assert honest.commit(later).accepted
    world.audit_all()
    before = buyer.job(job.job_id)
    _, wrong, built = rows(world, job.job_id)
    assert built.state is SegmentState.SETTLED
    honest_held = honest.balances.held_nano
    recompute(world, wrong)
    assert [row.state for row in rows(world, job.job_id)] == [
        SegmentState.SETTLED, SegmentState.REJECTED, SegmentState.VOID,
    ]  # fmt: skip
    after = buyer.job(job.job_id)
    assert after.billed_nano == before.billed_nano - wrong.bill_nano - built.bill_nano
    damages = buyer.available - (1_000 * DOLLAR - job.ceiling_nano)
    assert damages == wrong.price_nano, "no more than the price of what was wrong"
    assert honest.balances.held_nano == honest_held, "its pay stays"
    assert (cheat.balances.held_nano, cheat.balances.bond_nano) == (0, 0)
    told = world.match()
    assert "ROLLED_BACK" in [item.reason for item in told if isinstance(item, LeaseRevoked)]
    (again,) = (item for item in told if not isinstance(item, LeaseRevoked))
    assert again.first_step == 3
    honest.run(again)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    assert {"rejected", "slashed", "returned", "rolled-back"} <= set(buyer.kinds(job.job_id))
    assert buyer.available == 1_000 * DOLLAR - done.billed_nano + damages
    settled = [row for row in rows(world, job.job_id) if row.state is SegmentState.SETTLED]
    assert balance(world, FEE) == sum(row.fee_nano for row in settled)


def test_a_fault_in_an_ended_job_gives_money_back_and_a_new_receipt(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    url = "https://hooks.example.org/flop"
    world.do(world.application.add_webhook, buyer.session, url, ("job.corrected",))
    job = buyer.submit()
    cheat.lie = lie_at(9)
    cheat.run(world.offers()[0])
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    old = world.see(world.application.get_receipt, buyer.session, job.job_id)
    wrong = rows(world, job.job_id)[2]
    spendable = cheat.balances.available_nano
    recompute(world, wrong)
    after = buyer.job(job.job_id)
    assert after.state is JobState.SUCCEEDED
    assert after.reason == "CORRECTED: STATE_DIFFERS in segment 2"
    assert after.billed_nano == sum(row.bill_nano for row in rows(world, job.job_id)[:2])
    assert buyer.available == 1_000 * DOLLAR - after.billed_nano + wrong.price_nano
    assert cheat.balances.available_nano == spendable, "what was spendable is out of reach"
    file = world.see(world.application.get_receipt, buyer.session, job.job_id)
    receipt = verify_receipt(file, world.key.public).receipt
    assert receipt.replaces == file_digest(old) and receipt.outcome is Outcome.FAILED
    assert (len(receipt.segments), receipt.invoice_nano) == (2, after.billed_nano)
    assert buyer.kinds(job.job_id)[-1] == "corrected"
    due = world.see(world.application.due_deliveries, (), 10)
    assert [json.loads(item.body)["type"] for item in due] == ["job.corrected"]


def test_one_wrong_range_of_inference_costs_only_itself_and_is_done_again(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(stateless=True, steps=9)
    for number in range(2):
        (lease,) = world.offers()
        cheat.lie = (lambda _: digest_of("wrong outputs")) if number == 0 else None
        cheat.run(lease)
        world.audit_all()
    recompute(world, rows(world, job.job_id)[0])
    running = world.see(jobs.get, job.job_id)
    assert running is not None and (running.settled_steps, running.live_steps) == (0, 3)
    honest = staked(world, "honest")
    leases = list(world.offers())
    while leases:
        for lease in leases:
            honest.run(lease)
        world.audit_all()
        leases = world.offers()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED and done.steps_verified == 9
    assert cheat.balances.bond_nano == 0


def test_one_wrong_range_of_ended_inference_leaves_a_gap_in_the_receipt(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(stateless=True, steps=9)
    for number in range(3):
        (lease,) = world.offers()
        cheat.lie = (lambda _: digest_of("wrong outputs")) if number == 1 else None
        cheat.run(lease)
        world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    recompute(world, rows(world, job.job_id)[1])
    file = world.see(world.application.get_receipt, buyer.session, job.job_id)
    receipt = verify_receipt(file, world.key.public).receipt
    assert [item.first_step for item in receipt.segments] == [0, 6]
    assert receipt.invoice_nano == buyer.job(job.job_id).billed_nano


def test_what_even_the_reserve_lacks_is_recorded_and_never_made(tmp_path: Path) -> None:
    world = made(tmp_path)
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit()
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(3)
    for _ in range(2):
        assert cheat.commit(lease).accepted
    world.audit_all()
    first = rows(world, job.job_id)[0]

    def plunder(tx: Transaction) -> None:
        """The stake is lost to something else first, and the reserve is spent."""
        application = world.application
        application._slash_stake(tx, cheat.key.key_id, "X", "x", job.job_id)
        reserve = ledger.free(tx, RESERVE)
        ledger.execute(tx, escrow.refund(job.job_id, buyer.account, reserve, "r", "spent"))

    paid = sum(row.bill_nano for row in rows(world, job.job_id))
    fees = sum(row.fee_nano for row in rows(world, job.job_id))
    world.do(plunder)
    world.audit_all()  # looking back finds it
    assert rows(world, job.job_id)[0].state is SegmentState.REJECTED
    found = world.see(jobs.get, job.job_id)
    assert found is not None and first.state is SegmentState.SETTLED
    assert (found.returned_nano, found.unreturned_nano) == (fees, paid - fees)
    assert found.hold_nano == job.ceiling_nano - found.unreturned_nano
    honest = staked(world, "honest")
    (again,) = world.offers()
    honest.run(again)
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    world.check()
    world.close()


def test_honest_work_on_a_wrong_state_that_was_verified_is_paid_in_full(world: World) -> None:
    """Not paid yet, because nothing after it is durable: the cheat and the reserve stand for it."""
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(checkpoint_segments=2, steps=12)
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(6)
    assert cheat.commit(lease, keep=False).accepted and cheat.commit(lease).accepted
    cheat.release(lease)
    world.do(world.application.offer_withdrawn, cheat.session, cheat.device_id)
    honest = staked(world, "honest", ask=200_000_000)
    (later,) = world.offers()
    honest.accept(later)
    assert honest.commit(later, keep=False).accepted
    world.audit_all()
    wrong, waiting = rows(world, job.job_id)[1:]
    assert waiting.state is SegmentState.VERIFIED
    recompute(world, wrong)
    states = [row.state for row in rows(world, job.job_id)]
    assert states == [SegmentState.VOID, SegmentState.REJECTED, SegmentState.VOID]
    split = split_fee(waiting.price_nano, world.parameters.fee_ppm)
    assert honest.balances.available_nano == split.worker_nano


# --- flips, silences, auditors --------------------------------------------------------------------


def test_a_flip_costs_the_unit_and_a_new_admission_and_the_second_one_the_stake(
    tmp_path: Path,
) -> None:
    world = made(tmp_path, held_us=DAY_US)
    buyer, worker = world.buyer(), staked(world, "ann")
    row = settle_one(world, buyer, worker, "first")
    reject(world, row, FLIP)
    assert worker.balances.bond_nano == STAKE, "an honest flip does not touch the bond"
    assert buyer.available == 1_000 * DOLLAR, "the unit is not paid"
    welcome = worker.hello()
    assert [item.code for item in welcome.refused] == ["DEVICE_QUARANTINED"]
    (told,) = world.see(world.application.explain_offers, worker.session)
    assert told.state == "quarantined" and told.reasons[0].reason == "QUARANTINED"
    buyer.submit("waits", steps=3)
    assert world.offers() == []
    world.now_us += world.parameters.quarantine_us
    assert worker.hello().refused == ()
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    second = rows(world, lease.job_id)[0]
    reject(world, second, FLIP)
    assert worker.balances.bond_nano == 0
    with pytest.raises(FlopmarketError) as error:
        worker.hello()
    assert error.value.code == "KEY_BANNED"
    kinds = [item.kind for item in world.see(decisions.find, worker.key.key_id, "", 2**62, 20)]
    assert {"strike", "quarantine", "ban"} <= set(kinds)
    world.check()
    world.close()


def test_four_silences_cost_their_units_and_the_fifth_the_stake(world: World) -> None:
    buyer, worker = world.buyer(), staked(world, "ann")
    for number in range(5):
        job = buyer.submit(f"job {number}", steps=3)
        worker.run(world.offers()[0])
        (row,) = rows(world, job.job_id)
        reserve = balance(world, RESERVE)

        def silent(tx: Transaction, row: SegmentRow = row) -> None:
            world.application._forfeit(tx, row, VoidReason.WORKER_SILENT)

        assert worker.balances.bond_nano == STAKE
        world.do(silent)
        (paid,) = rows(world, job.job_id)
        assert buyer.job(job.job_id).state is JobState.SUCCEEDED, "the work was right"
        assert (paid.to_held_nano, paid.to_bond_nano) == (0, 0)
        if number < 4:
            assert balance(world, RESERVE) == reserve + paid.price_nano - paid.fee_nano
    assert worker.balances.available_nano == worker.balances.bond_nano == 0
    strikes = world.see(penalties.strikes, [worker.key.key_id], -1)
    assert [item.kind for item in strikes] == [StrikeKind.SILENCE] * 5


def test_the_auditor_who_found_it_gets_a_quarter_and_the_house_keeps_none(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    auditor = world.worker("auditor", ask=10**12)
    row = settle_one(world, buyer, cheat, "first")
    reject(world, row, None, auditor=auditor.key.key_id)
    assert auditor.balances.available_nano == STAKE // 4
    assert balance(world, AUDIT) == 0


def test_an_auditor_that_was_wrong_loses_its_stake_and_its_own_work_is_looked_at(
    tmp_path: Path,
) -> None:
    world = made(tmp_path, held_us=DAY_US)
    buyer, auditor = world.buyer(), staked(world, "auditor")
    row = settle_one(world, buyer, auditor, "its own")

    def wrong(tx: Transaction) -> None:
        world.application._auditor_wrong(tx, auditor.key.key_id, job_id=row.job_id, cause="audit 7")

    world.do(wrong)
    assert auditor.balances.bond_nano == auditor.balances.held_nano == 0
    assert balance(world, AUDIT) == STAKE // 4, "of what is no buyer's, whatever is found yet"
    (again,) = rows(world, row.job_id)
    assert again.house_task == "recompute"
    world.audit_all()
    assert rows(world, row.job_id)[0].auditor == world.key.key_id
    world.check()
    world.close()


# --- looking back ---------------------------------------------------------------------------------


def test_a_fault_puts_everything_held_up_for_the_house_and_finds_more(tmp_path: Path) -> None:
    world = made(tmp_path, held_us=DAY_US)
    buyer, cheat = world.buyer(), staked(world, "cheat")
    settle_one(world, buyer, cheat, "right")
    cheat.lie = lie_at(3)
    earlier = settle_one(world, buyer, cheat, "wrong and not drawn")
    found = settle_one(world, buyer, cheat, "found")
    other = world.worker("second card", owner="owner of cheat", ask=10**9)
    assert other.account == cheat.account
    reject(world, found, None)
    assert {row.house_task for row in rows(world, earlier.job_id)} == {"recompute"}
    outcomes = [item.reason_code for item in world.audit_all()]
    assert outcomes == ["EQUAL", "STATE_DIFFERS"]
    assert rows(world, earlier.job_id)[0].state is SegmentState.REJECTED
    assert buyer.job(earlier.job_id).billed_nano == 0
    assert cheat.balances.held_nano == 0
    world.check()
    world.close()


# --- codes ----------------------------------------------------------------------------------------


def test_every_code_says_what_was_seen_and_what_to_do() -> None:
    kinds = (*VerdictCode, *VoidReason, *StrikeKind)
    codes = {code.value for code in kinds}
    codes |= {"AUDITOR_WRONG", "BENCHMARK_WRONG", "DEVICE_QUARANTINED", "KEY_BANNED"}
    assert codes == set(REASON_CODES)
    for found in REASON_CODES.values():
        texts = (found.seen, found.for_buyers, found.remedy)
        assert all(text and not text.endswith(".") for text in texts)
    assert "X" in finding("X").seen, "of another version"


def test_a_buyer_reads_why_segments_do_not_count(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit()
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(3)
    assert cheat.commit(lease).accepted and cheat.commit(lease).accepted
    world.audit_all()
    recompute(world, rows(world, job.job_id)[0])
    told = world.see(world.application.explain_job, buyer.session, job.job_id)
    codes = {str(why.reason): why for why in told.reasons}
    assert {"STATE_DIFFERS", "BUILT_ON_WRONG_STATE"} <= set(codes)
    assert codes["STATE_DIFFERS"].count == 1 and "recomputation" in codes["STATE_DIFFERS"].text
