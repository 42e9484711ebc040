"""Levels of verification of segments of which only steps are looked at: a buyer pays for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.cli.output import Output
from flopmarket.cli.quoting import print_quote
from flopmarket.client.messages import quote_from_proto
from flopmarket.market.order import MARKET_ORDER
from flopmarket.market.price import surcharge
from flopmarket.market.quote import Quote
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.receipt import verify_receipt
from flopmarket.trust.step_odds import steps_surcharge_ppm
from flopmarket_coordinator.application.types_buying import JobView, QuoteRequest
from flopmarket_coordinator.application.types_working import StepsAsked
from flopmarket_coordinator.core.ledger import AUDIT
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.rpc import convert_prediction
from flopmarket_coordinator.store import ledger
from tests.unit.coordinator.auditors import DAY_US, EVERYTHING, Club, club_parameters
from tests.unit.coordinator.drawn import bonded
from tests.unit.coordinator.stepped import (
    RULES,
    STEPS,
    answer,
    asked,
    claim,
    looked_at,
    say,
    too_big,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import program

FEE = 30_000
MARKET = replace(RULES, floor_ppm=10_000)
"""Newcomers all the same, so that everything is drawn."""
SEEN = 333_333
"""Two of six steps."""
WHOLE = {Level.DETER: 0, Level.CHECK: 178_000, Level.DUAL: 970_000}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, too_big(audit_rules=MARKET))
    yield made
    made.check()
    made.close()


def quoted(world: World, level: Level, buyer: str = "") -> Quote:
    request = QuoteRequest(program().to_bytes(), "", 2 * STEPS, STEPS, verification=level)
    return world.see(world.application.quote, request, buyer or None)


def share(level: Level) -> int:
    return steps_surcharge_ppm(MARKET, level, FEE, SEEN)


def answer_for_steps(world: World, worker: Worker) -> None:
    """Every segment that is asked about, until the house has looked at all."""
    while questions := asked(world):
        for question in questions:
            if question.steps:
                say(world, worker, question, second=answer(world, worker, question))
                looked_at(world)
            else:
                say(world, worker, question, first=claim(world, worker, question))


@pytest.mark.parametrize("level", Level)
def test_who_looks_at_steps_is_paid_for_steps(world: World, level: Level) -> None:
    """What was quoted is billed, to the nano-unit; the rest of what was held comes back."""
    buyer, worker = world.buyer(), bonded(world, "w")
    before, audits = buyer.available, world.see(ledger.balance, AUDIT)[0]
    quote = quoted(world, level, buyer.account)
    job = buyer.submit(steps=2 * STEPS, segment_steps=STEPS, order=MARKET_ORDER, verification=level)
    assert (job.surcharge_ppm, job.ceiling_nano) == (WHOLE[level], quote.ceiling_nano)
    (lease,) = world.offers()
    worker.accept(lease)
    for _ in range(2):
        worker.commit(lease, STEPS)
    answer_for_steps(world, worker)
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert [item.surcharge_nano for item in ended.segments] == [
        surcharge(item.price_nano, share(level)) for item in ended.segments
    ]
    assert before - buyer.available == ended.billed_nano == quote.expected_nano
    assert world.see(ledger.balance, AUDIT)[0] - audits >= ended.surcharge_nano
    file = world.see(world.application.get_receipt, buyer.session, job.job_id)
    receipt = verify_receipt(file, world.key.public).receipt
    assert (receipt.invoice_nano, receipt.surcharge_nano) == (
        ended.billed_nano,
        ended.surcharge_nano,
    )


def test_a_quote_says_how_little_steps_see(world: World) -> None:
    bonded(world, "w")
    found = quoted(world, Level.DUAL)
    assert found.by_steps is not None
    assert (found.by_steps.drawn, found.by_steps.steps, found.by_steps.others) == (2, STEPS, False)
    deter, check, dual = (item.assurance for item in found.levels)
    assert (deter.audited_ppm, check.audited_ppm, dual.audited_ppm) == (30_001, 600_001, 1_000_000)
    assert (deter.detected_one_ppm, check.detected_one_ppm) == (10_000, 200_000)
    assert dual.detected_one_ppm == SEEN and dual.detected_all_ppm == 555_555
    assert [item.assurance.surcharge_ppm for item in found.levels] == list(WHOLE.values())
    for item in found.levels:
        work = item.expected_nano - item.surcharge_nano
        assert item.surcharge_nano <= work * (share(Level(item.assurance.level)) + 1) // 10**6 + 2
        assert item.ceiling_nano >= work * (10**6 + item.assurance.surcharge_ppm) // 10**6


def test_a_person_reads_how_little_steps_see(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    bonded(world, "w")
    told = convert_prediction.quote(quoted(world, Level.DUAL), "refuse")
    print_quote(Output(), quote_from_proto(told, "USD"))
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("audits "))
    assert "2 drawn steps of a segment's 6" in line and "nobody else is there" in line
    (dual,) = (line for line in shown.splitlines() if line.startswith("dual <"))
    assert "33.33 %" in dual and "100 %" in dual


def test_a_segment_within_the_budget_is_quoted_as_ever(tmp_path: Path) -> None:
    world = World(tmp_path, replace(too_big(), max_house_flops=10**18))
    bonded(world, "w")
    found = quoted(world, Level.DUAL)
    assert found.by_steps is None and found.level.assurance.detected_one_ppm == 1_000_000
    world.close()


# --- where others could recompute it whole --------------------------------------------------------


def two_auditors(folder: Path, *, funded: bool) -> tuple[Club, Buyer, Quote, JobView]:
    """Two accounts that could audit a job of segments too big for the house, at level dual."""
    rules = replace(EVERYTHING, least_steps=1)
    club = Club(World(folder, club_parameters(rules, max_house_flops=1)))
    buyer = club.world.buyer()
    if funded:
        club.fund_audits()
    for name in ("first", "second"):
        club.add(club.world.worker(name, ask=10**11), audits_others=True)
    club.add(club.world.worker("producer"))
    request = QuoteRequest(program().to_bytes(), "", 3, 3, verification=Level.DUAL)
    quote = club.world.see(club.world.application.quote, request, buyer.account)
    job = buyer.submit(
        steps=3,
        segment_steps=3,
        verification=Level.DUAL,
        deadline_us=club.world.now_us + 10 * DAY_US,
    )
    return club, buyer, quote, job


def test_who_recomputes_the_whole_is_paid_for_the_whole(tmp_path: Path) -> None:
    club, buyer, quote, job = two_auditors(tmp_path, funded=True)
    assert quote.by_steps is not None and quote.by_steps.others
    assert quote.level.assurance.detected_one_ppm == 333_333  # the least: they may be away
    work = quote.expected_nano - quote.level.surcharge_nano
    assert quote.level.surcharge_nano == surcharge(work, WHOLE[Level.DUAL])
    club.turn(40)
    (segment,) = buyer.job(job.job_id).segments
    assert segment.state == "settled"
    assert segment.surcharge_nano == surcharge(segment.price_nano, WHOLE[Level.DUAL])
    assert [row.outcome for row in club.audits()] == ["EQUAL"]
    club.world.check()
    club.world.close()


def test_where_they_do_not_come_only_steps_are_billed(tmp_path: Path) -> None:
    """Nobody could be paid, so the house asks for steps: a buyer of dual pays for one in three."""
    club, buyer, _, job = two_auditors(tmp_path, funded=False)
    world = club.world
    for _ in range(10):
        club.round()
        (worker,) = (item for item in club.workers.values() if item.name == "producer")
        questions = [it for it in worker.hello().again if isinstance(it, StepsAsked)]
        for question in questions:
            if question.steps:
                say(world, worker, question, second=answer(world, worker, question))
                looked_at(world)
            else:
                say(world, worker, question, first=claim(world, worker, question))
    (segment,) = buyer.job(job.job_id).segments
    assert segment.state == "settled"
    least = steps_surcharge_ppm(world.parameters.audit_rules, Level.DUAL, FEE, 333_333)
    assert segment.surcharge_nano == surcharge(segment.price_nano, least)
    assert buyer.job(job.job_id).billed_nano == segment.price_nano + segment.surcharge_nano
    world.check()
    world.close()
