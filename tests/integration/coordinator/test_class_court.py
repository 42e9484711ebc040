"""A class judges itself over the wire: real agents, engines of their own, a real coordinator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from flopmarket.cli.main import main
from flopmarket.jobs.spec import Mode
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store.audits import AuditRow
from tests.integration.coordinator.disputed import Scene, StartAny, scene
from tests.integration.coordinator.market import FAST, running_market
from tests.integration.coordinator.scripted import buyer_of
from tests.integration.coordinator.test_blind_audits import audits_of, onboarded
from tests.integration.coordinator.test_modes import (
    ASK,
    JOB,
    class_of_kind,
    fast_only,
    listed,
    submitted,
)

PARAMETERS = replace(
    FAST,
    audit_rules=replace(RULES, own_audit_units=0, floor_ppm=1_000_000, house_ppm=0, cross_ppm=0),
    audit_waits=Waits(jitter_us=0),
)
DEAR = 30_000_000


def play(folder: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(150),
            running_market(folder, parameters=PARAMETERS) as market,
            scene(market, folder, JOB) as built,
        ):
            built.buyer = await buyer_of(market)
            await story(built)

    asyncio.run(run())


async def court(built: Scene, producing: StartAny, auditing: tuple[StartAny, ...]) -> str:
    """A worker, dearer ones of its class in accounts of their own, and a class job; the worker's
    key."""
    card, known = "card", fast_only("card")
    workers = []
    for number, start in enumerate(auditing):
        worker = await built.worker(f"auditor {number}", start, DEAR, card=card, calibration=known)
        worker.start()
        workers.append(worker)
    producer = await built.worker("producer", producing, ASK, card=card, calibration=known)
    producer.start()
    await listed(built, len(workers) + 1)
    for worker in workers:
        await onboarded(built, worker)
    await submitted(built, Mode.CLASS, class_of_kind(card))
    return producer.key.key_id


def decided(rows: list[AuditRow]) -> bool:
    return any(row.finding for row in rows if row.purpose is AuditPurpose.AUDIT)


def test_a_wrong_worker_is_outvoted_by_three_of_its_class(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        producer = await court(built, built.liar("wrong-op"), (built.honest,) * 3)
        rows = await audits_of(built, decided)
        first = next(row for row in rows if row.finding and row.purpose is AuditPurpose.AUDIT)
        assert (first.outcome, first.finding) == ("ROOTS_DIFFER", "REFUTED")
        asked = [row for row in rows if row.parent_id == first.audit_id]
        assert len(asked) == 2 and all(row.phase is AuditPhase.ENDED for row in asked)
        accounts = {row.auditor_account_id for row in (first, *asked)}
        assert len(accounts) == 3
        wrong = await built.segment(first.question_id)
        assert (wrong.state, wrong.reason) == (SegmentState.REJECTED, "CLASS_OUTVOTED")
        assert wrong.device_key_id == producer
        await asyncio.to_thread(_read_as_people_do, built, first.audit_id, tmp_path)

    play(tmp_path, story)


def _read_as_people_do(built: Scene, ruling_id: str, folder: Path) -> None:
    key_file = folder / "buyer.pem"
    built.buyer.key.save(key_file)
    connection = ["--address", built.market.coordinator.address, "--key", str(key_file)]

    def flop(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["dispute", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    found = json.loads(flop("list", "--json", *connection).splitlines()[-1])
    assert (found["dispute_id"], found["kind"]) == (ruling_id, "arbitration")
    assert "arbitration" in flop("list", *connection)
    file = folder / "x.dispute"
    flop("fetch", ruling_id[:12], "-o", str(file), *connection)
    assert flop("replay", str(file)).strip() == "producer-wrong (CLASS_OUTVOTED)"
    for shown in (flop("show", str(file)), flop("show", ruling_id, *connection)):
        for words in ("producer", "auditor", "arbiter", "what follows", "an operator can lift"):
            assert words in shown


def test_a_wrong_auditor_is_outvoted_and_the_worker_is_verified(tmp_path: Path) -> None:
    """One of three candidates lies; whoever is drawn first, the worker's segments count."""

    async def story(built: Scene) -> None:
        liars = (built.liar("wrong-op"), built.honest, built.honest, built.honest)
        producer = await court(built, built.honest, liars)

        def over(rows: list[AuditRow]) -> bool:
            drawn = [row for row in rows if row.purpose is AuditPurpose.AUDIT]
            return len(drawn) >= 2 and all(row.phase is AuditPhase.ENDED for row in drawn)

        rows = await audits_of(built, over)
        drawn = [row for row in rows if row.purpose is AuditPurpose.AUDIT]
        assert {(row.outcome, row.finding) for row in drawn} <= {
            ("EQUAL", ""),
            ("ROOTS_DIFFER", "CONFIRMED"),
        }
        for row in drawn:
            segment = await built.segment(row.segment_id)
            assert segment.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
            assert segment.device_key_id == producer

    play(tmp_path, story)
