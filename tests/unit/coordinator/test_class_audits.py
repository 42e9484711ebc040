"""Audits inside one class of devices: who is outvoted, what stays undecided, and who is asked."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from flopmarket.trust.audit_policy import RULES, stake_rate_ppm
from flopmarket.trust.audit_records import check
from flopmarket.trust.challenge import AuditorList, ChallengeTerms
from flopmarket.trust.class_odds import worth_ppm
from flopmarket.trust.device_class import class_of
from flopmarket.trust.encoding import decode
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.sampling import terms_of
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.application.types_buying import JobView
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import audits, challenges, segments
from tests.unit.coordinator.auditors import (
    DAY_US,
    EVERYTHING,
    Club,
    auditor,
    ban,
    club_parameters,
    leases,
    strikes,
)
from tests.unit.coordinator.class_market import (
    DEAR,
    NAMES,
    arbiters,
    class_market,
    collude,
    drawn_first,
    go_on,
    join,
    main_audit,
    offered_to,
    play,
    segment,
    stake,
)
from tests.unit.coordinator.classed import fast_terms, fast_worker
from tests.unit.coordinator.drawn import published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import digest_of

# --- as long as everybody agrees ------------------------------------------------------------------


def test_an_audit_that_agrees_is_like_any_other(club: Club) -> None:
    buyer, producer, job = class_market(club, steps=12)
    club.turn(80)
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    assert {row.outcome for row in club.audits()} == {"EQUAL"}
    assert producer.balances.available_nano > 0
    assert all(row.auditor_key_id != club.world.key.key_id for row in club.audits())
    house = club.world.see(lambda tx: club.world.application.next_audit(tx, (), None))
    assert house is None


def test_a_class_job_is_never_the_houses_to_recompute(club: Club) -> None:
    _, _, job = class_market(club)
    worker = drawn_first(club)
    row = segment(club, job)
    club.world.do(lambda tx: segments.update(tx, row, house_task="recompute"))
    assert club.world.see(lambda tx: club.world.application.next_audit(tx, (), None)) is None
    assert club.world.see(club.world.application.next_audit, (), AuditKind.FILES) is None
    go_on(club, worker)
    assert segment(club, job).state is SegmentState.SETTLED


def test_candidates_are_of_the_class_and_apart(club: Club) -> None:
    class_market(club, NAMES[:3])
    other = club.add(fast_worker(club.world, "elsewhere", "another card", ask=DEAR))
    exact = club.add(club.world.worker("exact", ask=DEAR), audits_others=True)
    club.onboard(other)
    (lease,) = club.world.offers()
    terms, candidates, house = _lists(club, lease)
    keys = {auditor(club, name).key.key_id for name in NAMES[:3]}
    assert set(candidates.keys) == keys and not house.keys
    assert not {other.key.key_id, exact.key.key_id} & set(candidates.keys)
    assert terms.detection_ppm == worth_ppm(RULES, 3, house=False)


@pytest.mark.parametrize(
    ("names", "detection", "certain"),
    [(NAMES[:2], 1, True), (NAMES, 1, True), ((*NAMES, "fifth"), 142_857, False)],
)
def test_a_class_that_cannot_decide_is_audited_whole(
    club: Club, names: tuple[str, ...], detection: int, certain: bool
) -> None:
    class_market(club, names, seasoned=False)
    (lease,) = club.world.offers()
    terms, candidates, _ = _lists(club, lease)
    assert len(candidates.keys) == len(names), "a young class has nobody with a standing"
    assert terms.detection_ppm == detection
    rate = stake_rate_ppm(RULES, 1, 10**12, terms.detection_ppm)
    assert (rate == 1_000_000) is certain


def _lists(club: Club, lease: LeaseOffered) -> tuple[ChallengeTerms, AuditorList, AuditorList]:
    def read(tx):  # type: ignore[no-untyped-def]
        row = challenges.get(tx, lease.lease_id)
        assert row is not None
        candidates = decode(AuditorList, challenges.document(tx, row.candidates))
        return terms_of(row), candidates, decode(AuditorList, challenges.document(tx, row.house))

    return club.world.see(read)


# --- somebody lies --------------------------------------------------------------------------------


def test_a_lying_producer_is_outvoted(club: Club) -> None:
    buyer, producer, job = class_market(club)
    club.onboard(producer)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.turn(80)
    audit = main_audit(club)
    assert (audit.outcome, audit.finding) == ("ROOTS_DIFFER", "REFUTED")
    asked = arbiters(club)
    assert len(asked) == 2 and {row.outcome for row in asked} == {"ROOTS_DIFFER"}
    accounts = {row.auditor_account_id for row in (audit, *asked)}
    assert len(accounts) == 3 and not accounts & {producer.account, buyer.account}
    row = segment(club, job)
    assert (row.state, row.reason) == (SegmentState.REJECTED, "CLASS_OUTVOTED")
    assert stake(producer) == producer.balances.held_nano == 0
    story = [line.text for line in _events(club, buyer, job)]
    assert any("the worker stands alone and is outvoted" in text for text in story)
    told = club.world.see(club.world.application.explain_job, buyer.session, job.job_id)
    assert "CLASS_OUTVOTED" in {str(why.reason) for why in told.reasons}
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED, "another of the class did it"


def test_a_process_that_is_started_anew_all_the_time_comes_to_the_same(club: Club) -> None:
    """An arbitration is rows: nothing of it lives in the process."""
    _, producer, job = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    for _ in range(30):
        club.round()
        club.world.restart()
        if club.audits() and main_audit(club).finding:
            break
    assert segment(club, job).reason == "CLASS_OUTVOTED"
    assert len(arbiters(club)) == 2


def test_arbiters_and_the_auditor_who_are_right_are_paid(club: Club) -> None:
    _, producer, _ = class_market(club, NAMES[:3])
    producer.lie = lambda step: digest_of(f"wrong {step}")
    worker = drawn_first(club)
    others = [auditor(club, name) for name in NAMES[:3] if name != worker.name]
    club.work(worker, offered_to(club, worker))
    play(club)
    paid = [item.balances.available_nano for item in others]
    assert all(amount > 0 for amount in paid)
    assert worker.balances.available_nano > max(paid) / 2


def test_a_lying_auditor_is_outvoted_and_the_worker_is_paid(club: Club) -> None:
    buyer, producer, job = class_market(club)
    liar = drawn_first(club)
    liar.lie = lambda step: digest_of(f"slander {step}")
    go_on(club, liar)
    audit = main_audit(club)
    assert (audit.outcome, audit.finding) == ("ROOTS_DIFFER", "CONFIRMED")
    assert {row.outcome for row in arbiters(club)} == {"EQUAL"}
    row = segment(club, job)
    assert row.state is SegmentState.SETTLED and row.verdict_accepted
    assert row.auditor in {item.auditor_key_id for item in arbiters(club)}
    assert strikes(club, StrikeKind.AUDITOR_WRONG) == 1 and stake(liar) == 0
    assert producer.balances.available_nano > 0
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


def test_what_a_class_cannot_do_three_colluders_convict_an_honest_worker(club: Club) -> None:
    """The documented weakness: in a class of three others who collude, the honest one loses."""
    _, producer, job = class_market(club, NAMES[:3])
    club.onboard(producer)
    collude(*(auditor(club, name) for name in NAMES[:3]))
    club.turn(80)
    assert segment(club, job).reason == "CLASS_OUTVOTED"
    assert stake(producer) == 0


def test_two_colluders_cannot_convict_an_honest_worker(club: Club) -> None:
    """In a class of three, two against one decide nothing: the unit is void, nobody is slashed."""
    buyer, producer, job = class_market(club, NAMES[:2])
    club.onboard(producer)
    before = stake(producer)
    collude(*(auditor(club, name) for name in NAMES[:2]))
    play(club, 400, 600 * SECOND_US)
    audit = main_audit(club)
    assert audit.finding == "UNDECIDED"
    row = segment(club, job)
    assert (row.state, row.reason) == (SegmentState.VOID, "CLASS_UNDECIDED")
    assert stake(producer) == before
    assert strikes(club, StrikeKind.CLASS_UNDECIDED) >= 2
    assert "voided" in buyer.kinds(job.job_id)
    assert buyer.job(job.job_id).billed_nano == 0


def test_a_second_look_that_lies_is_judged_with_the_first_as_a_witness(tmp_path: Path) -> None:
    rules = replace(EVERYTHING, cross_ppm=1_000_000)
    club = Club(World(tmp_path, club_parameters(rules)))
    buyer, _, job = class_market(club)
    first = drawn_first(club)
    second = club.workers[main_audit(club).order[1]]
    second.lie = lambda step: digest_of(f"slander {step}")
    club.work(first, offered_to(club, first))
    for _ in range(60):
        club.round()
        found = [row for row in club.audits() if row.purpose is AuditPurpose.CROSS]
        if found and found[0].finding:
            break
    (cross,) = found
    assert (cross.outcome, cross.finding) == ("ROOTS_DIFFER", "CONFIRMED")
    assert main_audit(club).outcome == "EQUAL"
    asked = club.world.see(lambda tx: audits.arbiters(tx, cross.audit_id))
    assert 1 <= len([row for row in asked if row.outcome == "EQUAL"]) <= 2
    assert stake(second) == 0 and segment(club, job).state is SegmentState.SETTLED
    assert segment(club, job).auditor == first.key.key_id
    assert check(published(club.world, buyer, job.job_id), club.world.key.public) == ()
    club.world.check()
    club.world.close()


# --- checksums, silence, the house ----------------------------------------------------------------


def test_equal_roots_with_other_checksums_count_for_nothing(club: Club) -> None:
    buyer, _, job = class_market(club, NAMES[:2])
    lazy = drawn_first(club)
    honest = lazy.secret
    lazy.secret = lambda *a: replace(honest(*a), inner=bytes(32))  # type: ignore[method-assign]
    go_on(club, lazy)
    outcomes = [row.outcome for row in club.audits() if row.purpose is AuditPurpose.AUDIT]
    assert outcomes == ["INNER_DIFFERS", "EQUAL"]
    assert lazy.balances.available_nano == 0
    assert strikes(club, StrikeKind.AUDITOR_WRONG) == 0
    assert segment(club, job).state is SegmentState.SETTLED
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


def test_a_silent_worker_that_was_right_loses_its_unit_and_nothing_else(club: Club) -> None:
    _, producer, job = class_market(club)
    club.onboard(producer)
    club.silent.add(producer.key.key_id)
    first = drawn_first(club)
    first.lie = lambda step: digest_of(f"wrong {step}")
    club.work(first, offered_to(club, first))
    club.turn()
    club.world.now_us += DAY_US
    play(club)
    assert main_audit(club).outcome == "UNANSWERED_DIFFERENCE"
    assert main_audit(club).finding == "CONFIRMED"
    assert strikes(club, StrikeKind.SILENCE) == 1
    row = segment(club, job)
    assert row.state is SegmentState.SETTLED and row.reason == "WORKER_SILENT"
    assert stake(first) == 0


def test_a_worker_that_is_wrong_and_silent_is_outvoted(club: Club) -> None:
    _, producer, job = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.silent.add(producer.key.key_id)
    club.turn()
    club.world.now_us += DAY_US
    play(club)
    assert main_audit(club).outcome == "UNANSWERED_DIFFERENCE"
    assert segment(club, job).reason == "CLASS_OUTVOTED"


def test_a_house_worker_of_the_class_decides_alone(club: Club) -> None:
    _, producer, job = class_market(club, NAMES[:1])
    house = join(club, "house")
    club.world.do(lambda tx: audits.put_house_account(tx, house.account))
    club.onboard(producer)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    play(club)
    assert segment(club, job).reason == "CLASS_OUTVOTED"
    assert stake(producer) == 0
    (lease,) = [row for row in leases(club) if row["device_key_id"] == house.key.key_id]
    assert lease["job_id"] == job.job_id


def test_a_worker_banned_before_it_opens_leaves_nothing_behind(club: Club) -> None:
    buyer, producer, job = class_market(club, NAMES[:2])
    club.silent.add(producer.key.key_id)
    for _ in range(20):
        club.round()
        if club.audits() and main_audit(club).phase is AuditPhase.WORKER_OPENS:
            break
    ban(club, producer.key.key_id)
    club.turn(60)
    assert segment(club, job).reason == "CLASS_UNDECIDED"
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


# --- chains and looking back ----------------------------------------------------------------------


def test_in_a_chain_everything_after_an_undecided_unit_falls(club: Club) -> None:
    buyer, producer, job = class_market(club, NAMES[:1], steps=12)
    collude(producer, at=3)
    for _ in range(30):
        club.round()
        rows = club.world.see(lambda tx: segments.of_job(tx, job.job_id))
        if rows[1:] and rows[1].reason:
            break
    mine = [row for row in rows if row.device_key_id == producer.key.key_id]
    reasons = [row.reason for row in mine]
    assert reasons[0] == "" and reasons[1] == "CLASS_UNDECIDED"
    assert set(reasons[2:]) <= {"CLASS_UNDECIDED", "BUILT_ON_VOID"} and "BUILT_ON_VOID" in reasons
    told = club.world.see(club.world.application.explain_job, buyer.session, job.job_id)
    assert {"CLASS_UNDECIDED", "BUILT_ON_VOID"} <= {str(why.reason) for why in told.reasons}


def test_the_past_of_a_convicted_device_is_looked_at_by_its_class(club: Club) -> None:
    """Whoever is left of the class recomputes what is still unpaid or held; the house does not."""
    buyer, producer, job = class_market(club, steps=3)
    club.turn(60)
    assert segment(club, job).state is SegmentState.SETTLED
    named = class_of(fast_terms(producer, "fast card"))
    later = buyer.submit(
        "later",
        steps=3,
        mode=Mode.CLASS,
        class_digest=named,
        deadline_us=club.world.now_us + 5 * DAY_US,
    )
    with club.world.store.begin() as connection:
        connection.execute(sa.text("UPDATE segment SET held_state = 'waiting', to_held_nano = 0"))
    producer.lie = lambda step: digest_of(f"wrong {step}")
    club.turn(80)
    assert segment(club, later).reason == "CLASS_OUTVOTED"
    back = [row for row in club.audits() if row.purpose is AuditPurpose.LOOK_BACK]
    assert len(back) == 1 and back[0].outcome == "EQUAL"
    assert segment(club, job).house_task == ""
    assert back[0].auditor_account_id != producer.account


def _events(club: Club, buyer: Buyer, job: JobView):  # type: ignore[no-untyped-def]
    return club.world.see(club.world.application.job_events, buyer.session, job.job_id, 0, 500)


@pytest.mark.parametrize("seed", range(6))
def test_no_honest_device_loses_its_stake_to_fewer_than_three(club: Club, seed: int) -> None:
    """Any mix of honest devices, a pair of colluders and lone liars, whoever is drawn when."""
    chance = random.Random(seed)
    buyer, producer, job = class_market(club, (*NAMES, "fifth"), steps=6)
    club.onboard(producer)
    everybody = list(club.workers.values())
    chance.shuffle(everybody)
    collude(*everybody[: chance.randint(0, 2)])
    if chance.random() < 0.5:
        everybody[2].lie = lambda step: digest_of(f"alone {step}")
    honest = [worker for worker in everybody if worker.lie is None]
    before = {worker.name: stake(worker) for worker in honest}
    for _ in range(120):
        if buyer.job(job.job_id).state is JobState.SUCCEEDED:
            break
        if not club.round():
            club.world.now_us += 600 * SECOND_US
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    assert {worker.name: stake(worker) for worker in honest} == before
