"""Who may open an account: invitations of operators, and how one of them is used.

Functions of a transaction: orders of operators call them, and the registration of an account.
"""

from __future__ import annotations

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound, QuotaExceeded
from flopmarket.limits import MAX_INVITATION_SECONDS, MAX_OPEN_ACCOUNT_INVITATIONS
from flopmarket.trust.administration import AdminAction, read_invitation
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope
from flopmarket.trust.key_documents import AccountAdmission
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket.trust.policy import Signer, check_may_sign
from flopmarket_coordinator.store import account_invitations, decisions
from flopmarket_coordinator.store.account_invitations import AccountInvitationRow
from flopmarket_coordinator.store.decisions import DecisionKind
from flopmarket_coordinator.store.engine import Transaction

_SECOND_US = 1_000_000


def invite(tx: Transaction, action: AdminAction, operator_key_id: str) -> str:
    """Keep an operator's invitation; what the trail says beside it."""
    key, expires_at_us = read_invitation(action.value)
    if account_invitations.get(tx, key.key_id) is not None:
        raise Conflict("the invitation's key was used before", code="KEY_IN_USE")
    if expires_at_us <= tx.now_us:
        raise InvalidInput("the invitation has ended already", code="INVITATION_EXPIRED")
    if expires_at_us > tx.now_us + MAX_INVITATION_SECONDS * _SECOND_US:
        raise Conflict(
            f"an invitation holds for at most {MAX_INVITATION_SECONDS} s",
            code="INVITATION_TOO_LONG",
        )
    if account_invitations.count_open(tx) >= MAX_OPEN_ACCOUNT_INVITATIONS:
        raise QuotaExceeded(
            f"{MAX_OPEN_ACCOUNT_INVITATIONS} invitations are open",
            code="TOO_MANY_INVITATIONS",
            hint="revoke some: flop admin invite --revoke ID",
        )
    account_invitations.add(
        tx,
        key,
        reason=action.reason,
        operator_key_id=operator_key_id,
        expires_at_us=expires_at_us,
    )
    return f"one account, until {expires_at_us}"


def revoke(tx: Transaction, invitation_id: str) -> str:
    """Nobody opens an account with it any more; what the trail says beside it."""
    row = account_invitations.get(tx, invitation_id)
    if row is None:
        raise NotFound(f"there is no invitation {invitation_id[:80]}", code="INVITATION_UNKNOWN")
    state = row.state(tx.now_us)
    if state != "open":
        raise Conflict(f"the invitation is {state}", code="ADMIN_NO_CHANGE")
    account_invitations.revoke(tx, invitation_id)
    return ""


def check_admission(
    tx: Transaction, admission: Envelope, owner: PublicKey, *, audience: str
) -> AccountInvitationRow:
    """The open invitation that admits this owner key.

    NotFound ``INVITATION_UNKNOWN``; Forbidden ``INVITATION_OTHER_KEY``; Conflict
    ``INVITATION_USED``, ``INVITATION_REVOKED`` or ``INVITATION_EXPIRED``.
    """
    hint = admission.signatures[0].key_id_hint if admission.signatures else ""
    row = account_invitations.get(tx, hint)
    if row is None:
        raise NotFound("there is no such invitation", code="INVITATION_UNKNOWN")
    opened = open_envelope(
        admission,
        AccountAdmission,
        keys=keys_by_id(PublicKey(row.public_key)),
        audience=audience,
        now_us=tx.now_us,
        replay=None,  # an invitation is used once
    )
    check_may_sign(opened.body, Signer(KeyRole.INVITATION))
    if opened.body.owner_key != owner.raw:
        raise Forbidden("the invitation admits another key", code="INVITATION_OTHER_KEY")
    state = row.state(tx.now_us)
    if state != "open":
        raise Conflict(
            f"the invitation is {state}",
            code=f"INVITATION_{state.upper()}",
            hint="ask whoever runs this market for another one",
        )
    return row


def use(tx: Transaction, invitation: AccountInvitationRow, account: str, by: Envelope) -> None:
    """An account was opened with it; the trail says so."""
    account_invitations.use(tx, invitation.invitation_id, account, by.to_bytes())
    decisions.record(
        tx,
        DecisionKind.ACCOUNT_INVITED,
        account,
        actor=account,
        cause=invitation.invitation_id,
        reason=invitation.reason,
        detail=f"invited by operator {invitation.operator_key_id}",
    )
