"""Keys, sessions and invitations as messages."""

from __future__ import annotations

from flopmarket.v1 import identity_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_coordinator.application.types_keys import (
    InvitationView,
    KeyReport,
    OwnershipReport,
    PendingRecovery,
    SessionView,
)


def key_report(report: KeyReport) -> identity_pb2.ListKeysResponse:
    """Keys of an account."""
    return identity_pb2.ListKeysResponse(
        keys=[
            identity_pb2.Key(
                key_id=key.key_id,
                role=key.role,
                label=key.label,
                state=key.state,
                created_at_us=key.created_at_us,
                ended_at_us=key.ended_at_us,
                successor=key.successor,
                banned_reason=key.banned_reason,
                live_leases=key.live_leases,
            )
            for key in report.keys
        ],
        recovery_key_id=report.recovery_key_id,
        pending=None if report.pending is None else pending(report.pending),
        frozen_until_us=report.frozen_until_us,
    )


def pending(value: PendingRecovery) -> identity_pb2.PendingRecovery:
    """A recovery that waits."""
    return identity_pb2.PendingRecovery(
        new_key_id=value.new_key_id,
        started_at_us=value.started_at_us,
        due_at_us=value.due_at_us,
    )


def ownership(report: OwnershipReport) -> identity_pb2.GetOwnershipResponse:
    """An account's chain."""
    return identity_pb2.GetOwnershipResponse(
        first_key=report.first_key,
        links=[envelope_to_proto(link) for link in report.links],
        pending=None if report.pending is None else pending(report.pending),
        wait_us=report.wait_us,
        recovery=None if report.recovery is None else envelope_to_proto(report.recovery),
    )


def sessions(views: tuple[SessionView, ...]) -> identity_pb2.ListSessionsResponse:
    """Open sessions."""
    return identity_pb2.ListSessionsResponse(
        sessions=[
            identity_pb2.OpenedSession(
                session_id=view.session_id,
                key_id=view.key_id,
                role=view.role,
                purpose=view.purpose,
                created_at_us=view.created_at_us,
                expires_at_us=view.expires_at_us,
            )
            for view in views
        ]
    )


def invitations(views: tuple[InvitationView, ...]) -> identity_pb2.ListInvitationsResponse:
    """Invitations of an account."""
    return identity_pb2.ListInvitationsResponse(
        invitations=[
            identity_pb2.InvitationState(
                invitation_id=view.invitation_id,
                label=view.label,
                state=view.state,
                created_at_us=view.created_at_us,
                expires_at_us=view.expires_at_us,
                device_key_id=view.device_key_id,
            )
            for view in views
        ]
    )
