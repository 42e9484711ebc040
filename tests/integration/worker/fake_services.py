"""The three services of the fake coordinator, as gRPC sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from flopmarket.engine.exact import PROFILE
from flopmarket.trust.documents import (
    DeviceGrant,
    SessionRequest,
)
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Header
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from flopmarket.wire import envelope_from_proto
from flopmarket_worker.signing import wall_clock_us
from tests.integration.worker.fake_job import COORDINATOR, digest_of

if TYPE_CHECKING:
    from tests.integration.worker.fakes import FakeCoordinator


class Identity(identity_pb2_grpc.IdentityServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def GetCoordinator(self, request: Any, context: Any) -> Any:
        return identity_pb2.GetCoordinatorResponse(
            key_id=COORDINATOR.key_id,
            public_key=COORDINATOR.public.raw,
            profile=PROFILE,
            currency="USD",
        )

    async def Register(self, request: Any, context: Any) -> Any:
        hint = request.registration.signatures[0].key_id
        self.book.registered.add(hint)
        return identity_pb2.RegisterResponse(account_id=hint)

    async def GrantDevice(self, request: Any, context: Any) -> Any:
        await self._authorised(context)
        envelope = envelope_from_proto(request.grant)
        owner = next(iter(self.book.registered))
        assert envelope.signatures[0].key_id_hint == owner
        grant = decode(DeviceGrant, decode(Header, envelope.payload).body)
        key = PublicKey(grant.device_key)
        self.book.device_key = key
        self.book.granted.add(key.key_id)
        return identity_pb2.GrantDeviceResponse(key_id=key.key_id)

    async def OpenSession(self, request: Any, context: Any) -> Any:
        envelope = envelope_from_proto(request.request)
        body = decode(SessionRequest, decode(Header, envelope.payload).body)
        signer = envelope.signatures[0].key_id_hint
        known = self.book.granted if body.role is KeyRole.DEVICE else self.book.registered
        if signer not in known:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown key")
        token = f"token-{len(self.book.tokens)}"
        self.book.tokens[token] = signer
        return identity_pb2.OpenSessionResponse(
            token=token, account_id=body.account_id, expires_at_us=wall_clock_us() + 3600 * 10**6
        )

    async def _authorised(self, context: Any) -> None:
        await authorised(self.book, context)


async def authorised(book: FakeCoordinator, context: Any) -> None:
    metadata = dict(context.invocation_metadata() or ())
    token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
    if token not in book.tokens:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")


class Worker(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        await authorised(self.book, context)
        queue: asyncio.Queue[worker_pb2.SessionResponse | None] = asyncio.Queue()

        async def read() -> None:
            async for message in request_iterator:
                self.book.receive(message, queue.put_nowait)
                self.book.calls.add(queue)
            queue.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            self.book.calls.discard(queue)
            reader.cancel()


class Artifacts(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def Upload(self, request_iterator: Any, context: Any) -> Any:
        await authorised(self.book, context)
        header, data = None, b""
        async for part in request_iterator:
            if part.WhichOneof("part") == "header":
                header = part.header
            else:
                data += part.chunk
        assert header is not None
        assert digest_of(data) == header.digest
        assert len(data) == header.size_bytes
        self.book.artifacts[header.digest] = data
        return artifact_pb2.UploadResponse(digest=header.digest, size_bytes=len(data))

    async def Download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await authorised(self.book, context)
        data = self.book.artifacts.get(request.digest)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such artifact")
            return
        if request.digest in self.book.corrupt:
            data = b"X" + data[1:]
        for start in range(0, len(data), 1000):
            yield artifact_pb2.DownloadResponse(chunk=data[start : start + 1000])
