"""A key that was rotated goes on answering for its work: through the key that took its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import Conflict, NotFound
from flopmarket.trust.dispute_documents import DisputeMove as SignedMove
from flopmarket.trust.dispute_documents import Party
from flopmarket.trust.encoding import digest
from flopmarket.trust.key_documents import rotation
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.transcript import payload_digest
from flopmarket_coordinator.application.dispute_access import check_may_upload
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_disputes import DisputeMove
from flopmarket_coordinator.application.types_working import (
    LeaseOffered,
    LeaseRevoked,
    OpeningAsked,
    SegmentOpening,
)
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.rpc.session_hub import SessionHub
from flopmarket_coordinator.store import disputes
from tests.unit.coordinator.auditors import Club
from tests.unit.coordinator.keyring import key
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import digest_of


def waiting(club: Club, *, lies: bool = False) -> tuple[Buyer, Worker, str]:
    """A producer that has committed all of a job and is asked to open; it says nothing yet."""
    buyer = club.world.buyer()
    club.fund_audits()
    club.add(club.world.worker("first", ask=10**11), audits_others=True)
    producer = club.add(club.world.worker("producer"))
    if lies:
        producer.lie = lambda step: digest_of(f"wrong {step}")
    job = buyer.submit(steps=3)
    club.silent.add(producer.key.key_id)
    club.turn()
    assert [row.phase for row in club.audits()] == [AuditPhase.WORKER_OPENS]
    return buyer, producer, job.job_id


def renewed(worker: Worker, name: str = "new device") -> Worker:
    """The same machine under a new key."""
    world, new = worker.world, key(name)
    body = rotation(worker.account, KeyRole.DEVICE, worker.key.public, new)
    world.do(world.application.rotate_key, world.sign(body, worker.key))
    return replace(worker, key=new, session=world.session(new, worker.account, KeyRole.DEVICE))


def opening(old: Worker, asked: OpeningAsked) -> SegmentOpening:
    """What the machine says: signed by the key that committed."""
    first = old.committed[asked.lease_id, asked.segment_index]
    secret = old.secret(asked.lease_id, asked.segment_index, first)
    envelope = old.world.sign(secret, old.key)
    return SegmentOpening(asked.lease_id, asked.segment_index, envelope)


def asked_of(world: World, session: Session) -> list[OpeningAsked]:
    found = world.see(lambda tx: world.application._openings_asked(tx, session.key_id))
    return [item for item in found if isinstance(item, OpeningAsked)]


def test_an_opening_reaches_the_key_that_took_the_place_of_the_one_that_committed(
    club: Club,
) -> None:
    world, (buyer, old, job_id) = club.world, waiting(club)
    new = renewed(renewed(old, "between"), "new")
    (asked,) = asked_of(world, new.session)
    assert asked.device_key_id == old.key.key_id, "the question is of the key that committed"
    assert asked_of(world, club.workers[club.audits()[0].auditor_key_id].session) == []
    world.do(world.application.segment_opened, new.session, opening(old, asked))
    club.turn()
    assert [row.outcome for row in club.audits()] == ["EQUAL"]
    assert buyer.job(job_id).state is JobState.SUCCEEDED


def test_however_long_ago_it_was_rotated_what_it_committed_to_is_opened(club: Club) -> None:
    world, (_, old, _job) = club.world, waiting(club)
    new = renewed(old)
    (asked,) = asked_of(world, new.session)
    world.now_us += world.parameters.retired_key_us + SECOND_US
    present = replace(new, session=world.session(new.key, new.account, KeyRole.DEVICE))
    world.do(world.application.segment_opened, present.session, opening(old, asked))
    assert [row.outcome for row in club.audits()] == ["EQUAL"]


def test_only_the_key_that_committed_opens(club: Club) -> None:
    world, (_, old, _job) = club.world, waiting(club)
    new = renewed(old)
    (asked,) = asked_of(world, new.session)
    with pytest.raises(Conflict, match="another key"):
        forged = replace(opening(old, asked), secret=opening(new, asked).secret)
        world.do(world.application.segment_opened, new.session, forged)
    stranger = world.worker("stranger")
    with pytest.raises(NotFound):
        world.do(world.application.segment_opened, stranger.session, opening(old, asked))
    assert [row.phase for row in club.audits()] == [AuditPhase.WORKER_OPENS]


def test_a_former_key_does_not_answer_for_the_one_after_it(club: Club) -> None:
    world = club.world
    old = world.worker("old")
    new = renewed(old)
    answers_for = world.application.answers_for
    assert world.see(answers_for, new.key.key_id) == (new.key.key_id, old.key.key_id)
    assert world.see(answers_for, old.key.key_id) == (old.key.key_id,)
    assert world.see(answers_for, "nobody") == ("nobody",)


def test_a_dispute_is_asked_and_answered_through_the_new_key(club: Club) -> None:
    world, (_, old, _job) = club.world, waiting(club, lies=True)
    (first,) = asked_of(world, old.session)
    world.do(world.application.segment_opened, old.session, opening(old, first))
    new = renewed(old)
    (question,) = world.see(world.application.dispute_questions, new.key.key_id)
    assert (question.device_key_id, question.party) == (old.key.key_id, Party.PRODUCER)
    world.see(check_may_upload, new.session, 1, question.dispute_id)
    (row,) = world.see(disputes.open_ones)
    assert question.level is not None
    payload = b"a list"
    said = SignedMove(digest(row.question), question.level, payload_digest(payload))
    move = DisputeMove(question.dispute_id, world.sign(said, old.key), payload, "")
    stranger = world.worker("stranger")
    with pytest.raises(NotFound):
        world.do(world.application.dispute_moved, stranger.session, move)
    world.do(world.application.dispute_moved, new.session, move)
    assert world.see(world.application.dispute_questions, new.key.key_id) == ()


def test_the_stream_of_the_new_key_hears_what_the_old_one_is_asked() -> None:
    hub = SessionHub()
    new = hub.connect("new", answers_for=("new", "old"))
    asked = OpeningAsked("old", "lease", 0)
    hub.instruct(asked)
    assert new._queue.qsize() == 1
    hub.instruct(LeaseRevoked("old", "lease", 1, "X", ""))
    assert new._queue.qsize() == 1, "leases are of the key alone"
    old = hub.connect("old")
    hub.instruct(asked)
    assert (new._queue.qsize(), old._queue.qsize()) == (1, 1), "it has a stream of its own"
    hub.disconnect(old)
    again = hub.connect("new", answers_for=("new", "old"))
    assert not hub.disconnect(new)
    hub.instruct(asked)
    assert again._queue.qsize() == 1
    assert hub.disconnect(again)
    hub.instruct(asked)
    assert again._queue.qsize() == 1 and not hub._answering


def test_a_rotated_key_is_offered_nothing_through_the_new_one(club: Club) -> None:
    world = club.world
    old = world.worker("old")
    new = renewed(old)
    world.buyer().submit(steps=3)
    assert [item for item in world.match() if isinstance(item, LeaseOffered)] == []
    new.hello()
    (offered,) = world.offers()
    assert offered.device_key_id == new.key.key_id
