"""What a client learns of keys, sessions and invitations. Times are microseconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key of the account. ``state``: active, rotated, revoked or banned."""

    key_id: str
    role: str
    label: str
    state: str
    created_at_us: int
    ended_at_us: int
    successor: str
    banned_reason: str
    live_leases: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery that takes effect at ``due_at_us`` unless the owner objects."""

    new_key_id: str
    started_at_us: int
    due_at_us: int


@dataclass(frozen=True, slots=True)
class KeyList:
    """All keys, oldest first; ``recovery_key_id`` is empty when the account has none."""

    keys: tuple[KeyInfo, ...]
    recovery_key_id: str
    recovery: Recovery | None
    frozen_until_us: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """An open session of the account."""

    session_id: str
    key_id: str
    role: str
    purpose: str
    created_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class InvitationInfo:
    """An invitation. ``state``: open, used, revoked or expired."""

    invitation_id: str
    label: str
    state: str
    created_at_us: int
    expires_at_us: int
    device_key_id: str


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invitation; whoever has the token joins the account with one device."""

    invitation_id: str
    token: str
    expires_at_us: int
