"""Worker streams, health, reflection, drain, restart, TLS: the service as its operator sees it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from flopmarket.errors import Conflict, Unavailable
from flopmarket.trust.keys import KeyRole
from flopmarket.v1 import (
    identity_pb2,
    ledger_pb2,
    market_pb2,
    worker_pb2,
)
from flopmarket_coordinator.application.types_working import LeaseRevoked
from flopmarket_coordinator.config import ListenAddress
from flopmarket_coordinator.server import SERVICES, Coordinator
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
    wire,
    with_market,
)

Code = grpc.StatusCode


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
