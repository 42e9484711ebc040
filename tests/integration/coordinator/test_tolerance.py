"""Tolerance mode through the real coordinator and real agents whose devices are not exact."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from flopmarket.client.auditing import audits_from_proto
from flopmarket.engine.graph import Op
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.host import Engine
from flopmarket.jobs.operations import Operation
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.process import EngineServer
from flopmarket.jobs.spec import Mode
from flopmarket.jobs.tracing import Evaluate, by_reference
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.audit_records import LeaseAudits, check
from flopmarket.trust.sealing import Waits
from flopmarket.v1 import job_pb2
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.store import identity, jobs, penalties, step_audits
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_coordinator.store.step_audits import StepAuditRow
from flopmarket_worker.simulated_engine import SharedEngine
from tests.integration.coordinator.disputed import (
    CALIBRATION,
    WAIT_SECONDS,
    Scene,
    Worker,
    _segments,
    scene,
)
from tests.integration.coordinator.market import FAST, HOUR_US, eventually, refused, running_market
from tests.integration.coordinator.scripted import buyer_of
from tests.unit.jobs.disputes import mlp_job
from tests.unit.jobs.rounding import RoundingServer, splitting, to_half, with_operands

STEPS = 3
JOB = replace(mlp_job(steps=2 * STEPS), segment_steps=STEPS, checkpoint_segments=1)
PARAMETERS = replace(
    FAST, audit_rules=replace(RULES, own_audit_units=0), audit_waits=Waits(jitter_us=0)
)
FAST_ONLY = replace(CALIBRATION, admission_digest=None)


class RoundingEngines(SharedEngine):
    """Cards that compute operations in some way of their own, in runs and replays alike."""

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__("reference", None)
        self._evaluate = evaluate

    def server(self, stop: threading.Event) -> EngineServer:
        made = RoundingServer("reference", None, lambda _: None, stop)
        made.evaluate = self._evaluate
        return made

    async def begin(self) -> Engine:
        return await self.card(100)


def play(
    folder: Path, evaluate: Evaluate, story: Callable[[Scene, Worker], Awaitable[None]]
) -> None:
    """A buyer, and one worker on cards of this kind that offers tolerance mode alone."""

    async def run() -> None:
        engines = RoundingEngines(evaluate)
        try:
            async with (
                asyncio.timeout(120),
                running_market(folder, parameters=PARAMETERS) as market,
                scene(market, folder, JOB) as built,
            ):
                built.buyer = await buyer_of(market)
                worker = await built.worker("worker", engines.begin, calibration=FAST_ONLY)
                await story(built, worker)
        finally:
            engines.close()

    asyncio.run(run())


async def submitted(
    built: Scene, job: PreparedJob = JOB, level: Level = Level.DETER
) -> job_pb2.Job:
    buyer = built.buyer
    files = {name: await buyer.upload(data) for name, data in job.artifacts().items()}
    spec = job.spec(
        buyer=buyer.account_id,
        max_price_nano=10**9,
        deadline_us=time.time_ns() // 1000 + HOUR_US,
        nonce=os.urandom(16),
        order=OrderTerms(OrderType.LIMIT),
        verification=level,
        mode=Mode.TOLERANCE,
    )
    request = job_pb2.SubmitJobRequest(
        request_id=os.urandom(16).hex(),
        spec=buyer.sign(spec),
        **{f"{name}_artifact": digest for name, digest in files.items()},
    )
    return (await buyer.call(buyer.jobs.SubmitJob, request)).job  # type: ignore[no-any-return]


async def judged(built: Scene, index: int = 0) -> tuple[SegmentRow, StepAuditRow]:
    """A segment and its step audit, when something has become of both."""

    def find(tx: Transaction) -> tuple[SegmentRow, StepAuditRow] | None:
        rows = _segments(tx)
        if len(rows) <= index or rows[index].state is SegmentState.COMMITTED:
            return None
        audit = step_audits.newest_of_segment(tx, rows[index].segment_id)
        return None if audit is None else (rows[index], audit)

    return await eventually(lambda: built.query(find), WAIT_SECONDS)  # type: ignore[no-any-return]


async def drawn_of(built: Scene, job: str) -> tuple[LeaseAudits, ...]:
    """What is published of a job's audits when it has ended."""

    def has_ended(tx: Transaction) -> bool:
        row = jobs.get(tx, job)
        return row is not None and row.state in FINAL_JOB_STATES

    await eventually(lambda: built.query(has_ended), WAIT_SECONDS)
    request = job_pb2.ListAuditsRequest(job_id=job, page_size=10)
    return audits_from_proto([await built.buyer.call(built.buyer.jobs.ListAudits, request)])


async def is_banned(built: Scene, worker: Worker) -> bool:
    key = await built.query(lambda tx: identity.key(tx, worker.key.key_id))
    return bool(key.revoked)


def test_a_device_that_rounds_otherwise_trains_and_is_paid(tmp_path: Path) -> None:
    """Its bits are not those of exact mode, every segment is looked at, and the second one goes on
    from the state of the first. Everybody can repeat how its steps were drawn."""

    async def story(built: Scene, worker: Worker) -> None:
        job = await submitted(built)
        worker.start()
        for index in range(2):
            row, audit = await judged(built, index)
            assert row.state in (SegmentState.VERIFIED, SegmentState.SETTLED), (row, audit)
            assert audit.with_values and audit.outcome == "EQUAL"
        rows = await built.query(_segments)
        assert rows[1].root_before == rows[0].root_after
        exact = run_local(JOB, "reference", steps=STEPS)
        assert rows[0].root_after != bundle.root(exact.state)
        assert not await is_banned(built, worker)
        recomputed = [count for engine in built.market.engines for _, count in engine.runs]
        assert recomputed == [], "nobody runs it again: values are judged"
        (lease,) = await drawn_of(built, job.job_id)
        assert [segment.steps is not None for segment in lease.segments] == [True, True]
        assert check([lease], built.market.coordinator.directory.key.public) == ()

    play(tmp_path, splitting, story)


def without_update(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """Weights stay what they were: the last multiply-add of each is left out."""
    if op.node is not None and op.node.op is Op.FMA and op.shape == (80, 70):
        return np.asarray(sources[2])
    return by_reference(step, at, op, sources)


@pytest.mark.parametrize(
    "cheat",
    [with_operands(to_half), without_update],
    ids=["operands in float16", "no update"],
)
def test_a_cheat_is_slashed(tmp_path: Path, cheat: Evaluate) -> None:
    async def story(built: Scene, worker: Worker) -> None:
        await submitted(built)
        worker.start()
        row, audit = await judged(built)
        assert audit.outcome == "FAULT", audit.detail
        assert (row.state, row.reason) == (SegmentState.REJECTED, "TOLERANCE_FAULT")
        assert "operation" in audit.detail and "under FX1" in audit.detail
        assert await is_banned(built, worker)

    play(tmp_path, cheat, story)


def one_place_up(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """Every product of two numbers is the next larger one: no honest device, and no proof."""
    value = by_reference(step, at, op, sources)
    if op.node is not None and op.node.op is Op.MUL and value.dtype == np.float32:
        return np.nextafter(value, np.float32(np.inf))
    return value


def test_what_rounding_might_explain_costs_the_unit_and_a_strike(tmp_path: Path) -> None:
    async def story(built: Scene, worker: Worker) -> None:
        await submitted(built)
        worker.start()
        row, audit = await judged(built)
        assert audit.outcome == "SECOND_OPINION", audit.detail
        assert (row.state, row.reason) == (SegmentState.VOID, "TOLERANCE_OUTSIDE")
        assert not await is_banned(built, worker)
        strikes = await built.query(lambda tx: penalties.strikes(tx, [worker.key.key_id], -1))
        assert [strike.kind for strike in strikes] == [StrikeKind.TOLERANCE_OUTSIDE]

    play(tmp_path, one_place_up, story)


def test_what_cannot_be_judged_is_refused_before_it_runs(tmp_path: Path) -> None:
    async def story(built: Scene, worker: Worker) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "TOLERANCE_LEVEL"):
            await submitted(built, level=Level.DUAL)

    play(tmp_path, splitting, story)
