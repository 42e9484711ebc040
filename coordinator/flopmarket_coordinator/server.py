"""The composition root of a coordinator: what is connected with what, and in which order it stops.

Used by ``flop coordinator serve``, the demo and the tests. Everything that a core may not read by
itself (clock, randomness, ids, engines) comes in here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from grpc import aio
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from flopmarket.errors import Unavailable
from flopmarket.limits import (
    MAX_CALLS_PER_CALLER,
    MAX_CONCURRENT_CALLS,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    MAX_RATE_CALLERS,
    MAX_STREAMS_PER_CONNECTION,
)
from flopmarket.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifact_pb2,
    artifact_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    buyer_pb2,
    buyer_pb2_grpc,
    dispute_pb2,
    dispute_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from flopmarket_coordinator.application import Application, currency
from flopmarket_coordinator.application.administration import OrdersInForce
from flopmarket_coordinator.artifacts import FileArtifactStore
from flopmarket_coordinator.auditor import Auditor, Recomputer, StartEngine, start_engine_on
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.certificates import Certificates
from flopmarket_coordinator.config import CoordinatorConfig, ListenAddress
from flopmarket_coordinator.daemons.challenger import (
    Challenger,
    StartPlaceEngine,
    start_reference,
)
from flopmarket_coordinator.daemons.collector import Collector
from flopmarket_coordinator.daemons.dispatcher import Dispatcher
from flopmarket_coordinator.daemons.house_party import HouseParty
from flopmarket_coordinator.daemons.recoveries import complete_recoveries
from flopmarket_coordinator.daemons.referee import Referee
from flopmarket_coordinator.daemons.snapshots import sign_prices
from flopmarket_coordinator.daemons.webhooks import WebhookPost, WebhookSender
from flopmarket_coordinator.data_dir import DataDirectory, DirectoryLock
from flopmarket_coordinator.metrics import Metrics, keep_figures
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.payments_http import serve_payments
from flopmarket_coordinator.rails import WebhookRail
from flopmarket_coordinator.rpc.admin import AdminService
from flopmarket_coordinator.rpc.artifacts import ArtifactService
from flopmarket_coordinator.rpc.audits import AuditService
from flopmarket_coordinator.rpc.buyers import BuyerService
from flopmarket_coordinator.rpc.disputes import DisputeService
from flopmarket_coordinator.rpc.feeds import MarketFeeds
from flopmarket_coordinator.rpc.identity import IdentityService
from flopmarket_coordinator.rpc.interceptors import EndedCall, Gate, GateInterceptor
from flopmarket_coordinator.rpc.jobs import JobService
from flopmarket_coordinator.rpc.ledger import LedgerService
from flopmarket_coordinator.rpc.market import MarketService
from flopmarket_coordinator.rpc.open_streams import OpenStreams
from flopmarket_coordinator.rpc.rates import ConcurrencyLimiter, RateLimiter
from flopmarket_coordinator.rpc.workers import WorkerService
from flopmarket_coordinator.store.engine import Store, open_store, write
from flopmarket_coordinator.store.migrate import check_current, upgrade
from flopmarket_coordinator.tick import Observer, Tick

_log = logging.getLogger(__name__)

SERVICES: Sequence[str] = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (identity_pb2, "IdentityService"),
        (job_pb2, "JobService"),
        (worker_pb2, "WorkerService"),
        (market_pb2, "MarketService"),
        (ledger_pb2, "LedgerService"),
        (buyer_pb2, "BuyerService"),
        (dispute_pb2, "DisputeService"),
        (artifact_pb2, "ArtifactService"),
        (admin_pb2, "AdminService"),
        (audit_pb2, "AuditService"),
    )
)
SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Workers ping every 30 s; gRPC's own limit of 5 minutes would cut them off.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.max_ping_strikes", 2),
    # Connections are renewed a few times a day, which moves workers to new certificates.
    ("grpc.max_connection_age_ms", 6 * 3_600_000),
    ("grpc.max_connection_age_grace_ms", 300_000),
    # A second server on a busy port must fail, not share it.
    ("grpc.so_reuseport", 0),
)
WORKER_SERVICE = "/flopmarket.v1.WorkerService/"
DRAIN_LEAST_MS, DRAIN_MOST_MS = 500, 5_000
_DRAIN_SECONDS = 2.0
_RUN_ID_CHARACTERS = 8
_DRAIN_POLL_SECONDS = 0.02

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class Ports:
    """What a coordinator takes from outside. Times: Unix microseconds, and monotonic seconds."""

    clock_us: Callable[[], int]
    now: Callable[[], float]
    entropy: Callable[[int], bytes]
    new_id: Callable[[], str]

    @classmethod
    def real(cls) -> Ports:
        """Those of the operating system."""
        return cls(
            lambda: time.time_ns() // 1_000, time.monotonic, os.urandom, lambda: uuid.uuid4().hex
        )


class Coordinator:
    """One coordinator in this process: :meth:`start`, then :meth:`stop`, once each.

    ``start_engine`` makes the auditor's engine; by default a child process on the configured
    device. ``start_place_engine`` makes the one that verifies benchmark challenges.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        ports: Ports | None = None,
        start_engine: StartEngine | None = None,
        start_place_engine: StartPlaceEngine = start_reference,
    ) -> None:
        self._config = config
        self._ports = ports or Ports.real()
        self._start_engine = start_engine
        self._start_place_engine = start_place_engine
        self._stack = contextlib.AsyncExitStack()
        self._loops: list[asyncio.Task[None]] = []
        self._health = health_aio.HealthServicer()
        self._address: ListenAddress | None = None
        self._worker_address: ListenAddress | None = None
        self._directory: DataDirectory | None = None
        self._backend: Backend | None = None
        self._server: aio.Server | None = None
        self._feeds: MarketFeeds | None = None
        self._metrics = Metrics()
        self._metrics_address: ListenAddress | None = None
        self._payments_address: ListenAddress | None = None

    @property
    def address(self) -> str:
        """``host:port`` as bound; after :meth:`start`."""
        return str(_started(self._address))

    @property
    def worker_address(self) -> str:
        """Where workers come with certificates, as bound; empty without."""
        return str(self._worker_address or "")

    @property
    def payments_address(self) -> str:
        """Where payments arrive, as bound; empty without."""
        return str(self._payments_address or "")

    @property
    def metrics_address(self) -> str:
        """Where ``/metrics`` is served, as bound; empty without."""
        return str(self._metrics_address or "")

    @property
    def key_id(self) -> str:
        """The id of the coordinator's key; after :meth:`start`."""
        return self.directory.key.key_id

    @property
    def directory(self) -> DataDirectory:
        """Files and keys; after :meth:`start`."""
        return _started(self._directory)

    @property
    def backend(self) -> Backend:
        """The application and its signals; after :meth:`start`."""
        return _started(self._backend)

    async def start(self) -> None:
        """Open everything and serve. On failure whatever was opened is closed again."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Stop in good order; leases live on in the store.

        Health says NOT_SERVING, no more leases are granted, workers are told when to come back and
        their streams end, open calls get ``grace_seconds``, the last commands are committed.
        """
        await self._health.enter_graceful_shutdown()
        await self._end_loops()
        hub = self.backend.hub
        hub.drain(lambda: random.randint(DRAIN_LEAST_MS, DRAIN_MOST_MS))
        _started(self._feeds).drain()
        self.backend.changed.notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_DRAIN_SECONDS, grace_seconds)):
                while len(hub):
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await _started(self._server).stop(grace_seconds)
        await self._stack.aclose()

    async def _start(self) -> None:
        config, ports, stack = self._config, self._ports, self._stack
        directory = await asyncio.to_thread(
            DataDirectory.create, config.data_dir, now_us=ports.clock_us()
        )
        stack.enter_context(DirectoryLock(directory.root))
        is_new = not directory.database.exists()
        engine = open_store(directory.database_url)
        stack.callback(engine.dispose)
        await asyncio.to_thread(upgrade if is_new else check_current, engine)
        parameters = await asyncio.to_thread(self._adopt_currency, engine)
        artifacts = FileArtifactStore(directory.artifacts, ports.new_id)
        artifacts.prepare()
        application = Application(
            key=directory.key,
            parameters=parameters,
            artifacts=artifacts,
            entropy=ports.entropy,
            operator_keys=[directory.operator_key.public],
            chain_secret=directory.chain_secret,
        )
        feeds = self._feeds = MarketFeeds(ports.new_id()[:_RUN_ID_CHARACTERS])
        streams = OpenStreams(ports.clock_us)
        orders = OrdersInForce(application)
        observers: list[Observer] = [application.keeper, orders, feeds, streams]
        tick = Tick(engine, ports.clock_us, observers=observers)
        await tick.start()
        stack.push_async_callback(tick.stop)
        backend = Backend(application, tick, artifacts, ports.clock_us)
        self._directory, self._backend = directory, backend
        await self._serve(directory, backend, feeds, streams)
        stack.push_async_callback(self._end_loops)
        dispatcher = Dispatcher(
            backend, interval_seconds=config.match_interval_seconds, now=ports.now
        )
        self._loops.append(asyncio.create_task(dispatcher.run(), name="dispatcher"))
        self._loops.append(asyncio.create_task(Collector(backend).run(), name="collector"))
        self._loops.append(asyncio.create_task(feeds.run(backend), name="feeds"))
        recoveries = complete_recoveries(backend, config.recovery_interval_seconds)
        self._loops.append(asyncio.create_task(recoveries, name="recoveries"))
        if parameters.benchmark_required:
            challenger = Challenger(backend, now=ports.now, start_engine=self._start_place_engine)
            self._loops.append(asyncio.create_task(challenger.run(), name="challenger"))
        signing = sign_prices(backend, config.snapshot_interval_seconds)
        self._loops.append(asyncio.create_task(signing, name="snapshots"))
        if config.metrics is not None:
            port, stop_metrics = self._metrics.serve(config.metrics.host, config.metrics.port)
            stack.callback(stop_metrics)
            self._metrics_address = config.metrics.with_port(port)
            figures = keep_figures(backend, self._metrics)
            self._loops.append(asyncio.create_task(figures, name="figures"))
        if config.payments is not None:
            rail = WebhookRail("provider", config.payments_secret)
            port, stop_payments = serve_payments(
                config.payments.host,
                config.payments.port,
                rail,
                backend,
                asyncio.get_running_loop(),
            )
            stack.push_async_callback(asyncio.to_thread, stop_payments)
            self._payments_address = config.payments.with_port(port)
        post = WebhookPost(
            directory.key,
            ports.clock_us,
            private_allowed=config.parameters.webhook_private_hosts,
        )
        sender = WebhookSender(backend, post)
        self._loops.append(asyncio.create_task(sender.run(), name="webhooks"))
        house: HouseParty | None = None
        if config.audit:
            start_engine = self._start_engine or start_engine_on(
                config.audit_device, config.cache_dir
            )
            recomputer = Recomputer(artifacts, directory.audit, start_engine)
            auditor = Auditor(backend, recomputer, now=ports.now)
            self._loops.append(asyncio.create_task(auditor.run(), name="auditor"))
            house = HouseParty(backend, directory.dispute, start_engine)
            self._loops.append(asyncio.create_task(house.run(), name="house-party"))
        referee = Referee(backend, parameters.audit_rules, house)
        self._loops.append(asyncio.create_task(referee.run(), name="referee"))
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def _adopt_currency(self, engine: Store) -> Parameters:
        with write(engine, self._ports.clock_us()) as tx:
            return currency.adopt(tx, self._config.parameters)

    async def _serve(
        self, directory: DataDirectory, backend: Backend, feeds: MarketFeeds, streams: OpenStreams
    ) -> None:
        config, ports = self._config, self._ports

        async def authenticate(token: str) -> Any:
            return await backend.query(lambda tx: backend.application.authenticate(tx, token))

        gate = Gate(
            authenticate=authenticate,
            strangers=RateLimiter(config.strangers, ports.now, max_callers=MAX_RATE_CALLERS),
            known=RateLimiter(config.known, ports.now, max_callers=MAX_RATE_CALLERS),
            open_calls=ConcurrencyLimiter(MAX_CALLS_PER_CALLER),
            new_id=ports.new_id,
            now=ports.now,
            ended=self._call_ended,
            streams=streams,
            certified=() if config.worker_listen is None else (WORKER_SERVICE,),
        )
        server = aio.server(
            interceptors=[GateInterceptor(gate)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        )
        messages = RateLimiter(config.messages, ports.now, max_callers=MAX_RATE_CALLERS)
        version = metadata.version("flopmarket")
        certificates = self._certificates(directory)
        identity = IdentityService(backend, version, certificates)
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(identity, server)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobService(backend), server)
        worker = WorkerService(backend, messages)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
        market_pb2_grpc.add_MarketServiceServicer_to_server(MarketService(backend, feeds), server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(LedgerService(backend), server)
        buyer_pb2_grpc.add_BuyerServiceServicer_to_server(BuyerService(backend), server)
        disputes = DisputeService(backend)
        dispute_pb2_grpc.add_DisputeServiceServicer_to_server(disputes, server)
        uploads = RateLimiter(config.uploads, ports.now, max_callers=MAX_RATE_CALLERS)
        artifact = ArtifactService(backend, uploads)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(artifact, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(backend, version), server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditService(backend), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        self._address = _bind(server, config.listen, certificates)
        if config.worker_listen is not None and certificates is not None:
            bound = _bind(server, config.worker_listen, certificates, certified=True)
            self._worker_address, certificates.worker_port = bound, bound.port
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        self._server = server

    def _certificates(self, directory: DataDirectory) -> Certificates | None:
        """TLS, when hosts are named (the configuration sees to it outside loopback)."""
        hosts = self._config.tls_hosts
        if not hosts:
            return None
        return Certificates(directory.authority, hosts, self._ports.clock_us)

    def _call_ended(self, call: EndedCall) -> None:
        self._metrics.call(call.method, call.code, call.seconds, unary=call.unary)
        _log.info(
            "%s %s",
            call.method,
            call.code,
            extra={
                "method": call.method,
                "code": call.code,
                "reason": call.reason,
                "caller": call.caller,
                "milliseconds": round(call.seconds * 1_000, 3),
            },
        )

    async def _end_loops(self) -> None:
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        for result in await asyncio.gather(*loops, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("a loop had ended early", exc_info=result)


def _bind(
    server: aio.Server,
    listen: ListenAddress,
    certificates: Certificates | None,
    *,
    certified: bool = False,
) -> ListenAddress:
    """Bind a port; ``certified`` ones let only holders of a client certificate in."""
    try:
        if certificates is None:
            port = server.add_insecure_port(str(listen))
        else:
            credentials = certificates.server_credentials(certified=certified)
            port = server.add_secure_port(str(listen), credentials)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {listen}: is another process there?",
            code="ADDRESS_IN_USE",
            hint="choose another port with --listen or --worker-listen, or 0 for any",
        ) from error
    return listen.with_port(port)


def _started(part: _Part | None) -> _Part:
    if part is None:
        raise Unavailable("the coordinator has not started", code="NOT_STARTED")
    return part
