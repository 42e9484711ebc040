"""Levels of verification in tolerance mode, where every segment is looked at whatever is asked for:
a level that changes nothing costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.cli.output import Output
from flopmarket.cli.quoting import print_quote
from flopmarket.client.messages import quote_from_proto
from flopmarket.market.order import MARKET_ORDER
from flopmarket.market.quote import Quote
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.encoding import digest
from flopmarket.trust.modes import Mode
from flopmarket.trust.receipt import verify_receipt
from flopmarket.trust.step_audit import DrawnState, StepAnswer, StepClaim
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.application.types_working import LeaseOffered, StepsAsked
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.rpc import convert_prediction
from flopmarket_coordinator.store import jobs
from tests.unit.coordinator.classed import fast_worker
from tests.unit.coordinator.stepped import (
    RULES,
    asked,
    body_of,
    claim,
    looked_at,
    put,
    say,
    terms_in,
    too_big,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import DOLLAR, program

STEPS = 50
LEVELS = (Level.DETER, Level.CHECK)
MARKET = replace(
    RULES,
    floor_ppm=10_000,
    full_streak=0,
    onboarding_streak=0,
    safety=3,
    outlier_ppm=100_000,
    least_steps=4,
)
"""Nobody is a newcomer: what is drawn is drawn for the mode."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, too_big(audit_rules=MARKET))
    yield made
    made.check()
    made.close()


def quoted(world: World, level: Level, buyer: str | None = None) -> Quote:
    request = QuoteRequest(
        program().to_bytes(), "", 2 * STEPS, STEPS, verification=level, mode="tolerance"
    )
    return world.see(world.application.quote, request, buyer)


def leased(world: World, level: Level) -> tuple[Worker, LeaseOffered, str, str]:
    buyer, worker = world.buyer(), fast_worker(world, "w")
    world.deposit(worker.account, DOLLAR, "bond", DepositTarget.BOND)
    job = buyer.submit(
        steps=2 * STEPS,
        segment_steps=STEPS,
        order=MARKET_ORDER,
        verification=level,
        mode=Mode.TOLERANCE,
    )
    (lease,) = world.offers()
    return worker, worker.accept(lease), job.job_id, buyer.account


def answer_for_values(world: World, worker: Worker, questions: list[StepsAsked]) -> int:
    """Both rounds about every segment that is asked about; how many there were."""
    for question in questions:
        say(world, worker, question, first=claim(world, worker, question))
    for second in asked(world):
        assert second.claim is not None and second.with_values
        states = tuple(
            DrawnState(
                step,
                put(world, worker, f"state {step}", second.lease_id),
                put(world, worker, f"values {step}", second.lease_id),
            )
            for step in second.steps
        )
        body = digest(body_of(second.claim, StepClaim))
        say(world, worker, second, second=StepAnswer(body, states))
        looked_at(world)
    return len(questions)


def test_levels_are_quoted_alike(world: World) -> None:
    """They see as much: 8 of 50 steps of every segment."""
    fast_worker(world, "w")
    deter, check = quoted(world, Level.DETER).levels
    for item in (deter, check):
        assert (item.surcharge_nano, item.assurance.surcharge_ppm) == (0, 0)
        assert (item.assurance.audited_ppm, item.assurance.detected_one_ppm) == (
            1_000_000,
            160_000,
        )
    assert (deter.expected_nano, deter.ceiling_nano) == (check.expected_nano, check.ceiling_nano)


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_billed_is_what_was_quoted(world: World, level: Level) -> None:
    worker, lease, job_id, account = leased(world, level)
    buyer = world.buyer()
    quote = quoted(world, level, account)
    for _ in range(2):
        worker.commit(lease, STEPS)
    while questions := asked(world):
        answer_for_values(world, worker, questions)
    ended = buyer.job(job_id)
    assert ended.state is JobState.SUCCEEDED
    assert [item.surcharge_nano for item in ended.segments] == [0, 0]
    assert (ended.billed_nano, ended.surcharge_ppm) == (quote.expected_nano, 0)
    file = world.see(world.application.get_receipt, buyer.session, job_id)
    receipt = verify_receipt(file, world.key.public).receipt
    assert (receipt.invoice_nano, receipt.surcharge_nano) == (ended.billed_nano, 0)


@pytest.mark.parametrize("level", LEVELS)
def test_a_segment_that_was_stopped_early_is_looked_at_too(world: World, level: Level) -> None:
    """One step of fifty: the stake that its rate knows is that of a single step."""
    worker, lease, *_ = leased(world, level)
    assert terms_in(world, lease.lease_id).stake_nano > 0
    for steps in (1, 2, 3):
        worker.commit(lease, steps)
    assert [question.segment_index for question in asked(world)] == [0, 1, 2]


def test_a_job_of_before_that_agreed_to_a_surcharge_is_billed_none(world: World) -> None:
    worker, lease, job_id, _ = leased(world, Level.CHECK)
    world.do(lambda tx: jobs.update(tx, job_id, surcharge_ppm=178_000))
    worker.commit(lease, STEPS)
    (segment,) = world.buyer().job(job_id).segments
    assert segment.surcharge_nano == 0


def test_a_person_reads_that_levels_are_alike(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_worker(world, "w")
    told = convert_prediction.quote(quoted(world, Level.CHECK), "refuse")
    print_quote(Output(), quote_from_proto(told, "USD"))
    shown = capsys.readouterr().out
    assert "every segment at every level, so that none adds anything" in shown
    assert "check, no surcharge" in shown
