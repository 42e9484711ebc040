"""IdentityService: who this coordinator is, accounts, keys, invitations, sessions, certificates."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from flopmarket.errors import Conflict, Unauthenticated
from flopmarket.v1 import identity_pb2, identity_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.certificates import Certificates
from flopmarket_coordinator.rpc import convert, convert_keys
from flopmarket_coordinator.rpc.interceptors import caller
from flopmarket_coordinator.store.engine import Transaction


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(
        self, backend: Backend, version: str, certificates: Certificates | None = None
    ) -> None:
        self._backend = backend
        self._version = version
        self._certificates = certificates

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
            worker_port=0 if self._certificates is None else self._certificates.worker_port,
        )

    async def Register(
        self, request: identity_pb2.RegisterRequest, context: Any
    ) -> identity_pb2.RegisterResponse:
        registration = envelope_from_proto(request.registration)
        invited = request.HasField("admission")
        admission = envelope_from_proto(request.admission) if invited else None
        application = self._backend.application
        account_id = await self._backend.command(
            lambda tx: application.register(tx, registration, admission)
        )
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

    # --- keys ---------------------------------------------------------------------------------

    async def ListKeys(
        self, request: identity_pb2.ListKeysRequest, context: Any
    ) -> identity_pb2.ListKeysResponse:
        session, application = caller(), self._backend.application
        report = await self._backend.query(lambda tx: application.list_keys(tx, session))
        return convert_keys.key_report(report)

    async def RotateKey(
        self, request: identity_pb2.RotateKeyRequest, context: Any
    ) -> identity_pb2.RotateKeyResponse:
        rotation, application = envelope_from_proto(request.rotation), self._backend.application
        key_id = await self._backend.command(lambda tx: application.rotate_key(tx, rotation))
        self._backend.hub.recall(rotation.signatures[0].key_id_hint)
        self._backend.changed.notify()
        return identity_pb2.RotateKeyResponse(key_id=key_id)

    async def RevokeKey(
        self, request: identity_pb2.RevokeKeyRequest, context: Any
    ) -> identity_pb2.RevokeKeyResponse:
        revocation = envelope_from_proto(request.revocation)
        application = self._backend.application
        ended = await self._backend.command(lambda tx: application.revoke_key(tx, revocation))
        self._end_streams(ended, "KEY_REVOKED", "the account's owner revoked this key")
        return identity_pb2.RevokeKeyResponse(key_ids=ended)

    async def GetOwnership(
        self, request: identity_pb2.GetOwnershipRequest, context: Any
    ) -> identity_pb2.GetOwnershipResponse:
        account_id = convert.text_of(request.account_id, "account_id")
        application = self._backend.application
        report = await self._backend.query(lambda tx: application.ownership(tx, account_id))
        return convert_keys.ownership(report)

    async def SetRecoveryKey(
        self, request: identity_pb2.SetRecoveryKeyRequest, context: Any
    ) -> identity_pb2.SetRecoveryKeyResponse:
        document, application = envelope_from_proto(request.recovery_key), self._backend.application
        key_id = await self._backend.command(lambda tx: application.set_recovery_key(tx, document))
        return identity_pb2.SetRecoveryKeyResponse(key_id=key_id)

    async def StartRecovery(
        self, request: identity_pb2.StartRecoveryRequest, context: Any
    ) -> identity_pb2.StartRecoveryResponse:
        document, application = envelope_from_proto(request.recovery), self._backend.application
        pending = await self._backend.command(lambda tx: application.start_recovery(tx, document))
        return identity_pb2.StartRecoveryResponse(pending=convert_keys.pending(pending))

    async def ObjectToRecovery(
        self, request: identity_pb2.ObjectToRecoveryRequest, context: Any
    ) -> identity_pb2.ObjectToRecoveryResponse:
        document, application = envelope_from_proto(request.objection), self._backend.application
        await self._backend.command(lambda tx: application.object_to_recovery(tx, document))
        return identity_pb2.ObjectToRecoveryResponse()

    # --- invitations --------------------------------------------------------------------------

    async def Invite(
        self, request: identity_pb2.InviteRequest, context: Any
    ) -> identity_pb2.InviteResponse:
        document, application = envelope_from_proto(request.invitation), self._backend.application
        name = await self._backend.command(lambda tx: application.invite(tx, document))
        authority = b"" if self._certificates is None else self._certificates.fingerprint
        return identity_pb2.InviteResponse(invitation_id=name, authority=authority)

    async def ListInvitations(
        self, request: identity_pb2.ListInvitationsRequest, context: Any
    ) -> identity_pb2.ListInvitationsResponse:
        session, application = caller(), self._backend.application
        found = await self._backend.query(lambda tx: application.list_invitations(tx, session))
        return convert_keys.invitations(found)

    async def RevokeInvitation(
        self, request: identity_pb2.RevokeInvitationRequest, context: Any
    ) -> identity_pb2.RevokeInvitationResponse:
        session, application = caller(), self._backend.application
        name = convert.text_of(request.invitation_id, "invitation_id")
        await self._backend.command(lambda tx: application.revoke_invitation(tx, session, name))
        return identity_pb2.RevokeInvitationResponse()

    async def Join(
        self, request: identity_pb2.JoinRequest, context: Any
    ) -> identity_pb2.JoinResponse:
        enrolment, application = envelope_from_proto(request.enrolment), self._backend.application
        account_id, key_id = await self._backend.command(lambda tx: application.join(tx, enrolment))
        return identity_pb2.JoinResponse(account_id=account_id, key_id=key_id)

    # --- sessions and certificates ------------------------------------------------------------

    async def ListSessions(
        self, request: identity_pb2.ListSessionsRequest, context: Any
    ) -> identity_pb2.ListSessionsResponse:
        session, application = caller(), self._backend.application
        found = await self._backend.query(lambda tx: application.list_sessions(tx, session))
        return convert_keys.sessions(found)

    async def EndSessions(
        self, request: identity_pb2.EndSessionsRequest, context: Any
    ) -> identity_pb2.EndSessionsResponse:
        session, application = caller(), self._backend.application
        name = convert.text_of(request.session_id, "session_id")

        def end(tx: Transaction) -> tuple[str, ...]:
            if name:
                return (application.end_session(tx, session, name),)
            return application.end_all_sessions(tx, session)

        ended = await self._backend.command(end)
        self._end_streams(ended, "SESSION_ENDED", "the account's owner ended this session")
        return identity_pb2.EndSessionsResponse(key_ids=ended)

    async def IssueCertificate(
        self, request: identity_pb2.IssueCertificateRequest, context: Any
    ) -> identity_pb2.IssueCertificateResponse:
        session, application = caller(), self._backend.application
        document, certificates = envelope_from_proto(request.request), self._certificates
        if certificates is None:
            raise Conflict("this coordinator does without client certificates", code="TLS_NONE")
        pem = await self._backend.command(
            lambda tx: application.check_certificate_request(tx, session, document)
        )
        issued = await asyncio.to_thread(
            certificates.issue, pem, session.key_id, self._backend.clock_us()
        )
        return identity_pb2.IssueCertificateResponse(
            certificate=issued.pem, expires_at_us=issued.expires_at_us
        )

    def _end_streams(self, key_ids: Iterable[str], code: str, why: str) -> None:
        """Workers' streams end with their keys' sessions."""
        self._backend.hub.drop_keys(key_ids, Unauthenticated(why, code=code))
        self._backend.changed.notify()
