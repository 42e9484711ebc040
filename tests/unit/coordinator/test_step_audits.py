"""Step audits in the store: who is asked what and when, and what answers and silence come to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound
from flopmarket.trust.audit_policy import steps_detection_ppm
from flopmarket.trust.audit_records import LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import ChallengeTerms, FindingCode
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import AnyDocument, Document, decode, digest
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.step_audit import (
    EQUAL,
    DrawnState,
    Finding,
    StepAnswer,
    StepClaim,
    StepCode,
)
from flopmarket_coordinator.application.sampling import terms_of
from flopmarket_coordinator.application.types import (
    AuditKind,
    AuditOutcome,
    LeaseOffered,
    StepsAnswered,
    StepsAsked,
)
from flopmarket_coordinator.application.types_steps import StepsFound
from flopmarket_coordinator.core.auditing import StepPhase
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import challenges, identity, jobs, penalties, step_audits
from tests.unit.coordinator.drawn import FIFTH, bonded, parameters, published
from tests.unit.coordinator.world import Buyer, Worker, World, digest_of, upload

STEPS = 6
RULES = replace(FIFTH, full_streak=20, onboarding_streak=20, least_steps=2)
"""Newcomers: every segment is drawn."""
DAY_US = 24 * 3_600 * SECOND_US


def too_big(**changes: object) -> Parameters:
    """The house may not recompute a single step."""
    return replace(parameters(RULES), max_house_flops=1, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, too_big())
    yield made
    made.check()
    made.close()


def started(world: World, **changes: object) -> tuple[Buyer, Worker, LeaseOffered]:
    """A job of two segments, its worker's lease accepted."""
    buyer, worker = world.buyer(), bonded(world, "w")
    values: dict[str, object] = {"steps": 2 * STEPS, "segment_steps": STEPS}
    buyer.submit(**(values | changes))
    (lease,) = world.offers()
    return buyer, worker, worker.accept(lease)


def asked(world: World) -> list[StepsAsked]:
    return [item for item in world.match() if isinstance(item, StepsAsked)]


def body_of(envelope: Envelope, kind: type[AnyDocument]) -> AnyDocument:
    return decode(kind, decode(Header, envelope.payload).body)


def put(world: World, worker: Worker, name: str, lease_id: str) -> bytes:
    return bytes.fromhex(upload(world, worker.session, name.encode(), lease_id))


def claim(world: World, worker: Worker, question: StepsAsked, **changes: object) -> StepClaim:
    """What an honest worker signs in the first round; pretended files hold their names."""
    body = body_of(question.commitment, Commitment)
    secret = worker.secret(question.lease_id, question.segment_index, body.first_step)
    values: dict[str, object] = {
        "commitment": digest(body),
        "device_key_id": worker.key.key_id,
        "salt": secret.salt,
        "inner": secret.inner,
        "checksums": put(world, worker, f"list {body.first_step}", question.lease_id),
        "roots": put(world, worker, f"roots {body.first_step}", question.lease_id),
    }
    return StepClaim(**(values | changes))  # type: ignore[arg-type]


def answer(world: World, worker: Worker, question: StepsAsked) -> StepAnswer:
    assert question.claim is not None
    states = tuple(
        DrawnState(step, put(world, worker, f"state {step}", question.lease_id))
        for step in question.steps
    )
    return StepAnswer(digest(body_of(question.claim, StepClaim)), states)


def say(
    world: World,
    worker: Worker,
    question: StepsAsked,
    *,
    first: Document | None = None,
    second: Document | None = None,
    code: str = "",
    by: Worker | None = None,
) -> None:
    signer = by or worker
    said = StepsAnswered(
        question.lease_id,
        question.segment_index,
        None if first is None else world.sign(first, signer.key),
        None if second is None else world.sign(second, signer.key),
        code,
        "in words",
    )
    world.do(world.application.steps_answered, worker.session, said)


def answered(world: World, worker: Worker) -> StepsAsked:
    """Both rounds for the one segment that is asked about; the second question."""
    (question,) = asked(world)
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = asked(world)
    say(world, worker, second, second=answer(world, worker, second))
    return second


def looked_at(world: World, finding: Finding = EQUAL) -> AuditOutcome:
    """The house runs the steps and finds this."""
    task = world.see(world.application.next_audit, (), AuditKind.STEPS)
    assert task is not None and task.step_task is not None
    files = world.recomputed(replace(task, kind=AuditKind.FILES))
    found = StepsFound(finding, files.outputs_artifact_root, files.checkpoint_artifact_root)
    return world.do(world.application.audit_finished, task, found)


def state_of(world: World, segment_id: int = 1) -> tuple[SegmentState, str]:
    row = world.see(jobs.segment, segment_id)
    assert row is not None
    return row.state, row.reason


def terms_in(world: World, lease_id: str) -> ChallengeTerms:
    row = world.see(challenges.get, lease_id)
    assert row is not None
    return terms_of(row)


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
    assert buyer.job(world.see(jobs.segment, 1).job_id).state is JobState.SUCCEEDED
    assert state_of(world)[0] is SegmentState.SETTLED


def question_again(world: World, worker: Worker) -> StepsAsked:
    """What a worker that connects anew is asked."""
    return next(item for item in worker.hello().again if isinstance(item, StepsAsked))


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


def worker_bond(world: World, worker: Worker) -> int:
    from flopmarket_coordinator.core.ledger import Balance, account_of
    from flopmarket_coordinator.store import ledger

    amount, _ = world.see(ledger.balance, account_of(worker.account, Balance.BOND))
    return amount


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


def answered_without_files(world: World, worker: Worker) -> None:
    """Both rounds before the house has read the segment's files."""

    def questions() -> list[StepsAsked]:
        told = world.do(world.application.match)
        return [item for item in told if isinstance(item, StepsAsked)]

    (question,) = questions()
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = questions()
    say(world, worker, second, second=answer(world, worker, second))


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


def digest_hex(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


# --- silence --------------------------------------------------------------------------------------


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
    assert "voided" in buyer.kinds(world.see(jobs.segment, 1).job_id)


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


# --- looking back ---------------------------------------------------------------------------------


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
    row = world.see(jobs.segment, 1)
    assert row is not None and row.house_task == AuditKind.STEPS
    assert world.see(world.application.next_audit, (), AuditKind.RECOMPUTE) is None
    answered_again(world, worker, question)
    assert looked_at(world).accepted
    row = world.see(jobs.segment, 1)
    assert row is not None and (row.house_task, row.auditor) == ("", world.key.key_id)
    world.check()
    world.close()


def answered_again(world: World, worker: Worker, question: StepsAsked) -> None:
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = asked(world)
    say(world, worker, second, second=answer(world, worker, second))


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
