"""Segments too big to be recomputed, and workers that answer for drawn steps of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from flopmarket.trust.challenge import ChallengeTerms
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import AnyDocument, Document, decode, digest
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.step_audit import (
    EQUAL,
    DrawnState,
    Finding,
    StepAnswer,
    StepClaim,
)
from flopmarket_coordinator.application.sampling import terms_of
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditOutcome
from flopmarket_coordinator.application.types_steps import StepsFound
from flopmarket_coordinator.application.types_working import LeaseOffered, StepsAnswered, StepsAsked
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import challenges, segments
from tests.unit.coordinator.drawn import FIFTH, bonded, parameters
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker, upload

STEPS = 6
RULES = replace(FIFTH, full_streak=20, onboarding_streak=20, least_steps=2)
"""Newcomers: every segment is drawn."""
DAY_US = 24 * 3_600 * SECOND_US


def too_big(**changes: object) -> Parameters:
    """The house may not recompute a single step."""
    return replace(parameters(RULES), max_house_flops=1, **changes)  # type: ignore[arg-type]


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
    row = world.see(segments.get, segment_id)
    assert row is not None
    return row.state, row.reason


def terms_in(world: World, lease_id: str) -> ChallengeTerms:
    row = world.see(challenges.get, lease_id)
    assert row is not None
    return terms_of(row)


def question_again(world: World, worker: Worker) -> StepsAsked:
    """What a worker that connects anew is asked."""
    return next(item for item in worker.hello().again if isinstance(item, StepsAsked))


def worker_bond(world: World, worker: Worker) -> int:
    from flopmarket_coordinator.core.ledger import Balance, account_of
    from flopmarket_coordinator.store import ledger

    amount, _ = world.see(ledger.balance, account_of(worker.account, Balance.BOND))
    return amount


def answered_without_files(world: World, worker: Worker) -> None:
    """Both rounds before the house has read the segment's files."""

    def questions() -> list[StepsAsked]:
        told = world.do(world.application.match)
        return [item for item in told if isinstance(item, StepsAsked)]

    (question,) = questions()
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = questions()
    say(world, worker, second, second=answer(world, worker, second))


def digest_hex(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def answered_again(world: World, worker: Worker, question: StepsAsked) -> None:
    say(world, worker, question, first=claim(world, worker, question))
    (second,) = asked(world)
    say(world, worker, second, second=answer(world, worker, second))
