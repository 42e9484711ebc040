"""A real coordinator on loopback, and people who talk to it through real stubs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from flopmarket.engine.exact import PROFILE
from flopmarket.limits import ARTIFACT_CHUNK_BYTES
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.documents import (
    AccountRegistration,
    Deposit,
    DepositTarget,
    DeviceGrant,
    OfferTerms,
    Rate,
    SessionRequest,
    WattsSource,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    common_pb2,
    identity_pb2,
    identity_pb2_grpc,
    job_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    market_pb2_grpc,
    worker_pb2_grpc,
)
from flopmarket_coordinator.auditor import StartEngine
from flopmarket_coordinator.config import CoordinatorConfig, ListenAddress
from flopmarket_coordinator.daemons.challenger import StartPlaceEngine, start_reference
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.server import Coordinator
from tests.integration.coordinator.engines import InProcessEngine

HOUR_US = 3_600_000_000
CALL_SECONDS = 10.0
FAST = Parameters(
    heartbeat_ms=200,
    lease_ttl_us=30_000_000,
    held_us=0,
    house_disputes=False,
    audit_rules=replace(RULES, own_audit_units=0),  # all pay is the worker's
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def reason(error: aio.AioRpcError) -> str:
    """The stable code of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no rich status: {error.code()} {error.details()}"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "flopmarket.dev"
    return str(info.reason)


@contextlib.asynccontextmanager
async def refused(code: grpc.StatusCode, reason_code: str | None = None) -> AsyncIterator[None]:
    """The block must end with this status and reason."""
    try:
        yield
    except aio.AioRpcError as error:
        assert error.code() is code, f"{error.code()} {error.details()}"
        if reason_code is not None:
            assert reason(error) == reason_code
        return
    raise AssertionError(f"not refused, expected {code} {reason_code}")


def wire(body: Document, key: KeyPair, audience: str, **changes: Any) -> common_pb2.Envelope:
    """A sealed document as a message."""
    now_us = time.time_ns() // 1000
    times = {"issued_at_us": now_us, "expires_at_us": now_us + HOUR_US, "nonce": os.urandom(16)}
    sealed = seal(body, key, audience=audience, **{**times, **changes})
    return common_pb2.Envelope(
        payload=sealed.payload,
        payload_type=sealed.payload_type,
        signatures=[
            common_pb2.Signature(key_id=item.key_id_hint, signature=item.signature)
            for item in sealed.signatures
        ],
    )


class Market:
    """A running coordinator; ``engines`` are those its auditor started."""

    def __init__(self, coordinator: Coordinator, engines: list[InProcessEngine]) -> None:
        self.coordinator = coordinator
        self.engines = engines

    @property
    def key_id(self) -> str:
        return self.coordinator.key_id

    @property
    def operator_key(self) -> KeyPair:
        return self.coordinator.directory.operator_key


@contextlib.asynccontextmanager
async def running_market(
    folder: Path,
    *,
    audit: bool = True,
    start_engine: StartEngine | None = None,
    start_place_engine: StartPlaceEngine = start_reference,
    **config: Any,
) -> AsyncIterator[Market]:
    """Start on a free port; stop at the end."""
    engines: list[InProcessEngine] = []

    async def start_in_process() -> InProcessEngine:
        engines.append(InProcessEngine())
        return engines[-1]

    options: dict[str, Any] = {
        "data_dir": folder / "market",
        "listen": ListenAddress("127.0.0.1", 0),
        "parameters": FAST,
        "match_interval_seconds": 0.05,
        **config,
    }
    coordinator = Coordinator(
        CoordinatorConfig(audit=audit, **options),
        start_engine=start_engine or start_in_process,
        start_place_engine=start_place_engine,
    )
    await coordinator.start()
    try:
        yield Market(coordinator, engines)
    finally:
        await coordinator.stop(grace_seconds=0.5)


def with_market(folder: Path, scenario: Callable[[Market], Awaitable[None]], **config: Any) -> None:
    """Run ``scenario`` against a coordinator of its own."""

    async def run() -> None:
        async with running_market(folder, audit=False, **config) as market:
            async with asyncio.timeout(30):
                await scenario(market)

    asyncio.run(run())


class Caller:
    """Stubs over one channel, with or without a session."""

    def __init__(self, market: Market, channel: aio.Channel | None = None) -> None:
        self.market = market
        self.channel = channel or aio.insecure_channel(
            market.coordinator.address, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self.metadata: Sequence[tuple[str, str]] = ()
        self.identity = identity_pb2_grpc.IdentityServiceStub(self.channel)
        self.jobs = job_pb2_grpc.JobServiceStub(self.channel)
        self.worker = worker_pb2_grpc.WorkerServiceStub(self.channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        self.prices = market_pb2_grpc.MarketServiceStub(self.channel)

    async def call(self, method: Any, request: Any) -> Any:
        """A unary call with the session's token and a deadline."""
        return await method(request, metadata=self.metadata, timeout=CALL_SECONDS)

    async def upload(
        self, data: bytes, *, lease_id: str = "", parts: Sequence[Any] | None = None
    ) -> str:
        """Upload ``data``, or exactly the messages ``parts``."""
        digest = sha256(data)
        if parts is None:
            header = artifact_pb2.UploadHeader(
                digest=digest, size_bytes=len(data), lease_id=lease_id
            )
            parts = [
                artifact_pb2.UploadRequest(header=header),
                *(
                    artifact_pb2.UploadRequest(chunk=data[at : at + ARTIFACT_CHUNK_BYTES])
                    for at in range(0, len(data), ARTIFACT_CHUNK_BYTES)
                ),
            ]
        call = self.artifacts.Upload(iter(parts), metadata=self.metadata, timeout=CALL_SECONDS)
        try:
            answer = await call
        finally:
            call.cancel()
        assert answer.digest == digest
        return digest

    async def download(self, digest: str, **grant: str) -> bytes:
        """All bytes of an artifact."""
        call = self.artifacts.Download(
            artifact_pb2.DownloadRequest(digest=digest, **grant),
            metadata=self.metadata,
            timeout=CALL_SECONDS,
        )
        try:
            return b"".join([message.chunk async for message in call])
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()


class Person(Caller):
    """Somebody with an account: registers, opens a session, signs."""

    def __init__(self, market: Market, channel: aio.Channel | None = None) -> None:
        super().__init__(market, channel)
        self.key = KeyPair.generate()
        self.account_id = self.key.key_id

    def sign(self, body: Document, **changes: Any) -> common_pb2.Envelope:
        return wire(body, self.key, self.market.key_id, **changes)

    async def join(self, name: str = "somebody") -> Person:
        registration = AccountRegistration(self.key.public.raw, name)
        answer = await self.call(
            self.identity.Register,
            identity_pb2.RegisterRequest(registration=self.sign(registration)),
        )
        assert answer.account_id == self.account_id
        await self.open_session(self.key, KeyRole.OWNER)
        return self

    async def open_session(self, key: KeyPair, role: KeyRole) -> None:
        account = "" if role is KeyRole.OPERATOR else self.account_id
        request = SessionRequest(account, role, "test")
        opened = await self.call(
            self.identity.OpenSession,
            identity_pb2.OpenSessionRequest(request=wire(request, key, self.market.key_id)),
        )
        self.metadata = (("authorization", f"Bearer {opened.token}"),)

    async def credit(self, nano: int) -> None:
        """The operator pays in."""
        deposit = Deposit(
            self.account_id, DepositTarget.AVAILABLE, nano, "USD", "test money", os.urandom(8).hex()
        )
        envelope = wire(deposit, self.market.operator_key, self.market.key_id)
        await self.call(self.ledger.Deposit, ledger_pb2.DepositRequest(deposit=envelope))

    async def grant_device(self) -> KeyPair:
        """A device key of this account."""
        device = KeyPair.generate()
        grant = DeviceGrant(self.account_id, device.public.raw, "machine", KeyRole.DEVICE)
        answer = await self.call(
            self.identity.GrantDevice, identity_pb2.GrantDeviceRequest(grant=self.sign(grant))
        )
        assert answer.key_id == device.key_id
        return device


def offer_terms(account_id: str, device: KeyPair, name: str = "card-0") -> OfferTerms:
    """An offer that can run anything small."""
    classes = ("dot-f32", "dot-int", "elementwise-f32", "f64", "integer", "reduce-f32")
    return OfferTerms(
        account_id=account_id,
        device_key_id=device.key_id,
        device_id=sha256(name.encode()),
        device_name=f"Test {name}",
        driver="test 1.0",
        profile=PROFILE,
        memory_bytes=1 << 30,
        max_allocation_bytes=1 << 30,
        region="",
        ask_nano_per_hour=200_000_000,
        rates=tuple(Rate(name, 10**9) for name in classes),
        bandwidth_bytes_per_second=10**9,
        launch_nanoseconds=10_000,
        step_nanoseconds=0,
        build_milliseconds=0,
        download_bytes_per_second=0,
        upload_bytes_per_second=0,
        watts_milli=0,
        watts_source=WattsSource.UNKNOWN,
        card_price_nano=0,
        admission_digest=bytes(32),
    )


async def eventually(look: Any, timeout_seconds: float = 10.0) -> Any:
    """The first true answer of ``await look()``."""
    async with asyncio.timeout(timeout_seconds):
        while not (answer := await look()):
            await asyncio.sleep(0.02)
        return answer
