"""Step audits in the store: who is asked what and when, and what answers and silence come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound
from flopmarket.trust.audit_policy import steps_detection_ppm
from flopmarket.trust.audit_records import LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import FindingCode
from flopmarket.trust.documents import Commitment
from flopmarket.trust.step_audit import (
    EQUAL,
    Finding,
    StepAnswer,
    StepCode,
)
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditOutcome, PathDiffers
from flopmarket_coordinator.application.types_steps import StepsFound
from flopmarket_coordinator.core.auditing import StepPhase
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.store import identity, segments, step_audits
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.drawn import FIFTH, parameters, published
from tests.unit.coordinator.stepped import (
    DAY_US,
    RULES,
    STEPS,
    answer,
    answered,
    answered_without_files,
    asked,
    body_of,
    claim,
    digest_hex,
    looked_at,
    put,
    question_again,
    say,
    started,
    state_of,
    terms_in,
    too_big,
    worker_bond,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import upload
from tests.unit.coordinator.world_work import digest_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, too_big())
    yield made
    made.check()
    made.close()


# --- what a lease says ----------------------------------------------------------------------------


def test_a_lease_says_how_many_steps_are_drawn_and_what_they_detect(world: World) -> None:
    _, _, lease = started(world)
    terms = terms_in(world, lease.lease_id)
    assert terms.audit_steps == RULES.least_steps
    assert terms.detection_ppm == steps_detection_ppm(2, STEPS) == 333_333
    assert terms.steps_anchor not in (terms.anchor, terms.cross_anchor, bytes(32))


def test_a_segment_within_the_budget_is_recomputed_whole(tmp_path: Path) -> None:
    world = World(tmp_path, parameters(RULES))
    _, worker, lease = started(world)
    terms = terms_in(world, lease.lease_id)
    assert (terms.audit_steps, terms.detection_ppm) == (0, 1_000_000)
    worker.commit(lease, STEPS)
    assert asked(world) == []
    task = world.see(world.application.next_audit)
    assert task is not None and task.kind is AuditKind.RECOMPUTE
    world.close()


def test_a_budget_of_four_steps_pays_for_four(tmp_path: Path) -> None:
    flops = 2 * 16  # of a step: two operations over sixteen elements
    world = World(tmp_path, replace(too_big(), max_house_flops=4 * flops))
    _, _, lease = started(world)
    assert terms_in(world, lease.lease_id).audit_steps == 4
    world.close()


def test_few_steps_raise_the_rate(tmp_path: Path) -> None:
    """An established device: what the stake asks for, over the chance of a detection."""
    rules = replace(FIFTH, least_steps=2)
    rates = []
    for name, flops in (("whole", 10**18), ("steps", 1)):
        folder = tmp_path / name
        folder.mkdir()
        world = World(folder, replace(parameters(rules), max_house_flops=flops))
        _, worker, lease = started(world)
        rates.append(worker.commit(lease, STEPS).rate_ppm)
        world.close()
    assert rates[0] == 200_000
    assert rates[1] == -(-200_000 * 1_000_000 // 333_333)


# --- the two rounds -------------------------------------------------------------------------------


def test_an_answer_that_fits_is_paid(world: World) -> None:
    buyer, worker, lease = started(world)
    for _ in range(2):
        assert worker.commit(lease, STEPS).accepted
    for number in (1, 2):
        question = next(iter(asked(world))) if number == 1 else question_again(world, worker)
        assert question.steps == () and question.claim is None
        assert question.work.first_step <= body_of(question.commitment, Commitment).first_step
        say(world, worker, question, first=claim(world, worker, question))
        (second,) = asked(world)
        assert len(second.steps) == RULES.least_steps
        say(world, worker, second, second=answer(world, worker, second))
        assert looked_at(world) == AuditOutcome(True, True, "STEPS_EQUAL")
    assert buyer.job(world.see(segments.get, 1).job_id).state is JobState.SUCCEEDED
    assert state_of(world)[0] is SegmentState.SETTLED


def test_steps_are_drawn_when_the_claim_is_there_and_from_it(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    audit = world.see(step_audits.open_of_segment, 1)
    assert audit is not None and (audit.phase, audit.number) == (StepPhase.ROOTS, 0)
    say(world, worker, question, first=claim(world, worker, question))
    audit = world.see(step_audits.open_of_segment, 1)
    assert audit is not None and (audit.phase, audit.number) == (StepPhase.STATES, 1)
    (second,) = asked(world)
    assert second.claim is not None
    with pytest.raises(Conflict):  # a second claim, made to be drawn otherwise
        say(world, worker, question, first=claim(world, worker, question, roots=digest_of("x")))
    assert question_again(world, worker).steps == second.steps


def test_a_restart_in_the_middle_changes_nothing(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    world.restart()
    say(world, worker, question, first=claim(world, worker, question))
    world.restart()
    second = question_again(world, worker)
    say(world, worker, second, second=answer(world, worker, second))
    world.restart()
    assert looked_at(world).accepted


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": digest_of("other")},
        {"salt": digest_of("other")},
        {"inner": digest_of("other")},
        {"checksums": digest_of("never uploaded")},
        {"roots": digest_of("never uploaded")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_claim_about_something_else_is_not_heard(world: World, change: dict[str, object]) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    with pytest.raises(InvalidInput):
        say(world, worker, question, first=claim(world, worker, question, **change))
    audit = world.see(step_audits.open_of_segment, 1)
    assert audit is not None and audit.phase is StepPhase.ROOTS


def test_only_the_worker_speaks_for_its_segment(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    stranger = world.worker("stranger")
    said = claim(world, worker, question)
    with pytest.raises(Conflict):
        say(world, worker, question, first=said, by=stranger)
    with pytest.raises(NotFound):
        say(world, stranger, question, first=said)
    with pytest.raises(Forbidden):
        put(world, stranger, "roots", question.lease_id)


def test_an_answer_with_other_steps_or_no_files_is_not_heard(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    (question,) = asked(world)
    with pytest.raises(Conflict):  # before anything is drawn
        say(world, worker, question, second=StepAnswer(digest_of("claim"), ()))
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = asked(world)
    right = answer(world, worker, second)
    for wrong in (
        replace(right, states=right.states[:1]),
        replace(right, states=tuple(replace(it, step=it.step + 1) for it in right.states)),
        replace(right, claim=digest_of("other")),
        replace(right, states=tuple(replace(it, state=digest_of("x")) for it in right.states)),
        replace(right, states=tuple(replace(it, values=digest_of("x")) for it in right.states)),
    ):
        with pytest.raises(InvalidInput):
            say(world, worker, second, second=wrong)
    say(world, worker, second, second=right)


def test_files_are_uploaded_after_the_lease_only_while_somebody_asks(world: World) -> None:
    _, worker, lease = started(world, steps=STEPS)
    worker.commit(lease, STEPS)
    answered(world, worker)
    looked_at(world)
    with pytest.raises(Forbidden):
        put(world, worker, "more", lease.lease_id)


# --- what the house finds -------------------------------------------------------------------------


def test_a_step_that_leads_elsewhere_costs_the_stake(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    answered(world, worker)
    found = looked_at(world, Finding(StepCode.DIFFERS, 3, "elsewhere"))
    assert found == AuditOutcome(True, False, "STEP_DIFFERS")
    assert state_of(world) == (SegmentState.REJECTED, "STEP_DIFFERS")
    key = world.see(identity.key, worker.key.key_id)
    assert key is not None and key.revoked
    assert worker_bond(world, worker) == 0


def test_files_that_are_not_what_was_signed_are_no_answer(world: World) -> None:
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    answered(world, worker)
    found = looked_at(world, Finding(StepCode.UNUSABLE, 3, "not the state"))
    assert found == AuditOutcome(True, False, "STEPS_UNANSWERED")
    assert state_of(world) == (SegmentState.VOID, "STEPS_UNANSWERED")
    assert worker_bond(world, worker) > 0


def test_uploaded_outputs_are_held_to_the_committed_root_too(world: World) -> None:
    _, worker, lease = started(world)
    commit = worker.commitment(lease, STEPS)
    wrong = upload(world, worker.session, b"other outputs", lease.lease_id)
    worker.send(replace(commit, outputs_artifact=wrong))
    answered_without_files(world, worker)
    task = world.see(world.application.next_audit, (), AuditKind.STEPS)
    assert task is not None
    found = StepsFound(EQUAL, b"other outputs", task.state_root_after)
    outcome = world.do(world.application.audit_finished, task, found)
    assert outcome == AuditOutcome(True, False, "OUTPUTS_FILE_DIFFERS")


@pytest.mark.parametrize("code", [StepCode.EQUAL, StepCode.DIFFERS])
def test_files_are_kept_while_they_are_needed(world: World, code: StepCode) -> None:
    """Until the house has looked; what convicts somebody as long as its job is remembered."""
    _, worker, lease = started(world)
    worker.commit(lease, STEPS)
    second = answered(world, worker)
    states = {digest_hex(f"state {step}") for step in second.steps}
    world.now_us += 30 * DAY_US

    def planned() -> set[str]:
        return set(world.see(world.application.plan_collection).digests)

    assert not states & planned()
    looked_at(world, Finding(code, 1, "looked at"))
    assert (states <= planned()) == (code is StepCode.EQUAL)
    assert bool(states & planned()) == (code is StepCode.EQUAL)


# --- a look at steps is no recomputation ----------------------------------------------------------


def test_a_segment_that_drawn_steps_missed_convicts_when_it_is_computed_whole(
    world: World,
) -> None:
    """An auditor of a later segment comes to another state: the house computes what lies before it,
    and finds wrong what its own look at a few steps had found right."""
    _, worker, lease = started(world, checkpoint_segments=2)
    worker.commit(lease, STEPS, keep=False)
    answered(world, worker)
    assert looked_at(world).accepted
    worker.commit(lease, STEPS)
    world.do(lambda tx: put_up(tx, 2))
    task = world.see(world.application.next_audit, (), AuditKind.RECOMPUTE)
    assert task is not None and task.segment_id == 2
    assert [(part.segment_id, part.recomputed) for part in task.path] == [(1, False)]
    found = PathDiffers(1, digest_of("right state"), digest_of("right outputs"))
    assert world.do(world.application.audit_finished, task, found).applied
    assert state_of(world)[0] is SegmentState.REJECTED
    assert worker_bond(world, worker) == 0


def put_up(tx: Transaction, segment_id: int) -> None:
    """For the house, as after a difference."""
    row = segments.get(tx, segment_id)
    assert row is not None
    segments.update(tx, row, house_task=AuditKind.RECOMPUTE.value)


# --- what is published ----------------------------------------------------------------------------


def published_of(world: World) -> list[LeaseAudits]:
    """Two honest segments, the job's end, and the draws as a client has them."""
    buyer, worker, lease = started(world)
    job_id = lease.job_id
    for _ in range(2):
        worker.commit(lease, STEPS)
    for _ in range(2):
        question = question_again(world, worker)
        say(world, worker, question, first=claim(world, worker, question))
        second = next(item for item in asked(world) if item.claim is not None)
        say(world, worker, second, second=answer(world, worker, second))
        assert looked_at(world).accepted
    assert buyer.job(job_id).state is JobState.SUCCEEDED
    return published(world, buyer, job_id)


def test_published_steps_follow_from_what_was_signed(world: World) -> None:
    leases = published_of(world)
    assert check(leases, world.key.public) == ()
    assert [from_line(to_line(lease)) for lease in leases] == leases
    (lease,) = leases
    assert [item.steps and item.steps.number for item in lease.segments] == [1, 2]


@pytest.mark.parametrize("what", ["none", "value", "number", "twice", "claim", "answer"])
def test_published_steps_that_were_changed_are_found(world: World, what: str) -> None:
    (lease,) = published_of(world)
    first, second = lease.segments
    one, two = first.steps, second.steps
    assert one is not None and two is not None
    changed = {
        "none": None,
        "value": replace(two, value=digest_of("other")),
        "number": replace(two, number=3),
        "twice": one,
        "claim": replace(two, claim=one.claim),
        "answer": replace(two, answer=one.answer),
    }[what]
    told = replace(lease, segments=(first, replace(second, steps=changed)))
    found = check([told], world.key.public)
    assert [item.finding.code for item in found] == [FindingCode.WRONG_STEPS]
    assert found[0].finding.index == 2
