"""Step audits that nobody answers, and what a fault brings about for other segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import Conflict
from flopmarket.trust.documents import Commitment
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import identity, penalties, segments, step_audits
from tests.unit.coordinator.drawn import FIFTH, bonded
from tests.unit.coordinator.stepped import (
    DAY_US,
    RULES,
    STEPS,
    answered_again,
    asked,
    body_of,
    claim,
    looked_at,
    say,
    started,
    state_of,
    too_big,
    worker_bond,
)
from tests.unit.coordinator.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, too_big())
    yield made
    made.check()
    made.close()


@pytest.mark.parametrize("round_", [1, 2])
def test_silence_voids_the_unit_and_is_a_strike(world: World, round_: int) -> None:
    buyer, worker, lease = started(world)
    for _ in range(2):
        worker.commit(lease, STEPS)
    question = asked(world)[0]
    if round_ == 2:
        say(world, worker, question, first=claim(world, worker, question))
    world.now_us += DAY_US - 1
    world.do(world.application.expire)
    assert state_of(world)[0] is SegmentState.COMMITTED
    world.now_us += 1 + SECOND_US
    world.do(world.application.expire)
    assert state_of(world) == (SegmentState.VOID, "STEPS_UNANSWERED")
    assert state_of(world, 2)[0] is SegmentState.VOID  # it was built on the first
    strikes = world.see(penalties.strikes, [worker.key.key_id], 0)
    assert [strike.kind.value for strike in strikes][:1] == ["silence"]
    key = world.see(identity.key, worker.key.key_id)
    assert key is not None and not key.revoked
    assert "voided" in buyer.kinds(world.see(segments.get, 1).job_id)


def test_a_refusal_is_silence_at_once(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    say(world, worker, question, code="REPLAY_DIFFERS")
    assert state_of(world) == (SegmentState.VOID, "STEPS_UNANSWERED")
    audit = world.see(step_audits.open_of_segment, 1)
    assert audit is None
    with pytest.raises(Conflict):
        say(world, worker, question, code="REPLAY_DIFFERS")


def test_the_fifth_silence_costs_the_stake(world: World) -> None:
    buyer, worker = world.buyer(), bonded(world, "w")
    for number in range(RULES.allowed_silences + 1):
        key = world.see(identity.key, worker.key.key_id)
        assert key is not None and not key.revoked
        buyer.submit(f"job {number}", steps=STEPS, segment_steps=STEPS)
        lease = next(item for item in world.offers() if item.first_step == 0)
        worker.accept(lease)
        worker.commit(lease, STEPS)
        (question,) = asked(world)
        say(world, worker, question, code="ENGINE_FAILED")
        buyer.cancel(lease.job_id)
    key = world.see(identity.key, worker.key.key_id)
    assert key is not None and key.revoked
    assert worker_bond(world, worker) == 0


def test_time_stands_still_while_the_coordinator_is_away(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    world.do(world.application.expire)
    world.now_us += 2 * DAY_US
    world.do(lambda tx: world.application.expire(tx, resumed=True))
    world.do(world.application.expire)
    assert state_of(world)[0] is SegmentState.COMMITTED
    say(world, worker, question, first=claim(world, worker, question))


def test_a_key_that_is_revoked_answers_no_more_and_its_unit_is_void(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    asked(world)
    world.do(lambda tx: identity.ban_key(tx, worker.key.key_id, "test"))
    world.do(world.application.expire)
    assert state_of(world) == (SegmentState.VOID, "STEPS_UNANSWERED")


def test_an_earlier_fault_ends_it(world: World) -> None:
    _, worker, lease = started(world)
    for _ in range(2):
        worker.commit(lease, STEPS)
    first, second = asked(world)
    say(world, worker, first, code="ENGINE_FAILED")
    world.do(world.application.expire)
    with pytest.raises(Conflict):
        say(world, worker, second, code="ENGINE_FAILED")
    assert world.see(step_audits.open_of_segment, 2) is None


def test_after_a_fault_other_big_segments_are_looked_at_by_steps(tmp_path: Path) -> None:
    """Units whose pay is held, and that were not drawn, are asked about; none is recomputed."""
    rules = replace(FIFTH, safety=0 + 1, floor_ppm=1, least_steps=2, outlier_ppm=1_000_000)
    world = World(tmp_path, replace(too_big(held_us=DAY_US), audit_rules=rules))
    buyer, worker = world.buyer(), bonded(world, "w", 10**15)
    for name in ("one", "two"):
        buyer.submit(name, steps=STEPS, segment_steps=STEPS)
        (lease,) = world.offers()
        worker.accept(lease)
        assert not worker.commit(lease, STEPS).audited
        world.read_files()
    assert asked(world) == []
    world.do(lambda tx: world.application._look_back(tx, worker.account, 2, "TEST"))
    (question,) = asked(world)
    assert body_of(question.commitment, Commitment).first_step == 0
    row = world.see(segments.get, 1)
    assert row is not None and row.house_task == AuditKind.STEPS
    assert world.see(world.application.next_audit, (), AuditKind.RECOMPUTE) is None
    answered_again(world, worker, question)
    assert looked_at(world).accepted
    row = world.see(segments.get, 1)
    assert row is not None and (row.house_task, row.auditor) == ("", world.key.key_id)
    world.check()
    world.close()
