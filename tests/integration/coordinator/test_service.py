"""The service from outside: who may call what, hostile messages, health, reflection, TLS, drain."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from flopmarket_coordinator.application.types import LeaseRevoked
from flopmarket_coordinator.config import ListenAddress
from flopmarket_coordinator.rpc.rates import Rate
from flopmarket_coordinator.server import SERVICES, Coordinator
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from flopmarket.errors import Conflict, Unavailable
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
    worker_pb2,
)
from tests.integration.coordinator.market import (
    CALL_SECONDS,
    FAST,
    Caller,
    Market,
    Person,
    offer_terms,
    reason,
    refused,
    running_market,
    sha256,
    wire,
)

Code = grpc.StatusCode


def with_market(folder: Path, scenario: Callable[[Market], Awaitable[None]], **config: Any) -> None:
    """Run ``scenario`` against a coordinator of its own."""

    async def run() -> None:
        async with running_market(folder, audit=False, **config) as market:
            async with asyncio.timeout(30):
                await scenario(market)

    asyncio.run(run())


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


class TestWorkerStream:
    def test_first_messages_that_are_no_hello(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            owner_metadata = person.metadata
            device = await person.grant_device()
            await person.open_session(device, KeyRole.DEVICE)
            hello = worker_pb2.SessionRequest(hello=worker_pb2.Hello(agent_version="t"))
            beat = worker_pb2.SessionRequest(heartbeat=worker_pb2.Heartbeat())
            many = worker_pb2.Hello(held=[worker_pb2.HeldLease(lease_id="x", fence=1)] * 257)
            for messages, code in (
                ([beat], "SESSION_HELLO_MISSING"),
                ([worker_pb2.SessionRequest()], "SESSION_HELLO_MISSING"),
                ([], "SESSION_HELLO_MISSING"),
                ([hello, hello], "SESSION_HELLO_TWICE"),
                ([hello, worker_pb2.SessionRequest()], "SESSION_MESSAGE_UNKNOWN"),
                ([worker_pb2.SessionRequest(hello=many)], "LIMIT_EXCEEDED"),
            ):
                call = person.worker.Session(
                    iter(messages), metadata=person.metadata, timeout=CALL_SECONDS
                )
                async with refused(Code.INVALID_ARGUMENT, code):
                    async for _ in call:
                        pass
                call.cancel()
            call = person.worker.Session(
                iter([hello]), metadata=owner_metadata, timeout=CALL_SECONDS
            )
            async with refused(Code.PERMISSION_DENIED, "ROLE_MISMATCH"):
                await call.read()
            call.cancel()
            await person.close()

        with_market(tmp_path, scenario)

    def test_an_offer_is_listed_while_its_worker_is_here(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            device = await person.grant_device()
            await person.open_session(device, KeyRole.DEVICE)
            good = wire(offer_terms(person.account_id, device), device, market.key_id)
            other = wire(offer_terms("f" * 64, device, "card-1"), device, market.key_id)
            call = person.worker.Session(metadata=person.metadata, timeout=CALL_SECONDS)
            await call.write(
                worker_pb2.SessionRequest(
                    hello=worker_pb2.Hello(agent_version="t", offers=[good, other])
                )
            )
            welcome, refusal = await call.read(), await call.read()
            assert welcome.welcome.heartbeat_ms == 200
            assert refusal.WhichOneof("message") == "offer_refused"
            listed = await person.call(person.prices.ListOffers, market_pb2.ListOffersRequest())
            assert [offer.device_name for offer in listed.offers] == ["Test card-0"]
            spot = await person.call(person.prices.GetSpot, market_pb2.GetSpotRequest())
            assert {price.work_class for price in spot.prices} >= {"dot-f32"}
            call.cancel()
            await person.close()

        with_market(tmp_path, scenario)

    def test_a_worker_that_does_not_read_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person, hub = await Person(market).join(), market.coordinator.backend.hub
            device = await person.grant_device()
            await person.open_session(device, KeyRole.DEVICE)
            call = person.worker.Session(metadata=person.metadata, timeout=CALL_SECONDS)
            hello = worker_pb2.Hello(agent_version="t")
            await call.write(worker_pb2.SessionRequest(hello=hello))
            await call.read()
            number = 0
            while len(hub):  # until flow control stops the writer and the queue is full
                for _ in range(10):
                    number += 1
                    hub.instruct(LeaseRevoked(device.key_id, f"{number}", 1, "X", "y" * 4000))
                await asyncio.sleep(0.001)
            async with refused(Code.RESOURCE_EXHAUSTED, "SESSION_TOO_SLOW"):
                while await call.read() is not aio.EOF:
                    pass
            call.cancel()
            await person.close()

        with_market(tmp_path, scenario)

    def test_a_stream_ends_with_its_session(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            await person.open_session(await person.grant_device(), KeyRole.DEVICE)
            call = person.worker.Session(metadata=person.metadata, timeout=CALL_SECONDS)
            hello = worker_pb2.Hello(agent_version="t")
            await call.write(worker_pb2.SessionRequest(hello=hello))
            assert (await call.read()).WhichOneof("message") == "welcome"
            assert (await call.read()).WhichOneof("message") == "drain"
            assert await call.read() is aio.EOF
            with pytest.raises(aio.AioRpcError) as caught:
                await person.call(person.ledger.GetAccount, ledger_pb2.GetAccountRequest())
            assert reason(caught.value) == "SESSION_UNKNOWN"
            await person.close()

        short = dataclasses.replace(FAST, session_ttl_us=700_000)
        with_market(tmp_path, scenario, parameters=short)

    def test_the_newer_stream_of_a_key_wins(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            await person.open_session(await person.grant_device(), KeyRole.DEVICE)
            hello = worker_pb2.SessionRequest(hello=worker_pb2.Hello(agent_version="t"))
            calls = []
            for _ in range(2):
                call = person.worker.Session(metadata=person.metadata, timeout=CALL_SECONDS)
                await call.write(hello)
                assert (await call.read()).WhichOneof("message") == "welcome"
                calls.append(call)
            async with refused(Code.FAILED_PRECONDITION, "SESSION_SUPERSEDED"):
                await calls[0].read()
            await calls[1].write(worker_pb2.SessionRequest(heartbeat=worker_pb2.Heartbeat()))
            assert len(market.coordinator.backend.hub) == 1
            for call in calls:
                call.cancel()
            await person.close()

        with_market(tmp_path, scenario)


class TestOperations:
    def test_health_reflection_and_drain(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            person = await Person(market).join()
            await person.open_session(await person.grant_device(), KeyRole.DEVICE)
            health = health_pb2_grpc.HealthStub(person.channel)
            for service in ("", *SERVICES):
                request = health_pb2.HealthCheckRequest(service=service)
                answer = await health.Check(request, timeout=CALL_SECONDS)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            stub = reflection_pb2_grpc.ServerReflectionStub(person.channel)
            listing = stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]),
                timeout=CALL_SECONDS,
            )
            names = {item.name for item in (await listing.read()).list_services_response.service}
            listing.cancel()
            assert names >= {*SERVICES, "grpc.health.v1.Health"}

            call = person.worker.Session(metadata=person.metadata, timeout=CALL_SECONDS)
            await call.write(worker_pb2.SessionRequest(hello=worker_pb2.Hello(agent_version="t")))
            await call.read()
            watch = health.Watch(
                health_pb2.HealthCheckRequest(service=SERVICES[0]), timeout=CALL_SECONDS
            )
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(market.coordinator.stop(grace_seconds=0.5))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            drain = await call.read()
            assert 500 <= drain.drain.reconnect_after_ms <= 5_000
            assert await call.read() is aio.EOF
            assert await call.code() is Code.OK
            watch.cancel()
            await stopping
            await person.close()

        with_market(tmp_path, scenario)

    def test_a_restart_keeps_accounts_and_keys(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with running_market(tmp_path, audit=False) as market:
                person, first = await Person(market).join("Ada"), market.key_id
                await person.credit(5_000_000_000)
                await person.close()
            async with running_market(tmp_path, audit=False) as market:
                assert market.key_id == first
                again = Person(market)
                again.key, again.account_id = person.key, person.account_id
                await again.open_session(person.key, KeyRole.OWNER)
                account = await again.call(again.ledger.GetAccount, ledger_pb2.GetAccountRequest())
                assert (account.display_name, account.available.nano) == ("Ada", 5_000_000_000)
                await again.close()

        asyncio.run(scenario())

    def test_two_servers_do_not_share_a_folder_or_a_port(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            with pytest.raises(Conflict) as locked:
                async with running_market(tmp_path, audit=False):
                    pass
            assert locked.value.code == "DATA_DIR_LOCKED"
            port = ListenAddress.parse(market.coordinator.address)
            with pytest.raises(Unavailable) as taken:
                async with running_market(tmp_path / "second", audit=False, listen=port):
                    pass
            assert taken.value.code == "ADDRESS_IN_USE"

        with_market(tmp_path, scenario)

    def test_tls_round_trip(self, tmp_path: Path) -> None:
        async def scenario(market: Market) -> None:
            address = market.coordinator.address
            authority = market.coordinator.directory.authority_file.read_bytes()
            secure = aio.secure_channel(address, grpc.ssl_channel_credentials(authority))
            person = await Person(market, secure).join()
            account = await person.call(person.ledger.GetAccount, ledger_pb2.GetAccountRequest())
            assert account.account_id == person.account_id
            await person.close()
            for channel in (
                aio.insecure_channel(address),
                aio.secure_channel(address, grpc.ssl_channel_credentials()),
            ):
                stranger = Caller(market, channel)
                async with refused(Code.UNAVAILABLE):
                    await stranger.identity.GetCoordinator(
                        identity_pb2.GetCoordinatorRequest(), timeout=2
                    )
                await stranger.close()

        with_market(
            tmp_path,
            scenario,
            listen=ListenAddress("127.0.0.1", 0),
            tls_hosts=("127.0.0.1", "localhost"),
        )

    def test_a_fault_of_ours_is_an_incident(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*arguments: object) -> None:
            raise ZeroDivisionError("secret detail")

        async def scenario(market: Market) -> None:
            application = type(market.coordinator.backend.application)
            monkeypatch.setattr(application, "spot", broken)
            stranger = Caller(market)
            with pytest.raises(aio.AioRpcError) as caught:
                await stranger.call(stranger.prices.GetSpot, market_pb2.GetSpotRequest())
            assert caught.value.code() is Code.INTERNAL
            assert "secret" not in str(caught.value)
            assert "ZeroDivision" not in str(caught.value)
            assert "secret detail" in caplog.text
            await stranger.close()

        with_market(tmp_path, scenario)


def test_start_that_fails_leaves_nothing_locked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_market(tmp_path, audit=False) as market:
            config = market.coordinator._config
        database = config.data_dir / "coordinator.db"
        kept = database.read_bytes()
        database.write_bytes(b"")
        for stale in config.data_dir.glob("coordinator.db-*"):
            stale.unlink()
        with pytest.raises(Conflict) as caught:
            await Coordinator(config).start()
        assert caught.value.code == "SCHEMA_OUTDATED"
        database.write_bytes(kept)
        async with running_market(tmp_path, audit=False):
            pass

    asyncio.run(scenario())
