"""Inside one class of devices: differences that nobody can decide, and who is asked how often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.class_odds import class_terms, worth_ppm
from flopmarket.trust.device_class import class_of
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.ledger import AUDIT
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import audits, ledger, segments
from tests.unit.coordinator.auditors import DAY_US, Club, auditor, leases, strikes
from tests.unit.coordinator.class_market import (
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
from tests.unit.coordinator.classed import fast_terms
from tests.unit.coordinator.world_work import DOLLAR, digest_of

# --- nobody can say -------------------------------------------------------------------------------


def test_two_against_two_is_undecided(club: Club) -> None:
    buyer, producer, job = class_market(club, NAMES[:3])
    club.onboard(producer)
    first = drawn_first(club)
    friend = next(auditor(club, name) for name in NAMES[:3] if name != first.name)
    collude(first, friend)
    before = (stake(producer), stake(first))
    club.work(first, offered_to(club, first))
    play(club)
    assert main_audit(club).finding == "UNDECIDED"
    assert segment(club, job).reason == "CLASS_UNDECIDED"
    assert (stake(producer), stake(first)) == before
    assert strikes(club, StrikeKind.CLASS_UNDECIDED) == 2
    assert strikes(club, StrikeKind.AUDITOR_WRONG) == 0
    assert {row.outcome for row in arbiters(club)} == {"EQUAL", "ROOTS_DIFFER"}
    assert all(auditor(club, name).balances.available_nano > 0 for name in NAMES[:3]
               if name != first.name)  # fmt: skip
    assert buyer.job(job.job_id).billed_nano == 0


def test_the_job_goes_on_with_another_device_and_not_with_this_one(club: Club) -> None:
    buyer, _, job = class_market(club, NAMES[:2])
    first = drawn_first(club)
    first.lie = lambda step: digest_of(f"slander {step}")
    go_on(club, first)
    rows = club.world.see(lambda tx: segments.of_job(tx, job.job_id))
    void = [row for row in rows if row.state is SegmentState.VOID]
    assert void and len({row.offer_id for row in void}) == len(void), "nobody does it twice"
    (kept,) = [row for row in rows if row.state is SegmentState.SETTLED]
    assert kept.device_key_id not in {row.device_key_id for row in void}
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("stateless", [False, True])
def test_nobody_left_to_ask_is_undecided(club: Club, stateless: bool) -> None:
    buyer, producer, job = class_market(club, NAMES[:1], stateless=stateless)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    play(club)
    assert main_audit(club).finding == "UNDECIDED" and not arbiters(club)
    assert segment(club, job).reason == "CLASS_UNDECIDED"
    told = club.world.see(club.world.application.explain_job, buyer.session, job.job_id)
    assert "CLASS_UNDECIDED" in {str(why.reason) for why in told.reasons}


def test_silent_arbiters_have_a_strike_and_the_next_ones_are_asked(club: Club) -> None:
    _, producer, job = class_market(club)
    producer.lie = lambda step: digest_of(f"wrong {step}")
    first = drawn_first(club)
    quiet = club.workers[main_audit(club).order[1]]
    club.silent.add(quiet.key.key_id)
    club.work(first, offered_to(club, first))
    play(club, 60, 61 * SECOND_US)
    assert main_audit(club).finding == "REFUTED"
    said = {row.auditors: (row.outcome, row.finding) for row in arbiters(club)}
    assert len(said) == 3 and said[quiet.key.key_id] == ("NO_AUDITOR", "SILENT")
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 1
    assert quiet.balances.available_nano == 0
    assert segment(club, job).reason == "CLASS_OUTVOTED"


def test_arbiters_who_are_busy_are_asked_again_for_a_day(club: Club) -> None:
    _, producer, job = class_market(club, NAMES[:3])
    producer.lie = lambda step: digest_of(f"wrong {step}")
    first = drawn_first(club)
    busy = [auditor(club, name) for name in NAMES[:3] if name != first.name]
    club.idle |= {worker.key.key_id for worker in busy}
    club.work(first, offered_to(club, first))
    play(club, 600, 300 * SECOND_US)
    assert main_audit(club).finding == "UNDECIDED"
    assert len(arbiters(club)) == 8, "each of two four times"
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 0
    assert segment(club, job).reason == "CLASS_UNDECIDED"


def test_without_anybody_to_audit_a_segment_is_void_after_a_day(club: Club) -> None:
    buyer, _, job = class_market(club, NAMES[:1])
    club.idle.add(auditor(club).key.key_id)
    play(club, 400, 600 * SECOND_US)
    audit = main_audit(club)
    assert (audit.outcome, audit.finding) == ("NO_AUDITOR", "UNDECIDED")
    assert audit.ended_at_us - audit.created_at_us >= DAY_US
    assert segment(club, job).reason == "CLASS_UNDECIDED"
    assert strikes(club, StrikeKind.CLASS_UNDECIDED) == 0, "it is nobody's fault"
    assert buyer.job(job.job_id).billed_nano == 0


def test_the_day_is_longer_where_the_coordinator_was_away(club: Club) -> None:
    _, _, job = class_market(club, NAMES[:1])
    club.idle.add(auditor(club).key.key_id)
    while not club.audits():
        club.round()
    club.world.do(audits.extend, DAY_US)
    play(club, 800, 600 * SECOND_US)
    audit = main_audit(club)
    assert audit.ended_at_us - audit.created_at_us >= 2 * DAY_US
    assert segment(club, job).reason == "CLASS_UNDECIDED"


def test_audits_that_nobody_can_pay_wait_until_an_operator_pays_them_in(club: Club) -> None:
    """In a young market no fee has come in yet, and no house computes for nothing."""
    buyer, producer, job = class_market(club, NAMES[:2], funded=False)
    for _ in range(40):
        club.round()
        club.world.now_us += 600 * SECOND_US
    assert main_audit(club).finding == "" and not leases(club)
    assert segment(club, job).state is SegmentState.COMMITTED
    before = club.world.see(ledger.balance, AUDIT)[0]
    club.world.deposit(producer.account, DOLLAR, "for audits", DepositTarget.AUDITS)
    assert club.world.see(ledger.balance, AUDIT)[0] == before + DOLLAR
    assert producer.balances.available_nano == 0, "it is the market's from the first moment"
    for _ in range(20):
        if not club.round():
            club.world.now_us += 600 * SECOND_US
    assert main_audit(club).outcome == "EQUAL"
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED


def test_small_classes_pay_for_auditing_everything(club: Club) -> None:
    """What a class cannot decide is computed twice, and who buys there pays for that."""
    rules = replace(RULES, own_audit_units=0)
    club.world.parameters = replace(club.world.parameters, audit_rules=rules)
    club.world.restart()
    _, producer, small = class_market(club, NAMES[:2])
    assert small.surcharge_ppm == 970_000
    for name in ("third", "fourth", "fifth", "sixth"):
        join(club, name)
    named = class_of(fast_terms(producer, "fast card"))
    buyer = club.world.buyer("another")
    large = buyer.submit("large", steps=3, mode=Mode.CLASS, class_digest=named)
    audited = class_terms(RULES, Level.DETER, 30_000, worth_ppm(RULES, 6, house=False))
    assert large.surcharge_ppm == audited.price_factor_ppm - 1_030_000 == 6_402
    exact = buyer.submit("exact", steps=3)
    assert exact.surcharge_ppm == 0


def test_a_second_card_of_an_account_has_no_second_voice(club: Club) -> None:
    _, producer, _ = class_market(club, ())
    for name in ("first", "again"):
        join(club, name, owner="the same owner")
    join(club, "third")
    producer.lie = lambda step: digest_of(f"wrong {step}")
    play(club, 200, 600 * SECOND_US)
    audit, asked = main_audit(club), arbiters(club)
    accounts = [row.auditor_account_id for row in (audit, *asked) if row.auditor_account_id]
    assert len(accounts) == len(set(accounts)) == 2
    assert audit.finding == "UNDECIDED"
