"""Use cases of keys: rotate, revoke, recover; sessions; TLS certificates of workers.

An account has one owner key at a time; which one follows from its chain of documents
(:mod:`flopmarket.trust.ownership`), which the coordinator keeps and cannot make. What it adds is
time: a recovery waits, the owner may object, and money stays where it is meanwhile.
"""

from __future__ import annotations

from typing import TypeVar

from flopmarket.errors import Conflict, FlopmarketError, Forbidden, NotFound
from flopmarket.limits import (
    MAX_DUE_RECOVERIES,
    MAX_KEY_ROTATIONS,
    MAX_KEYS_PER_ACCOUNT,
    MAX_LISTED_SESSIONS,
)
from flopmarket.trust.encoding import AnyDocument
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope, unverified_body
from flopmarket.trust.key_documents import (
    CertificateRequest,
    KeyRecovery,
    KeyRevocation,
    KeyRotation,
    RecoveryKey,
    RecoveryObjection,
    check_countersignature,
)
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.ownership import Extended, Ownership, extend, link_digest, verify_chain
from flopmarket_coordinator.application.dispatching import DispatchingUseCases
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_keys import (
    KeyReport,
    KeyView,
    OwnershipReport,
    PendingRecovery,
    SessionView,
)
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.lifecycle import LeaseState
from flopmarket_coordinator.store import buyers, identity, invitations, keys, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.keys import RecoveryRow
from flopmarket_coordinator.store.records import KeyRow

AnyLink = TypeVar("AnyLink", KeyRotation, RecoveryKey, KeyRecovery, RecoveryObjection)


class KeyUseCases(DispatchingUseCases):
    """Keys of accounts. Every change is a document that its signer is bound by."""

    # --- looking ------------------------------------------------------------------------------

    def list_keys(self, tx: Transaction, session: Session) -> KeyReport:
        """Keys of the caller's account, and what becomes of its ownership; for owners."""
        _require_owner(session)
        ownership = self._ownership(tx, session.account_id)
        rows = keys.of_account(tx, session.account_id, MAX_KEYS_PER_ACCOUNT)
        return KeyReport(
            keys=tuple(self._key_view(tx, row) for row in rows),
            recovery_key_id="" if ownership.recovery is None else ownership.recovery.key_id,
            pending=_pending(keys.recovery(tx, session.account_id)),
            frozen_until_us=keys.frozen_until_us(tx, session.account_id),
        )

    def ownership(self, tx: Transaction, account_id: str) -> OwnershipReport:
        """An account's chain, for anybody: keys and signatures, no secrets."""
        first = identity.key(tx, account_id)
        if first is None or first.account_id != account_id:
            raise NotFound(f"there is no account {account_id[:80]}", code="ACCOUNT_UNKNOWN")
        waiting = keys.recovery(tx, account_id)
        return OwnershipReport(
            first.public_key,
            tuple(Envelope.from_bytes(link.envelope) for link in keys.links(tx, account_id)),
            _pending(waiting),
            None if waiting is None else Envelope.from_bytes(waiting.envelope),
            self._parameters.recovery_wait_us,
        )

    def list_sessions(self, tx: Transaction, session: Session) -> tuple[SessionView, ...]:
        """Open sessions of the account, newest first; a CI or device key sees its own."""
        rows = keys.sessions(tx, session.account_id, MAX_LISTED_SESSIONS)
        return tuple(
            SessionView(
                row.session_id,
                row.key_id,
                row.role,
                row.purpose,
                row.created_at_us,
                row.expires_at_us,
            )
            for row in rows
            if session.role is KeyRole.OWNER or row.key_id == session.key_id
        )

    # --- sessions -----------------------------------------------------------------------------

    def end_session(self, tx: Transaction, session: Session, session_id: str) -> str:
        """End one session of the account; the key it was of."""
        _require_owner(session)
        key_id = keys.end_session(tx, session.account_id, session_id)
        if key_id is None:
            raise NotFound(f"there is no session {session_id[:80]}", code="SESSION_UNKNOWN")
        return key_id

    def end_all_sessions(self, tx: Transaction, session: Session) -> tuple[str, ...]:
        """End every session of the account, the caller's included; the keys they were of."""
        _require_owner(session)
        return tuple(keys.end_sessions_of_account(tx, session.account_id))

    # --- rotation and revocation --------------------------------------------------------------

    def rotate_key(self, tx: Transaction, envelope: Envelope) -> str:
        """Another key takes the place of the signer; its id. The same document again: the same.

        An owner's or CI key is worth nothing from now on. A device key begins nothing more: its
        offers wait for the new key to list them again, with all that is remembered of the device,
        and leases that it runs are finished under it.
        """
        known = _answered(tx, envelope)
        if known is not None:
            return known.successor
        opened, signed_by = self._open(tx, envelope, KeyRotation)
        body = opened.body
        old = identity.key(tx, signed_by.key_id)
        assert old is not None, "it has just signed"
        if (body.account_id, body.role, body.old_key) != (
            old.account_id,
            KeyRole(old.role),
            old.public_key,
        ):
            raise Forbidden("a key rotates itself, as what it is", code="ROTATION_OTHER_KEY")
        new = check_countersignature(body, PublicKey(old.public_key))
        self._check_new_key(tx, old.account_id, new)
        if body.role is KeyRole.OWNER:
            self._replace_owner(tx, self._continued(tx, envelope, KeyRotation), old, envelope)
            return new.key_id
        if len(identity.same_lineage(tx, old.key_id)) > MAX_KEY_ROTATIONS:
            raise Conflict(
                f"a key is rotated at most {MAX_KEY_ROTATIONS} times",
                code="TOO_MANY_KEYS",
                hint="revoke it and enrol a new key",
            )
        if body.role is KeyRole.DEVICE:
            self._retire(tx, old.key_id)
        keys.replace(tx, old, new, envelope.to_bytes())
        if body.role is KeyRole.CI:
            identity.end_sessions(tx, old.key_id)
        return new.key_id

    def revoke_key(self, tx: Transaction, envelope: Envelope) -> tuple[str, ...]:
        """The owner ends a device or CI key, with all that came before and after it.

        The ids of the keys that ended; their sessions are closed, leases revoked, offers gone.
        """
        opened, signed_by = self._open(tx, envelope, KeyRevocation)
        body = opened.body
        row = identity.key(tx, body.key_id)
        if row is None or row.account_id != signed_by.account_id:
            raise NotFound(f"the account has no key {body.key_id[:64]}", code="KEY_UNKNOWN")
        if body.account_id != signed_by.account_id:
            raise Forbidden("a revocation is for the signer's account", code="NOT_THE_OWNER")
        if row.role == KeyRole.OWNER:
            raise Conflict(
                "an owner key is not revoked: another key takes its place",
                code="OWNER_KEY",
                hint="flop key rotate, or flop key recover if somebody else has it",
            )
        ended = identity.same_lineage(tx, body.key_id)
        for key_id in ended:
            self._end_key(tx, key_id, envelope.to_bytes())
        return tuple(ended)

    # --- recovery -----------------------------------------------------------------------------

    def set_recovery_key(self, tx: Transaction, envelope: Envelope) -> str:
        """A recovery key, or another one; its id. Signed as the chain's rules say."""
        account_id = _claimed_account(envelope, RecoveryKey)
        if _is_last_link(tx, account_id, envelope):
            return self._recovery_key(tx, account_id)
        extended = self._continued(tx, envelope, RecoveryKey)
        owner = self._owner(tx, account_id)
        self._check_new_key(tx, account_id, extended.ownership.recovery)
        keys.add_link(tx, account_id, extended.ownership.links, owner.key_id, envelope.to_bytes())
        return self._recovery_key(tx, account_id)

    def start_recovery(self, tx: Transaction, envelope: Envelope) -> PendingRecovery:
        """A recovery key asks for the account. Withdrawals are frozen, and the owner may object.

        The same document again: the recovery that waits.
        """
        account_id = _claimed_account(envelope, KeyRecovery)
        waiting = keys.recovery(tx, account_id)
        if waiting is not None and waiting.envelope == envelope.to_bytes():
            return PendingRecovery(waiting.new_key_id, waiting.started_at_us, waiting.due_at_us)
        extended = self._continued(tx, envelope, KeyRecovery)
        new = extended.ownership.owner
        self._check_new_key(tx, account_id, new)
        due_at_us = tx.now_us + self._parameters.recovery_wait_us
        keys.start_recovery(tx, account_id, new.key_id, envelope.to_bytes(), due_at_us)
        keys.freeze(tx, account_id, due_at_us)
        return PendingRecovery(new.key_id, tx.now_us, due_at_us)

    def object_to_recovery(self, tx: Transaction, envelope: Envelope) -> None:
        """The owner says that a recovery is not his: it ends, and the recovery key with it.

        A key that came to own the account less than the waiting time before the recovery began may
        not object: it may be a thief's, who rotated. Withdrawals stay frozen for another wait.
        """
        account_id = _claimed_account(envelope, RecoveryObjection)
        if _is_last_link(tx, account_id, envelope):
            return
        pending = keys.recovery(tx, account_id)
        if pending is None:
            raise Conflict("no recovery waits", code="RECOVERY_NONE")
        before = self._ownership(tx, account_id)
        extended = self._continued(tx, envelope, RecoveryObjection, pending=True)
        body = extended.link
        assert isinstance(body, RecoveryObjection) and before.recovery is not None
        asked = link_digest(Envelope.from_bytes(pending.envelope), before.recovery)
        if body.recovery != asked:
            raise Conflict("the objection is to another recovery", code="RECOVERY_OTHER")
        since_us = _owner_since_us(tx, account_id)
        if since_us > pending.started_at_us - self._parameters.recovery_wait_us:
            raise Forbidden(
                "this owner key is too new to object: the recovery key decides",
                code="OBJECTION_TOO_NEW",
                hint="an operator can ban the account until its owner is known",
            )
        keys.end_recovery(tx, account_id)
        owner = self._owner(tx, account_id)
        keys.add_link(tx, account_id, extended.ownership.links, owner.key_id, envelope.to_bytes())
        keys.freeze(tx, account_id, tx.now_us + self._parameters.recovery_wait_us)

    def complete_recoveries(self, tx: Transaction) -> tuple[str, ...]:
        """Let recoveries that have waited take effect; the keys that are worth nothing now.

        The old owner key may have been a thief's: CI keys that spend, invitations and sessions end
        with it. Device keys only earn for the account and stay; the owner looks at the list.
        """
        ended: list[str] = []
        for account_id in keys.due_recoveries(tx, MAX_DUE_RECOVERIES):
            pending = keys.recovery(tx, account_id)
            assert pending is not None, "it was listed a moment ago"
            keys.end_recovery(tx, account_id)
            old = self._owner(tx, account_id)
            if old.revoked:
                continue  # banned meanwhile: a recovery is no way out of a ban
            envelope = Envelope.from_bytes(pending.envelope)
            extended = extend(self._ownership(tx, account_id), envelope, audience=self._key.key_id)
            new = extended.ownership.owner
            if identity.key(tx, new.key_id) is not None:
                continue  # registered elsewhere meanwhile: the recovery must be asked for anew
            self._move_owner(tx, extended.ownership, old, envelope)
            ended.append(old.key_id)
            for row in buyers.ci_keys(tx, account_id, MAX_KEYS_PER_ACCOUNT):
                self._end_key(tx, row.key_id, pending.envelope)
                ended.append(row.key_id)
            invitations.revoke_open(tx, account_id)
        return tuple(ended)

    def answers_for(self, tx: Transaction, key_id: str) -> tuple[str, ...]:
        """Device keys that the holder of this one answers for: itself, and those before it."""
        return tuple(identity.answers_for(tx, key_id))

    # --- certificates -------------------------------------------------------------------------

    def check_certificate_request(
        self, tx: Transaction, session: Session, envelope: Envelope
    ) -> bytes:
        """The request (PEM) of the session's own device key, to be certified."""
        opened, signed_by = self._open(tx, envelope, CertificateRequest, once=True)
        if signed_by.key_id != session.key_id or opened.body.device_key_id != session.key_id:
            raise Forbidden(
                "a certificate is for the key of the session", code="CERTIFICATE_OTHER_KEY"
            )
        return opened.body.request_pem

    # --- for the other rooms ------------------------------------------------------------------

    def _check_new_key(self, tx: Transaction, account_id: str, key: PublicKey | None) -> None:
        """A key that comes new to an account is nobody's yet."""
        assert key is not None
        known = identity.key(tx, key.key_id) is not None
        if known or self._public_key(tx, key.key_id) is not None:
            raise Conflict(f"key {key.key_id} is registered already", code="KEY_IN_USE")
        if keys.count(tx, account_id) >= MAX_KEYS_PER_ACCOUNT:
            raise Conflict(
                f"an account has at most {MAX_KEYS_PER_ACCOUNT} keys", code="TOO_MANY_KEYS"
            )

    def _ownership(self, tx: Transaction, account_id: str) -> Ownership:
        first = identity.key(tx, account_id)
        if first is None or first.account_id != account_id:
            raise NotFound(f"there is no account {account_id[:80]}", code="ACCOUNT_UNKNOWN")
        links = [Envelope.from_bytes(link.envelope) for link in keys.links(tx, account_id)]
        return verify_chain(PublicKey(first.public_key), links, audience=self._key.key_id)

    def _owner(self, tx: Transaction, account_id: str) -> KeyRow:
        row = keys.owner(tx, account_id)
        assert row is not None, "every account has one owner key"
        return row

    def _continued(
        self, tx: Transaction, envelope: Envelope, kind: type[AnyLink], *, pending: bool = False
    ) -> Extended:
        """The account's ownership after a link that was signed now, by a key that may.

        Nothing of the chain changes while a recovery waits, except by an objection (``pending``).
        """
        account_id = _claimed_account(envelope, kind)
        before = self._ownership(tx, account_id)
        if keys.recovery(tx, account_id) is not None and not pending:
            raise Conflict(
                "a recovery of this account waits; its owner keys stay as they are until then",
                code="RECOVERY_PENDING",
                hint="object with `flop key recover --object`, or wait",
            )
        owner = self._owner(tx, account_id)
        if owner.revoked:
            raise Forbidden(f"the account is banned: {owner.banned_reason}", code="KEY_BANNED")
        extended = extend(before, envelope, audience=self._key.key_id)
        signers = [before.owner] if before.recovery is None else [before.owner, before.recovery]
        open_envelope(
            envelope,
            kind,
            keys=keys_by_id(*signers),
            audience=self._key.key_id,
            now_us=tx.now_us,
            replay=None,  # a link fits at one point of the chain only
        )
        return extended

    def _replace_owner(
        self, tx: Transaction, extended: Extended, old: KeyRow, envelope: Envelope
    ) -> None:
        """An ordinary rotation. With a recovery key, money waits as long as a recovery would."""
        self._move_owner(tx, extended.ownership, old, envelope)
        if extended.ownership.recovery is not None:
            keys.freeze(tx, old.account_id, tx.now_us + self._parameters.recovery_wait_us)

    def _move_owner(
        self, tx: Transaction, ownership: Ownership, old: KeyRow, envelope: Envelope
    ) -> None:
        new, account_id = ownership.owner, ownership.account_id
        keys.replace(tx, old, new, envelope.to_bytes())
        keys.add_link(tx, account_id, ownership.links, new.key_id, envelope.to_bytes())
        identity.end_sessions(tx, old.key_id)

    def _retire(self, tx: Transaction, key_id: str) -> None:
        """A device key begins nothing more: offers off the list, unanswered leases back."""
        work.unlist_offers(tx, key_id)
        for lease in work.live_leases_of_key(tx, key_id):
            if lease.state is LeaseState.OFFERED:
                self._end_lease(tx, lease, LeaseState.REVOKED, RevokeReason.KEY_ROTATED, "")
                self._after_lease(tx, lease)

    def _end_key(self, tx: Transaction, key_id: str, document: bytes) -> None:
        row = identity.key(tx, key_id)
        assert row is not None, "it was listed a moment ago"
        if not row.revoked or not row.ended_at_us:
            # The document of a rotation stays where it is: workers check jobs with it.
            keys.revoke(tx, key_id, row.ended_by if row.successor else document)
        identity.end_sessions(tx, key_id)
        work.unlist_offers(tx, key_id)
        for lease in work.live_leases_of_key(tx, key_id):
            self._end_lease(tx, lease, LeaseState.REVOKED, RevokeReason.KEY_REVOKED, "by its owner")
            self._after_lease(tx, lease)

    def _recovery_key(self, tx: Transaction, account_id: str) -> str:
        key = self._ownership(tx, account_id).recovery
        assert key is not None, "it was set a moment ago"
        return key.key_id

    def _key_view(self, tx: Transaction, row: KeyRow) -> KeyView:
        return KeyView(
            key_id=row.key_id,
            role=row.role,
            label=row.label,
            state=_state_of(row),
            created_at_us=row.created_at_us,
            ended_at_us=row.ended_at_us,
            successor=row.successor,
            banned_reason=row.banned_reason,
            live_leases=len(work.live_leases_of_key(tx, row.key_id)),
        )


def _state_of(row: KeyRow) -> str:
    """active, rotated (its place is taken), revoked by its owner, or banned."""
    if row.banned_reason:
        return "banned"
    if row.successor:
        return "rotated"
    return "revoked" if row.ended_at_us else "active"


def _pending(row: RecoveryRow | None) -> PendingRecovery | None:
    if row is None:
        return None
    return PendingRecovery(row.new_key_id, row.started_at_us, row.due_at_us)


def _owner_since_us(tx: Transaction, account_id: str) -> int:
    """When the present owner key began to own the account; 0 for the first one."""
    since_us, owner = 0, account_id
    for link in keys.links(tx, account_id):
        if link.owner_key_id != owner:
            since_us, owner = link.created_at_us, link.owner_key_id
    return since_us


def _is_last_link(tx: Transaction, account_id: str, envelope: Envelope) -> bool:
    """Whether this very document was the last one, so that it is asked again."""
    links = keys.links(tx, account_id)
    return bool(links) and links[-1].envelope == envelope.to_bytes()


def _answered(tx: Transaction, envelope: Envelope) -> KeyRow | None:
    """The key that this very document rotated before."""
    if len(envelope.signatures) != 1:
        return None
    row = identity.key(tx, envelope.signatures[0].key_id_hint)
    if row is None or not row.successor or row.ended_by != envelope.to_bytes():
        return None
    return row


def _claimed_account(envelope: Envelope, kind: type[AnyDocument]) -> str:
    """The account an unverified link names; what it proves is checked against that chain."""
    try:
        body = unverified_body(envelope, kind)
    except FlopmarketError as error:
        raise Forbidden(error.message, code="ENVELOPE_MALFORMED") from error
    return str(getattr(body, "account_id", ""))


def _require_owner(session: Session) -> None:
    if session.role is not KeyRole.OWNER:
        raise Forbidden("this is for the account's owner", code="NOT_THE_OWNER")
