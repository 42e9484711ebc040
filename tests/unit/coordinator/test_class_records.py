"""How a class decided is published in the words of those who did, and lies about it are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.client.auditing import audits_from_proto
from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import FindingCode
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import AnyDocument, decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.rpc.convert_audits import audits_page
from flopmarket_coordinator.store import audits
from tests.unit.coordinator.auditors import Club, club_parameters
from tests.unit.coordinator.class_market import (
    NAMES,
    class_market,
    collude,
    drawn_first,
    go_on,
    join,
    offered_to,
)
from tests.unit.coordinator.drawn import published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of


class Told:
    """A class job whose first worker, or whose first auditor, lied."""

    def __init__(self, folder: Path, *, auditor_lies: bool) -> None:
        self.world = World(folder, club_parameters())
        self.club = Club(self.world)
        self.buyer, producer, job = class_market(self.club)
        if auditor_lies:
            liar = drawn_first(self.club)
            liar.lie = lambda step: digest_of(f"slander {step}")
            go_on(self.club, liar)
        else:
            producer.lie = lambda step: digest_of(f"wrong {step}")
            self.club.turn(80)
        self.job_id = job.job_id
        assert self.buyer.job(job.job_id).state is JobState.SUCCEEDED
        self.leases = published(self.world, self.buyer, job.job_id)
        self.segment = self.leases[0].segments[0]
        assert self.segment.arbitration is not None
        self.found: Arbitrated = self.segment.arbitration

    def codes(self, segment: DrawnSegment) -> set[FindingCode]:
        lease = self.leases[0]
        changed = replace(lease, segments=(segment, *lease.segments[1:]))
        return {item.finding.code for item in check([changed], self.world.key.public)}

    def key_of(self, answer: AuditorAnswer) -> KeyPair:
        return next(
            worker.key
            for worker in self.club.workers.values()
            if worker.key.public.raw == answer.public_key
        )

    def sign(self, body: object, key: KeyPair) -> bytes:
        return self.world.sign(body, key).to_bytes()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def convicted(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("convicted"), auditor_lies=False)


@pytest.fixture(scope="module")
def cleared(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("cleared"), auditor_lies=True)


def _body(envelope: bytes, kind: type[AnyDocument]) -> AnyDocument:
    return decode(kind, decode(Header, Envelope.from_bytes(envelope).payload).body)


def test_everybodys_own_words_are_published_and_agree(convicted: Told, cleared: Told) -> None:
    for told, outcome in ((convicted, "producer-wrong"), (cleared, "auditor-wrong")):
        assert check(told.leases, told.world.key.public) == ()
        assert told.found.outcome == outcome
        assert len(told.found.arbiters) == 2
        accounts = {answer.account_id for answer in told.found.answers}
        assert len(accounts) == 3 and told.segment.worker_account not in accounts


def test_a_person_reads_who_answered_what(convicted: Told, cleared: Told) -> None:
    assert "the worker stands alone" in str(convicted.found)
    assert "the auditor stands alone" in str(cleared.found)
    assert "nobody answered" in str(replace(convicted.found, arbiters=()))


def test_file_and_message_carry_it(convicted: Told) -> None:
    leases: list[LeaseAudits] = convicted.leases
    assert [from_line(to_line(lease)) for lease in leases] == leases
    page = convicted.world.see(
        convicted.world.application.list_audits, convicted.buyer.session, convicted.job_id, 500, ""
    )
    assert list(audits_from_proto([audits_page(page)])) == leases


def test_a_conviction_without_those_who_convicted_is_named(convicted: Told) -> None:
    nobody = replace(convicted.segment, arbitration=None)
    assert FindingCode.ARBITRATION_DIFFERS in convicted.codes(nobody)
    for left in (convicted.found.arbiters[:1], ()):
        fewer = replace(convicted.found, arbiters=left)
        codes = convicted.codes(replace(convicted.segment, arbitration=fewer))
        assert FindingCode.ARBITRATION_DIFFERS in codes


def test_an_acquittal_without_arbiters_is_named(cleared: Told) -> None:
    alone = replace(cleared.found, arbiters=())
    codes = cleared.codes(replace(cleared.segment, arbitration=alone))
    assert FindingCode.ARBITRATION_DIFFERS in codes


Lie = Callable[[Told, AuditorAnswer], AuditorAnswer]


def _other_roots(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    body = replace(_body(answer.commitment, Commitment), state_root_after=digest_of("x"))
    return replace(answer, commitment=told.sign(body, told.key_of(answer)))


def _by_the_coordinator(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    body = _body(answer.commitment, Commitment)
    return replace(answer, commitment=told.sign(body, told.world.key))


def _no_opening(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    return replace(answer, opening=b"")


def _somebody_elses_opening(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    return replace(answer, opening=told.found.auditor.opening)


def _twice_one_account(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    return replace(answer, account_id=told.found.auditor.account_id)


def _the_workers_account(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    return replace(answer, account_id=told.segment.worker_account)


def _not_drawn(told: Told, answer: AuditorAnswer) -> AuditorAnswer:
    stranger = KeyPair.from_seed(digest_of("stranger"))
    body = replace(_body(answer.commitment, Commitment), device_key_id=stranger.key_id)
    signed = told.sign(body, stranger)
    return replace(answer, public_key=stranger.public.raw, commitment=signed)


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (_other_roots, FindingCode.ARBITRATION_DIFFERS),
        (_by_the_coordinator, FindingCode.ARBITRATION_DIFFERS),
        (_no_opening, FindingCode.OPENING_MISSING),
        (_somebody_elses_opening, FindingCode.OPENING_MISSING),
        (_twice_one_account, FindingCode.AUDITOR_NOT_APART),
        (_the_workers_account, FindingCode.AUDITOR_NOT_APART),
        (_not_drawn, FindingCode.AUDITOR_NOT_DRAWN),
    ],
)
def test_a_false_arbiter_is_found(convicted: Told, lie: Lie, code: FindingCode) -> None:
    changed = lie(convicted, convicted.found.arbiters[0])
    found = replace(convicted.found, arbiters=(changed, *convicted.found.arbiters[1:]))
    assert code in convicted.codes(replace(convicted.segment, arbitration=found))


def test_another_outcome_or_verdict_than_the_votes_is_found(convicted: Told, cleared: Told) -> None:
    for told in (convicted, cleared):
        turned = replace(told.found, outcome="undecided")
        codes = told.codes(replace(told.segment, arbitration=turned))
        assert FindingCode.ARBITRATION_DIFFERS in codes
    verdict = _body(convicted.segment.verdict, SegmentVerdict)
    for changes in (
        {"reason_code": "STATE_DIFFERS"},
        {"expected_state_root": digest_of("x")},
    ):
        false = convicted.sign(replace(verdict, **changes), convicted.world.key)
        codes = convicted.codes(replace(convicted.segment, verdict=false))
        assert FindingCode.ARBITRATION_DIFFERS in codes


def _undecided(club: Club, first: Worker) -> None:
    friend = next(w for w in club.workers.values() if w.name in NAMES and w is not first)
    collude(first, friend)


def _lazy(club: Club, first: Worker) -> None:
    honest = first.secret
    first.secret = lambda *a: replace(honest(*a), inner=bytes(32))  # type: ignore[method-assign]


def _silent_and_right(club: Club, first: Worker) -> None:
    club.silent.add(next(w for w in club.workers.values() if w.name == "producer").key.key_id)
    first.lie = lambda step: digest_of(f"slander {step}")


def _silent_and_equal(club: Club, first: Worker) -> None:
    club.silent.add(next(w for w in club.workers.values() if w.name == "producer").key.key_id)


def _decided_by_the_house(club: Club, first: Worker) -> None:
    first.lie = lambda step: digest_of(f"slander {step}")


@pytest.mark.parametrize(
    "course", [_undecided, _lazy, _silent_and_right, _silent_and_equal, _decided_by_the_house]
)
def test_whatever_happens_in_a_class_follows_from_what_is_published(
    club: Club, course: Callable[[Club, Worker], None]
) -> None:
    buyer, _, job = class_market(club, NAMES[:3])
    if course is _decided_by_the_house:
        house = join(club, "house")
        club.world.do(lambda tx: audits.put_house_account(tx, house.account))
    first = drawn_first(club)
    course(club, first)
    club.work(first, offered_to(club, first))
    for _ in range(300):
        if buyer.job(job.job_id).state is JobState.SUCCEEDED:
            break
        if not club.round():
            club.world.now_us += 3_600 * SECOND_US
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    assert check(published(club.world, buyer, job.job_id), club.world.key.public) == ()
