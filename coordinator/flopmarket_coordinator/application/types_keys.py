"""Keys, sessions and invitations as callers see them. Times are microseconds."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.trust.envelope import Envelope


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key. ``state``: active, rotated, revoked or banned."""

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
class PendingRecovery:
    """A recovery that takes effect at ``due_at_us`` unless the owner objects."""

    new_key_id: str
    started_at_us: int
    due_at_us: int


@dataclass(frozen=True, slots=True)
class KeyReport:
    """Keys of an account, oldest first; ``recovery_key_id`` is empty when there is none."""

    keys: tuple[KeyView, ...]
    recovery_key_id: str
    pending: PendingRecovery | None
    frozen_until_us: int


@dataclass(frozen=True, slots=True)
class OwnershipReport:
    """An account's chain and the first owner key (32 raw bytes) that it begins with."""

    first_key: bytes
    links: tuple[Envelope, ...]
    pending: PendingRecovery | None
    recovery: Envelope | None
    """The document of ``pending``."""
    wait_us: int


@dataclass(frozen=True, slots=True)
class SessionView:
    """An open session; its id opens nothing."""

    session_id: str
    key_id: str
    role: str
    purpose: str
    created_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation. ``state``: open, used, revoked or expired."""

    invitation_id: str
    label: str
    state: str
    created_at_us: int
    expires_at_us: int
    device_key_id: str
