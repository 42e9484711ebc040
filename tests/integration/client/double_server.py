"""The gRPC face of the fake coordinator: its services on a server in a thread."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures

import grpc

from flopmarket.trust.tls import TlsIdentity
from flopmarket.v1 import (
    artifact_pb2_grpc,
    identity_pb2_grpc,
    job_pb2_grpc,
    ledger_pb2_grpc,
    market_pb2_grpc,
)
from tests.integration.client.double_jobs import Jobs
from tests.integration.client.double_services import Artifacts, Identity, Ledger, Market
from tests.integration.client.doubles import (
    FakeCoordinator,
)


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
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(Identity(self.fake), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(Jobs(self.fake), server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(Artifacts(self.fake), server)
        market_pb2_grpc.add_MarketServiceServicer_to_server(Market(self.fake), server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(Ledger(self.fake), server)
        if self._identity is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (self._identity.private_key_pem, self._identity.certificate_pem)
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        self._ready.set_result(f"127.0.0.1:{port}")
        await self._stop.wait()
        await server.stop(0)
