"""The fake coordinator's accounts, artifacts, market and ledger."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from flopmarket.trust.documents import AccountRegistration, Deposit, SessionRequest
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    common_pb2,
    identity_pb2,
    identity_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
)
from tests.integration.client.double_servicer import Servicer
from tests.integration.client.doubles import (
    COORDINATOR_KEY,
    FEE_PPM,
    OPERATOR_KEY,
    Refused,
)


class Identity(Servicer, identity_pb2_grpc.IdentityServiceServicer):
    async def GetCoordinator(self, request: Any, context: Any) -> Any:
        key = KeyPair.from_seed(b"E" * 32) if "liar-key" in self.fake.tricks else COORDINATOR_KEY
        return await self.answer(
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

        return await self.answer(context, "Register", work)

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

        return await self.answer(context, "OpenSession", work)


class Artifacts(Servicer, artifact_pb2_grpc.ArtifactServiceServicer):
    async def Stat(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            present = [d for d in request.digests if d in self.fake.artifacts]
            return artifact_pb2.StatResponse(present=present)

        return await self.answer(context, "Stat", work)

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


class Market(Servicer, market_pb2_grpc.MarketServiceServicer):
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
                as_of_us=1_700_000_000_000_000,
                currency="USD",
                prices=prices,
                mode=request.mode or "exact",
            )

        return await self.answer(context, "GetSpot", work)

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

        return await self.answer(context, "GetAccuracy", work)

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

        return await self.answer(context, "ListOffers", work)


class Ledger(Servicer, ledger_pb2_grpc.LedgerServiceServicer):
    async def GetAccount(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            account = self.account(context)
            return ledger_pb2.GetAccountResponse(
                account_id=account,
                display_name=self.fake.accounts.get(account, ""),
                available=common_pb2.Money(nano=self.fake.balance_nano.get(account, 0)),
            )

        return await self.answer(context, "GetAccount", work)

    async def ListTransfers(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self.account(context)
            return ledger_pb2.ListTransfersResponse(transfers=self.fake.transfers)

        return await self.answer(context, "ListTransfers", work)

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

        return await self.answer(context, "Deposit", work)
