"""The gRPC face of the fake coordinator: thin servicers and a server in a thread."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator
from concurrent import futures
from typing import Any

import grpc
from grpc_status import rpc_status

from flopmarket.trust.documents import AccountRegistration, CancelRequest, Deposit, SessionRequest
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.tls import TlsIdentity
from flopmarket.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    common_pb2,
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
)
from tests.integration.client.doubles import (
    CEILING_NANO,
    COORDINATOR_KEY,
    FEE_PPM,
    OPERATOR_KEY,
    FakeCoordinator,
    Refused,
)

GOOD_CLASS = b"g" * 32
"""The class of devices that a quote in class mode chooses."""


class _Servicer:
    def __init__(self, fake: FakeCoordinator) -> None:
        self.fake = fake

    async def _answer(self, context: Any, name: str, work: Any) -> Any:
        self.fake.count(name)
        if "refuse" in self.fake.tricks:
            await self._refuse(
                context,
                Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    "DRAINING",
                    "the coordinator \x1b[2J is going away",
                    hint="try again soon",
                    retryable=True,
                ),
            )
        try:
            return work()
        except Refused as refused:
            return await self._refuse(context, refused)

    async def _refuse(self, context: Any, refused: Refused) -> None:
        await context.abort_with_status(rpc_status.to_status(refused.status))

    def account(self, context: Any) -> str:
        headers = dict(context.invocation_metadata() or ())
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.fake.tokens:
            raise Refused(
                grpc.StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN", "no session has this token"
            )
        return self.fake.tokens[token]


class _Identity(_Servicer, identity_pb2_grpc.IdentityServiceServicer):
    async def GetCoordinator(self, request: Any, context: Any) -> Any:
        key = KeyPair.from_seed(b"E" * 32) if "liar-key" in self.fake.tricks else COORDINATOR_KEY
        return await self._answer(
            context,
            "GetCoordinator",
            lambda: identity_pb2.GetCoordinatorResponse(
                key_id=COORDINATOR_KEY.key_id,
                public_key=key.public.raw,
                profile="FX1",
                currency="USD",
                time_us=1,
                version="test",
                fee_ppm=FEE_PPM,
            ),
        )

    async def Register(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            opened = self.fake.open(request.registration, AccountRegistration, None)
            self.fake.accounts[opened.key_id] = opened.body.display_name
            return identity_pb2.RegisterResponse(account_id=opened.key_id)

        return await self._answer(context, "Register", work)

    async def OpenSession(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            opened = self.fake.open(request.request, SessionRequest, None)
            token = f"token-{self.fake.calls['OpenSession']}"
            self.fake.tokens[token] = opened.body.account_id
            return identity_pb2.OpenSessionResponse(
                token=token,
                account_id=opened.body.account_id,
                expires_at_us=time.time_ns() // 1000 + 3_600_000_000,
            )

        return await self._answer(context, "OpenSession", work)


class _Jobs(_Servicer, job_pb2_grpc.JobServiceServicer):
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

        return await self._answer(context, "QuoteJob", work)

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

        return await self._answer(context, "SubmitJob", work)

    async def GetJob(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return job_pb2.GetJobResponse(job=self.fake.job_message(request.job_id))

        return await self._answer(context, "GetJob", work)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        def work() -> Any:  # one job a page, so that every listing pages
            self.account(context)
            names = list(reversed(self.fake.jobs))
            at = int(request.page_token or 0)
            more = str(at + 1) if at + 1 < len(names) else ""
            jobs = [self.fake.jobs[n].message for n in names[at : at + 1]]
            return job_pb2.ListJobsResponse(jobs=jobs, next_page_token=more)

        return await self._answer(context, "ListJobs", work)

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

        return await self._answer(context, "CancelJob", work)

    async def GetReceipt(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return job_pb2.GetReceiptResponse(receipt=self.fake.receipt(request.job_id))

        return await self._answer(context, "GetReceipt", work)

    async def DownloadReceipt(self, request: Any, context: Any) -> AsyncIterator[Any]:
        def work() -> bytes:
            self.account(context)
            return self.fake.receipt(request.job_id)

        receipt = await self._answer(context, "DownloadReceipt", work)
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

        return await self._answer(context, "ListSegments", work)


class _Artifacts(_Servicer, artifact_pb2_grpc.ArtifactServiceServicer):
    async def Stat(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            present = [d for d in request.digests if d in self.fake.artifacts]
            return artifact_pb2.StatResponse(present=present)

        return await self._answer(context, "Stat", work)

    async def Upload(self, request_iterator: Any, context: Any) -> Any:
        self.fake.count("Upload")
        self.account(context)
        header, data = None, bytearray()
        async for part in request_iterator:
            if part.WhichOneof("part") == "header":
                header = part.header
            else:
                assert len(part.chunk) <= 1 << 20
                data += part.chunk
        assert header is not None
        if self.fake.break_uploads:
            self.fake.break_uploads -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if len(data) != header.size_bytes or hashlib.sha256(data).hexdigest() != header.digest:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not what was declared")
        self.fake.keep(bytes(data))
        self.fake.upload_sizes.append(len(data))
        taken = 0 if "upload-lost" in self.fake.tricks else len(data)
        return artifact_pb2.UploadResponse(digest=header.digest, size_bytes=taken)

    async def Download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.fake.count("Download")
        data = self.fake.artifacts[request.digest]
        if "download-wrong-hash" in self.fake.tricks:
            data = bytes([data[0] ^ 1]) + data[1:]
        half = len(data) // 2
        yield artifact_pb2.DownloadResponse(chunk=data[:half])
        yield artifact_pb2.DownloadResponse(chunk=data[half:])
        if "download-endless" in self.fake.tricks:
            while True:
                yield artifact_pb2.DownloadResponse(chunk=bytes(1 << 20))


class _Market(_Servicer, market_pb2_grpc.MarketServiceServicer):
    async def GetSpot(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            price = market_pb2.SpotPrice(
                work_class="dot-f32",
                best_offer_id="o1",
                device_name="Radeon RX 7900 XTX",
                per_pflop=common_pb2.Money(nano=2_100_000),
                flops_per_dollar_hour=1.3e14,
                flop_per_dollar=4.7e17,
                flops_per_watt=9.0e10,
                watts_source="declared",
                offers=3,
            )
            prices = [] if self.fake.empty_market else [price]
            return market_pb2.GetSpotResponse(
                as_of_us=1_700_000_000_000_000, currency="USD", prices=prices
            )

        return await self._answer(context, "GetSpot", work)

    async def GetAccuracy(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            overall = market_pb2.Accuracy(
                work_class=request.work_class,
                segments=40,
                error_p50_ppm=180_000,
                error_p90_ppm=420_000,
                measured_over_predicted_ppm=1_020_000,
                uncalibrated_error_p50_ppm=660_000,
                uncalibrated_error_p90_ppm=927_000,
            )
            row = market_pb2.Accuracy(offer_id="o1", device_name="card", segments=40)
            row.work_class = "dot-f32"
            return market_pb2.GetAccuracyResponse(as_of_us=1, overall=overall, rows=[row])

        return await self._answer(context, "GetAccuracy", work)

    async def ListOffers(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            offer = market_pb2.Offer(
                offer_id="o1",
                account_id="a1",
                device_id="card-1",
                device_name="Radeon RX 7900 XTX",
                driver="rusticl",
                profile="FX1",
                memory_bytes=24 << 30,
                rates=[common_pb2.ClassRate(work_class="dot-f32", flops_per_second=31 * 10**12)],
                bandwidth_bytes_per_second=960 * 10**9,
                ask_per_hour=common_pb2.Money(nano=240_000_000),
                milliwatts=350_000,
                watts_source="declared",
                state="idle",
                flops_per_dollar=4.6e17,
                flops_per_watt=9.0e10,
                verified_segments=20,
            )
            if "infinite-rate" in self.fake.tricks:
                offer.flops_per_dollar = float("inf")
            keep = not self.fake.empty_market and offer.memory_bytes >= request.min_memory_bytes
            return market_pb2.ListOffersResponse(as_of_us=1, offers=[offer] if keep else [])

        return await self._answer(context, "ListOffers", work)


class _Ledger(_Servicer, ledger_pb2_grpc.LedgerServiceServicer):
    async def GetAccount(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            account = self.account(context)
            return ledger_pb2.GetAccountResponse(
                account_id=account,
                display_name=self.fake.accounts.get(account, ""),
                available=common_pb2.Money(nano=self.fake.balance_nano.get(account, 0)),
            )

        return await self._answer(context, "GetAccount", work)

    async def ListTransfers(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return ledger_pb2.ListTransfersResponse(transfers=self.fake.transfers)

        return await self._answer(context, "ListTransfers", work)

    async def Deposit(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            try:
                opened = self.fake.open(request.deposit, Deposit, OPERATOR_KEY.public)
            except Exception as error:
                raise Refused(
                    grpc.StatusCode.PERMISSION_DENIED, "SIGNER_NOT_ALLOWED", str(error)
                ) from error
            body = opened.body
            known = {t.transfer_id for t in self.fake.transfers}
            if body.request_id not in known:
                balance = self.fake.balance_nano.get(body.account_id, 0) + body.amount_nano
                self.fake.balance_nano[body.account_id] = balance
                self.fake.transfers.append(
                    ledger_pb2.Transfer(
                        transfer_id=body.request_id,
                        time_us=1_700_000_000_000_000,
                        kind="direct",
                        balance=body.target,
                        change_nano=body.amount_nano,
                        amount_nano=body.amount_nano,
                        purpose="deposit",
                        reference=body.reference,
                    )
                )
            return ledger_pb2.DepositResponse(
                transfer_id=body.request_id,
                available=common_pb2.Money(nano=self.fake.balance_nano[body.account_id]),
            )

        return await self._answer(context, "Deposit", work)


class RunningFake:
    """The fake on a grpc.aio server in a thread of its own; with an identity it speaks TLS."""

    def __init__(self, identity: TlsIdentity | None = None) -> None:
        self.fake = FakeCoordinator()
        self._identity = identity
        self._loop = asyncio.new_event_loop()
        self._ready: futures.Future[str] = futures.Future()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeCoordinator:
        self._thread.start()
        self.fake.address = self._ready.result(timeout=20)
        return self.fake

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=20)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = grpc.aio.server()
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(_Identity(self.fake), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self.fake), server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(_Artifacts(self.fake), server)
        market_pb2_grpc.add_MarketServiceServicer_to_server(_Market(self.fake), server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(_Ledger(self.fake), server)
        if self._identity is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (self._identity.private_key_pem, self._identity.certificate_pem)
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        self._ready.set_result(f"127.0.0.1:{port}")
        await self._stop.wait()
        await server.stop(0)
