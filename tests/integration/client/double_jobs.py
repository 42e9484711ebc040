"""The fake coordinator's jobs: quotes, submission, events, receipts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from flopmarket.trust.documents import CancelRequest
from flopmarket.v1 import (
    common_pb2,
    job_pb2,
    job_pb2_grpc,
)
from tests.integration.client.double_servicer import Servicer
from tests.integration.client.doubles import (
    CEILING_NANO,
    Refused,
)

GOOD_CLASS = b"g" * 32
"""The class of devices that a quote in class mode chooses."""


class Jobs(Servicer, job_pb2_grpc.JobServiceServicer):
    async def QuoteJob(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            money = common_pb2.Money
            ceiling = 1 if "quote-upside-down" in self.fake.tricks else CEILING_NANO
            return job_pb2.QuoteJobResponse(
                quote_id="q1",
                as_of_us=1,
                expires_at_us=2,
                ceiling=money(nano=ceiling),
                expected=money(nano=4_500_000),
                fee_within_expected=money(nano=135_000),
                work=[common_pb2.ClassWork(work_class="dot-f32", flops_per_step=2_000_000_000)],
                steps=request.steps,
                bytes_moved_per_step=1 << 20,
                peak_memory_bytes=3 << 20,
                offers=[
                    job_pb2.EligibleOffer(
                        offer_id="o1",
                        device_name="Radeon RX 7900 XTX",
                        total=money(nano=4_500_000),
                        seconds=12.5,
                        setup_seconds=2.5,
                        joules=4200.0,
                        joules_source="declared",
                        calibration_ppm=1_250_000,
                        busy_seconds=30.0,
                        work_class="dot-f32",
                        per_pflop=money(nano=450_000_000),
                    )
                ],
                finish_seconds_p50=15.0,
                finish_seconds_p95=95.0,
                verification=request.verification,
                detection_probability=0.01,
                levels=[
                    job_pb2.QuotedLevel(
                        level=name,
                        audited_ppm=audited,
                        surcharge_ppm=extra,
                        surcharge=money(nano=4_500_000 * extra // 1_000_000),
                        expected=money(nano=4_500_000 * (1_000_000 + extra) // 1_000_000),
                        ceiling=money(nano=9_000_000 * (1_000_000 + extra) // 1_000_000),
                        detected_one_ppm=audited,
                        detected_ten_ppm=ten,
                        detected_all_ppm=all_of_them,
                    )
                    for name, audited, extra, ten, all_of_them in (
                        ("deter", 10_000, 0, 95_618, 999_957),
                        ("check", 200_000, 178_000, 892_626, 1_000_000),
                        ("dual", 1_000_000, 970_000, 1_000_000, 1_000_000),
                    )
                ],
                joules=4200.0,
                joules_source="declared",
                ineligible={"MEMORY": 2},
                work_class="dot-f32",
                expected_per_pflop=money(nano=450_000_000),
                eligible_offers=7,
                transfer_bytes=3 << 20,
                transfer_seconds=1.5,
                transfer_price=money(nano=1_000),
                kernel_builds=12,
                build_seconds=1.0,
                build_price=money(nano=2_000),
                storage_bytes=5 << 20,
                storage_retention_us=30 * 86_400 * 1_000_000,
                wait_seconds_p50=3.0,
                wait_seconds_p95=6.0,
                spread_segments=40,
                without_offers="refuse",
                mode=request.mode,
                **self._classes(request),
            )

        return await self.answer(context, "QuoteJob", work)

    def _classes(self, request: Any) -> dict[str, Any]:
        """Two classes of devices, of which one can be audited, for a quote in class mode."""
        if request.mode != "class":
            return {}
        chosen = b"" if "no-class" in self.fake.tricks else request.class_digest or GOOD_CLASS
        classes = [
            job_pb2.QuotedClass(
                class_digest=digest,
                device_name=name,
                driver="driver 1",
                devices=1 + others,
                other_accounts=others,
                expected=common_pb2.Money(nano=price),
                ceiling=common_pb2.Money(nano=2 * price),
            )
            for digest, name, others, price in (
                (b"l" * 32, "Lonely card", 0, 1_000_000),
                (GOOD_CLASS, "Radeon RX 7900 XTX", 2, 4_500_000),
            )
        ]
        return {"class_digest": chosen, "classes": classes}

    async def SubmitJob(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            account = self.account(context)
            job = self.fake.submit(request, account)
            return job_pb2.SubmitJobResponse(job=self.fake.job_message(job.message.job_id))

        return await self.answer(context, "SubmitJob", work)

    async def GetJob(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return job_pb2.GetJobResponse(job=self.fake.job_message(request.job_id))

        return await self.answer(context, "GetJob", work)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        def work() -> Any:  # one job a page, so that every listing pages
            self.account(context)
            names = list(reversed(self.fake.jobs))
            at = int(request.page_token or 0)
            more = str(at + 1) if at + 1 < len(names) else ""
            jobs = [self.fake.jobs[n].message for n in names[at : at + 1]]
            return job_pb2.ListJobsResponse(jobs=jobs, next_page_token=more)

        return await self.answer(context, "ListJobs", work)

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        fake = self.fake
        fake.count("WatchJob")
        fake.watched_from.append(request.after_sequence)
        try:
            self.account(context)
            events = fake.stored(request.job_id).events
        except Refused as refused:
            await self._refuse(context, refused)
            return
        if "forget-sessions" in fake.tricks:
            fake.tricks.discard("forget-sessions")
            fake.tokens.clear()
            await self._refuse(
                context,
                Refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN", "sessions are gone"),
            )
        repeats = 2 if "repeat-events" in fake.tricks else 1
        limit = fake.drop_after.pop(0) if fake.drop_after else None
        sent = 0
        for event in events:
            if event.sequence <= request.after_sequence:
                continue
            if limit is not None and sent >= limit:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
            for _ in range(repeats):
                yield event
            sent += 1

    async def CancelJob(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            opened = self.fake.open(request.cancel, CancelRequest, None)
            name = opened.body.job_id.hex()
            self.fake.stored(name).message.state = job_pb2.Job.STATE_CANCELLED
            return job_pb2.CancelJobResponse(job=self.fake.job_message(name))

        return await self.answer(context, "CancelJob", work)

    async def GetReceipt(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return job_pb2.GetReceiptResponse(receipt=self.fake.receipt(request.job_id))

        return await self.answer(context, "GetReceipt", work)

    async def DownloadReceipt(self, request: Any, context: Any) -> AsyncIterator[Any]:
        def work() -> bytes:
            self.account(context)
            return self.fake.receipt(request.job_id)

        receipt = await self.answer(context, "DownloadReceipt", work)
        for start in range(0, len(receipt), 1000):
            yield job_pb2.DownloadReceiptResponse(chunk=receipt[start : start + 1000])

    async def ListSegments(self, request: Any, context: Any) -> Any:
        def work() -> Any:  # one segment a page, so that every listing pages
            self.account(context)
            segments = self.fake.job_message(request.job_id).segments
            at = int(request.page_token or 0)
            more = str(at + 1) if at + 1 < len(segments) else ""
            return job_pb2.ListSegmentsResponse(
                segments=segments[at : at + 1], next_page_token=more
            )

        return await self.answer(context, "ListSegments", work)
