"""Two real agents, a real coordinator, one segment, and two different ends of it.

A worker computes a job on an engine that may lie. Its commitment and the claim of a second worker
open a dispute; agents, referee and store do the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.dispute_replay import Explained, replay_file
from flopmarket.jobs.host import Engine
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.tracing import Evaluate, SegmentData, SegmentTrace, by_reference
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.dispute_documents import Claim, DisputeOpening
from flopmarket.trust.encoding import digest
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import dispute_pb2, dispute_pb2_grpc, job_pb2
from flopmarket_coordinator.application.types_auditing import AuditResult
from flopmarket_coordinator.store import disputes, schema, segments
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_coordinator.store.rows import Rows
from flopmarket_worker.agent import Agent
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.lying import Lie, LyingEngine
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms
from flopmarket_worker.signing import random_nonce, wall_clock_us
from flopmarket_worker.simulated_engine import SharedEngine
from flopmarket_worker.telemetry.ports import DeclaredPower
from flopmarket_worker.transfers import Transfers
from tests.integration.coordinator.market import HOUR_US, Market, Person, eventually
from tests.integration.coordinator.scripted import Buyer, buyer_of

WAIT_SECONDS = 60.0
CALIBRATION = Calibration(b"a" * 32, dict.fromkeys(WORK_CLASSES, 10**9), 10**9, 1000, 0, 0)
StartAny = Callable[[], Awaitable[Engine]]


@dataclass
class Worker:
    """A person with one device key, and an agent that runs when it is told to."""

    person: Person
    key: KeyPair
    device_id: str
    agent: Agent
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.agent.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)
        await self.person.close()


class Scene:
    """Everybody of one story."""

    def __init__(self, market: Market, folder: Path, job: PreparedJob) -> None:
        self.market = market
        self.folder = folder
        self.job = job
        self.shared = SharedEngine("reference", None)
        self.workers: list[Worker] = []
        self.buyer: Buyer
        self.liars: list[LyingEngine] = []

    async def honest(self) -> Engine:
        return await self.shared.card(100)

    def liar(
        self, fault: str, *, consistent: bool = True, start: StartAny | None = None
    ) -> StartAny:
        """A starter of engines with this fault; they are kept in ``liars``."""

        async def begin() -> Engine:
            engine = LyingEngine(await (start or self.honest)(), fault, consistent=consistent)
            self.liars.append(engine)
            return engine

        return begin

    async def worker(
        self,
        name: str,
        start: StartAny,
        ask_nano_per_hour: int = 20_000_000,
        *,
        card: str = "",
        calibration: Calibration = CALIBRATION,
    ) -> Worker:
        """An agent that is connected to nothing yet. ``card`` is the name of its device."""
        person = await Person(self.market).join(name)
        key = await person.grant_device()
        cache = self.folder / f"cache-{name}"
        cache.mkdir()
        agent, device_id = self._agent(
            name, person, key, start, ask_nano_per_hour, card, calibration
        )
        made = Worker(person, key, device_id, agent)
        self.workers.append(made)
        return made

    def again(self, name: str, worker: Worker, start: StartAny) -> None:
        """A new process on the same folders as the agent of this name, which is gone."""
        worker.agent, _ = self._agent(name, worker.person, worker.key, start, 20_000_000)

    def _agent(
        self,
        name: str,
        person: Person,
        key: KeyPair,
        start: StartAny,
        ask_nano_per_hour: int,
        card: str = "",
        calibration: Calibration = CALIBRATION,
    ) -> tuple[Agent, str]:
        link = CoordinatorLink(
            self.market.coordinator.address,
            Credentials(key, None, person.account_id, name),
            now_us=wall_clock_us,
            nonce=random_nonce,
        )
        device_id = (name.encode().hex() + "f" * 64)[:64]
        device = AgentDevice(
            DeviceCard(device_id, card or f"card of {name}", "none", 1 << 30, 1 << 28),
            calibration,
            OwnerTerms(ask_nano_per_hour, 0, DeclaredPower(65_000)),
            JobExecutor(start),
        )
        agent = Agent(
            link,
            [device],
            Journal(self.folder / f"leases-{name}"),
            Transfers(link, self.folder / f"cache-{name}"),
            now_us=wall_clock_us,
            jitter=lambda: 0.0,
            version="test",
            stop_seconds=3.0,
        )
        return agent, device_id

    async def committed(self, worker: Worker) -> list[SegmentRow]:
        """Let ``worker`` compute the job; its segments, of which none has a verdict."""
        self.buyer = await buyer_of(self.market)
        files = {name: await self.buyer.upload(data) for name, data in self.job.artifacts().items()}
        spec = self.job.spec(
            buyer=self.buyer.account_id,
            max_price_nano=10**9,
            deadline_us=time.time_ns() // 1000 + HOUR_US,
            nonce=os.urandom(16),
            order=OrderTerms(OrderType.LIMIT),
        )
        await self.buyer.call(
            self.buyer.jobs.SubmitJob,
            job_pb2.SubmitJobRequest(
                request_id=os.urandom(16).hex(),
                spec=self.buyer.sign(spec),
                **{f"{name}_artifact": digest for name, digest in files.items()},
            ),
        )
        worker.start()
        wanted = -(-self.job.steps // self.job.segment_steps)

        async def look() -> list[SegmentRow]:
            rows = await self.query(_segments)
            return rows if len(rows) == wanted else []

        rows: list[SegmentRow] = await eventually(look, WAIT_SECONDS)
        return rows

    async def claim(
        self, row: SegmentRow, key: KeyPair, evaluate: Evaluate = by_reference
    ) -> Claim:
        """The end of a segment as somebody computes it who starts from the right state."""
        return await asyncio.to_thread(self._claim, row, key, evaluate)

    def _claim(self, row: SegmentRow, key: KeyPair, evaluate: Evaluate) -> Claim:
        spec = self.job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
        state = self.job.state
        if row.first_step:
            state = run_local(self.job, "reference", steps=row.first_step).state
        ours, theirs = (Claim(bytes([n]) * 32, *(bytes(32),) * 3) for n in (1, 2))
        opening = DisputeOpening(
            "", digest(spec), 0, row.first_step, row.steps, row.root_before, ours, theirs, 0, 1
        )
        problem = JobProblem(opening, spec, self.job.program)
        tensors = SegmentData(self.job.frozen, self.job.data, state)
        return SegmentTrace(problem, tensors, evaluate).claim(key.public.raw, bytes([7]) * 32)

    async def dispute(self, row: SegmentRow, other: Claim, by: Worker | None) -> str:
        """Open a dispute of the segment's own commitment with another claim."""
        application = self.market.coordinator.backend.application
        ours = next(w for w in self.workers if w.key.key_id == row.device_key_id)
        claim = Claim(ours.key.public.raw, row.root_after, row.outputs_root, bytes([8]) * 32)

        def opened(tx: Transaction) -> str:
            return application._open_dispute(
                tx,
                row,
                claim,
                other,
                auditor_account=by.person.account_id if by else "",
                auditor_device=by.device_id if by else "",
            )

        return await self.market.coordinator.backend.command(opened)

    async def house_dispute(self, row: SegmentRow) -> str:
        """The house disputes a segment that it computes otherwise."""
        right = await self.claim(row, KeyPair.generate())
        found = AuditResult(right.state_root_after, right.outputs_root, None, None)
        application = self.market.coordinator.backend.application
        return await self.market.coordinator.backend.command(
            lambda tx: application._open_house_dispute(tx, row, found)
        )

    async def ended(self, dispute_id: str) -> DisputeRow:
        async def look() -> DisputeRow | None:
            row = await self.query(lambda tx: disputes.get(tx, dispute_id))
            return row if row is not None and row.ended_at_us else None

        found: DisputeRow = await eventually(look, WAIT_SECONDS)
        return found

    async def transcript(self, person: Person, dispute_id: str) -> bytes:
        """The file, as its parties and the buyer download it."""
        stub = dispute_pb2_grpc.DisputeServiceStub(person.channel)
        request = dispute_pb2.GetDisputeRequest(dispute_id=dispute_id)
        found = (await person.call(stub.GetDispute, request)).dispute
        return await person.download(found.transcript_artifact, dispute_id=dispute_id)

    async def explained(self, dispute_id: str) -> Explained:
        """The verdict, reached again from the buyer's file alone."""
        return replay_file(await self.transcript(self.buyer, dispute_id))

    async def query(self, run: Callable[[Transaction], Any]) -> Any:
        return await self.market.coordinator.backend.query(run)

    async def segment(self, segment_id: int) -> SegmentRow:
        row = await self.query(lambda tx: segments.get(tx, segment_id))
        assert isinstance(row, SegmentRow)
        return row

    async def close(self) -> None:
        for worker in self.workers:
            await worker.end()
        if hasattr(self, "buyer"):
            await self.buyer.close()
        self.shared.close()


def _segments(tx: Transaction) -> list[SegmentRow]:
    rows = Rows(SegmentRow, schema.segment)
    return rows.all(tx, rows.select.order_by(schema.segment.c.segment_id))


@contextlib.asynccontextmanager
async def scene(market: Market, folder: Path, job: PreparedJob) -> AsyncIterator[Scene]:
    built = Scene(market, folder, job)
    try:
        yield built
    finally:
        await built.close()


def lied(fault: str, steps: int) -> Lie:
    """What a lying engine evaluates in a segment of so many steps."""
    return Lie(fault, min(1, steps - 1))
