"""What the house finds wrong, its worker may answer for; and disputes that end by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeVerdict,
    Level,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import digest
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditTask,
    FilesResult,
    JobRefusedByAuditor,
)
from flopmarket_coordinator.application.types_disputes import RefereeFinding
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import disputes, identity, segments
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.auditors import Club, auditor, club_parameters, market, until
from tests.unit.coordinator.judged import FLIP, STAKE, lie_at, made, rows, staked
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import digest_of, outputs, state

SAVED_WORK = Signature(differing_elements=400, most_flipped_bits=12, follows=False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Nothing is drawn; what the house looks at it may be answered for."""
    made_world = made(tmp_path, house_disputes=True)
    yield made_world
    made_world.check()
    made_world.close()


@pytest.fixture
def club(tmp_path: Path) -> Iterator[Club]:
    made_club = Club(World(tmp_path, club_parameters(house_disputes=True)))
    yield made_club
    made_club.world.check()
    made_club.world.close()


def open_ones(world: World) -> tuple[DisputeRow, ...]:
    return world.see(world.application.open_disputes)


def ended(world: World, dispute_id: str) -> DisputeRow:
    row = world.see(disputes.get, dispute_id)
    assert row is not None and row.ended_at_us
    return row


def judge(
    world: World,
    row: DisputeRow,
    outcome: Outcome,
    reason: Reason = Reason.WRONG_VALUE,
    signature: Signature = SAVED_WORK,
) -> None:
    """The referee's verdict."""
    places = (NOWHERE,) * 3
    verdict = DisputeVerdict(digest(row.question), outcome, reason, *places, 0, 0, 0, 0, "s", "r")
    finding = RefereeFinding(
        row.dispute_id,
        row.event_count,
        (),
        Level.STEPS,
        Place(),
        row.deadline_us,
        verdict,
        signatures={Party.PRODUCER: signature},
    )
    assert world.do(world.application.dispute_judged, finding)


def put_up(world: World, segment_id: int) -> None:
    """The house is to compute a segment again."""

    def put(tx: Transaction) -> None:
        row = segments.get(tx, segment_id)
        assert row is not None
        segments.update(tx, row, house_task="recompute")

    world.do(put)


def ban(world: World, key_id: str) -> None:
    def banned(tx: Transaction) -> None:
        identity.ban_key(tx, key_id, "a test's")

    world.do(banned)


def recompute_task(world: World) -> AuditTask | None:
    return world.see(world.application.next_audit, (), AuditKind.RECOMPUTE)


def compute_all(world: World) -> list[str]:
    """The house computes what it may; its files wait."""
    codes = []
    while (task := recompute_task(world)) is not None:
        outcome = world.audit(task)
        assert outcome is not None
        codes.append(outcome.reason_code)
    return codes


def story(world: World, *, steps: int = 12) -> tuple[Buyer, Worker, str, LeaseOffered]:
    """A worker that went wrong in its second segment of a running chain, and did a third; the house
    looks at all of them."""
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(steps=steps)
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(6)
    for _ in range(3):
        assert cheat.commit(lease).accepted
    for row in rows(world, job.job_id):
        put_up(world, row.segment_id)
    return buyer, cheat, job.job_id, lease


def test_while_it_lasts_the_segment_waits_and_is_not_served_again(world: World) -> None:
    buyer, cheat, job_id, _ = story(world)
    assert compute_all(world) == [VerdictCode.EQUAL, VerdictCode.STATE_DIFFERS]
    first, wrong, later = rows(world, job_id)
    assert first.state is SegmentState.SETTLED
    assert wrong.state is later.state is SegmentState.COMMITTED
    (dispute,) = open_ones(world)
    opening = dispute.question
    assert (dispute.auditor_key_id, dispute.auditor_account) == (world.key.key_id, "")
    assert opening.producer.state_root_after == digest_of("wrong 6")
    assert opening.auditor.state_root_after == state(6)
    assert recompute_task(world) is None, "later segments of the chain wait for it"
    world.restart()
    assert recompute_task(world) is None
    judge(world, dispute, Outcome.PRODUCER_WRONG)
    states = [row.state for row in rows(world, job_id)]
    assert states == [SegmentState.SETTLED, SegmentState.REJECTED, SegmentState.VOID]
    assert rows(world, job_id)[1].reason == VerdictCode.STATE_DIFFERS
    assert cheat.balances.bond_nano == 0
    honest = staked(world, "honest", ask=200_000_000)
    (again,) = world.offers()
    honest.run(again)
    world.audit_all()
    assert buyer.job(job_id).state is JobState.SUCCEEDED


def test_an_honest_flip_keeps_the_stake(world: World) -> None:
    _, cheat, job_id, _ = story(world)
    world.audit_all()
    judge(world, open_ones(world)[0], Outcome.PRODUCER_WRONG, signature=FLIP)
    assert rows(world, job_id)[1].state is SegmentState.REJECTED
    assert cheat.balances.bond_nano == STAKE
    assert [item.code for item in cheat.hello().refused] == ["DEVICE_QUARANTINED"]


def test_what_the_lists_cannot_decide_the_house_does(world: World) -> None:
    _, cheat, job_id, _ = story(world)
    world.audit_all()
    judge(world, open_ones(world)[0], Outcome.THIRD_RUN, Reason.UNDECIDABLE)
    assert rows(world, job_id)[1].state is SegmentState.REJECTED
    assert cheat.balances.bond_nano == 0


def test_a_house_that_loses_looks_once_more_and_is_not_believed_twice(world: World) -> None:
    buyer, cheat, job_id, _ = story(world)
    for _ in range(2):
        task = recompute_task(world)
        while task is not None and task.segment_index == 0:
            world.audit(task)
            task = recompute_task(world)
        assert task is not None and task.segment_index == 1
        world.audit(task)
        (dispute,) = open_ones(world)
        judge(world, dispute, Outcome.AUDITOR_WRONG, Reason.SILENT)
        world.now_us += 1
    assert rows(world, job_id)[1].state in (SegmentState.VERIFIED, SegmentState.SETTLED)
    assert cheat.balances.bond_nano == STAKE and not open_ones(world)
    assert "rejected" not in buyer.kinds(job_id)


def test_a_look_back_at_an_ended_job_is_answered_for_too(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit()
    cheat.lie = lie_at(9)
    cheat.run(world.offers()[0])
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    wrong = rows(world, job.job_id)[2]
    put_up(world, wrong.segment_id)
    world.audit_all()
    (dispute,) = open_ones(world)
    assert rows(world, job.job_id)[2].state is SegmentState.SETTLED
    (asked,) = world.see(world.application.dispute_questions, cheat.key.key_id)
    assert (asked.party, asked.work.first_step) == (Party.PRODUCER, 6)
    judge(world, dispute, Outcome.PRODUCER_WRONG)
    assert buyer.job(job.job_id).reason == "CORRECTED: STATE_DIFFERS in segment 2"
    assert rows(world, job.job_id)[2].state is SegmentState.REJECTED


def test_a_segment_before_the_one_that_was_looked_at(world: World) -> None:
    """The house's replay differs on its way: the dispute is about the first difference."""
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(checkpoint_segments=4)
    lease = cheat.accept(world.offers()[0])
    cheat.lie = lie_at(3)
    for _ in range(3):
        assert cheat.commit(lease, keep=False).accepted
    put_up(world, rows(world, job.job_id)[2].segment_id)
    world.audit_all()
    (dispute,) = open_ones(world)
    assert dispute.segment_id == rows(world, job.job_id)[0].segment_id
    judge(world, dispute, Outcome.PRODUCER_WRONG)
    assert rows(world, job.job_id)[0].state is SegmentState.REJECTED


def test_other_ranges_of_inference_are_served_meanwhile(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    job = buyer.submit(stateless=True, steps=9)
    for number in range(3):
        (lease,) = world.offers()
        cheat.lie = (lambda _: digest_of("wrong outputs")) if number == 0 else None
        cheat.run(lease)
    for row in rows(world, job.job_id):
        put_up(world, row.segment_id)
    codes = [outcome.reason_code for outcome in world.audit_all()]
    assert codes == [VerdictCode.OUTPUTS_DIFFER, VerdictCode.EQUAL, VerdictCode.EQUAL]
    judge(world, open_ones(world)[0], Outcome.PRODUCER_WRONG)
    assert rows(world, job.job_id)[0].state is SegmentState.REJECTED


def test_files_that_hold_something_else_convict_by_themselves(world: World) -> None:
    _, cheat, job_id, _ = story(world)
    outcome = world.audit()
    assert outcome is not None and outcome.accepted
    wrong = rows(world, job_id)[1]
    world.artifacts.stored[wrong.checkpoint_artifact] = digest_of("something else")
    world.audit_all()
    assert not open_ones(world)
    assert rows(world, job_id)[1].state is SegmentState.REJECTED
    assert cheat.balances.bond_nano == 0


def test_results_that_come_while_it_lasts_change_nothing(world: World) -> None:
    _, _, job_id, _ = story(world)
    world.audit()
    task = recompute_task(world)
    assert task is not None
    world.audit(task)
    late = world.audit(task)
    assert late is not None and (late.applied, late.reason_code) == (False, "NOT_WAITING")
    files = FilesResult(outputs(3, 3), digest_of("wrong 6"))
    assert not world.do(world.application.audit_finished, task, files).applied
    assert len(open_ones(world)) == 1
    assert rows(world, job_id)[1].state is SegmentState.COMMITTED


def test_a_producer_that_is_banned_meanwhile_has_lost(world: World) -> None:
    _, cheat, job_id, _ = story(world)
    world.audit_all()
    (dispute,) = open_ones(world)
    ban(world, cheat.key.key_id)
    world.do(world.application.expire)
    found = ended(world, dispute.dispute_id)
    assert (found.outcome, found.reason) == (Outcome.THIRD_RUN, Reason.PARTY_BANNED)
    assert rows(world, job_id)[1].state is SegmentState.REJECTED
    assert cheat.balances.bond_nano == 0


def test_who_is_banned_already_is_not_asked(world: World) -> None:
    _, cheat, job_id, _ = story(world)
    ban(world, cheat.key.key_id)
    world.audit_all()
    assert not open_ones(world)
    assert rows(world, job_id)[1].state is SegmentState.REJECTED


def test_a_dispute_whose_job_ended_ends_with_it(world: World) -> None:
    buyer, _, job_id, _ = story(world)
    world.audit_all()
    (dispute,) = open_ones(world)
    put_up(world, rows(world, job_id)[0].segment_id)

    def reject(tx: Transaction) -> None:
        row = segments.get(tx, rows(world, job_id)[0].segment_id)
        assert row is not None
        world.application._reject(
            tx, row, VerdictCode.STATE_DIFFERS, None, auditor=world.key.key_id, signature=FLIP
        )

    world.do(reject)
    assert rows(world, job_id)[1].state is SegmentState.VOID
    world.do(world.application.expire)
    found = ended(world, dispute.dispute_id)
    assert (found.outcome, found.reason) == (Outcome.THIRD_RUN, Reason.SEGMENT_VOID)
    (seen,) = world.see(world.application.list_disputes, buyer.session, 10, "").disputes
    assert seen.verdict is not None and seen.verdict.reason is Reason.SEGMENT_VOID
    over = world.see(world.application.dispute_over, dispute.dispute_id)
    assert [item.level for item in over] == [None]


def test_an_auditor_that_is_banned_leaves_its_audit_to_the_house(club: Club) -> None:
    _, producer, job = market(club, "first", steps=3)
    first = auditor(club)
    first.lie = lambda step: digest_of(f"slander {step}")
    audit = until(club, AuditPhase.DISPUTE)
    (dispute,) = open_ones(club.world)
    ban(club.world, first.key.key_id)
    club.world.do(club.world.application.expire)
    assert ended(club.world, dispute.dispute_id).reason == Reason.PARTY_BANNED
    assert club.audits()[0].phase is AuditPhase.HOUSE
    club.world.audit_all()
    (found,) = club.audits()
    assert (found.audit_id, found.finding) == (audit.audit_id, "CONFIRMED")
    (row,) = rows(club.world, job.job_id)
    assert row.state is SegmentState.SETTLED
    assert producer.balances.available_nano > 0


def test_a_producer_that_is_banned_leaves_its_segment_to_the_house(club: Club) -> None:
    _, producer, job = market(club, "first", steps=3)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    until(club, AuditPhase.DISPUTE)
    ban(club.world, producer.key.key_id)
    club.world.do(club.world.application.expire)
    assert not open_ones(club.world)
    club.world.audit_all()
    assert club.audits()[0].finding == "REFUTED"
    assert rows(club.world, job.job_id)[0].state is SegmentState.REJECTED
    assert auditor(club).balances.available_nano > 0


def test_auditors_that_wait_for_the_house_are_paid_when_its_dispute_ends(club: Club) -> None:
    _, producer, _ = market(club, "first", steps=3)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    until(club, AuditPhase.DISPUTE)
    judge(club.world, open_ones(club.world)[0], Outcome.THIRD_RUN, Reason.UNDECIDABLE)
    club.world.audit_all()
    (dispute,) = open_ones(club.world)
    assert dispute.auditor_key_id == club.world.key.key_id
    assert club.audits()[0].phase is AuditPhase.HOUSE
    assert auditor(club).balances.available_nano == 0
    judge(club.world, dispute, Outcome.PRODUCER_WRONG)
    assert club.audits()[0].finding == "REFUTED"
    assert auditor(club).balances.available_nano > 0


def test_a_job_that_nobody_can_compute_again_keeps_what_counted(world: World) -> None:
    buyer, honest = world.buyer(), staked(world, "honest")
    running = buyer.submit()
    lease = honest.accept(world.offers()[0])
    assert honest.commit(lease).accepted
    world.audit_all()
    (row,) = rows(world, running.job_id)
    assert row.state is SegmentState.SETTLED
    put_up(world, row.segment_id)
    task = recompute_task(world)
    assert task is not None
    refusal = JobRefusedByAuditor("JOB_PROGRAM", "not for this engine")
    assert world.do(world.application.audit_finished, task, refusal).applied
    assert recompute_task(world) is None
    assert buyer.job(running.job_id).state is JobState.RUNNING
    assert honest.commit(lease).accepted
