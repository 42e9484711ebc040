"""The path of a job through the real service: quote, submit, lease, commit, audit, pay, receipt."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from flopmarket.client.auditing import audits_from_proto
from flopmarket.jobs import bundle
from flopmarket.jobs.prepared import Result, run_local
from flopmarket.jobs.spec import JobSpec, job_id
from flopmarket.market.order import MARKET_ORDER, OrderTerms, OrderType
from flopmarket.trust.audit_records import check
from flopmarket.trust.challenge import ChallengeRecord
from flopmarket.trust.documents import CancelRequest, Commitment, LeaseAcceptance
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.receipt import AuditOutcome, Outcome, verify_receipt
from flopmarket.v1 import job_pb2, ledger_pb2, market_pb2, worker_pb2
from tests.integration.coordinator.engines import InProcessEngine
from tests.integration.coordinator.market import (
    CALL_SECONDS,
    HOUR_US,
    Caller,
    Market,
    Person,
    eventually,
    offer_terms,
    reason,
    refused,
    running_market,
    wire,
)
from tests.unit.jobs.jobs import small_job

Code = grpc.StatusCode
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


def test_a_job_from_quote_to_receipt(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        quote = await buyer.call(
            buyer.jobs.QuoteJob,
            job_pb2.QuoteJobRequest(program=JOB.program.to_bytes(), steps=10, segment_steps=4),
        )
        assert 0 < quote.expected.nano <= quote.ceiling.nano
        assert len(quote.offers) == 1
        job = await buyer.submit(order=MARKET_ORDER)
        assert job.ceiling.nano == quote.ceiling.nano
        held = await buyer.money()
        assert held.reserved.nano == quote.ceiling.nano
        assert held.available.nano == 10 * DOLLAR - quote.ceiling.nano

        watching = asyncio.create_task(buyer.story(job.job_id))
        await worker.run_to_the_end()
        job = await buyer.ended(job.job_id)
        assert job.state == job_pb2.Job.STATE_SUCCEEDED
        assert [segment.steps for segment in job.segments] == [4, 4, 2]
        assert job.state_root == worker.result.state_root
        assert 0 < job.billed.nano <= quote.ceiling.nano
        assert market.engines[0].runs == [(0, 4), (4, 4), (8, 2)]

        story = await watching
        kinds = [event.kind for event in story]
        assert kinds[0] == "queued"
        assert kinds[-1] == "succeeded"
        assert kinds.count("verified") == 3
        sequences = [event.sequence for event in story]
        assert sequences == sorted(sequences)
        assert await buyer.story(job.job_id, after=sequences[-1]) == []

        paid = await buyer.money()
        assert paid.reserved.nano == 0
        assert paid.available.nano == 10 * DOLLAR - job.billed.nano
        receipt = await buyer.call(
            buyer.jobs.GetReceipt, job_pb2.GetReceiptRequest(job_id=job.job_id)
        )
        verified = verify_receipt(
            receipt.receipt,
            market.coordinator.directory.key.public,
            recompute_job_id=lambda spec: digest(decode(JobSpec, spec)),
        )
        assert verified.receipt.outcome is Outcome.COMPLETED
        assert verified.receipt.final_state_root == worker.result.state_root
        assert verified.receipt.outputs_root == worker.result.outputs_root
        assert verified.receipt.invoice_nano == job.billed.nano
        assert {item.audit for item in verified.receipt.segments} == {AuditOutcome.CONFIRMED}
        pages, token = [], ""
        while not pages or token:
            request = job_pb2.ListAuditsRequest(job_id=job.job_id, page_size=1, page_token=token)
            pages.append(await buyer.call(buyer.jobs.ListAudits, request))
            token = pages[-1].next_page_token
        draws = audits_from_proto(pages)
        assert sum(len(lease.segments) for lease in draws) == len(verified.receipt.segments)
        assert check(draws, verified.receipt.coordinator_key) == ()
        drawn = [item for lease in draws for item in lease.segments]
        shown = {digest(decode(ChallengeRecord, item.record)) for item in drawn}
        assert shown == {item.challenge_digest for item in verified.receipt.segments}

        anybody = Caller(market)  # how good the prediction was is public
        accuracy = await anybody.call(anybody.prices.GetAccuracy, market_pb2.GetAccuracyRequest())
        assert accuracy.overall.segments == 3
        assert [row.offer_id for row in accuracy.rows] == ["", quote.offers[0].offer_id]
        await anybody.close()

        state = await buyer.download(job.state_artifact, job_id=job.job_id)
        assert bundle.root(bundle.load(state)) == worker.result.state_root
        # What the job made is the buyer's and nobody else's.
        stranger = await Person(market).join("stranger")
        with pytest.raises(aio.AioRpcError) as caught:
            await stranger.download(job.state_artifact, job_id=job.job_id)
        assert caught.value.code() in (Code.NOT_FOUND, Code.PERMISSION_DENIED)
        async with refused(Code.NOT_FOUND):
            await stranger.call(stranger.jobs.GetJob, job_pb2.GetJobRequest(job_id=job.job_id))
        await stranger.close()
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_a_false_claim_is_caught_and_another_worker_finishes(tmp_path: Path) -> None:
    def lie(index: int, claim: dict[str, Any]) -> None:
        wrong = {"w": np.full(3, 7, np.float32)}
        claim["state_root_after"] = bundle.root(wrong)
        claim["checkpoint"] = bundle.save(wrong)

    async def scenario(market: Market) -> None:
        cheat, buyer = await worker_of(market, tmp_path, "cheat"), await buyer_of(market)
        cheat.lie = lie
        await cheat.connect()
        job = await buyer.submit()
        lease = await cheat.next("lease_offered")
        await cheat.accept(lease)
        assert (await cheat.commit(lease, 0)).accepted  # it counts until it is checked
        revoked = await cheat.next("lease_revoked")
        assert revoked.lease_id == lease.lease_id

        honest = await worker_of(market, tmp_path, "honest")
        await honest.connect()
        await honest.run_to_the_end()
        job = await buyer.ended(job.job_id)
        assert job.state == job_pb2.Job.STATE_SUCCEEDED
        assert job.state_root == honest.result.state_root
        kinds = [event.kind for event in await buyer.story(job.job_id)]
        assert "rejected" in kinds
        assert "slashed" in kinds
        offers = await buyer.call(buyer.prices.ListOffers, market_pb2.ListOffersRequest())
        assert [offer.device_name for offer in offers.offers] == ["Test honest"]
        await cheat.leave()
        await honest.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_a_stale_fence_is_refused_with_a_reason(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        await buyer.submit()
        lease = await worker.next("lease_offered")
        await worker.accept(lease)
        worker.fence_shift = -1 if lease.fence else 1
        answer = await worker.commit(lease, 0)
        assert not answer.accepted
        assert answer.code
        worker.fence_shift = 0
        assert (await worker.commit(lease, 0)).accepted
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_a_lease_survives_the_connection_and_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_market(tmp_path) as market:
            worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
            await worker.connect()
            job = await buyer.submit()
            lease = await worker.next("lease_offered")
            await worker.accept(lease)
            assert (await worker.commit(lease, 0)).accepted
            held = [worker_pb2.HeldLease(lease_id=lease.lease_id, fence=lease.fence)]
            worker.call.cancel()
            welcome = await worker.connect(held)
            assert [(item.lease_id, item.fence) for item in welcome.kept] == [
                (lease.lease_id, lease.fence)
            ]
            await worker.leave()
            await buyer.close()
        async with running_market(tmp_path) as market:
            again = await _reopened(market, worker, tmp_path)
            welcome = await again.connect(held)
            assert [item.lease_id for item in welcome.kept] == [lease.lease_id]
            for index in range(1, 3):
                if lease.first_step + lease.step_count <= 4 * index:
                    lease = await again.next("lease_offered")
                    await again.accept(lease)
                answer = await again.commit(lease, index)
                assert answer.accepted, f"{answer.code} {answer.message}"
            returned = Buyer(market)
            returned.key, returned.account_id = buyer.key, buyer.account_id
            await returned.open_session(buyer.key, KeyRole.OWNER)
            assert (await returned.ended(job.job_id)).state == job_pb2.Job.STATE_SUCCEEDED
            await again.leave()
            await returned.close()

    asyncio.run(scenario())


def test_an_offer_waits_in_the_store_for_a_worker_that_left(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        await buyer.submit()
        lease = await worker.next("lease_offered")
        worker.call.cancel()
        await asyncio.sleep(0.1)
        await worker.connect()
        again = await worker.next("lease_offered")
        assert (again.job_id, again.first_step) == (lease.job_id, lease.first_step)
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_progress_reaches_the_watcher_and_is_not_stored(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        job = await buyer.submit()
        lease = await worker.next("lease_offered")
        await worker.accept(lease)
        call = buyer.jobs.WatchJob(
            job_pb2.WatchJobRequest(job_id=job.job_id), metadata=buyer.metadata, timeout=10
        )
        assert (await call.read()).kind == "queued"
        report = worker_pb2.Progress(lease_id=lease.lease_id, step=2, scalars={"loss": 0.25})
        held = [worker_pb2.HeldLease(lease_id=lease.lease_id, fence=lease.fence)]
        await worker.send(heartbeat=worker_pb2.Heartbeat(held=held, progress=[report]))
        while (event := await call.read()).kind != "progress":
            pass
        assert event.step == 2
        assert dict(event.scalars) == {"loss": 0.25}
        call.cancel()
        cancel = CancelRequest(bytes.fromhex(job.job_id), os.urandom(8).hex())
        answer = await buyer.call(
            buyer.jobs.CancelJob, job_pb2.CancelJobRequest(cancel=buyer.sign(cancel))
        )
        assert answer.job.state == job_pb2.Job.STATE_CANCELLED
        assert (await worker.next("lease_revoked")).lease_id == lease.lease_id
        assert "progress" not in {event.kind for event in await buyer.story(job.job_id)}
        assert (await buyer.money()).available.nano == 10 * DOLLAR
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_a_budget_below_the_quote_is_refused(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        with pytest.raises(aio.AioRpcError) as caught:
            await buyer.submit(budget_nano=1, order=MARKET_ORDER)
        assert reason(caught.value) == "BUDGET_BELOW_QUOTE"
        assert (await buyer.money()).reserved.nano == 0
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


def test_envelopes_on_the_stream_are_verified(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
        await worker.connect()
        await buyer.submit()
        lease = await worker.next("lease_offered")
        honest, worker.device = worker.device, KeyPair.generate()
        await worker.accept(lease)  # signed by a key nobody granted
        async with refused(Code.UNAUTHENTICATED, "ENVELOPE_UNKNOWN_KEY"):
            while await worker.call.read() is not aio.EOF:
                pass
        worker.device = honest
        await worker.leave()
        await buyer.close()

    in_market(tmp_path, scenario)


async def _reopened(market: Market, before: ScriptedWorker, folder: Path) -> ScriptedWorker:
    """The same worker towards a coordinator that was started again."""
    person = Person(market)
    person.key, person.account_id = before.person.key, before.person.account_id
    await person.open_session(before.device, KeyRole.DEVICE)
    return ScriptedWorker(person, before.device, before.name, folder / f"truth-{before.name}")


def test_going_down_in_the_middle_of_an_audit_loses_nothing(tmp_path: Path) -> None:
    class Endless(InProcessEngine):
        """Never comes to the end of a segment."""

        async def run(self, *arguments: Any, **paths: Any) -> AsyncIterator[Any]:
            await asyncio.sleep(3600)
            yield

    async def scenario() -> None:
        engines: list[InProcessEngine] = []

        async def start_endless() -> InProcessEngine:
            engines.append(Endless())
            return engines[-1]

        async with running_market(tmp_path, start_engine=start_endless) as market:
            worker, buyer = await worker_of(market, tmp_path), await buyer_of(market)
            await worker.connect()
            job = await buyer.submit()
            await worker.run_to_the_end()
            assert (await buyer.job(job.job_id)).state == job_pb2.Job.STATE_VERIFYING
            await worker.leave()
            await buyer.close()
        assert [engine.stopped for engine in engines] == [True]
        async with running_market(tmp_path) as market:
            returned = Buyer(market)
            returned.key, returned.account_id = buyer.key, buyer.account_id
            await returned.open_session(buyer.key, KeyRole.OWNER)
            assert (await returned.ended(job.job_id)).state == job_pb2.Job.STATE_SUCCEEDED
            await returned.close()

    asyncio.run(scenario())
