"""Modes over the wire: real agents whose engines are simulated, and a real coordinator."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc

from flopmarket.jobs.spec import NO_CLASS, Mode
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.device_class import DeviceClass, class_digest
from flopmarket.v1 import job_pb2, market_pb2
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_worker.offers import Calibration
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

JOB = replace(mlp_job(steps=4), segment_steps=2, checkpoint_segments=1)
ASK = 20_000_000


def classified(kind: str) -> tuple[bytes, bytes]:
    """Kernels and results of the cards of a kind."""
    return kind.encode().ljust(32, b"k"), kind.encode().ljust(32, b"r")


def fast_only(kind: str) -> Calibration:
    return replace(CALIBRATION, admission_digest=None, classified=classified(kind))


def class_of_kind(kind: str) -> bytes:
    return class_digest(DeviceClass(kind, "none", *classified(kind)))


def play(folder: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(150),
            running_market(folder, parameters=FAST) as market,
            scene(market, folder, JOB) as built,
        ):
            built.buyer = await buyer_of(market)
            await story(built)

    asyncio.run(run())


async def fast(built: Scene, name: str, kind: str, ask: int = ASK) -> Worker:
    """A connected fast-only worker."""
    worker = await built.worker(name, built.honest, ask, card=kind, calibration=fast_only(kind))
    worker.start()
    return worker


async def listed(built: Scene, count: int) -> list[market_pb2.Offer]:
    """Offers, once there are so many."""
    request = market_pb2.ListOffersRequest()

    async def look() -> list[market_pb2.Offer]:
        answer = await built.buyer.call(built.buyer.prices.ListOffers, request)
        return list(answer.offers) if len(answer.offers) == count else []

    return await eventually(look, WAIT_SECONDS)  # type: ignore[no-any-return]


async def submitted(
    built: Scene, mode: Mode, class_digest: bytes = NO_CLASS, kind: OrderType = OrderType.LIMIT
) -> job_pb2.Job:
    buyer = built.buyer
    files = {name: await buyer.upload(data) for name, data in JOB.artifacts().items()}
    spec = JOB.spec(
        buyer=buyer.account_id,
        max_price_nano=10**9,
        deadline_us=time.time_ns() // 1000 + HOUR_US,
        nonce=os.urandom(16),
        order=OrderTerms(kind),
        mode=mode,
        class_digest=class_digest,
    )
    request = job_pb2.SubmitJobRequest(
        request_id=os.urandom(16).hex(),
        spec=buyer.sign(spec),
        **{f"{name}_artifact": digest for name, digest in files.items()},
    )
    return (await buyer.call(buyer.jobs.SubmitJob, request)).job  # type: ignore[no-any-return]


async def segments(built: Scene, job: str) -> list[SegmentRow]:
    """All segments of a job, once they are committed."""

    async def look() -> list[SegmentRow]:
        rows = [row for row in await built.query(_segments) if row.job_id == job]
        return rows if len(rows) == 2 else []

    return await eventually(look, WAIT_SECONDS)  # type: ignore[no-any-return]


def test_a_class_job_runs_inside_its_class_and_an_exact_one_on_admitted_devices(
    tmp_path: Path,
) -> None:
    async def story(built: Scene) -> None:
        await fast(built, "cheap one", "other card", ASK // 10)
        await fast(built, "cheap two", "other card", ASK // 10)
        alone = await fast(built, "alone", "card")
        exact = await built.worker("exact", built.honest, ASK * 3)
        exact.start()
        offers = await listed(built, 4)
        assert {(tuple(item.modes), item.class_digest) for item in offers} == {
            (("class", "tolerance"), class_of_kind("other card")),
            (("class", "tolerance"), class_of_kind("card")),
            (("exact",), b""),
        }
        named = class_of_kind("card")
        async with refused(grpc.StatusCode.UNAVAILABLE, "NO_FITTING_OFFER"):
            await submitted(built, Mode.CLASS, named, OrderType.MARKET)
        waiting = await submitted(built, Mode.CLASS, named)
        assert (waiting.mode, waiting.class_digest) == ("class", named)
        plain = await submitted(built, Mode.EXACT)
        assert {row.device_key_id for row in await segments(built, plain.job_id)} == {
            exact.key.key_id
        }
        assert not [row for row in await built.query(_segments) if row.job_id == waiting.job_id]
        second = await fast(built, "second", "card", ASK * 2)
        ran_on = {row.device_key_id for row in await segments(built, waiting.job_id)}
        assert ran_on <= {alone.key.key_id, second.key.key_id}

    play(tmp_path, story)


def test_a_quote_names_the_classes_and_refuses_what_is_no_mode(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        for name, kind in (("one", "card"), ("two", "card"), ("three", "rare card")):
            await fast(built, name, kind)
        await listed(built, 3)
        buyer = built.buyer
        request = job_pb2.QuoteJobRequest(
            program=JOB.program.to_bytes(), steps=4, segment_steps=2, mode="class"
        )
        quote = await buyer.call(buyer.jobs.QuoteJob, request)
        assert (quote.mode, quote.class_digest) == ("class", class_of_kind("card"))
        assert {
            (item.device_name, item.devices, item.other_accounts) for item in quote.classes
        } == {
            ("card", 2, 1),
            ("rare card", 1, 0),
        }
        assert quote.ceiling.nano > 0 and {offer.device_name for offer in quote.offers} == {"card"}
        request.class_digest = b"short"
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "JOB_CLASS"):
            await buyer.call(buyer.jobs.QuoteJob, request)
        request.ClearField("class_digest")
        request.mode = "swift"
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "MODE_UNKNOWN"):
            await buyer.call(buyer.jobs.QuoteJob, request)

    play(tmp_path, story)
