"""The path of a job through the real service: quote, submit, lease, commit, audit, pay, receipt."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from flopmarket.client.auditing import audits_from_proto
from flopmarket.jobs import bundle
from flopmarket.jobs.spec import JobSpec
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.audit_records import check
from flopmarket.trust.challenge import ChallengeRecord
from flopmarket.trust.documents import CancelRequest
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.receipt import AuditOutcome, Outcome, verify_receipt
from flopmarket.v1 import job_pb2, market_pb2, worker_pb2
from tests.integration.coordinator.engines import InProcessEngine
from tests.integration.coordinator.market import (
    Caller,
    Market,
    Person,
    reason,
    refused,
    running_market,
)
from tests.integration.coordinator.scripted import (
    DOLLAR,
    JOB,
    Buyer,
    ScriptedWorker,
    buyer_of,
    in_market,
    worker_of,
)

Code = grpc.StatusCode


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
