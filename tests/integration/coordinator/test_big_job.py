"""A job of 50,000 segments is looked at, watched and proven through messages of 4 MiB."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa

from flopmarket.client import Client
from flopmarket.jobs.spec import JobSpec, class_hex, job_id
from flopmarket.limits import (
    MAX_INLINE_SEGMENTS,
    MAX_MESSAGE_BYTES,
    MAX_RECEIPT_BYTES,
    MAX_RECEIPT_SEGMENTS,
)
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.encoding import encode
from flopmarket.trust.receipt import (
    HOUSE,
    AuditOutcome,
    Outcome,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
    sign_receipt,
)
from flopmarket.v1 import job_pb2
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.store import jobs, schema
from flopmarket_coordinator.store.engine import Transaction
from tests.integration.coordinator.market import HOUR_US, Market, refused, running_market
from tests.integration.coordinator.scripted import Buyer, buyer_of, worker_of
from tests.unit.jobs.jobs import small_job

BIG = small_job(steps=MAX_RECEIPT_SEGMENTS, segment_steps=1)
PRICE_NANO = 1_000


async def one_segment(market: Market, buyer: Buyer, folder: Path) -> dict[str, Any]:
    """The row of a segment that was really computed, audited and paid."""
    worker = await worker_of(market, folder)
    await worker.connect()
    job = await buyer.submit()
    await worker.run_to_the_end()
    await buyer.ended(job.job_id)
    await worker.leave()

    def first(tx: Transaction) -> dict[str, Any]:
        return dict(tx.connection.execute(sa.select(schema.segment).limit(1)).mappings().one())

    return await market.coordinator.backend.query(first)


async def submit_big(buyer: Buyer) -> JobSpec:
    """The big job, as an order that no offer fits."""
    files = {name: await buyer.upload(data) for name, data in BIG.artifacts().items()}
    spec = BIG.spec(
        buyer=buyer.account_id,
        max_price_nano=PRICE_NANO * MAX_RECEIPT_SEGMENTS,
        deadline_us=time.time_ns() // 1000 + HOUR_US,
        nonce=os.urandom(16),
        order=OrderTerms(OrderType.LIMIT),
    )
    request = job_pb2.SubmitJobRequest(
        request_id="big",
        spec=buyer.sign(spec),
        **{f"{name}_artifact": digest for name, digest in files.items()},
    )
    answer = await buyer.call(buyer.jobs.SubmitJob, request)
    assert answer.job.job_id == job_id(spec).hex()
    return spec


def receipt_of(market: Market, spec: JobSpec) -> bytes:
    """A receipt that pays every step as a segment."""
    segments = [
        ReceiptSegment(
            index=index,
            first_step=index,
            steps=1,
            device_key_id="d" * 64,
            device_id="e" * 64,
            state_root_before=spec.state_root,
            state_root_after=spec.state_root,
            outputs_root=hashlib.sha256(b"%d" % index).digest(),
            commitment_digest=hashlib.sha256(b"commitment %d" % index).digest(),
            audit=AuditOutcome.CONFIRMED,
            auditor=HOUSE,
            verdict_digest=hashlib.sha256(b"verdict %d" % index).digest(),
            challenge_digest=hashlib.sha256(b"challenge %d" % index).digest(),
            price_nano=PRICE_NANO,
            surcharge_nano=0,
        )
        for index in range(spec.steps)
    ]
    receipt = build_receipt(
        job_id=job_id(spec),
        job_spec=encode(spec),
        buyer_account_id=spec.buyer,
        program_digest=spec.program_digest,
        profile=spec.profile,
        mode=spec.mode,
        device_class=class_hex(spec),
        verification=spec.verification,
        data_root=spec.data_root,
        seed=spec.seed,
        steps=spec.steps,
        outcome=Outcome.COMPLETED,
        initial_state_root=spec.state_root,
        devices=[ReceiptDevice("d" * 64, "e" * 64, "card", "driver")],
        segments=segments,
        currency="USD",
        ceiling_nano=spec.max_price_nano,
        fee_nano=0,
        coordinator_key=market.coordinator.directory.key.public,
        submitted_at_us=1,
        ended_at_us=2,
    )
    return sign_receipt(receipt, market.coordinator.directory.key)


def finish(tx: Transaction, template: dict[str, Any], spec: JobSpec, receipt: bytes) -> None:
    """Write the end of the big job, as if all of it had been computed."""
    name = job_id(spec).hex()
    template = {key: value for key, value in template.items() if key != "segment_id"} | {
        "job_id": name,
        "steps": 1,
        "state": "settled",
        "checkpoint_artifact": "",
        "trade_number": 0,
    }
    rows = [
        template
        | {
            "segment_index": index,
            "first_step": index,
            "commitment_digest": hashlib.sha256(b"commitment %d" % index).digest(),
        }
        for index in range(spec.steps)
    ]
    tx.connection.execute(sa.insert(schema.segment), rows)
    jobs.update(tx, name, state="succeeded", ended_at_us=tx.now_us, receipt=receipt)
    jobs.record(tx, name, EventKind.SUCCEEDED, "all of it")


def test_a_job_of_50_000_segments(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_market(tmp_path) as market:
            buyer = await buyer_of(market)
            template = await one_segment(market, buyer, tmp_path)
            spec = await submit_big(buyer)
            receipt = await asyncio.to_thread(receipt_of, market, spec)
            assert MAX_MESSAGE_BYTES < len(receipt) <= MAX_RECEIPT_BYTES
            await market.coordinator.backend.command(lambda tx: finish(tx, template, spec, receipt))
            name = job_id(spec).hex()
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "RECEIPT_TOO_LARGE"):
                await buyer.call(buyer.jobs.GetReceipt, job_pb2.GetReceiptRequest(job_id=name))
            await asyncio.to_thread(look, market, buyer, name, receipt)
            await buyer.close()

    asyncio.run(scenario())


def look(market: Market, buyer: Buyer, name: str, receipt: bytes) -> None:
    """Everything a buyer does with the job, through the SDK."""
    seconds: dict[str, float] = {}

    def timed(what: str, began: float) -> None:
        seconds[what] = time.monotonic() - began

    with Client(market.coordinator.address, buyer.key) as client:
        client.coordinator()
        began = time.monotonic()
        job = client.job(name)
        timed("GetJob", began)
        assert job.segment_count == job.steps_verified == MAX_RECEIPT_SEGMENTS
        assert len(job.segments) == MAX_INLINE_SEGMENTS
        began = time.monotonic()
        assert [event.kind for event in client.watch(name)] == ["queued", "succeeded"]
        timed("WatchJob", began)
        began = time.monotonic()
        steps = [segment.first_step for segment in client.segments(name)]
        timed("ListSegments", began)
        assert steps == list(range(MAX_RECEIPT_SEGMENTS))
        began = time.monotonic()
        assert client.receipt(name) == receipt
        timed("DownloadReceipt and verify", began)
    shown = ", ".join(f"{what} {value:.2f} s" for what, value in seconds.items())
    print(f"\n{len(receipt) / 2**20:.1f} MiB of receipt; {shown}")
