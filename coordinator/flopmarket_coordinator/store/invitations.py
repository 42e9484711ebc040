"""Invitations: who may enrol a device key without the owner's key, once and for a while."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.one_time import OneTime, state_of

_invitation = schema.invitation


@dataclass(frozen=True, slots=True)
class InvitationRow:
    """An invitation. ``device_key_id`` came with it at ``used_at_us``; empty and 0 until then."""

    invitation_id: str
    account_id: str
    public_key: bytes
    label: str
    envelope: bytes
    created_at_us: int
    expires_at_us: int
    revoked_at_us: int
    device_key_id: str
    used_at_us: int
    enrolment: bytes | None

    def state(self, now_us: int) -> str:
        """open, used, revoked or expired."""
        return state_of(self.used_at_us, self.revoked_at_us, self.expires_at_us, now_us)


_INVITATIONS = OneTime(_invitation, InvitationRow)


def add(
    tx: Transaction,
    account_id: str,
    key: PublicKey,
    *,
    label: str,
    envelope: bytes,
    expires_at_us: int,
) -> None:
    """A new invitation."""
    tx.connection.execute(
        sa.insert(_invitation).values(
            invitation_id=key.key_id,
            account_id=account_id,
            public_key=key.raw,
            label=label,
            envelope=envelope,
            created_at_us=tx.now_us,
            expires_at_us=expires_at_us,
            revoked_at_us=0,
            device_key_id="",
            used_at_us=0,
        )
    )


def get(tx: Transaction, invitation_id: str) -> InvitationRow | None:
    """One invitation."""
    return _INVITATIONS.get(tx, invitation_id)


def of_account(tx: Transaction, account_id: str, limit: int) -> list[InvitationRow]:
    """Invitations of an account, newest first."""
    return _INVITATIONS.newest(tx, limit, _invitation.c.account_id == account_id)


def count_open(tx: Transaction, account_id: str) -> int:
    """Invitations of an account that can still be used."""
    return _INVITATIONS.count_open(tx, _invitation.c.account_id == account_id)


def use(tx: Transaction, invitation_id: str, device_key_id: str, enrolment: bytes) -> None:
    """A device came with it."""
    _INVITATIONS.use(tx, invitation_id, device_key_id=device_key_id, enrolment=enrolment)


def revoke(tx: Transaction, invitation_id: str) -> None:
    """Nobody may use it any more."""
    _INVITATIONS.revoke(tx, _invitation.c.invitation_id == invitation_id)


def revoke_open(tx: Transaction, account_id: str) -> None:
    """No open invitation of the account may be used any more."""
    _INVITATIONS.revoke(tx, _invitation.c.account_id == account_id, _INVITATIONS.unused)
