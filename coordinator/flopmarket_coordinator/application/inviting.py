"""Use cases of invitations: a machine joins an account without its owner's key."""

from __future__ import annotations

from flopmarket.errors import Conflict, Forbidden, NotFound, QuotaExceeded
from flopmarket.limits import MAX_INVITATION_SECONDS, MAX_INVITATIONS_PER_ACCOUNT, MAX_PAGE_ROWS
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope
from flopmarket.trust.key_documents import Enrolment, Invitation, check_countersignature
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.policy import Signer, check_may_sign
from flopmarket_coordinator.application.keys import KeyUseCases
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_keys import InvitationView
from flopmarket_coordinator.store import identity, invitations
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.invitations import InvitationRow


class InvitationUseCases(KeyUseCases):
    """Invitations: signed by an owner, used once by whoever has the secret."""

    def invite(self, tx: Transaction, envelope: Envelope) -> str:
        """Keep an owner's invitation; its id. The same again: no change."""
        opened, signed_by = self._open(tx, envelope, Invitation)
        body = opened.body
        if body.account_id != signed_by.account_id:
            raise Forbidden("an owner invites to his own account", code="NOT_THE_OWNER")
        key = PublicKey(body.invitation_key)
        known = invitations.get(tx, key.key_id)
        if known is not None:
            if known.envelope != envelope.to_bytes():
                raise Conflict("the invitation's key was used before", code="KEY_IN_USE")
            return key.key_id
        most_us = tx.now_us + MAX_INVITATION_SECONDS * 1_000_000
        if opened.header.expires_at_us > most_us:
            raise Conflict(
                f"an invitation holds for at most {MAX_INVITATION_SECONDS} s",
                code="INVITATION_TOO_LONG",
            )
        if invitations.count_open(tx, body.account_id) >= MAX_INVITATIONS_PER_ACCOUNT:
            raise QuotaExceeded(
                f"{MAX_INVITATIONS_PER_ACCOUNT} invitations are open",
                code="TOO_MANY_INVITATIONS",
                hint="revoke some: flop invite --revoke ID",
            )
        invitations.add(
            tx,
            body.account_id,
            key,
            label=body.label,
            envelope=envelope.to_bytes(),
            expires_at_us=opened.header.expires_at_us,
        )
        return key.key_id

    def list_invitations(self, tx: Transaction, session: Session) -> tuple[InvitationView, ...]:
        """Invitations of the account, newest first."""
        if session.role is not KeyRole.OWNER:
            raise Forbidden("this is for the account's owner", code="NOT_THE_OWNER")
        rows = invitations.of_account(tx, session.account_id, MAX_PAGE_ROWS)
        return tuple(_view(row, tx.now_us) for row in rows)

    def revoke_invitation(self, tx: Transaction, session: Session, invitation_id: str) -> None:
        """Nobody joins with it any more. One that is not open is no error."""
        if session.role is not KeyRole.OWNER:
            raise Forbidden("this is for the account's owner", code="NOT_THE_OWNER")
        row = invitations.get(tx, invitation_id)
        if row is None or row.account_id != session.account_id:
            raise NotFound(
                f"there is no invitation {invitation_id[:80]}", code="INVITATION_UNKNOWN"
            )
        if row.state(tx.now_us) == "open":
            invitations.revoke(tx, invitation_id)

    def join(self, tx: Transaction, envelope: Envelope) -> tuple[str, str]:
        """A device enrols itself with the secret of an invitation: account and key id.

        The same device again: no change. NotFound ``INVITATION_UNKNOWN``, Conflict
        ``INVITATION_USED``, ``INVITATION_REVOKED`` or ``INVITATION_EXPIRED``.
        """
        hint = envelope.signatures[0].key_id_hint if envelope.signatures else ""
        row = invitations.get(tx, hint)
        if row is None:
            raise NotFound("there is no such invitation", code="INVITATION_UNKNOWN")
        invited = PublicKey(row.public_key)
        opened = open_envelope(
            envelope,
            Enrolment,
            keys=keys_by_id(invited),
            audience=self._key.key_id,
            now_us=tx.now_us,
            replay=None,  # an invitation is used once
        )
        body = opened.body
        check_may_sign(body, Signer(KeyRole.INVITATION))
        if body.account_id != row.account_id:
            raise Forbidden("the invitation is to another account", code="INVITATION_OTHER_ACCOUNT")
        device = check_countersignature(body, invited)
        state = row.state(tx.now_us)
        if state == "used" and row.device_key_id == device.key_id:
            return row.account_id, device.key_id
        if state != "open":
            raise Conflict(
                f"the invitation is {state}",
                code=f"INVITATION_{state.upper()}",
                hint="ask for another one: flop invite",
            )
        owner = self._owner(tx, row.account_id)
        if owner.revoked:
            raise Forbidden("the account is banned", code="KEY_BANNED")
        self._check_new_key(tx, row.account_id, device)
        identity.add_key(tx, device, row.account_id, KeyRole.DEVICE, body.label or row.label)
        invitations.use(tx, row.invitation_id, device.key_id, envelope.to_bytes())
        return row.account_id, device.key_id


def _view(row: InvitationRow, now_us: int) -> InvitationView:
    return InvitationView(
        row.invitation_id,
        row.label,
        row.state(now_us),
        row.created_at_us,
        row.expires_at_us,
        row.device_key_id,
    )
