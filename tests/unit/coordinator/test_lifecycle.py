"""Jobs from submission to receipt, through the application on a real database."""

from __future__ import annotations

import pytest

from flopmarket.errors import Conflict, FlopmarketError, Forbidden
from flopmarket.trust.encoding import digest
from flopmarket.trust.receipt import Outcome, verify_receipt
from flopmarket_coordinator.application.types_auditing import JobRefusedByAuditor
from flopmarket_coordinator.application.types_working import HeldLease, LeaseRevoked
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR, digest_of, state


def code_of(error: pytest.ExceptionInfo[FlopmarketError]) -> str:
    return error.value.code


def test_a_job_runs_is_verified_and_paid(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit()
    assert job.state is JobState.QUEUED and buyer.available == 1_000 * DOLLAR - job.ceiling_nano
    (lease,) = world.offers()
    assert (lease.first_step, lease.step_count, lease.fence) == (0, 12, 1)
    worker.run(lease)
    assert buyer.job(job.job_id).state is JobState.VERIFYING
    assert [outcome.reason_code for outcome in world.audit_all()] == ["EQUAL"] * 4
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED and done.steps_verified == 12
    assert 0 < done.billed_nano <= done.ceiling_nano
    assert buyer.available == 1_000 * DOLLAR - done.billed_nano
    receipt = verify_receipt(
        world.see(world.application.get_receipt, buyer.session, job.job_id), world.key.public
    ).receipt
    assert receipt.outcome is Outcome.COMPLETED and receipt.invoice_nano == done.billed_nano
    money = worker.balances
    assert money.available_nano == done.billed_nano - receipt.fee_nano and money.held_nano == 0
    assert buyer.kinds(job.job_id)[-1] == "succeeded"


def test_pay_waits_for_a_durable_state(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(checkpoint_segments=2)
    lease = worker.accept(world.offers()[0])
    assert worker.commit(lease, keep=False).accepted
    world.audit_all()
    assert buyer.job(job.job_id).billed_nano == 0
    refused = worker.commitment(lease, 3, keep=False)
    assert worker.send(refused).code == "CHECKPOINT_MISSING"
    worker.position[lease.lease_id] = (3, 1, state(3))
    assert worker.commit(lease).accepted
    world.audit_all()
    states = [segment.state for segment in buyer.job(job.job_id).segments]
    assert states == [SegmentState.SETTLED] * 2


def test_a_vanished_worker_is_replaced_under_a_higher_fence(world: World) -> None:
    buyer, first = world.buyer(), world.worker("ann")
    job = buyer.submit(checkpoint_segments=2)
    lease = first.accept(world.offers()[0])
    for keep in (False, True, False):
        assert first.commit(lease, keep=keep).accepted
    finished = first.commitment(lease, 3)  # and then the power goes
    second = world.worker("bob")
    world.do(world.application.expire)
    for _ in range(400):  # time passes while the coordinator is up
        world.now_us += SECOND_US
        world.do(world.application.expire)
    second.hello()
    told = world.match()
    assert LeaseRevoked in {type(item) for item in told}
    (again,) = (item for item in told if not isinstance(item, LeaseRevoked))
    assert (again.fence, again.first_step, again.first_segment) == (2, 6, 2)
    late = first.send(finished)
    assert (late.accepted, late.code) == (False, "STALE_FENCE")
    second.run(again)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    assert [s.state for s in done.segments].count(SegmentState.VOID) == 1
    assert first.balances.available_nano > 0 and second.balances.available_nano > 0


def test_downtime_of_the_coordinator_does_not_count(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    lease = worker.accept(world.offers()[0])
    world.do(world.application.expire)
    world.now_us += 3_600 * SECOND_US
    world.restart()
    report = world.do(world.application.expire)
    assert (report.leases_expired, report.downtime_us) == (0, 3_600 * SECOND_US)
    assert worker.heartbeat(lease).lost == ()
    assert worker.commit(lease).accepted


def test_many_short_downtimes_do_not_count_either(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    lease = worker.accept(world.offers()[0])
    world.do(world.application.expire)
    for _ in range(200):
        world.now_us += 4 * SECOND_US
        world.restart()
        report = world.do(lambda tx: world.application.expire(tx, resumed=True))
        assert (report.leases_expired, report.downtime_us) == (0, 4 * SECOND_US)
    assert worker.commit(lease).accepted


def test_after_a_restart_only_workers_that_come_back_get_work(world: World) -> None:
    """A connection ended with the process that held it; nobody was there to write that down."""
    buyer, worker = world.buyer(), world.worker("ann")
    world.do(world.application.expire)
    world.now_us += SECOND_US
    world.restart()
    world.do(lambda tx: world.application.expire(tx, resumed=True))
    buyer.submit()
    assert world.offers() == []
    worker.hello()
    assert [lease.device_id for lease in world.offers()] == [worker.device_id]


def test_a_banned_worker_hears_of_it_at_its_next_heartbeat(world: World) -> None:
    """Also without a lease that could be revoked: its owner must learn why no work comes."""
    buyer, cheat = world.buyer(), world.worker("cheat")
    buyer.submit()
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lambda step: digest_of(f"wrong {step}")
    assert cheat.commit(lease).accepted
    cheat.release(lease)
    world.audit_all()
    refused = cheat.heartbeat()
    assert isinstance(refused, Forbidden)
    assert refused.code == "KEY_BANNED" and "STATE_DIFFERS" in refused.message


def test_a_wrong_state_is_slashed_rolled_back_and_done_again(world: World) -> None:
    buyer, cheat = world.buyer(), world.worker("cheat", ask=100_000_000)
    honest = world.worker("honest", ask=200_000_000)
    job = buyer.submit()
    lease = cheat.accept(world.offers()[0])
    assert cheat.commit(lease).accepted
    world.audit_all()
    earned = cheat.balances.held_nano
    assert earned > 0
    cheat.lie = lambda step: digest_of(f"wrong {step}")
    assert cheat.commit(lease).accepted
    cheat.release(lease)
    cheat.world.do(world.application.offer_withdrawn, cheat.session, cheat.device_id)
    (later,) = world.offers()  # starts from the wrong state, which nobody knows yet
    assert later.first_step == 6
    honest.accept(later)
    honest.position[later.lease_id] = (6, 2, later.state_root)
    assert honest.commit(later).accepted
    (outcome,) = [item for item in world.audit_all() if not item.accepted]
    assert outcome.reason_code == "STATE_DIFFERS"
    assert cheat.balances.held_nano == 0 and cheat.balances.bond_nano == 0
    assert honest.balances.available_nano > 0  # paid for work on a state that was not its fault
    told = world.match()
    assert [item.reason for item in told if isinstance(item, LeaseRevoked)] == ["ROLLED_BACK"]
    (redo,) = (item for item in told if not isinstance(item, LeaseRevoked))
    assert (redo.first_step, redo.device_id) == (3, honest.device_id) and redo.fence > later.fence
    honest.run(redo)
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    kinds = buyer.kinds(job.job_id)
    assert {"rejected", "slashed", "compensated", "rolled-back"} <= set(kinds)
    with pytest.raises(FlopmarketError) as error:
        cheat.hello()
    assert code_of(error) == "KEY_BANNED"


def test_a_checkpoint_file_that_is_not_the_state_is_rejected(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    lease = worker.accept(world.offers()[0])
    commit = worker.commitment(lease, 3)
    world.artifacts.stored[commit.checkpoint_artifact] = b"something else"
    assert worker.send(commit).accepted
    (outcome,) = world.audit_all()
    assert outcome.reason_code == "CHECKPOINT_FILE_DIFFERS"


def test_cancel_pays_what_is_finished_and_returns_the_rest(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(checkpoint_segments=4)
    lease = worker.accept(world.offers()[0])
    assert worker.commit(lease, keep=False).accepted
    finished = worker.commitment(lease, 3)
    view = buyer.cancel(job.job_id)
    assert view.state is JobState.VERIFYING
    answer = worker.send(finished)
    assert (answer.accepted, answer.code) == (False, "JOB_ENDED")
    (told,) = world.match()
    assert isinstance(told, LeaseRevoked) and told.reason == "JOB_CANCELLED"
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.CANCELLED and done.billed_nano > 0
    assert buyer.available == 1_000 * DOLLAR - done.billed_nano
    assert buyer.cancel(job.job_id).state is JobState.CANCELLED


def test_a_job_ends_at_its_deadline(world: World) -> None:
    buyer = world.buyer()
    job = buyer.submit(deadline_us=world.now_us + 2 * SECOND_US)
    world.now_us += 3 * SECOND_US
    assert world.do(world.application.expire).jobs_failed == 1
    done = buyer.job(job.job_id)
    assert (done.state, done.reason) == (JobState.FAILED, "DEADLINE_PASSED")
    assert buyer.available == 1_000 * DOLLAR


def test_a_job_that_no_auditor_can_run_fails_without_a_slash(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit()
    lease = worker.accept(world.offers()[0])
    worker.commit(lease)
    task = world.see(world.application.next_audit)
    assert task is not None
    world.do(world.application.audit_finished, task, JobRefusedByAuditor("JOB_DATA", "no such row"))
    done = buyer.job(job.job_id)
    assert done.state is JobState.FAILED and done.billed_nano == 0
    assert "slashed" not in buyer.kinds(job.job_id)


def test_refusals_of_several_owners_fail_a_job(world: World) -> None:
    buyer = world.buyer()
    job = buyer.submit()
    for name in ("ann", "bob", "cid"):
        worker = world.worker(name)
        (lease,) = world.offers()
        worker.release(lease, "PROGRAM_REFUSED")
        world.do(world.application.offer_withdrawn, worker.session, worker.device_id)
    assert buyer.job(job.job_id).reason == "REFUSED_BY_WORKERS"


def test_inference_runs_on_several_workers_at_once(world: World) -> None:
    buyer = world.buyer()
    workers = {item.device_id: item for item in (world.worker("ann"), world.worker("bob"))}
    job = buyer.submit(stateless=True, steps=7)
    leases = world.offers()
    assert [(lease.first_step, lease.step_count) for lease in leases] == [(0, 3), (3, 3)]
    for lease in reversed(leases):
        workers[lease.device_id].run(lease)
    (last,) = world.offers()
    assert (last.first_step, last.step_count, last.first_segment) == (6, 1, 2)
    early = workers[last.device_id]
    early.run(last)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED and done.steps_verified == 7


def test_a_segment_of_inference_that_ended_early_is_completed_by_another(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(stateless=True, steps=3)
    lease = worker.accept(world.offers()[0])
    assert worker.commit(lease, 1).accepted
    worker.release(lease)
    (rest,) = world.offers()
    assert (rest.first_step, rest.step_count) == (1, 2)
    worker.run(rest)
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


def test_cancelled_inference_with_a_gap_pays_in_order(world: World) -> None:
    buyer = world.buyer()
    workers = {item.device_id: item for item in (world.worker("ann"), world.worker("bob"))}
    job = buyer.submit(stateless=True, steps=6)
    first, second = world.offers()
    workers[first.device_id].accept(first)
    workers[second.device_id].run(second)
    buyer.cancel(job.job_id)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.CANCELLED and done.billed_nano == 0
    assert done.segments[0].reason == "OUT_OF_ORDER"


def test_a_lying_inference_worker_costs_only_its_own_segment(world: World) -> None:
    buyer, cheat = world.buyer(), world.worker("cheat")
    job = buyer.submit(stateless=True, steps=3)
    (lease,) = world.offers()
    cheat.lie = lambda step: digest_of("wrong outputs")
    cheat.run(lease)
    assert [item.reason_code for item in world.audit_all()] == ["OUTPUTS_DIFFER"]
    honest = world.worker("honest")
    (redo,) = world.offers()
    honest.run(redo)
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


def test_a_worker_that_reconnects_keeps_its_lease(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    (lease,) = world.offers()
    repeated = worker.hello()
    assert repeated.again == (lease,)  # the offer was lost with the connection
    worker.accept(lease)
    world.do(world.application.worker_gone, worker.session)
    world.restart()
    held = HeldLease(lease.lease_id, lease.fence)
    assert worker.hello((held,)).kept == (held,)
    assert worker.commit(lease).accepted
    assert worker.hello().kept == ()  # it forgot: somebody may go on from the last state
    (again,) = world.offers()
    assert (again.first_step, again.fence) == (3, 2)


def test_a_repeated_commitment_gets_the_first_answer(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit()
    lease = worker.accept(world.offers()[0])
    commit = worker.commitment(lease, 3)
    assert worker.send(commit) == worker.send(commit)
    assert len(buyer.job(job.job_id).segments) == 1


def test_a_lease_of_another_worker_cannot_be_committed_to(world: World) -> None:
    buyer, worker, other = world.buyer(), world.worker("ann"), world.worker("bob", ask=10**12)
    buyer.submit()
    lease = worker.accept(world.offers()[0])
    other.position[lease.lease_id] = worker.position[lease.lease_id]
    with pytest.raises(FlopmarketError) as error:
        other.commitment(lease, 3)  # not even an upload
    assert code_of(error) == "NO_LEASE"
    commit = worker.commitment(lease, 3)
    with pytest.raises(FlopmarketError) as error:
        other.send(commit)
    assert code_of(error) == "SIGNER_OTHER_ACCOUNT"


def test_an_account_does_not_run_its_own_job(world: World) -> None:
    buyer = world.buyer("both")
    world.worker("own card", owner="both")
    buyer.submit()
    assert world.offers() == []
    world.worker("another")
    assert len(world.offers()) == 1


def test_the_receipt_comes_at_the_end(world: World) -> None:
    buyer = world.buyer()
    job = buyer.submit()
    with pytest.raises(Conflict) as error:
        world.see(world.application.get_receipt, buyer.session, job.job_id)
    assert code_of(error) == "JOB_NOT_ENDED"
    assert job.job_id == digest(buyer.spec()).hex()


def test_a_sign_of_life_that_comes_after_the_goodbye_brings_nobody_back(world: World) -> None:
    """Heartbeats wait for each other: the last may be carried out after its connection ended."""
    buyer, worker = world.buyer(), world.worker("ann")
    world.do(world.application.worker_gone, worker.session)
    worker.heartbeat()
    buyer.submit()
    assert not world.match()
    worker.hello()
    assert world.match()
