"""Blind audits over the wire: real agents with engines of their own, and a real coordinator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import sqlalchemy as sa

from flopmarket.jobs.host import Engine
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.dispute import DisputeWaits
from flopmarket.trust.dispute_documents import Outcome
from flopmarket.trust.documents import Deposit, DepositTarget
from flopmarket.trust.sealing import Waits
from flopmarket.v1 import ledger_pb2
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    EXTERNAL,
    Purpose,
    Transfer,
    TransferKind,
    transfer_id,
)
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store import audits, disputes, ledger, schema
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from tests.integration.coordinator.disputed import (
    WAIT_SECONDS,
    Scene,
    StartAny,
    Worker,
    scene,
)
from tests.integration.coordinator.market import FAST, eventually, running_market, wire
from tests.unit.jobs.disputes import mlp_job

STEPS = 3
JOB = replace(mlp_job(steps=2 * STEPS), segment_steps=STEPS, checkpoint_segments=1)
DOLLAR = 1_000_000_000
PARAMETERS = replace(
    FAST,
    audit_rules=replace(RULES, own_audit_units=0, floor_ppm=1_000_000, house_ppm=0, cross_ppm=0),
    audit_waits=Waits(jitter_us=0),
    dispute_waits=DisputeWaits(answer_us=5_000_000),
)


def play(folder: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(150),
            running_market(folder, parameters=PARAMETERS) as market,
            scene(market, folder, JOB) as built,
        ):
            await story(built)

    asyncio.run(run())


async def onboarded(built: Scene, worker: Worker) -> None:
    """As after months of right segments, with the whole bond, and with money to pay it."""
    bond = Deposit(
        worker.person.account_id,
        DepositTarget.BOND,
        100 * DOLLAR,
        "USD",
        "test",
        os.urandom(8).hex(),
    )
    market = built.market
    envelope = wire(bond, market.operator_key, market.key_id)
    await worker.person.call(
        worker.person.ledger.Deposit, ledger_pb2.DepositRequest(deposit=envelope)
    )
    identity = transfer_id("test", "audits", 1)
    kind, purpose = TransferKind.DIRECT, Purpose.DEPOSIT
    money = Transfer(identity, kind, EXTERNAL, AUDIT, DOLLAR, purpose, "", "a test's")

    def change(tx: Transaction) -> None:
        ledger.execute(tx, money)
        tx.connection.execute(
            sa.update(schema.offer)
            .where(schema.offer.c.device_key_id == worker.key.key_id)
            .values(streak=RULES.onboarding_streak, verified_segments=RULES.onboarding_streak)
        )

    await market.coordinator.backend.command(change)


async def listed(built: Scene, count: int) -> None:
    async def look() -> bool:
        query = sa.select(sa.func.count()).select_from(schema.offer).where(schema.offer.c.listed)
        return await built.query(lambda tx: tx.connection.execute(query).scalar_one() == count)

    await eventually(look, WAIT_SECONDS)


async def begun(
    built: Scene, start_producer: StartAny, start_auditor: StartAny | None = None
) -> tuple[Worker, Worker]:
    """A producer, and a dearer auditor of another account; both are connected, the job is done."""
    producer = await built.worker("producer", start_producer)
    auditor = await built.worker("auditor", start_auditor or built.honest, 30_000_000)
    producer.start()
    auditor.start()
    await listed(built, 2)
    await onboarded(built, auditor)
    await built.committed(cast(Worker, SimpleNamespace(start=lambda: None)))
    return producer, auditor


async def audits_of(built: Scene, done: Callable[[list[AuditRow]], bool]) -> list[AuditRow]:
    def read(tx: Transaction) -> list[AuditRow]:
        query = sa.select(schema.audit.c.audit_id).order_by(schema.audit.c.segment_id)
        rows = (audits.get(tx, name) for name in tx.connection.execute(query).scalars())
        return [row for row in rows if row is not None]

    async def look() -> list[AuditRow]:
        rows: list[AuditRow] = await built.query(read)
        return rows if rows and done(rows) else []

    found: list[AuditRow] = await eventually(look, WAIT_SECONDS)
    return found


def ended(rows: list[AuditRow]) -> bool:
    return len(rows) == 2 and all(row.phase is AuditPhase.ENDED for row in rows)


def test_an_honest_worker_is_verified_by_an_honest_one(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        _producer, auditor = await begun(built, built.honest)
        found = await audits_of(built, ended)
        assert [row.outcome for row in found] == ["EQUAL", "EQUAL"]
        assert {row.auditor_key_id for row in found} == {auditor.key.key_id}
        for row in found:
            segment = await built.segment(row.segment_id)
            assert segment.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
            assert segment.auditor == auditor.key.key_id != segment.device_key_id
        account = f"{auditor.person.account_id}/available"
        earned, _ = await built.query(lambda tx: ledger.balance(tx, account))
        assert earned > 0

    play(tmp_path, story)


def test_a_wrong_worker_loses_the_dispute_with_its_auditor(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        producer, auditor = await begun(built, built.liar("wrong-op"))

        def decided(rows: list[AuditRow]) -> bool:
            return rows[0].phase is AuditPhase.ENDED

        first, *_ = await audits_of(built, decided)
        assert (first.outcome, first.finding) == ("ROOTS_DIFFER", "REFUTED")

        def look(tx: Transaction) -> Any:
            query = sa.select(schema.dispute.c.dispute_id)
            return [disputes.get(tx, name) for name in tx.connection.execute(query).scalars()]

        rows = await built.query(look)
        dispute = next(row for row in rows if row.audit_id == first.audit_id)
        assert dispute.outcome == Outcome.PRODUCER_WRONG
        assert dispute.producer_key_id == producer.key.key_id
        assert dispute.auditor_key_id == auditor.key.key_id
        assert (await built.segment(first.segment_id)).state is SegmentState.REJECTED
        found = await built.explained(dispute.dispute_id)
        assert found.verdict.auditor_wrong_bits == 0 < found.verdict.producer_wrong_bits

    play(tmp_path, story)


def test_a_worker_that_was_away_opens_when_it_is_back(tmp_path: Path) -> None:
    """Its process was killed after its last commitment; what it committed to is not forgotten."""

    async def story(built: Scene) -> None:
        async def slow() -> Engine:
            await asyncio.sleep(2)
            return await built.honest()

        producer, _auditor = await begun(built, built.honest, slow)
        assert producer.task is not None
        producer.task.cancel()
        await asyncio.gather(producer.task, return_exceptions=True)

        def waits(rows: list[AuditRow]) -> bool:
            return any(row.phase is AuditPhase.WORKER_OPENS for row in rows)

        await audits_of(built, waits)
        built.again("producer", producer, built.honest)
        producer.start()
        found = await audits_of(built, ended)
        assert [row.outcome for row in found] == ["EQUAL", "EQUAL"]

    play(tmp_path, story)
