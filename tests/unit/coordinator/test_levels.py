"""Levels of verification: what they cost, who gets it, and what the receipt says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.market.order import MARKET_ORDER, Constraints, OrderTerms, OrderType
from flopmarket.market.price import surcharge
from flopmarket.trust.audit_policy import AuditRules, Level
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.receipt import HOUSE, AuditOutcome, Receipt, verify_receipt
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.core.ledger import AUDIT
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import ledger
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import DOLLAR, program

EXTRA_PPM = {Level.DETER: 0, Level.CHECK: 178_000, Level.DUAL: 970_000}
"""Beyond the fee of 3 %: 20 % and 100 % of the work again, canaries and cross-audits included."""


def request_for(level: str) -> QuoteRequest:
    return QuoteRequest(program().to_bytes(), "", 12, 3, verification=level)


def in_audits(world: World) -> int:
    return world.see(lambda tx: ledger.balance(tx, AUDIT))[0]


def receipt_of(world: World, buyer: Buyer, job_id: str) -> Receipt:
    file = world.see(world.application.get_receipt, buyer.session, job_id)
    return verify_receipt(file, world.key.public).receipt


def test_a_quote_shows_every_level(world: World) -> None:
    world.worker("ann")
    quote = world.see(world.application.quote, request_for("check"), None)
    assert quote.level.assurance.level == "check"
    assert [item.assurance.level for item in quote.levels] == list(Level)
    assert [item.assurance.surcharge_ppm for item in quote.levels] == list(EXTRA_PPM.values())
    assert [item.assurance.audited_ppm for item in quote.levels] == [10_000, 200_000, 1_000_000]
    found = [
        (
            item.assurance.detected_one_ppm,
            item.assurance.detected_ten_ppm,
            item.assurance.detected_all_ppm,
        )
        for item in quote.levels
    ]
    assert found == [  # of four segments
        (10_000, 39_404, 39_404),
        (200_000, 590_400, 590_400),
        (1_000_000, 1_000_000, 1_000_000),
    ]
    deter, check, dual = quote.levels
    assert deter.surcharge_nano == 0
    assert deter.expected_nano < check.expected_nano < dual.expected_nano
    assert quote.expected_nano == check.expected_nano == deter.expected_nano + check.surcharge_nano
    assert quote.ceiling_nano == check.ceiling_nano > deter.ceiling_nano


def test_an_unknown_level_is_refused(world: World) -> None:
    with pytest.raises(FlopmarketError) as error:
        world.see(world.application.quote, request_for("audit-everything"), None)
    assert error.value.code == "VERIFICATION_UNKNOWN"


@pytest.mark.parametrize("level", Level)
def test_the_surcharge_is_billed_with_each_segment_and_pays_for_audits(
    world: World, level: Level
) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    before = buyer.available
    quote = world.see(world.application.quote, request_for(level), buyer.account)
    job = buyer.submit(order=MARKET_ORDER, verification=level)
    assert (job.verification, job.surcharge_ppm) == (level, EXTRA_PPM[level])
    assert job.ceiling_nano == quote.ceiling_nano
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.billed_nano == quote.expected_nano <= job.ceiling_nano
    assert before - buyer.available == ended.billed_nano
    paid = sum(item.price_nano for item in ended.segments)
    assert [item.surcharge_nano for item in ended.segments] == [
        surcharge(item.price_nano, EXTRA_PPM[level]) for item in ended.segments
    ]
    assert ended.billed_nano == paid + ended.surcharge_nano
    assert ended.surcharge_nano == quote.level.surcharge_nano
    assert in_audits(world) >= ended.surcharge_nano
    receipt = receipt_of(world, buyer, job.job_id)
    assert receipt.verification is level
    assert (receipt.invoice_nano, receipt.surcharge_nano) == (
        ended.billed_nano,
        ended.surcharge_nano,
    )
    assert {segment.auditor for segment in receipt.segments} == {HOUSE}
    assert all(segment.verdict_digest and segment.challenge_digest for segment in receipt.segments)
    (device,) = receipt.devices
    assert (device.name, device.driver) == ("card of ann", "test")


def test_what_a_worker_earns_does_not_depend_on_the_level(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    prices = set()
    for level in Level:
        job = buyer.submit(level.value, order=MARKET_ORDER, verification=level)
        (lease,) = world.offers()
        worker.run(lease)
        world.audit_all()
        prices.add(tuple(item.price_nano for item in buyer.job(job.job_id).segments))
    assert len(prices) == 1


@pytest.mark.parametrize(
    ("level", "least", "most"), [("deter", 0, 4), ("check", 4, 24), ("dual", 60, 60)]
)
def test_a_level_decides_how_much_of_an_established_worker_is_drawn(
    tmp_path: Path, level: str, least: int, most: int
) -> None:
    """60 segments at 1 %, 20 % and 100 %; the receipt tells the audited from the others."""
    rules = AuditRules(full_streak=0, onboarding_streak=0)
    world = World(tmp_path, Parameters(audit_rules=rules, decline_pause_us=0))
    buyer, worker = world.buyer(), world.worker("ann")
    world.deposit(worker.account, 500 * DOLLAR, "stake", DepositTarget.BOND)
    job = buyer.submit(steps=60, segment_steps=1, verification=Level(level))
    (lease,) = world.offers()
    worker.run(lease, 1)
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    segments = receipt_of(world, buyer, job.job_id).segments
    audited = [item for item in segments if item.audit is AuditOutcome.CONFIRMED]
    assert least <= len(audited) <= most and len(segments) == 60
    for item in segments:
        assert bool(item.verdict_digest) == (item.auditor == HOUSE) == (item in audited)
        assert item.challenge_digest
    world.check()
    world.close()


def test_a_level_is_frozen_when_the_job_is_taken(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(order=MARKET_ORDER, verification=Level.CHECK)
    rules = replace(world.parameters.audit_rules, check_ppm=900_000)
    world.parameters = replace(world.parameters, audit_rules=rules)
    world.restart()
    worker.hello()
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.surcharge_ppm == EXTRA_PPM[Level.CHECK]
    assert ended.billed_nano <= job.ceiling_nano


@pytest.mark.parametrize("level", Level)
def test_an_order_at_its_limit_price_is_not_starved_by_its_surcharge(
    world: World, level: Level
) -> None:
    """The limit bounds the price of the work; the ceiling covers the surcharge beside it."""
    buyer, worker = world.buyer(), world.worker("ann")
    quote = world.see(world.application.quote, request_for("deter"), buyer.account)
    work_class, operations = quote.work_class, quote.work[quote.work_class]
    limit = -(-quote.ceiling_nano * 10**15 // (operations * 12))
    order = OrderTerms(OrderType.LIMIT, Constraints(work_class, limit))
    job = buyer.submit(order=order, verification=level)
    (lease,) = world.offers()
    worker.accept(lease)
    for _ in range(lease.step_count):  # the dearest split
        assert worker.commit(lease, 1).accepted
    world.audit_all()
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.SUCCEEDED and ended.billed_nano <= job.ceiling_nano


def test_a_budget_without_room_for_the_surcharge_is_refused(world: World) -> None:
    buyer = world.buyer()
    world.worker("ann")
    quote = world.see(world.application.quote, request_for("deter"), buyer.account)
    cap = quote.ceiling_nano
    assert buyer.submit("a", order=MARKET_ORDER, max_price_nano=cap).ceiling_nano == cap
    with pytest.raises(FlopmarketError) as error:
        buyer.submit("b", order=MARKET_ORDER, max_price_nano=cap, verification=Level.DUAL)
    assert error.value.code == "BUDGET_BELOW_QUOTE"


def test_a_cancelled_job_gives_the_surcharge_of_the_rest_back(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    before = buyer.available
    job = buyer.submit(order=MARKET_ORDER, verification=Level.DUAL)
    (lease,) = world.offers()
    worker.accept(lease)
    worker.commit(lease)
    buyer.cancel(job.job_id)
    world.audit_all()
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.CANCELLED
    (segment,) = (item for item in ended.segments if item.state == "settled")
    assert before - buyer.available == segment.price_nano + segment.surcharge_nano
