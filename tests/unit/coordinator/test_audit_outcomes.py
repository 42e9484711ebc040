"""What comes of audits by other workers: openings, disputes, segments that fall."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import Conflict
from flopmarket_coordinator.application.types_auditing import AuditResult
from flopmarket_coordinator.application.types_working import (
    LeaseOffered,
    OpeningAsked,
    SegmentOpening,
)
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import audits, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from tests.unit.coordinator.auditors import (
    DAY_US,
    Club,
    auditor,
    ban,
    leases,
    market,
    strikes,
    until,
)
from tests.unit.coordinator.world_work import digest_of


def test_a_wrong_worker_reaches_the_dispute_room(club: Club) -> None:
    _, producer, _job = market(club, "first", steps=3)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    audit = until(club, AuditPhase.DISPUTE)
    assert audit.outcome == "ROOTS_DIFFER"
    (dispute,) = club.world.see(club.world.application.open_disputes)
    assert dispute.audit_id == audit.audit_id
    assert dispute.producer_key_id == producer.key.key_id
    assert dispute.auditor_key_id == auditor(club).key.key_id


def test_a_worker_that_does_not_open_loses_the_unit_after_a_day(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.world.now_us += DAY_US - 1
    club.turn()
    assert club.open_audits()
    club.world.now_us += DAY_US
    club.turn()
    (audit,) = club.audits()
    assert audit.outcome == "WORKER_SILENT"
    assert strikes(club, StrikeKind.SILENCE) == 1
    assert auditor(club).balances.available_nano > 0
    assert producer.balances.available_nano == producer.balances.held_nano == 0
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED


def test_a_worker_that_comes_back_is_asked_again_and_loses_nothing(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.turn()
    club.world.restart()
    asked = [item for item in producer.hello().again if isinstance(item, OpeningAsked)]
    assert len(asked) == 1
    producer.open(asked[0])
    assert [row.outcome for row in club.audits()] == ["EQUAL"]
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED
    with pytest.raises(Conflict) as caught:
        producer.open(asked[0])
    assert caught.value.code == "AUDIT_NOT_EXPECTED"


def test_a_wrong_or_stolen_opening_changes_nothing(club: Club) -> None:
    _, _producer, _job = market(club, "first", steps=3)
    club.silent |= set(club.workers)
    audit = until(club, AuditPhase.AUDITOR_OPENS)
    club.turn()
    asked = next(item for item in club.seen if isinstance(item, OpeningAsked))
    first = auditor(club)
    right = first.secret(asked.lease_id, asked.segment_index, 0)
    for wrong in (replace(right, inner=bytes(32)), replace(right, device_key_id="0" * 64)):
        with pytest.raises(Conflict):
            first.open(asked, wrong)
    assert club.audits() == [replace(audit, told=True)]
    first.open(asked)
    assert club.audits()[0].phase is AuditPhase.WORKER_OPENS


def test_a_worker_that_lost_its_secret_says_so_and_nobody_waits_a_day(club: Club) -> None:
    _, producer, _job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.turn()
    asked = next(
        item
        for item in club.seen
        if isinstance(item, OpeningAsked) and item.device_key_id == producer.key.key_id
    )
    refusal = SegmentOpening(asked.lease_id, asked.segment_index, None, "OPENING_UNKNOWN", "")
    club.world.do(club.world.application.segment_opened, producer.session, refusal)
    assert [row.outcome for row in club.audits()] == ["WORKER_SILENT"]


def test_the_house_decides_about_a_banned_worker_that_cannot_open(club: Club) -> None:
    _buyer, producer, _job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    ban(club, producer.key.key_id)
    club.round()
    assert [row.phase for row in club.audits()] == [AuditPhase.HOUSE]
    club.world.audit_all()
    assert [(row.phase, row.finding) for row in club.audits()] == [(AuditPhase.ENDED, "CONFIRMED")]
    assert strikes(club, StrikeKind.SILENCE) == 0
    assert auditor(club).balances.available_nano > 0


def test_unequal_checksums_are_decided_by_the_house(club: Club) -> None:
    """Equal roots: nobody is slashed; who is not paid follows from the house's checksums."""
    buyer, _producer, job = market(club, "first", steps=3)
    first = auditor(club)
    honest = first.secret

    def odd(lease_id: str, index: int, step: int):  # type: ignore[no-untyped-def]
        return replace(honest(lease_id, index, step), inner=bytes(32))

    first.secret = odd  # type: ignore[method-assign]
    audit = until(club, AuditPhase.HOUSE)
    assert audit.outcome == "INNER_DIFFERS"
    club.world.audit_all()
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED
    assert first.balances.available_nano == 0
    assert strikes(club, StrikeKind.AUDITOR_WRONG) == 0


def test_an_auditor_that_accuses_a_silent_honest_worker_is_found_out(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    auditor(club).lie = lambda step: digest_of(f"slander {step}")
    until(club, AuditPhase.WORKER_OPENS)
    club.world.now_us += DAY_US
    club.turn()
    (audit,) = club.audits()
    assert (audit.phase, audit.outcome) == (AuditPhase.HOUSE, "UNANSWERED_DIFFERENCE")
    club.world.audit_all()
    assert club.audits()[0].finding == "CONFIRMED"
    assert strikes(club, StrikeKind.AUDITOR_WRONG) == 1
    assert strikes(club, StrikeKind.SILENCE) == 1  # it did not open, though it was right
    assert buyer.job(job.job_id).state == JobState.SUCCEEDED


def test_a_wrong_worker_that_keeps_silent_has_lost_the_dispute(club: Club) -> None:
    buyer, producer, job = market(club, "first", steps=3)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    club.world.now_us += DAY_US
    club.turn()
    club.world.audit_all()
    (audit,) = club.audits()
    assert audit.finding == "REFUTED"
    assert auditor(club).balances.available_nano > 0
    assert "rejected" in buyer.kinds(job.job_id)


def test_segments_that_fall_take_their_audits_with_them(club: Club) -> None:
    _, producer, _job = market(club, "first", steps=12)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    for _ in range(3):
        producer.commit(lease)
    task = club.world.see(club.world.application.next_audit)
    club.round(run=False)
    first = club.audits()[0]
    wrong = AuditResult(bytes(32), bytes(32), None, None)

    def reject(tx: Transaction) -> None:
        row = club.world.application._segment(tx, first.segment_id)
        code = VerdictCode.STATE_DIFFERS
        verdict = club.world.application._verdict(tx, row, code, wrong).to_bytes()
        club.world.application._reject(tx, row, code, verdict, auditor=club.world.key.key_id)

    assert task is not None
    club.world.do(reject)
    club.turn()
    assert {row.outcome for row in club.audits()[:3]} == {"VOID"}
    assert not [row for row in leases(club) if row["state"] in ("offered", "running")]


def test_a_segment_that_falls_while_it_is_disputed_ends_its_audit(club: Club) -> None:
    _, producer, _ = market(club, "first", "second", steps=6)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    for _ in range(30):
        club.round()
        if len([row for row in club.audits() if row.phase is AuditPhase.DISPUTE]) == 2:
            break
    first, second = club.audits()
    assert first.phase is second.phase is AuditPhase.DISPUTE
    wrong = AuditResult(bytes(32), bytes(32), None, None)

    def reject(tx: Transaction) -> None:
        application, key_id = club.world.application, club.world.key.key_id
        row = application._segment(tx, first.segment_id)
        code = VerdictCode.STATE_DIFFERS
        verdict = application._verdict(tx, row, code, wrong).to_bytes()
        application._reject(tx, row, code, verdict, auditor=key_id)

    club.world.do(reject)
    club.round()
    assert {row.phase for row in club.audits()[:2]} == {AuditPhase.ENDED}


def test_a_segment_that_ended_early_is_the_houses(club: Club) -> None:
    """A worker that is stopped commits fewer steps than anybody else would."""
    _, producer, _job = market(club, "first", steps=12)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    producer.commit(lease, 2)
    producer.release(lease)
    club.world.do(club.world.application.offer_withdrawn, producer.session, producer.device_id)
    club.turn()
    assert club.audits()[0].phase is AuditPhase.HOUSE
    assert not leases(club)


def test_an_audit_that_goes_on_keeps_no_opening_of_its_first_question(club: Club) -> None:
    """The auditor of the second segment errs in the first, which it comes past."""
    _, producer, _job = market(club, "first", "second", steps=9, checkpoint_segments=3)
    lease = next(item for item in club.world.match() if isinstance(item, LeaseOffered))
    producer.accept(lease)
    producer.commit(lease, keep=False)
    producer.commit(lease, keep=False)
    club.silent.add(producer.key.key_id)
    for name in ("first", "second"):
        auditor(club, name).lie = lambda step: digest_of(f"slander {step}")

    def drop_first(tx: Transaction) -> None:
        row = next(row for row in club.audits() if row.created_at_us)
        audits.update(tx, row.audit_id, deadline_us=tx.now_us + 10 * DAY_US)

    club.world.do(drop_first)
    before = until(club, AuditPhase.WORKER_OPENS)
    assert before.question_id < before.segment_id and before.auditor_secret
    club.world.now_us += DAY_US
    club.turn()
    club.world.audit_all()
    after = club.world.see(lambda tx: audits.get(tx, before.audit_id))
    assert after is not None and after.question_id == after.segment_id
    assert (after.auditor_secret, after.auditor_inner, after.worker_secret) == (b"", b"", b"")


def test_an_open_audit_does_not_end_the_look_that_the_house_takes_after_a_fault(club: Club) -> None:
    """A friend may have been drawn for it before the fault was known."""
    _, producer, _job = market(club, "first", steps=3)
    club.silent.add(producer.key.key_id)
    until(club, AuditPhase.WORKER_OPENS)
    account = producer.session.account_id
    assert club.world.do(lambda tx: club.world.application._look_back(tx, account, 0, "a fault"))
    club.silent.clear()
    asked = [item for item in producer.hello().again if isinstance(item, OpeningAsked)]
    producer.open(asked[0])
    (audit,) = club.audits()
    assert audit.outcome == "EQUAL"

    def segment() -> SegmentRow:
        found = club.world.see(lambda tx: segments.get(tx, audit.segment_id))
        assert found is not None
        return found

    assert segment().verdict_accepted and segment().house_task == "recompute"
    club.world.audit_all()
    assert segment().house_task == "" and segment().auditor == club.world.key.key_id
