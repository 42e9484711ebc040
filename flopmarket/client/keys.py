"""Calls about keys: list, rotate, revoke, recover, invite; sessions. A part of :class:`Client`."""

from __future__ import annotations

from flopmarket.client import messages
from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.results_keys import (
    InvitationInfo,
    Invited,
    KeyInfo,
    KeyList,
    Recovery,
    SessionInfo,
)
from flopmarket.client.session import Identity, Session
from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from flopmarket.limits import CLIENT_SESSION_LIFETIME_US, MAX_INVITATION_SECONDS
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.joining import (
    INVITATION_SECRET_BYTES,
    NO_AUTHORITY,
    JoinToken,
    write_token,
)
from flopmarket.trust.key_documents import (
    NO_LINK,
    Invitation,
    KeyRevocation,
    RecoveryObjection,
    recovery,
    recovery_key,
    rotation,
)
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.ownership import Ownership, link_digest, verify_chain
from flopmarket.trust.tls import fingerprint
from flopmarket.v1 import common_pb2, identity_pb2, identity_pb2_grpc
from flopmarket.wire import envelope_from_proto


class KeyCalls:
    """What :class:`Client` can do about the keys of an account."""

    _session: Session

    def keys(self) -> KeyList:
        """Keys of our account, its recovery key, and a recovery that waits; for owners."""
        answer = self._session.call(self._service.ListKeys, identity_pb2.ListKeysRequest())
        return KeyList(
            tuple(_key(item) for item in answer.keys),
            answer.recovery_key_id and messages.check_digest_text(answer.recovery_key_id, "key id"),
            _pending(answer.pending) if answer.HasField("pending") else None,
            answer.frozen_until_us,
        )

    def ownership(self, account_id: str) -> Ownership:
        """Who owns an account: its chain, checked from the first owner key on."""
        return self._ownership(account_id)[0]

    def rotate_key(self, old: KeyPair, new: KeyPair, *, account_id: str, role: KeyRole) -> None:
        """Let ``new`` take the place of ``old``, which is worth nothing afterwards.

        A device key still finishes the leases it runs.
        """
        previous = NO_LINK if role is not KeyRole.OWNER else self.ownership(account_id).head
        document = rotation(account_id, role, old.public, new, previous)
        request = identity_pb2.RotateKeyRequest(rotation=self._signed(document, old))
        answer = self._session.call(self._service.RotateKey, request, authenticated=False)
        if answer.key_id != new.key_id:
            raise AnswerRefused("the coordinator put another key in its place")

    def is_registered(self, key: KeyPair, account_id: str, role: KeyRole) -> bool:
        """Whether this key can open a session in that role for that account."""
        try:
            self._session.as_other(Identity(key, account_id, role)).metadata()
        except (Unauthenticated, Forbidden, NotFound):
            return False
        return True

    def revoke_key(self, key_id: str, reason: str = "") -> tuple[str, ...]:
        """End a device or CI key of our account, with what it took the place of and what took its.

        The ids of all keys that ended.
        """
        document = KeyRevocation(self._session.identity.account_id, key_id, reason)
        request = identity_pb2.RevokeKeyRequest(revocation=self._signed(document))
        answer = self._session.call(self._service.RevokeKey, request, authenticated=False)
        return tuple(messages.check_digest_text(item, "key id") for item in answer.key_ids)

    # --- recovery -----------------------------------------------------------------------------

    def set_recovery_key(self, new: KeyPair, present: KeyPair | None = None) -> None:
        """Make ``new`` the account's recovery key. One that is there is named in ``present``: only
        a recovery key replaces itself."""
        account_id = self._session.identity.account_id
        ownership = self.ownership(account_id)
        if ownership.recovery is not None and ownership.recovery != (present and present.public):
            raise Conflict(
                f"the account has recovery key {ownership.recovery.key_id}",
                code="RECOVERY_KEY_NEEDED",
                hint="a recovery key is replaced with itself: name it with --words-file",
            )
        signer = present if ownership.recovery is not None else None
        document = recovery_key(account_id, new, ownership.head)
        request = identity_pb2.SetRecoveryKeyRequest(recovery_key=self._signed(document, signer))
        self._session.call(self._service.SetRecoveryKey, request, authenticated=False)

    def recover(self, account_id: str, words: KeyPair, new: KeyPair) -> Recovery | None:
        """Ask for ``account_id`` with its recovery key; ``new`` will own it after the wait.

        None when ``new`` owns the account already.
        """
        ownership, pending, _ = self._ownership(account_id)
        if ownership.owner == new.public:
            return None
        if pending is not None and pending.new_key_id == new.key_id:
            return pending
        if ownership.recovery != words.public:
            raise InvalidInput("this is not the account's recovery key", code="RECOVERY_KEY_WRONG")
        document = recovery(account_id, new, ownership.head)
        request = identity_pb2.StartRecoveryRequest(recovery=self._signed(document, words))
        answer = self._session.call(self._service.StartRecovery, request, authenticated=False)
        return _pending(answer.pending)

    def object_to_recovery(self) -> None:
        """Say that the recovery that waits is not ours: it ends, and the recovery key with it."""
        account_id = self._session.identity.account_id
        ownership, _, waiting = self._ownership(account_id)
        if waiting is None or ownership.recovery is None:
            raise NotFound("no recovery of our account waits", code="RECOVERY_NONE")
        asked = link_digest(waiting, ownership.recovery)
        document = RecoveryObjection(account_id, asked, ownership.head)
        request = identity_pb2.ObjectToRecoveryRequest(objection=self._signed(document))
        self._session.call(self._service.ObjectToRecovery, request, authenticated=False)

    # --- invitations --------------------------------------------------------------------------

    def invite(self, label: str = "", *, lifetime_seconds: float, address: str = "") -> Invited:
        """A token with which one machine joins our account; our key stays here.

        ``address`` is where that machine finds the coordinator; ours unless given.
        """
        if not 0 < lifetime_seconds <= MAX_INVITATION_SECONDS:
            raise InvalidInput(
                f"an invitation holds for at most {MAX_INVITATION_SECONDS} s",
                code="INVITATION_TOO_LONG",
            )
        account_id = self._session.identity.account_id
        secret = self._session.ports.random_bytes(INVITATION_SECRET_BYTES)
        key = KeyPair.from_seed(secret)
        lifetime_us = int(lifetime_seconds * 1e6)
        expires_at_us = self._session.ports.now_us() + lifetime_us
        document = Invitation(account_id, key.public.raw, label)
        request = identity_pb2.InviteRequest(
            invitation=self._session.seal(document, lifetime_us=lifetime_us)
        )
        answer = self._session.call(self._service.Invite, request)
        if answer.invitation_id != key.key_id or len(answer.authority) not in (
            0,
            len(NO_AUTHORITY),
        ):
            raise AnswerRefused("the coordinator keeps another invitation than ours")
        token = JoinToken(
            address=address or self._session.address,
            authority=self._authority(answer.authority),
            coordinator_key=self._session.coordinator().key_id,
            account_id=account_id,
            secret=secret,
            expires_at_us=expires_at_us,
        )
        return Invited(key.key_id, write_token(token), expires_at_us)

    def invitations(self) -> tuple[InvitationInfo, ...]:
        """Invitations of our account, newest first."""
        request = identity_pb2.ListInvitationsRequest()
        answer = self._session.call(self._service.ListInvitations, request)
        return tuple(
            InvitationInfo(
                messages.check_digest_text(item.invitation_id, "invitation id"),
                clean_text(item.label),
                clean_text(item.state),
                item.created_at_us,
                item.expires_at_us,
                clean_text(item.device_key_id),
            )
            for item in answer.invitations
        )

    def revoke_invitation(self, invitation_id: str) -> None:
        """Nobody joins with it any more."""
        request = identity_pb2.RevokeInvitationRequest(invitation_id=invitation_id)
        self._session.call(self._service.RevokeInvitation, request)

    # --- sessions -----------------------------------------------------------------------------

    def sessions(self) -> tuple[SessionInfo, ...]:
        """Open sessions of our account, newest first."""
        answer = self._session.call(self._service.ListSessions, identity_pb2.ListSessionsRequest())
        return tuple(
            SessionInfo(
                clean_text(item.session_id),
                messages.check_digest_text(item.key_id, "key id"),
                clean_text(item.role),
                clean_text(item.purpose),
                item.created_at_us,
                item.expires_at_us,
            )
            for item in answer.sessions
        )

    def end_sessions(self, session_id: str = "") -> tuple[str, ...]:
        """End one session, or all of the account; ids of the keys they were of."""
        request = identity_pb2.EndSessionsRequest(session_id=session_id)
        answer = self._session.call(self._service.EndSessions, request)
        if not session_id:
            self._session.forget_token()
        return tuple(messages.check_digest_text(item, "key id") for item in answer.key_ids)

    # --- parts --------------------------------------------------------------------------------

    def _ownership(self, account_id: str) -> tuple[Ownership, Recovery | None, Envelope | None]:
        answer = self._session.call(
            self._service.GetOwnership,
            identity_pb2.GetOwnershipRequest(account_id=account_id),
            authenticated=False,
        )
        first = PublicKey(answer.first_key)
        if first.key_id != account_id:
            raise AnswerRefused("the coordinator's first owner key is not the account's")
        links = [envelope_from_proto(link) for link in answer.links]
        ownership = verify_chain(first, links, audience=self._session.coordinator().key_id)
        waiting = envelope_from_proto(answer.recovery) if answer.HasField("recovery") else None
        pending = _pending(answer.pending) if answer.HasField("pending") else None
        return ownership, pending, waiting

    def _signed(self, document: Document, key: KeyPair | None = None) -> common_pb2.Envelope:
        return self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US, key=key)

    def _authority(self, told: bytes) -> bytes:
        """The fingerprint for a token: of the authority we trust, not of what we are told."""
        pem = self._session.authority
        ours = b"" if pem is None else bytes.fromhex(fingerprint(pem))
        if ours and told and told != ours:
            raise AnswerRefused("the coordinator names another authority than the one we trust")
        return ours or NO_AUTHORITY

    @property
    def _service(self) -> identity_pb2_grpc.IdentityServiceStub:
        return identity_pb2_grpc.IdentityServiceStub(self._session.channel)


def _key(message: identity_pb2.Key) -> KeyInfo:
    return KeyInfo(
        messages.check_digest_text(message.key_id, "key id"),
        clean_text(message.role),
        clean_text(message.label),
        clean_text(message.state),
        message.created_at_us,
        message.ended_at_us,
        clean_text(message.successor),
        clean_text(message.banned_reason),
        message.live_leases,
    )


def _pending(message: identity_pb2.PendingRecovery) -> Recovery:
    return Recovery(
        messages.check_digest_text(message.new_key_id, "key id"),
        message.started_at_us,
        message.due_at_us,
    )
