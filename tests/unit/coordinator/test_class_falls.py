"""Inside one class of devices: segments that fall while others are deciding about them."""

from __future__ import annotations

import sqlalchemy as sa

from flopmarket_coordinator.application.types_working import CommitmentAnswer, LeaseOffered
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.verification import VoidReason
from flopmarket_coordinator.store import schema, segments
from tests.unit.coordinator.auditors import Club, auditor
from tests.unit.coordinator.class_market import (
    NAMES,
    arbiters,
    class_market,
    collude,
    drawn_first,
    main_audit,
    offered_to,
    segment,
)
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of


def only_at_the_end(worker: Worker) -> None:
    """It stores no state but the last one."""
    commit = worker.commit

    def last(lease: LeaseOffered, steps: int = 3, *, keep: bool = True) -> CommitmentAnswer:
        first, _, _ = worker.position[lease.lease_id]
        return commit(lease, steps, keep=first + steps == lease.first_step + lease.step_count)

    worker.commit = last  # type: ignore[method-assign]


def test_arbiters_of_a_segment_that_falls_leave_no_promise_behind(club: Club) -> None:
    """One has answered and the other computes when the segment counts no more: neither is paid,
    and what was promised to both is free again."""
    _, producer, job = class_market(club, NAMES[:3])
    producer.lie = lambda step: digest_of(f"wrong {step}")
    first = drawn_first(club)
    slow = next(auditor(club, name) for name in NAMES[:3] if name != first.name)
    club.idle.add(slow.key.key_id)
    club.work(first, offered_to(club, first))
    for _ in range(30):
        club.round()
        if [row for row in arbiters(club) if row.outcome]:
            break
    answered, waiting = sorted(arbiters(club), key=lambda row: not row.outcome)
    assert answered.outcome == "ROOTS_DIFFER" and waiting.phase is AuditPhase.SEALING
    row = segment(club, job)
    reason = VoidReason.BUILT_ON_VOID.value
    club.world.do(lambda tx: segments.move(tx, row, SegmentState.VOID, reason=reason))
    club.turn(60)
    assert main_audit(club).finding == "VOID"
    assert {row.phase for row in arbiters(club)} == {AuditPhase.ENDED}
    with club.world.store.begin() as connection:
        left = connection.execute(
            sa.select(schema.audit_pay.c.lease_id).where(
                schema.audit_pay.c.state == "reserved",
                schema.audit_pay.c.lease_id.in_([answered.lease_id, waiting.lease_id]),
            )
        ).all()
    assert left == []
    assert slow.balances.available_nano == 0


def test_a_unit_of_a_cancelled_job_that_is_undecided_takes_no_paid_one_with_it(club: Club) -> None:
    """Its buyer pays for right work that is not durable, since it cancelled; that nobody can
    decide about a later unit makes none of it void, as nothing is done again."""
    buyer, producer, job = class_market(club, NAMES[:1], steps=12, checkpoint_segments=4)
    collude(producer, at=9)
    only_at_the_end(producer)
    for _ in range(60):
        rows = club.world.see(lambda tx: segments.of_job(tx, job.job_id))
        if len(rows) == 4 and rows[2].state is SegmentState.VERIFIED:
            break
        club.round()
    assert rows[3].state is SegmentState.COMMITTED
    buyer.cancel(job.job_id)
    for _ in range(60):
        club.round()
        if buyer.job(job.job_id).state is JobState.CANCELLED:
            break
    rows = club.world.see(lambda tx: segments.of_job(tx, job.job_id))
    assert [row.state for row in rows[:3]] == [SegmentState.SETTLED] * 3
    assert (rows[3].state, rows[3].reason) == (SegmentState.VOID, "CLASS_UNDECIDED")
    assert buyer.job(job.job_id).billed_nano == sum(row.bill_nano for row in rows[:3])
    club.world.check()
