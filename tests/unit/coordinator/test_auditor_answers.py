"""What auditors of other accounts answered is published in their own words, and lies are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.client.auditing import audits_from_proto
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import FindingCode
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import AnyDocument, decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.rpc.convert_audits import audits_page
from tests.unit.coordinator.auditors import DAY_US, Club, club_parameters, market, until
from tests.unit.coordinator.drawn import published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of

Lie = Callable[["Told"], AuditorAnswer | None]


class Told:
    """A job of four segments, all of them audited by workers of two other accounts."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, club_parameters())
        club = Club(self.world)
        self.buyer = self.world.buyer()
        club.fund_audits()
        for name in ("first", "second"):
            club.add(self.world.worker(name, ask=10**11), audits_others=True)
        self.producer = club.add(self.world.worker("producer"))
        job = self.buyer.submit(steps=12)
        club.turn(60)
        self.job_id = job.job_id
        assert self.buyer.job(job.job_id).state is JobState.SUCCEEDED
        self.workers = {worker.key.key_id: worker for worker in club.workers.values()}
        self.leases = published(self.world, self.buyer, job.job_id)

    @property
    def segment(self) -> DrawnSegment:
        return self.leases[0].segments[0]

    @property
    def answer(self) -> AuditorAnswer:
        assert self.segment.answer is not None
        return self.segment.answer

    @property
    def auditor(self) -> Worker:
        return self.workers[self.segment.auditor]

    def with_answer(self, answer: AuditorAnswer | None) -> LeaseAudits:
        return self.with_segment(replace(self.segment, answer=answer))

    def with_segment(self, segment: DrawnSegment) -> LeaseAudits:
        lease = self.leases[0]
        return replace(lease, segments=(segment, *lease.segments[1:]))

    def codes(self, lease: LeaseAudits) -> set[FindingCode]:
        found = check([lease], self.world.key.public)
        assert all(str(item) for item in found)
        return {item.finding.code for item in found}

    def sign(self, body: object, key: KeyPair) -> bytes:
        return self.world.sign(body, key).to_bytes()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("told"))


def _body(envelope: bytes, kind: type[AnyDocument]) -> AnyDocument:
    return decode(kind, decode(Header, Envelope.from_bytes(envelope).payload).body)


def test_the_auditors_own_words_are_published_and_agree(told: Told) -> None:
    assert check(told.leases, told.world.key.public) == ()
    for item in (item for lease in told.leases for item in lease.segments):
        assert item.answer is not None and item.worker_account == told.producer.account
        assert item.answer.account_id == told.workers[item.auditor].account
        ours = _body(item.answer.commitment, Commitment)
        theirs = _body(item.commitment, Commitment)
        assert ours.state_root_after == theirs.state_root_after
        assert ours.lease_id != theirs.lease_id and ours.sealed_inner != theirs.sealed_inner
        assert seal_inner(_body(item.answer.opening, InnerSecret)) == ours.sealed_inner
        assert seal_inner(_body(item.answer.worker_opening, InnerSecret)) == theirs.sealed_inner


def test_a_unit_forfeited_for_silence_needs_no_opening(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.world.now_us += DAY_US
    club.turn()
    leases = published(club.world, buyer, job.job_id)
    assert leases[0].segments[0].state == "forfeited"
    assert check(leases, club.world.key.public) == ()


def test_file_and_message_carry_them(told: Told) -> None:
    assert [from_line(to_line(lease)) for lease in told.leases] == told.leases
    page = told.world.see(
        told.world.application.list_audits, told.buyer.session, told.job_id, 500, ""
    )
    assert list(audits_from_proto([audits_page(page)])) == told.leases


def test_an_older_file_is_read_and_its_outside_verdicts_stand_alone(told: Told) -> None:
    content = json.loads(to_line(told.leases[0]))
    for item in content["segments"]:
        del item["answer"], item["worker_account"]
    old = from_line(json.dumps(content).encode())
    assert all(item.answer is None for item in old.segments)
    assert told.codes(old) == {FindingCode.ANSWER_MISSING}


LIES: dict[str, tuple[FindingCode, Lie]] = {}


def lie(code: FindingCode) -> Callable[[Lie], Lie]:
    def known(tell: Lie) -> Lie:
        LIES[tell.__name__] = (code, tell)
        return tell

    return known


@lie(FindingCode.ANSWER_MISSING)
def left_out(told: Told) -> AuditorAnswer | None:
    return None


@lie(FindingCode.ANSWER_DIFFERS)
def signed_by_the_coordinator(told: Told) -> AuditorAnswer | None:
    body = _body(told.answer.commitment, Commitment)
    return replace(told.answer, commitment=told.sign(body, told.world.key))


@lie(FindingCode.ANSWER_DIFFERS)
def other_roots(told: Told) -> AuditorAnswer | None:
    body = replace(_body(told.answer.commitment, Commitment), state_root_after=digest_of("x"))
    return replace(told.answer, commitment=told.sign(body, told.auditor.key))


@lie(FindingCode.ANSWER_DIFFERS)
def of_another_segment(told: Told) -> AuditorAnswer | None:
    return next(
        item.answer
        for item in (item for lease in told.leases for item in lease.segments)
        if item.segment_index != told.segment.segment_index and item.auditor == told.segment.auditor
    )


@lie(FindingCode.ANSWER_DIFFERS)
def of_the_other_auditor(told: Told) -> AuditorAnswer | None:
    key = next(
        worker
        for key_id, worker in told.workers.items()
        if key_id not in (told.segment.auditor, told.producer.key.key_id)
    )
    return _forged(told, key.key, key.account)


@lie(FindingCode.AUDITOR_NOT_DRAWN)
def somebody_who_was_not_drawn(told: Told) -> AuditorAnswer | None:
    return _forged(told, KeyPair.generate(), "0" * 64)


@lie(FindingCode.AUDITOR_NOT_APART)
def the_producer_itself(told: Told) -> AuditorAnswer | None:
    return _forged(told, told.producer.key, told.producer.account)


@lie(FindingCode.AUDITOR_NOT_APART)
def of_the_producers_account(told: Told) -> AuditorAnswer | None:
    return replace(told.answer, account_id=told.producer.account)


@lie(FindingCode.OPENING_MISSING)
def never_opened(told: Told) -> AuditorAnswer | None:
    return replace(told.answer, opening=b"")


@lie(FindingCode.OPENING_MISSING)
def the_worker_never_opened(told: Told) -> AuditorAnswer | None:
    return replace(told.answer, worker_opening=b"")


@lie(FindingCode.OPENING_DIFFERS)
def the_workers_opening_is_the_auditors(told: Told) -> AuditorAnswer | None:
    return replace(told.answer, worker_opening=told.answer.opening)


@lie(FindingCode.OPENING_DIFFERS)
def another_inner(told: Told) -> AuditorAnswer | None:
    secret = replace(_body(told.answer.opening, InnerSecret), inner=digest_of("other"))
    return replace(told.answer, opening=told.sign(secret, told.auditor.key))


@lie(FindingCode.OPENING_DIFFERS)
def sealed_another_inner(told: Told) -> AuditorAnswer | None:
    """Equal roots and other checksums is no agreement, however well it is signed."""
    secret = replace(_body(told.answer.opening, InnerSecret), inner=digest_of("other"))
    body = replace(_body(told.answer.commitment, Commitment), sealed_inner=seal_inner(secret))
    key = told.auditor.key
    return replace(told.answer, commitment=told.sign(body, key), opening=told.sign(secret, key))


def _forged(told: Told, key: KeyPair, account: str) -> AuditorAnswer:
    """A whole answer, well signed, by this key."""
    secret = replace(_body(told.answer.opening, InnerSecret), device_key_id=key.key_id)
    body = replace(
        _body(told.answer.commitment, Commitment),
        device_key_id=key.key_id,
        sealed_inner=seal_inner(secret),
    )
    return AuditorAnswer(
        account,
        key.public.raw,
        told.sign(body, key),
        told.sign(secret, key),
        told.answer.worker_opening,
    )


@pytest.mark.parametrize("name", LIES)
def test_every_planted_lie_about_an_answer_is_found(told: Told, name: str) -> None:
    code, tell = LIES[name]
    assert code in told.codes(told.with_answer(tell(told)))


def test_a_verdict_that_refutes_needs_an_auditor_who_differs(told: Told) -> None:
    """A coordinator says that the auditor refuted a segment, which the auditor found right."""
    verdict = replace(
        _body(told.segment.verdict, SegmentVerdict),
        auditor_key_id=told.world.key.key_id,
        accepted=False,
        reason_code="STATE_DIFFERS",
    )
    refuted = replace(told.segment, state="rejected", verdict=told.sign(verdict, told.world.key))
    assert told.codes(told.with_segment(refuted)) == {FindingCode.ANSWER_DIFFERS}
