"""AdminService: orders of operators, the trail, the figures of this moment."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.v1 import admin_pb2, admin_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.application.administration import Status, parameter_texts
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert
from flopmarket_coordinator.rpc.interceptors import caller
from flopmarket_coordinator.store.account_invitations import AccountInvitationRow
from flopmarket_coordinator.store.decisions import Decision


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend, version: str) -> None:
        self._backend = backend
        self._version = version

    async def Act(self, request: admin_pb2.ActRequest, context: Any) -> admin_pb2.ActResponse:
        order = envelope_from_proto(request.action)
        application = self._backend.application
        decision = await self._backend.command(lambda tx: application.administer(tx, order))
        return admin_pb2.ActResponse(decision=_decision(decision))

    async def ListDecisions(
        self, request: admin_pb2.ListDecisionsRequest, context: Any
    ) -> admin_pb2.ListDecisionsResponse:
        session, application = caller(), self._backend.application
        kind = convert.text_of(request.kind, "kind")
        subject = convert.text_of(request.subject, "subject")
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        page = await self._backend.query(
            lambda tx: application.list_decisions(tx, session, kind, subject, size, token)
        )
        return admin_pb2.ListDecisionsResponse(
            decisions=[_decision(item) for item in page.decisions],
            next_page_token=page.next_page_token,
        )

    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: Any
    ) -> admin_pb2.GetStatusResponse:
        session, application = caller(), self._backend.application
        status = await self._backend.query(lambda tx: application.status(tx, session))
        return _status(status, self._version)

    async def ListAccountInvitations(
        self, request: admin_pb2.ListAccountInvitationsRequest, context: Any
    ) -> admin_pb2.ListAccountInvitationsResponse:
        session, application = caller(), self._backend.application
        now_us = self._backend.clock_us()
        found = await self._backend.query(
            lambda tx: application.list_account_invitations(tx, session)
        )
        return admin_pb2.ListAccountInvitationsResponse(
            invitations=[_invitation(row, now_us) for row in found]
        )


def _invitation(row: AccountInvitationRow, now_us: int) -> admin_pb2.AccountInvitation:
    return admin_pb2.AccountInvitation(
        invitation_id=row.invitation_id,
        reason=row.reason,
        state=row.state(now_us),
        created_at_us=row.created_at_us,
        expires_at_us=row.expires_at_us,
        account_id=row.account_id,
        operator_key_id=row.operator_key_id,
    )


def _decision(item: Decision) -> admin_pb2.Decision:
    return admin_pb2.Decision(
        number=item.number,
        time_us=item.time_us,
        kind=item.kind,
        subject=item.subject,
        actor_key_id=item.actor_key_id,
        cause=item.cause,
        reason=item.reason,
        detail=item.detail,
    )


def _status(status: Status, version: str) -> admin_pb2.GetStatusResponse:
    return admin_pb2.GetStatusResponse(
        as_of_us=status.as_of_us,
        version=version,
        draining=status.draining,
        workers_connected=status.workers_connected,
        offers_listed=status.offers_listed,
        jobs_by_state=status.jobs_by_state,
        leases_live=status.leases_live,
        audits_waiting=status.audits_waiting,
        artifacts=status.artifacts,
        artifact_bytes=status.artifact_bytes,
        platform_balances_nano=status.platform_balances_nano,
        house_accounts=status.house_accounts,
        audits_open=status.audits_open,
        parameters=[
            admin_pb2.Parameter(name=name, value=value, overridden=name in status.overridden)
            for name, value in parameter_texts(status.parameters).items()
        ],
    )
