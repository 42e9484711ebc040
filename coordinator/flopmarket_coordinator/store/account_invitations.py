"""Invitations of operators: with each, one account is opened, once and in time."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.one_time import OneTime, state_of

_invitation = schema.account_invitation


@dataclass(frozen=True, slots=True)
class AccountInvitationRow:
    """An invitation. ``account_id`` was opened with it at ``used_at_us``; empty and 0 before."""

    invitation_id: str
    public_key: bytes
    reason: str
    operator_key_id: str
    created_at_us: int
    expires_at_us: int
    revoked_at_us: int
    account_id: str
    used_at_us: int
    admission: bytes | None

    def state(self, now_us: int) -> str:
        """open, used, revoked or expired."""
        return state_of(self.used_at_us, self.revoked_at_us, self.expires_at_us, now_us)


_INVITATIONS = OneTime(_invitation, AccountInvitationRow)


def add(
    tx: Transaction, key: PublicKey, *, reason: str, operator_key_id: str, expires_at_us: int
) -> None:
    """A new invitation."""
    tx.connection.execute(
        sa.insert(_invitation).values(
            invitation_id=key.key_id,
            public_key=key.raw,
            reason=reason,
            operator_key_id=operator_key_id,
            created_at_us=tx.now_us,
            expires_at_us=expires_at_us,
            revoked_at_us=0,
            account_id="",
            used_at_us=0,
        )
    )


def get(tx: Transaction, invitation_id: str) -> AccountInvitationRow | None:
    """One invitation."""
    return _INVITATIONS.get(tx, invitation_id)


def newest(tx: Transaction, limit: int) -> list[AccountInvitationRow]:
    """Invitations, newest first."""
    return _INVITATIONS.newest(tx, limit)


def count_open(tx: Transaction) -> int:
    """Invitations that can still be used."""
    return _INVITATIONS.count_open(tx)


def use(tx: Transaction, invitation_id: str, account_id: str, admission: bytes) -> None:
    """An account was opened with it."""
    _INVITATIONS.use(tx, invitation_id, account_id=account_id, admission=admission)


def revoke(tx: Transaction, invitation_id: str) -> None:
    """Nobody may use it any more."""
    _INVITATIONS.revoke(tx, _invitation.c.invitation_id == invitation_id)
