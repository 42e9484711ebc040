"""The operator's side in Python: orders, the trail of decisions, figures."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from flopmarket.client.channel import open_channel
from flopmarket.client.client import SYSTEM_PORTS, authority_bytes
from flopmarket.client.config import Settings, key_file
from flopmarket.client.results_keys import Invited
from flopmarket.client.session import Identity, Ports, Session
from flopmarket.limits import CLIENT_SESSION_LIFETIME_US
from flopmarket.trust.administration import AdminAction, AdminOrder, invitation_value
from flopmarket.trust.joining import (
    INVITATION_SECRET_BYTES,
    NO_AUTHORITY,
    JoinToken,
    write_token,
)
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.tls import fingerprint
from flopmarket.v1 import admin_pb2, admin_pb2_grpc


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the trail. ``cause`` is the id of what led to it."""

    number: int
    time_us: int
    kind: str
    subject: str
    actor_key_id: str
    cause: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in force; ``overridden`` by an order, or as the process was started."""

    name: str
    value: str
    overridden: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What is connected, queued and waiting. Sizes are bytes, balances nano-units."""

    as_of_us: int
    version: str
    draining: bool
    workers_connected: int
    offers_listed: int
    jobs_by_state: dict[str, int]
    leases_live: int
    audits_waiting: int
    artifacts: int
    artifact_bytes: int
    platform_balances_nano: dict[str, int]
    parameters: tuple[Parameter, ...]
    house_accounts: tuple[str, ...] = ()
    audits_open: dict[str, int] = field(default_factory=dict)
    """Audits by workers of other accounts that did not end, by phase."""


@dataclass(frozen=True, slots=True)
class AccountInvitation:
    """An invitation to open an account. ``state``: open, used, revoked or expired."""

    invitation_id: str
    reason: str
    state: str
    created_at_us: int
    expires_at_us: int
    account_id: str
    operator_key_id: str


class AdminClient:
    """One coordinator, seen with an operator's key (a :class:`KeyPair`, a file or a name)."""

    def __init__(
        self,
        address: str,
        operator_key: KeyPair | Path | str,
        ca: bytes | Path | str | None = None,
        *,
        coordinator_key: str = "",
        ports: Ports = SYSTEM_PORTS,
    ) -> None:
        key = (
            operator_key
            if isinstance(operator_key, KeyPair)
            else KeyPair.load(key_file(operator_key))
        )
        ca_pem = authority_bytes(ca)
        self._channel = open_channel(address, ca_pem)
        identity = Identity(key, "", KeyRole.OPERATOR)
        self._session = Session(self._channel, address, ports, identity, coordinator_key, ca_pem)
        self._service = admin_pb2_grpc.AdminServiceStub(self._channel)

    @classmethod
    def from_settings(cls, settings: Settings, operator_key: str) -> AdminClient:
        """A client for resolved settings."""
        return cls(
            settings.address,
            operator_key,
            Path(settings.ca) if settings.ca else None,
            coordinator_key=settings.coordinator_key,
        )

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def act(
        self,
        order: AdminOrder,
        *,
        reason: str,
        subject: str = "",
        value: str = "",
        request_id: str | None = None,
    ) -> Decision:
        """Sign an order and have it done; the line of the trail that says so.

        A repeated ``request_id`` with the same order gives the first answer.
        """
        action = AdminAction(order, subject, value, reason, request_id or uuid.uuid4().hex)
        sealed = self._session.seal(action, lifetime_us=CLIENT_SESSION_LIFETIME_US)
        answer = self._session.call(self._service.Act, admin_pb2.ActRequest(action=sealed))
        return _decision(answer.decision)

    def invite(
        self,
        *,
        reason: str,
        lifetime_seconds: float,
        address: str = "",
    ) -> Invited:
        """A token with which somebody opens one account: `flop join TOKEN`.

        ``address`` is where he finds the coordinator; ours unless given.
        """
        session = self._session
        secret = session.ports.random_bytes(INVITATION_SECRET_BYTES)
        key = KeyPair.from_seed(secret)
        expires_at_us = session.ports.now_us() + int(lifetime_seconds * 1e6)
        authority = NO_AUTHORITY
        if session.authority is not None:
            authority = bytes.fromhex(fingerprint(session.authority))
        self.act(
            AdminOrder.INVITE,
            reason=reason,
            subject=key.key_id,
            value=invitation_value(key.public, expires_at_us),
        )
        token = JoinToken(
            address=address or session.address,
            authority=authority,
            coordinator_key=session.coordinator().key_id,
            account_id="",
            secret=secret,
            expires_at_us=expires_at_us,
        )
        return Invited(key.key_id, write_token(token), expires_at_us)

    def invitations(self) -> tuple[AccountInvitation, ...]:
        """Invitations to open an account, newest first."""
        request = admin_pb2.ListAccountInvitationsRequest()
        answer = self._session.call(self._service.ListAccountInvitations, request)
        return tuple(
            AccountInvitation(
                item.invitation_id,
                item.reason,
                item.state,
                item.created_at_us,
                item.expires_at_us,
                item.account_id,
                item.operator_key_id,
            )
            for item in answer.invitations
        )

    def decisions(self, *, kind: str = "", subject: str = "") -> Iterator[Decision]:
        """The trail, newest first."""
        request = admin_pb2.ListDecisionsRequest(subject=subject, kind=kind)
        for page in self._session.pages(self._service.ListDecisions, request, "decisions"):
            yield from map(_decision, page.decisions)

    def status(self) -> Status:
        """Figures of this moment."""
        answer = self._session.call(self._service.GetStatus, admin_pb2.GetStatusRequest())
        return Status(
            as_of_us=answer.as_of_us,
            version=answer.version,
            draining=answer.draining,
            workers_connected=answer.workers_connected,
            offers_listed=answer.offers_listed,
            jobs_by_state=dict(answer.jobs_by_state),
            leases_live=answer.leases_live,
            audits_waiting=answer.audits_waiting,
            artifacts=answer.artifacts,
            artifact_bytes=answer.artifact_bytes,
            platform_balances_nano=dict(answer.platform_balances_nano),
            parameters=tuple(
                Parameter(item.name, item.value, item.overridden) for item in answer.parameters
            ),
            house_accounts=tuple(answer.house_accounts),
            audits_open=dict(answer.audits_open),
        )


def _decision(item: admin_pb2.Decision) -> Decision:
    return Decision(
        number=item.number,
        time_us=item.time_us,
        kind=item.kind,
        subject=item.subject,
        actor_key_id=item.actor_key_id,
        cause=item.cause,
        reason=item.reason,
        detail=item.detail,
    )
