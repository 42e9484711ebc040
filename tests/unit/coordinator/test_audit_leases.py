"""Audits by workers of other accounts: who is asked, what they see, how their leases end."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import Conflict
from flopmarket.trust.administration import AdminAction, AdminOrder
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application.types_working import (
    HeldLease,
    LeaseOffered,
    LeaseRevoked,
    OpeningAsked,
)
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.lifecycle import JobState, LeaseState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import audits, segments, work
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.auditors import (
    DAY_US,
    EVERYTHING,
    Club,
    audit_offer,
    auditor,
    ban,
    club_parameters,
    leases,
    market,
    strikes,
    until,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import digest_of


@pytest.mark.parametrize("stateless", [False, True])
def test_an_honest_market_is_audited_by_its_workers(club: Club, stateless: bool) -> None:
    buyer, producer, job = market(club, "first", "second", stateless=stateless)
    club.turn(60)
    found = club.audits()
    assert [row.outcome for row in found] == ["EQUAL"] * 4
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED
    accounts = {row.auditor_account_id for row in found}
    assert producer.account not in accounts and buyer.account not in accounts
    for name in ("first", "second"):
        worker = auditor(club, name)
        done = [row for row in found if row.auditor_key_id == worker.key.key_id]
        assert (worker.balances.available_nano > 0) == bool(done)
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 0


def test_the_buyer_reads_nothing_of_an_audit_before_its_end(club: Club) -> None:
    buyer, _, job = market(club, "first", steps=3)
    offer = audit_offer(club)
    before = buyer.kinds(job.job_id)
    club.silent.add(auditor(club).key.key_id)
    club.work(auditor(club), offer)
    club.turn()
    assert club.audits()[0].phase is AuditPhase.AUDITOR_OPENS
    assert buyer.kinds(job.job_id) == before
    auditor(club).open(next(item for item in club.seen if isinstance(item, OpeningAsked)))
    club.turn()
    assert buyer.kinds(job.job_id)[len(before) :][0] == "verified"


def test_a_lease_of_an_audit_looks_like_any_other(club: Club) -> None:
    """The same range, from the same state, of the same job: equal but for its names."""
    _buyer, producer, _job = market(club, "first", steps=12, checkpoint_segments=2)
    ordinary = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(ordinary)
    producer.commit(ordinary)
    for _ in range(3):
        told = [item for item in club.round(run=False) if isinstance(item, LeaseOffered)]
        if told:
            break
    (audit,) = told
    names = {"lease_id", "device_key_id", "device_id", "price", "challenge_terms", "expires_at_us"}
    for field in dataclasses.fields(LeaseOffered):
        if field.name not in names:
            assert getattr(audit, field.name) == getattr(ordinary, field.name), field.name
    assert audit.challenge_terms is not None
    assert audit.expires_at_us - club.world.now_us == ordinary.expires_at_us - club.world.now_us
    first = auditor(club)
    first.accept(audit)
    theirs, ours = producer.commit(ordinary), first.commit(audit)
    assert theirs.accepted and ours.accepted
    assert len(ours.challenge_value) == len(theirs.challenge_value) == 32
    assert (ours.rate_ppm, ours.audited) == (theirs.rate_ppm, theirs.audited)


def test_an_audit_starts_at_the_newest_state_and_ends_with_its_segment(club: Club) -> None:
    _, producer, _job = market(club, "first", steps=12)
    first = auditor(club)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    producer.commit(lease)
    producer.commit(lease)
    said: list[object] = []
    for _ in range(12):
        said += club.round()
    mine = [item for item in said if getattr(item, "device_key_id", "") == first.key.key_id]
    offered = [item for item in mine if isinstance(item, LeaseOffered)]
    assert {(item.first_step, item.step_count) for item in offered} == {(0, 12), (3, 9)}
    assert [item.outcome for item in club.audits()] == ["EQUAL", "EQUAL"]
    revoked = {item.lease_id for item in mine if isinstance(item, LeaseRevoked)}
    assert revoked == {item.lease_id for item in offered}
    assert [row["state"] for row in leases(club)] == [LeaseState.REVOKED] * 2


def test_all_segments_of_the_way_are_compared_and_the_first_difference_is_the_question(
    club: Club,
) -> None:
    """No state was kept between them, so the auditor of the second comes past the first."""
    _, producer, _job = market(club, "first", "second", steps=9, checkpoint_segments=3)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    producer.commit(lease, keep=False)
    producer.commit(lease, keep=False)

    def drop_first(tx: Transaction) -> None:  # the audit of the first segment comes last
        row = next(row for row in club.audits() if row.created_at_us)
        audits.update(tx, row.audit_id, deadline_us=tx.now_us + DAY_US)

    club.world.do(drop_first)
    dispute = until(club, AuditPhase.DISPUTE)
    segments = club.world.see(lambda tx: [audits.get(tx, dispute.audit_id), dispute.question_id])
    assert dispute.question_id < dispute.segment_id and segments[1] == dispute.question_id


@pytest.mark.parametrize("sealed", [False, True])
def test_a_silent_auditor_is_replaced_and_marked(club: Club, sealed: bool) -> None:
    _buyer, _producer, _job = market(club, "first", "second", steps=3)
    offer = audit_offer(club)
    lazy = club.workers[offer.device_key_id]
    club.silent.add(lazy.key.key_id)
    if sealed:
        club.work(lazy, offer)
        assert club.audits()[0].phase is AuditPhase.AUDITOR_OPENS
        club.world.now_us += 61 * SECOND_US
    else:
        lazy.accept(offer)
        club.world.now_us += 31 * DAY_US
        for worker in club.workers.values():
            worker.hello((HeldLease(offer.lease_id, offer.fence),) if worker is lazy else ())
    club.turn()
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 1
    assert lazy.balances.available_nano == 0
    (audit,) = club.audits()
    assert audit.outcome == "EQUAL" and audit.auditor_key_id != lazy.key.key_id


@pytest.mark.parametrize("reason", ["PREEMPTED", "DECLINED", "PROGRAM_REFUSED", "OUT_OF_MEMORY"])
def test_an_auditor_that_gives_back_is_no_worse_for_it(club: Club, reason: str) -> None:
    buyer, _producer, job = market(club, "first", "second", steps=3)
    offer = audit_offer(club)
    club.workers[offer.device_key_id].release(offer, reason)
    club.turn()
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 0
    (audit,) = club.audits()
    assert audit.outcome == "EQUAL" and audit.auditor_key_id != offer.device_key_id
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED


def test_an_offer_that_nobody_accepts_goes_to_the_next_without_a_strike(club: Club) -> None:
    market(club, "first", "second", steps=3)
    offer = audit_offer(club)
    club.world.now_us += 61 * SECOND_US
    club.turn()
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 0
    assert club.audits()[0].auditor_key_id != offer.device_key_id


def test_a_busy_auditor_is_waited_for_a_bounded_time(club: Club) -> None:
    """Its device runs another job, so that the only candidate is busy; then the house does it."""
    buyer, producer, job = market(club, "first", steps=3)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    first = auditor(club)
    first.ask = 1
    first.hello()
    other = buyer.submit("other", steps=300)
    (busy,) = club.world.offers()
    assert first.accept(busy).device_key_id == first.key.key_id
    producer.commit(lease)
    club.turn()
    assert [row.phase for row in club.audits()] == [AuditPhase.ASKING]
    assert not leases(club)
    club.world.now_us += 601 * SECOND_US
    club.round()
    assert [row.phase for row in club.audits()] == [AuditPhase.HOUSE]
    club.world.audit_all()
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED
    assert buyer.job(other.job_id).state is not JobState.SUCCEEDED


def test_an_auditor_at_work_gets_no_other_lease(club: Club) -> None:
    buyer, producer, _job = market(club, "first", steps=3)
    audit_offer(club)
    assert len(leases(club)) == 1
    first = auditor(club)
    first.ask = 1
    club.world.do(
        club.world.application.offer_changed,
        first.session,
        club.world.sign(first.terms(), first.key),
    )
    club.world.do(club.world.application.offer_withdrawn, producer.session, producer.device_id)
    buyer.submit("other")
    assert not [item for item in club.world.match() if isinstance(item, LeaseOffered)]


def test_nobody_who_cannot_be_paid_is_asked(club: Club) -> None:
    buyer = club.world.buyer()
    club.add(club.world.worker("first", ask=10**11), audits_others=True)
    club.add(club.world.worker("producer"))
    job = buyer.submit(steps=3)
    club.turn()
    assert [row.phase for row in club.audits()] == [AuditPhase.HOUSE]
    club.world.audit_all()
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED


def test_a_job_that_was_cancelled_ends_when_its_audits_have(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=12)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    producer.commit(lease)
    offer = audit_offer(club)
    buyer.cancel(job.job_id)
    assert buyer.job(job.job_id).state == JobState.VERIFYING
    club.work(auditor(club), offer)
    club.turn()
    assert [row.outcome for row in club.audits()] == ["EQUAL"]
    assert buyer.job(job.job_id).state == JobState.CANCELLED
    assert producer.balances.available_nano > 0


def test_a_banned_auditor_is_replaced(club: Club) -> None:
    market(club, "first", "second", steps=3)
    offer = audit_offer(club)
    ban(club, offer.device_key_id)
    club.turn()
    (audit,) = club.audits()
    assert audit.outcome == "EQUAL" and audit.auditor_key_id != offer.device_key_id


def test_a_restart_forgets_nothing(club: Club) -> None:
    buyer, _producer, job = market(club, "first", steps=9)
    for _ in range(40):
        club.world.restart()
        for worker in club.workers.values():
            worker.heartbeat()
        club.round()
    assert [row.outcome for row in club.audits()] == ["EQUAL"] * 3
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED


def test_downtime_costs_nobody_a_deadline(club: Club) -> None:
    _, producer, _job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.turn()
    club.world.restart()
    club.world.now_us += 3 * DAY_US
    club.world.do(lambda tx: club.world.application.expire(tx, resumed=True))
    assert [row.phase for row in club.audits()] == [AuditPhase.WORKER_OPENS]


@pytest.mark.parametrize("level", [Level.DETER, Level.DUAL])
def test_what_an_audit_is_for(club: Club, level: Level) -> None:
    market(club, "first", steps=3, verification=level)
    club.turn()
    purpose = AuditPurpose.DUAL if level is Level.DUAL else AuditPurpose.AUDIT
    assert [row.purpose for row in club.audits()] == [purpose]


def test_an_audit_is_itself_audited_by_a_third_account(tmp_path: Path) -> None:
    rules = replace(EVERYTHING, cross_ppm=1_000_000)
    club = Club(World(tmp_path, club_parameters(rules)))
    _buyer, producer, _job = market(club, "first", "second", steps=3)
    club.turn(40)
    found = club.audits()
    assert [row.purpose for row in found] == [AuditPurpose.AUDIT, AuditPurpose.CROSS]
    assert [row.outcome for row in found] == ["EQUAL", "EQUAL"]
    assert len({row.auditor_account_id for row in found} | {producer.account}) == 3
    openings = [item for item in club.seen if isinstance(item, OpeningAsked)]
    assert [it.device_key_id for it in openings].count(producer.key.key_id) == 1
    club.world.check()
    club.world.close()


@pytest.mark.parametrize("lies", [False, True])
def test_a_canary_watches_the_auditor(tmp_path: Path, lies: bool) -> None:
    rules = replace(EVERYTHING, canary_ppm=1_000_000)
    club = Club(World(tmp_path, club_parameters(rules)))
    buyer = club.world.buyer()
    club.add(club.world.worker("producer"))
    known = buyer.submit("known", steps=3)
    club.turn()
    club.world.audit_all()
    assert buyer.job(known.job_id).state == JobState.SUCCEEDED
    club.fund_audits()
    first = club.add(club.world.worker("first", ask=10**11), audits_others=True)
    if lies:
        first.lie = lambda step: digest_of(f"lazy {step}")
    buyer.submit("job", steps=3)
    club.turn(40)
    canary = next(row for row in club.audits() if row.purpose is AuditPurpose.CANARY)
    assert canary.job_id == known.job_id
    if not lies:
        assert canary.outcome == "EQUAL"
    else:
        club.world.audit_all()
        club.turn()
        canary = next(row for row in club.audits() if row.purpose is AuditPurpose.CANARY)
        assert canary.finding == "CONFIRMED"
        assert strikes(club, StrikeKind.AUDITOR_WRONG) == 1
    club.world.close()


def test_a_canary_that_nobody_takes_ends_and_asks_nothing_of_the_house(tmp_path: Path) -> None:
    """What is right was known before: there is nobody to be watched."""
    rules = replace(EVERYTHING, canary_ppm=1_000_000)
    club = Club(World(tmp_path, club_parameters(rules)))
    buyer = club.world.buyer()
    club.add(club.world.worker("producer"))
    known = buyer.submit("known", steps=3)
    club.turn()
    club.world.audit_all()
    assert buyer.job(known.job_id).state == JobState.SUCCEEDED
    club.add(club.world.worker("first", ask=10**11), audits_others=True)
    buyer.submit("job", steps=3)
    club.turn(40)  # there is no money to pay an auditor from
    canary = next(row for row in club.audits() if row.purpose is AuditPurpose.CANARY)
    assert (canary.phase, canary.outcome) == (AuditPhase.ENDED, "NO_AUDITOR")
    row = club.world.see(segments.get, canary.segment_id)
    assert row is not None and row.house_task == ""
    club.world.close()


def test_house_workers_audit_for_the_house(tmp_path: Path) -> None:
    rules = replace(EVERYTHING, house_ppm=1_000_000)
    club = Club(World(tmp_path, club_parameters(rules, max_house_flops=0)))
    _buyer, _producer, _job = market(club, "other", steps=3)
    mine = club.add(club.world.worker("mine", ask=10**11))

    def order(kind: AdminOrder, account: str) -> None:
        action = AdminAction(kind, account, "", "the operator's own", f"{kind} {account}")
        club.world.do(
            club.world.application.administer, club.world.sign(action, club.world.operator)
        )

    order(AdminOrder.ADD_HOUSE, mine.account)
    club.turn()
    (audit,) = club.audits()
    assert (audit.outcome, audit.auditor_key_id) == ("EQUAL", mine.key.key_id)
    with pytest.raises(Conflict):
        action = AdminAction(AdminOrder.ADD_HOUSE, mine.account, "", "again", "again")
        club.world.do(
            club.world.application.administer, club.world.sign(action, club.world.operator)
        )
    assert club.world.see(audits.house_keys) == (mine.key.key_id,)
    order(AdminOrder.REMOVE_HOUSE, mine.account)
    assert club.world.see(audits.house_keys) == ()
    club.world.check()
    club.world.close()


def test_audits_begin_after_their_jitter(tmp_path: Path) -> None:
    club = Club(World(tmp_path, club_parameters(audit_waits=Waits(jitter_us=DAY_US))))
    market(club, "first", steps=3)
    club.turn()
    assert [row.phase for row in club.audits()] == [AuditPhase.DELAYED]
    club.world.now_us += DAY_US
    for worker in club.workers.values():
        worker.heartbeat()
    club.turn()
    assert [row.outcome for row in club.audits()] == ["EQUAL"]
    club.world.close()


def test_nobody_new_is_asked_while_the_coordinator_drains(club: Club) -> None:
    _buyer, producer, _job = market(club, "first", steps=3)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    club.work(producer, lease)
    action = AdminAction(AdminOrder.DRAIN, "", "", "maintenance", "drain")
    club.world.do(club.world.application.administer, club.world.sign(action, club.world.operator))
    club.world.do(club.world.application.reload)
    club.turn()
    assert not leases(club)
    action = AdminAction(AdminOrder.RESUME, "", "", "done", "resume")
    club.world.do(club.world.application.administer, club.world.sign(action, club.world.operator))
    club.world.do(club.world.application.reload)
    club.turn()
    assert [row.outcome for row in club.audits()] == ["EQUAL"]


def test_a_repeated_commitment_of_an_auditor_gets_the_same_answer(club: Club) -> None:
    market(club, "first", steps=3)
    offer = audit_offer(club)
    first = auditor(club)
    first.accept(offer)
    commit = first.commitment(offer, 3)
    answer = first.send(commit)
    assert answer.accepted and first.send(commit) == answer
    assert club.world.see(lambda tx: work.lease(tx, offer.lease_id)).state is LeaseState.FINISHED
