"""A buyer and a worker that follow a test's script, over the real service."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpc import aio

from flopmarket.jobs import bundle
from flopmarket.jobs.prepared import Result, run_local
from flopmarket.jobs.spec import job_id
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.documents import Commitment, LeaseAcceptance
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import job_pb2, ledger_pb2, worker_pb2
from tests.integration.coordinator.market import (
    CALL_SECONDS,
    HOUR_US,
    Market,
    Person,
    eventually,
    offer_terms,
    running_market,
    wire,
)
from tests.unit.jobs.jobs import small_job

DOLLAR = 1_000_000_000
JOB = small_job()
RESTS = OrderTerms(OrderType.LIMIT)
"""Most stories submit before a worker comes."""


def truth(folder: Path) -> tuple[Result, dict[int, bytes]]:
    """The job's honest result and the file of the state after each segment."""
    folder.mkdir(exist_ok=True)
    result = run_local(JOB, "reference", work_dir=folder)
    files = {int(p.stem.removeprefix("state-")): p.read_bytes() for p in folder.iterdir()}
    return result, files


class ScriptedWorker:
    """A worker that answers with prepared results. ``lie`` changes what it claims of a segment."""

    def __init__(self, person: Person, device: KeyPair, name: str, folder: Path) -> None:
        self.person = person
        self.device = device
        self.name = name
        self.result, self.states = truth(folder)
        self.lie: Callable[[int, dict[str, Any]], None] = lambda index, claim: None
        self.fence_shift = 0
        self.leases: list[worker_pb2.LeaseOffered] = []
        self.revoked: list[worker_pb2.LeaseRevoked] = []
        self.answers: list[worker_pb2.CommitmentAnswer] = []
        self.call: Any = None

    @property
    def terms_device_id(self) -> str:
        return offer_terms("", self.device, self.name).device_id

    def sign(self, body: Any) -> Any:
        return wire(body, self.device, self.person.market.key_id)

    async def connect(self, held: Any = ()) -> worker_pb2.Welcome:
        terms = offer_terms(self.person.account_id, self.device, self.name)
        self.call = self.person.worker.Session(metadata=self.person.metadata, timeout=30)
        await self.send(
            hello=worker_pb2.Hello(agent_version="test", offers=[self.sign(terms)], held=held)
        )
        first = await self.call.read()
        assert first.WhichOneof("message") == "welcome"
        return first.welcome

    async def send(self, **message: Any) -> None:
        await self.call.write(worker_pb2.SessionRequest(**message))

    async def next(self, kind: str) -> Any:
        """The next message of a kind; others are kept in their lists."""
        async with asyncio.timeout(CALL_SECONDS):
            while True:
                message = await self.call.read()
                assert message is not aio.EOF, "the stream ended"
                found = message.WhichOneof("message")
                value = getattr(message, found)
                keep = {
                    "lease_offered": self.leases,
                    "lease_revoked": self.revoked,
                    "commitment_answer": self.answers,
                }
                keep.get(found, []).append(value)
                if found == kind:
                    return value

    async def accept(self, lease: worker_pb2.LeaseOffered) -> None:
        body = LeaseAcceptance(
            job_id=bytes.fromhex(lease.job_id),
            lease_id=lease.lease_id,
            fence=lease.fence,
            device_key_id=self.device.key_id,
            device_id=lease.device_id,
            first_step=lease.first_step,
            step_count=lease.step_count,
        )
        await self.send(lease_accepted=worker_pb2.LeaseAccepted(acceptance=self.sign(body)))

    async def commit(
        self, lease: worker_pb2.LeaseOffered, index: int
    ) -> worker_pb2.CommitmentAnswer:
        """Upload and commit segment ``index`` of the job; the coordinator's answer."""
        segment = self.result.segments[index]
        first, end = segment.first_step, segment.first_step + segment.steps
        before = JOB.spec(buyer="", max_price_nano=0, deadline_us=0, nonce=bytes(16)).state_root
        if index:
            before = self.result.segments[index - 1].state_root
        outputs = {name: array[first:end] for name, array in self.result.outputs.items()}
        claim = {
            "state_root_after": segment.state_root,
            "outputs_root": segment.outputs_root,
            "outputs": bundle.save(outputs),
            "checkpoint": self.states[end],
        }
        self.lie(index, claim)
        outputs_artifact = await self.person.upload(claim.pop("outputs"), lease_id=lease.lease_id)
        checkpoint = await self.person.upload(claim.pop("checkpoint"), lease_id=lease.lease_id)
        body = Commitment(
            job_id=bytes.fromhex(lease.job_id),
            lease_id=lease.lease_id,
            fence=lease.fence + self.fence_shift,
            device_key_id=self.device.key_id,
            segment_index=index,
            first_step=first,
            steps_done=segment.steps,
            state_root_before=before,
            sealed_inner=os.urandom(32),
            **claim,
        )
        await self.send(
            segment_committed=worker_pb2.SegmentCommitted(
                commitment=self.sign(body),
                outputs_artifact=outputs_artifact,
                checkpoint_artifact=checkpoint,
                run_us=1_000,
            )
        )
        return await self.next("commitment_answer")  # type: ignore[no-any-return]

    async def fetch_inputs(self, lease: worker_pb2.LeaseOffered) -> None:
        """Everything the lease names can be downloaded by its lease, and is what was uploaded."""
        files = JOB.artifacts()
        for name in ("program", "frozen", "data"):
            artifact = getattr(lease, f"{name}_artifact")
            assert await self.person.download(artifact, lease_id=lease.lease_id) == files[name]
        await self.person.download(lease.state_artifact, lease_id=lease.lease_id)

    async def run_to_the_end(self) -> None:
        """Accept leases and commit segments until the job has none left."""
        while True:
            lease = self.leases.pop(0) if self.leases else await self.next("lease_offered")
            await self.fetch_inputs(lease)
            await self.accept(lease)
            at, index = lease.first_step, lease.first_segment
            while at < lease.first_step + lease.step_count:
                answer = await self.commit(lease, index)
                assert answer.accepted, f"{answer.code} {answer.message}"
                at += self.result.segments[index].steps
                index += 1
            if at == JOB.steps:
                return

    async def leave(self) -> None:
        if self.call is not None:
            self.call.cancel()
        await self.person.close()


class Buyer(Person):
    """Buys the job of these tests."""

    async def submit(self, budget_nano: int = DOLLAR, order: OrderTerms = RESTS) -> job_pb2.Job:
        files = {name: await self.upload(data) for name, data in JOB.artifacts().items()}
        spec = JOB.spec(
            buyer=self.account_id,
            max_price_nano=budget_nano,
            deadline_us=time.time_ns() // 1000 + HOUR_US,
            nonce=os.urandom(16),
            order=order,
        )
        request = job_pb2.SubmitJobRequest(
            request_id=os.urandom(16).hex(),
            spec=self.sign(spec),
            title="test job",
            **{f"{name}_artifact": digest_ for name, digest_ in files.items()},
        )
        answer = await self.call(self.jobs.SubmitJob, request)
        assert answer.job.job_id == job_id(spec).hex()
        # The same request again is the same job, and holds no more money.
        again = await self.call(self.jobs.SubmitJob, request)
        assert again.job.job_id == answer.job.job_id
        return answer.job  # type: ignore[no-any-return]

    async def job(self, name: str) -> job_pb2.Job:
        answer = await self.call(self.jobs.GetJob, job_pb2.GetJobRequest(job_id=name))
        return answer.job  # type: ignore[no-any-return]

    async def ended(self, name: str) -> job_pb2.Job:
        async def look() -> job_pb2.Job | None:
            job = await self.job(name)
            return job if job.ended_at_us else None

        return await eventually(look)  # type: ignore[no-any-return]

    async def money(self) -> ledger_pb2.GetAccountResponse:
        request = ledger_pb2.GetAccountRequest()
        return await self.call(self.ledger.GetAccount, request)  # type: ignore[no-any-return]

    async def story(self, name: str, after: int = 0) -> list[job_pb2.WatchJobResponse]:
        call = self.jobs.WatchJob(
            job_pb2.WatchJobRequest(job_id=name, after_sequence=after),
            metadata=self.metadata,
            timeout=CALL_SECONDS,
        )
        try:
            return [event async for event in call]
        finally:
            call.cancel()


async def worker_of(market: Market, folder: Path, name: str = "card-0") -> ScriptedWorker:
    person = await Person(market).join(name)
    device = await person.grant_device()
    await person.open_session(device, KeyRole.DEVICE)
    return ScriptedWorker(person, device, name, folder / f"truth-{name}")


async def buyer_of(market: Market) -> Buyer:
    buyer = Buyer(market)
    await buyer.join("buyer")
    await buyer.credit(10 * DOLLAR)
    return buyer


def in_market(folder: Path, scenario: Callable[[Market], Awaitable[None]], **config: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), running_market(folder, **config) as market:
            await scenario(market)
            findings = await market.coordinator.backend.query(
                market.coordinator.backend.application.check
            )
            assert findings == ()

    asyncio.run(run())
