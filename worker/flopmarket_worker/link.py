"""The connection to one coordinator: channel, who it is, enrolment, bearer tokens.

Outside loopback the channel is TLS. A device key that the coordinator does not know yet is enrolled
with the owner key when the worker was given one: the account is opened if need be, and a signed
grant lets the device key run work for it. The owner key signs nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc import aio

from flopmarket.client.channel import is_loopback
from flopmarket.engine.exact import PROFILE
from flopmarket.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)
from flopmarket.limits import SESSION_RENEW_BEFORE_SECONDS, UNARY_DEADLINE_SECONDS
from flopmarket.trust.documents import AccountRegistration, DeviceGrant, SessionRequest
from flopmarket.trust.key_documents import CertificateRequest
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.tls import client_key_id
from flopmarket.v1 import (
    artifact_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    worker_pb2_grpc,
)
from flopmarket_worker.certificate import FILE as CERTIFICATE_FILE
from flopmarket_worker.certificate import Leaf, load_leaf, new_request, save_leaf
from flopmarket_worker.remote import error_of
from flopmarket_worker.signing import Clock, NonceSource, Sealer

if TYPE_CHECKING:
    from flopmarket.v1.artifact_pb2_grpc import ArtifactServiceAsyncStub
    from flopmarket.v1.worker_pb2_grpc import WorkerServiceAsyncStub

Answer = TypeVar("Answer")
Metadata = tuple[tuple[str, str], ...]

_REQUEST_SECONDS = 120
_CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of one worker. ``owner`` is needed once, to enrol; ``account_id`` is the owner's, and
    may be empty when ``owner`` is given (an account is named by its first owner key)."""

    device: KeyPair
    owner: KeyPair | None
    account_id: str
    label: str
    lineage: str = ""
    """The first of the device's keys, where this one took its place."""
    finishing: bool = False
    """Whether ``device`` was rotated, and has leases to finish before the new key begins."""
    former: tuple[KeyPair, ...] = ()
    """Keys whose place ``device`` took: what they committed to is answered for with them."""

    def account(self) -> str:
        """The account the device works for; InvalidInput (ACCOUNT_MISSING) when nobody said."""
        if self.account_id:
            return self.account_id
        if self.owner is None:
            raise InvalidInput(
                "no account: the worker was given neither an account id nor an owner key",
                code="ACCOUNT_MISSING",
                hint="enrol this machine with `flop join TOKEN`, or pass --account-key "
                "NAME|FILE once (`flop key new` makes a key)",
            )
        return self.owner.key_id


@dataclass(frozen=True, slots=True)
class Coordinator:
    """Who the coordinator says it is."""

    key_id: str
    currency: str
    public_key: PublicKey
    worker_port: int
    """Where workers come with certificates; 0 where everything else is."""


class CoordinatorLink:
    """One channel. ``close`` it in the end."""

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        *,
        now_us: Clock,
        nonce: NonceSource,
        ca_pem: bytes | None = None,
        tls_folder: Path | None = None,
        coordinator_key: str = "",
    ) -> None:
        """``tls_folder`` keeps the client certificate; ``coordinator_key`` refuses any other."""
        self._pinned_key_id = coordinator_key
        self._address = address
        self._ca_pem = ca_pem
        self._tls_folder = tls_folder
        self._leaf: Leaf | None = None
        self._worker_channel: aio.Channel | None = None
        self._former_channel: aio.Channel | None = None
        self._credentials = credentials
        self._now_us = now_us
        self._nonce = nonce
        self._channel = _channel(address, ca_pem)
        self._identity = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self.artifacts: ArtifactServiceAsyncStub = artifact_pb2_grpc.ArtifactServiceStub(
            self._channel
        )
        self.worker: WorkerServiceAsyncStub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self._market = market_pb2_grpc.MarketServiceStub(self._channel)
        self._coordinator: Coordinator | None = None
        self._token = ""
        self._token_renew_us = 0
        self._enrolled = False
        self._lock = asyncio.Lock()

    @property
    def device_key(self) -> KeyPair:
        """The key that signs this worker's documents."""
        return self._credentials.device

    @property
    def former_keys(self) -> tuple[KeyPair, ...]:
        """Keys of this device before that one; they sign openings and moves about their work."""
        return self._credentials.former

    @property
    def lineage(self) -> str:
        """The first key of this device: its offers keep their ids over rotations."""
        return self._credentials.lineage or self._credentials.device.key_id

    @property
    def account_id(self) -> str:
        """The account this worker earns for."""
        return self._credentials.account()

    @property
    def token_renew_us(self) -> int:
        """When the present token should be replaced, microseconds since the epoch."""
        return self._token_renew_us

    async def coordinator(self) -> Coordinator:
        """Ask once who the coordinator is. Another key on the same link later is an error of its
        own making: documents stay addressed to the first."""
        if self._coordinator is None:
            answer = await self._unary(
                self._identity.GetCoordinator, identity_pb2.GetCoordinatorRequest()
            )
            if PublicKey(answer.public_key).key_id != answer.key_id:
                raise Unauthenticated(
                    "the coordinator's key id is not that of its key", code="COORDINATOR_KEY"
                )
            if self._pinned_key_id and answer.key_id != self._pinned_key_id:
                raise Unauthenticated(
                    f"the coordinator at {self._address} has key {answer.key_id[:64]}, "
                    f"{self._pinned_key_id} is expected",
                    code="COORDINATOR_KEY_CHANGED",
                    hint="somebody else may be answering; nothing was sent to it",
                )
            if answer.profile != PROFILE:
                raise InvalidInput(
                    f"the coordinator verifies profile {answer.profile!r}, this worker computes "
                    f"{PROFILE}",
                    code="PROFILE_MISMATCH",
                    hint="install the version of flopmarket that the coordinator runs",
                )
            self._coordinator = Coordinator(
                answer.key_id,
                answer.currency,
                PublicKey(answer.public_key),
                answer.worker_port,
            )
        return self._coordinator

    async def sealer(self) -> Sealer:
        """What seals documents for this coordinator."""
        return Sealer((await self.coordinator()).key_id, self._now_us, self._nonce)

    async def credentials(self) -> Metadata:
        """Metadata with a live token of the device key; enrols the key if it must.

        Where the coordinator wants client certificates, there is a valid one afterwards too.
        """
        async with self._lock:
            if not self._token or self._now_us() >= self._token_renew_us:
                await self._open_session()
            await self._certify()
            return _bearer(self._token)

    async def _certify(self) -> None:
        """See to a valid certificate, and to a channel with it, where there is a port for it.

        A stream on the channel before goes on: its handshake is over. It comes to the new one when
        it is opened again, which happens with every token.
        """
        port = (await self.coordinator()).worker_port
        if not port or (self._leaf is not None and self._now_us() < self._leaf.renew_at_us):
            return
        device, leaf = self._credentials.device, None
        if self._leaf is None and self._tls_folder is not None:
            leaf = load_leaf(self._tls_folder, device.key_id, self._ca_pem, self._now_us())
        if leaf is None:
            leaf = await self._new_leaf(device)
        if self._former_channel is not None:
            await self._former_channel.close(None)
        host = self._address.rpartition(":")[0]
        credentials = grpc.ssl_channel_credentials(
            self._ca_pem, leaf.identity.private_key_pem, leaf.identity.certificate_pem
        )
        channel = aio.secure_channel(f"{host}:{port}", credentials, options=_CHANNEL_OPTIONS)
        self._former_channel, self._worker_channel = self._worker_channel, channel
        self.worker = worker_pb2_grpc.WorkerServiceStub(channel)
        self._leaf = leaf

    async def _new_leaf(self, device: KeyPair) -> Leaf:
        wanted = new_request()
        sealer = await self.sealer()
        body = CertificateRequest(device.key_id, wanted.request_pem)
        answer = await self._unary(
            self._identity.IssueCertificate,
            identity_pb2.IssueCertificateRequest(
                request=sealer.seal(body, device, seconds=_REQUEST_SECONDS)
            ),
            _bearer(self._token),
        )
        identity = wanted.with_certificate(answer.certificate)
        if client_key_id(identity.certificate_pem) != device.key_id:
            raise Unauthenticated("the certificate is another key's", code="CERTIFICATE_OTHER_KEY")
        if self._tls_folder is not None:
            save_leaf(self._tls_folder, identity)
        return Leaf.of(identity)

    def forget_certificate(self) -> None:
        """It was refused: the next call gets a new one."""
        self._leaf = None
        if self._tls_folder is not None:
            (self._tls_folder / CERTIFICATE_FILE).unlink(missing_ok=True)

    async def explain_offers(self) -> market_pb2.ExplainOfferResponse:
        """Why the account's devices are idle, as the coordinator sees it."""
        return await self._unary(
            self._market.ExplainOffer,
            market_pb2.ExplainOfferRequest(),
            await self.credentials(),
        )

    def forget_session(self) -> None:
        """The next call opens a new session."""
        self._token = ""

    async def close(self) -> None:
        """Close the channels; open calls end."""
        for channel in (self._former_channel, self._worker_channel, self._channel):
            if channel is not None:
                await channel.close(None)

    async def _open_session(self) -> None:
        try:
            answer = await self._session(self._credentials.device, KeyRole.DEVICE)
        except (Unauthenticated, Forbidden, NotFound) as error:
            if self._credentials.owner is None or self._enrolled:
                raise Unauthenticated(
                    error.message,
                    code=error.code,
                    hint=error.hint
                    if self._credentials.owner is not None
                    else "enrol this device key: flop join TOKEN, or --account-key NAME|FILE",
                ) from error
            await self._enrol(self._credentials.owner)
            answer = await self._session(self._credentials.device, KeyRole.DEVICE)
        self._enrolled = True
        self._token = answer.token
        lifetime_us = max(0, answer.expires_at_us - self._now_us())
        margin_us = min(lifetime_us // 2, int(SESSION_RENEW_BEFORE_SECONDS * 1e6))
        self._token_renew_us = answer.expires_at_us - margin_us

    async def _session(self, key: KeyPair, role: KeyRole) -> identity_pb2.OpenSessionResponse:
        body = SessionRequest(account_id=self.account_id, role=role, purpose="worker")
        sealer = await self.sealer()
        request = identity_pb2.OpenSessionRequest(
            request=sealer.seal(body, key, seconds=_REQUEST_SECONDS)
        )
        return await self._unary(self._identity.OpenSession, request)

    async def _enrol(self, owner: KeyPair) -> None:
        sealer = await self.sealer()
        registration = AccountRegistration(
            owner_key=owner.public.raw, display_name=self._credentials.label
        )
        grant = DeviceGrant(
            account_id=self.account_id,
            device_key=self._credentials.device.public.raw,
            label=self._credentials.label,
            role=KeyRole.DEVICE,
        )
        try:
            opened = await self._session(owner, KeyRole.OWNER)
        except (Unauthenticated, NotFound):
            await self._unary(
                self._identity.Register,
                identity_pb2.RegisterRequest(
                    registration=sealer.seal(registration, owner, seconds=_REQUEST_SECONDS)
                ),
            )
            opened = await self._session(owner, KeyRole.OWNER)
        # A conflict: granted before. The session that follows tells whether it still holds.
        with contextlib.suppress(Conflict):
            await self._unary(
                self._identity.GrantDevice,
                identity_pb2.GrantDeviceRequest(
                    grant=sealer.seal(grant, owner, seconds=_REQUEST_SECONDS)
                ),
                _bearer(opened.token),
            )

    async def _unary(
        self, method: Callable[..., Awaitable[Answer]], request: object, metadata: Metadata = ()
    ) -> Answer:
        try:
            return await method(request, metadata=metadata, timeout=UNARY_DEADLINE_SECONDS)
        except aio.AioRpcError as failure:
            raise error_of(failure) from failure


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _channel(address: str, ca_pem: bytes | None) -> aio.Channel:
    if ca_pem is None and is_loopback(address):
        return aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem)
    return aio.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)
