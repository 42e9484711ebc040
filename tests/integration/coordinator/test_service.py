"""The service from outside: who may call what, and what hostile messages meet."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from flopmarket.limits import ARTIFACT_CHUNK_BYTES, MAX_STAT_DIGESTS
from flopmarket.trust.documents import SessionRequest
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import (
    artifact_pb2,
    common_pb2,
    identity_pb2,
    job_pb2,
    ledger_pb2,
    market_pb2,
)
from flopmarket_coordinator.rpc.rates import Rate
from tests.integration.coordinator.market import (
    CALL_SECONDS,
    Caller,
    Market,
    Person,
    offer_terms,
    reason,
    refused,
    sha256,
    wire,
    with_market,
)

Code = grpc.StatusCode


class TestStrangers:
    def test_prices_health_and_identity_are_open(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            stranger = Caller(market)
            who = await stranger.call(
                stranger.identity.GetCoordinator, identity_pb2.GetCoordinatorRequest()
            )
            assert who.key_id == market.key_id
            assert who.fee_ppm == 30_000
            assert abs(who.time_us - time.time_ns() // 1000) < 5_000_000
            spot = await stranger.call(stranger.prices.GetSpot, market_pb2.GetSpotRequest())
            assert not list(spot.prices)
            offers = await stranger.call(stranger.prices.ListOffers, market_pb2.ListOffersRequest())
            assert not list(offers.offers)
            await stranger.close()

        with_market(tmp_path, scenario)

    def test_everything_else_needs_a_session(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            stranger = Caller(market)
            for method, request in (
                (stranger.identity.GrantDevice, identity_pb2.GrantDeviceRequest()),
                (stranger.jobs.QuoteJob, job_pb2.QuoteJobRequest()),
                (stranger.jobs.SubmitJob, job_pb2.SubmitJobRequest()),
                (stranger.jobs.GetJob, job_pb2.GetJobRequest()),
                (stranger.jobs.ListJobs, job_pb2.ListJobsRequest()),
                (stranger.jobs.CancelJob, job_pb2.CancelJobRequest()),
                (stranger.jobs.GetReceipt, job_pb2.GetReceiptRequest()),
                (stranger.ledger.GetAccount, ledger_pb2.GetAccountRequest()),
                (stranger.ledger.ListTransfers, ledger_pb2.ListTransfersRequest()),
                (stranger.artifacts.Stat, artifact_pb2.StatRequest()),
            ):
                async with refused(Code.UNAUTHENTICATED, "SESSION_MISSING"):
                    await stranger.call(method, request)
            async with refused(Code.UNAUTHENTICATED, "SESSION_MISSING"):
                await stranger.upload(b"abc")
            async with refused(Code.UNAUTHENTICATED, "SESSION_MISSING"):
                await stranger.download(sha256(b"abc"))
            call = stranger.worker.Session(timeout=CALL_SECONDS)
            async with refused(Code.UNAUTHENTICATED, "SESSION_MISSING"):
                await call.read()
            call.cancel()
            await stranger.close()

        with_market(tmp_path, scenario)

    @pytest.mark.parametrize(
        ("header", "code"),
        [
            ("Bearer 0123456789abcdef", "SESSION_UNKNOWN"),
            ("Bearer", "SESSION_HEADER_MALFORMED"),
            ("Basic dXNlcjpwYXNz", "SESSION_HEADER_MALFORMED"),
        ],
    )
    def test_bad_tokens_are_refused_even_where_none_is_needed(
        self, tmp_path: Path, header: str, code: str
    ) -> None:
        async def scenario(market: Market) -> None:
            stranger = Caller(market)
            stranger.metadata = (("authorization", header),)
            async with refused(Code.UNAUTHENTICATED, code):
                await stranger.call(stranger.ledger.GetAccount, ledger_pb2.GetAccountRequest())
            async with refused(Code.UNAUTHENTICATED, code):
                await stranger.call(stranger.prices.GetSpot, market_pb2.GetSpotRequest())
            await stranger.close()

        with_market(tmp_path, scenario)

    def test_too_many_calls_are_told_when_to_come_back(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            stranger = Caller(market)
            for _ in range(3):
                await stranger.call(stranger.prices.GetSpot, market_pb2.GetSpotRequest())
            with pytest.raises(aio.AioRpcError) as caught:
                await stranger.call(stranger.prices.GetSpot, market_pb2.GetSpotRequest())
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED
            assert reason(caught.value) == "RATE_LIMITED"
            status, retry = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
            assert status is not None
            assert status.details[1].Unpack(retry)
            assert 0 < retry.retry_delay.ToMilliseconds() <= 60_000
            await stranger.close()

        with_market(tmp_path, scenario, strangers=Rate(per_second=0.02, burst=3))


class TestEnvelopes:
    def test_a_session_opens_once_per_envelope(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            request = SessionRequest(person.account_id, KeyRole.OWNER, "again")
            message = identity_pb2.OpenSessionRequest(request=person.sign(request))
            await person.call(person.identity.OpenSession, message)
            async with refused(Code.UNAUTHENTICATED, "ENVELOPE_REPLAYED"):
                await person.call(person.identity.OpenSession, message)
            await person.close()

        with_market(tmp_path, scenario)

    def test_what_is_wrong_with_an_envelope_is_said(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            request = SessionRequest(person.account_id, KeyRole.OWNER, "x")
            now_us = time.time_ns() // 1000
            good = person.sign(request)
            bent = common_pb2.Envelope()
            bent.CopyFrom(good)
            bent.payload = good.payload[:-1] + bytes([good.payload[-1] ^ 1])
            unsigned = common_pb2.Envelope(payload=good.payload, payload_type=good.payload_type)
            many = common_pb2.Envelope()
            many.CopyFrom(good)
            many.signatures.extend(list(good.signatures) * 9)
            late = person.sign(request, issued_at_us=now_us - 9_000_000, expires_at_us=now_us - 1)
            for envelope, code in (
                (bent, "ENVELOPE_BAD_SIGNATURE"),
                (unsigned, "ENVELOPE_UNSIGNED"),
                (many, "ENVELOPE_MALFORMED"),
                (late, "ENVELOPE_EXPIRED"),
                (wire(request, person.key, "f" * 64), "ENVELOPE_WRONG_AUDIENCE"),
                (wire(request, KeyPair.generate(), market.key_id), "ENVELOPE_UNKNOWN_KEY"),
                (person.sign(offer_terms(person.account_id, person.key)), "ENVELOPE_WRONG_TYPE"),
                (common_pb2.Envelope(), "ENVELOPE_MALFORMED"),
                (
                    common_pb2.Envelope(payload=os.urandom(99), payload_type="x" * 300),
                    "ENVELOPE_MALFORMED",
                ),
            ):
                async with refused(Code.UNAUTHENTICATED, code):
                    await person.call(
                        person.identity.OpenSession,
                        identity_pb2.OpenSessionRequest(request=envelope),
                    )
            await person.close()

        with_market(tmp_path, scenario)

    def test_garbage_registration_bytes_are_an_error_not_a_crash(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            stranger = Person(market)
            good = stranger.sign(SessionRequest(stranger.account_id, KeyRole.OWNER, "x"))
            for payload in (b"", b"\x00", os.urandom(200), good.payload):
                envelope = common_pb2.Envelope(
                    payload=payload,
                    payload_type="application/vnd.flopmarket.account-registration.v1",
                    signatures=good.signatures,
                )
                with pytest.raises(aio.AioRpcError) as caught:
                    await stranger.call(
                        stranger.identity.Register,
                        identity_pb2.RegisterRequest(registration=envelope),
                    )
                assert caught.value.code() in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED)
            await stranger.close()

        with_market(tmp_path, scenario)


class TestHostileMessages:
    def test_a_message_over_4_mib_never_reaches_a_handler(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            async with refused(Code.RESOURCE_EXHAUSTED):
                await person.call(
                    person.jobs.QuoteJob, job_pb2.QuoteJobRequest(program=bytes(4 << 20))
                )
            await person.close()

        with_market(tmp_path, scenario)

    def test_oversized_fields_are_named(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            for method, request, code in (
                (
                    person.jobs.QuoteJob,
                    job_pb2.QuoteJobRequest(program=bytes((3 << 20) + 1), steps=1),
                    "LIMIT_EXCEEDED",
                ),
                (person.jobs.GetJob, job_pb2.GetJobRequest(job_id="a" * 5000), "LIMIT_EXCEEDED"),
                (
                    person.artifacts.Stat,
                    artifact_pb2.StatRequest(digests=["a" * 64] * (MAX_STAT_DIGESTS + 1)),
                    "LIMIT_EXCEEDED",
                ),
                (
                    person.artifacts.Stat,
                    artifact_pb2.StatRequest(digests=["../x"]),
                    "ARTIFACT_DIGEST_MALFORMED",
                ),
                (person.jobs.ListJobs, job_pb2.ListJobsRequest(page_size=-1), "PAGE_SIZE_INVALID"),
            ):
                async with refused(Code.INVALID_ARGUMENT, code):
                    await person.call(method, request)
            await person.close()

        with_market(tmp_path, scenario)

    def test_nobodys_job_is_not_found(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            for job_id in ("", "zz", "a" * 64):
                with pytest.raises(aio.AioRpcError) as caught:
                    await person.call(person.jobs.GetJob, job_pb2.GetJobRequest(job_id=job_id))
                assert caught.value.code() in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
                call = person.jobs.WatchJob(
                    job_pb2.WatchJobRequest(job_id=job_id),
                    metadata=person.metadata,
                    timeout=CALL_SECONDS,
                )
                with pytest.raises(aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
            await person.close()

        with_market(tmp_path, scenario)

    def test_a_deadline_is_kept_and_the_call_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            application = type(market.coordinator.backend.application)
            prompt = application.balances

            def slow(*arguments: Any) -> Any:
                time.sleep(0.4)
                return prompt(*arguments)

            monkeypatch.setattr(application, "balances", slow)
            async with refused(Code.DEADLINE_EXCEEDED):
                await person.ledger.GetAccount(
                    ledger_pb2.GetAccountRequest(), metadata=person.metadata, timeout=0.1
                )
            monkeypatch.setattr(application, "balances", prompt)
            await person.call(person.ledger.GetAccount, ledger_pb2.GetAccountRequest())
            await person.close()

        with_market(tmp_path, scenario)


class TestArtifacts:
    def test_round_trip_and_privacy(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            owner, other = await Person(market).join(), await Person(market).join()
            data = os.urandom(3 * ARTIFACT_CHUNK_BYTES + 17)
            digest = await owner.upload(data)
            assert await owner.upload(data) == digest
            assert await owner.download(digest) == data
            stat = artifact_pb2.StatRequest(digests=[digest, "0" * 64])
            assert list((await owner.call(owner.artifacts.Stat, stat)).present) == [digest]
            # To another account it is as if it were not there.
            assert list((await other.call(other.artifacts.Stat, stat)).present) == []
            with pytest.raises(aio.AioRpcError) as caught:
                await other.download(digest)
            assert caught.value.code() in (Code.NOT_FOUND, Code.PERMISSION_DENIED)
            # Until it shows that it has the bytes itself.
            await other.upload(data)
            assert await other.download(digest) == data
            await owner.close()
            await other.close()

        with_market(tmp_path, scenario)

    def test_uploads_that_are_not_what_they_say(self, tmp_path: Path) -> None:
        def header(data: bytes, size: int) -> artifact_pb2.UploadRequest:
            return artifact_pb2.UploadRequest(
                header=artifact_pb2.UploadHeader(digest=sha256(data), size_bytes=size)
            )

        def chunk(data: bytes) -> artifact_pb2.UploadRequest:
            return artifact_pb2.UploadRequest(chunk=data)

        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            big = bytes(ARTIFACT_CHUNK_BYTES + 1)
            for parts, code in (
                ([], "UPLOAD_HEADER_MISSING"),
                ([chunk(b"abc")], "UPLOAD_HEADER_MISSING"),
                ([artifact_pb2.UploadRequest()], "UPLOAD_HEADER_MISSING"),
                ([header(b"abc", 3), header(b"abc", 3)], "UPLOAD_CHUNK_MISSING"),
                ([header(b"abc", 3), chunk(b"")], "UPLOAD_CHUNK_SIZE"),
                ([header(big, len(big)), chunk(big)], "UPLOAD_CHUNK_SIZE"),
                ([header(b"abc", 2), chunk(b"abc")], "ARTIFACT_LONGER_THAN_DECLARED"),
                (
                    [header(b"abc", 3), chunk(b"abc"), chunk(b"d")],
                    "ARTIFACT_LONGER_THAN_DECLARED",
                ),
                ([header(b"abc", 4), chunk(b"abc")], "ARTIFACT_SHORTER_THAN_DECLARED"),
                ([header(b"abd", 3), chunk(b"abc")], "ARTIFACT_HASH_DIFFERS"),
                ([header(b"abc", 2**63), chunk(b"abc")], "ARTIFACT_TOO_LARGE"),
                (
                    [
                        artifact_pb2.UploadRequest(
                            header=artifact_pb2.UploadHeader(digest="../../x", size_bytes=3)
                        )
                    ],
                    "ARTIFACT_DIGEST_MALFORMED",
                ),
            ):
                async with refused(Code.INVALID_ARGUMENT, code):
                    await person.upload(b"abc", parts=parts)
            stat = artifact_pb2.StatRequest(digests=[sha256(b"abc")])
            assert not list((await person.call(person.artifacts.Stat, stat)).present)
            folder = market.coordinator.directory.artifacts
            assert [path for path in folder.rglob("*") if path.is_file()] == []
            await person.close()

        with_market(tmp_path, scenario)

    def test_a_device_uploads_and_reads_by_a_lease_of_its_own_only(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            digest = await (await Person(market).join()).upload(b"somebody else's")
            await person.open_session(await person.grant_device(), KeyRole.DEVICE)
            for lease_id in ("", "no such lease"):
                async with refused(Code.PERMISSION_DENIED, "NO_LEASE"):
                    await person.upload(b"abc", lease_id=lease_id)
                async with refused(Code.NOT_FOUND, "ARTIFACT_MISSING"):
                    await person.download(digest, lease_id=lease_id)
            async with refused(Code.NOT_FOUND, "ARTIFACT_MISSING"):
                await person.download(digest, job_id="a" * 64)
            await person.close()

        with_market(tmp_path, scenario)

    def test_an_account_uploads_within_its_quota(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person, other = await Person(market).join(), await Person(market).join()
            await person.upload(bytes(600))
            await person.upload(bytes(400))
            async with refused(Code.RESOURCE_EXHAUSTED, "ARTIFACT_QUOTA"):
                await person.upload(bytes(1))
            await other.upload(bytes(1))
            await person.close()
            await other.close()

        with_market(tmp_path, scenario, uploads=Rate(per_second=0.001, burst=1000))
