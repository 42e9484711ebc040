"""IdentityService: who this coordinator is, accounts, device keys, sessions."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.v1 import identity_pb2, identity_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.backend import Backend


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend, version: str) -> None:
        self._backend = backend
        self._version = version

    async def GetCoordinator(
        self, request: identity_pb2.GetCoordinatorRequest, context: Any
    ) -> identity_pb2.GetCoordinatorResponse:
        info = self._backend.application.coordinator_info()
        return identity_pb2.GetCoordinatorResponse(
            key_id=info.key_id,
            public_key=info.public_key.raw,
            profile=info.profile,
            currency=info.currency,
            time_us=self._backend.clock_us(),
            version=self._version,
            fee_ppm=info.fee_ppm,
        )

    async def Register(
        self, request: identity_pb2.RegisterRequest, context: Any
    ) -> identity_pb2.RegisterResponse:
        registration = envelope_from_proto(request.registration)
        application = self._backend.application
        account_id = await self._backend.command(lambda tx: application.register(tx, registration))
        return identity_pb2.RegisterResponse(account_id=account_id)

    async def GrantDevice(
        self, request: identity_pb2.GrantDeviceRequest, context: Any
    ) -> identity_pb2.GrantDeviceResponse:
        grant = envelope_from_proto(request.grant)
        application = self._backend.application
        key_id = await self._backend.command(lambda tx: application.grant_device(tx, grant))
        return identity_pb2.GrantDeviceResponse(key_id=key_id)

    async def OpenSession(
        self, request: identity_pb2.OpenSessionRequest, context: Any
    ) -> identity_pb2.OpenSessionResponse:
        signed = envelope_from_proto(request.request)
        application = self._backend.application
        opened = await self._backend.command(lambda tx: application.open_session(tx, signed))
        return identity_pb2.OpenSessionResponse(
            token=opened.token,
            account_id=opened.session.account_id,
            expires_at_us=opened.session.expires_at_us,
        )
