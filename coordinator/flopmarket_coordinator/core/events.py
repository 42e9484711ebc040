"""Lines of a job's story: what happened, to what, because of whom.

Every state change writes one in the same transaction. Buyers watch them, operators read them, and
an illegal transition quotes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What happened to a job."""

    QUEUED = "queued"
    LEASED = "leased"
    ACCEPTED = "accepted"
    COMMITTED = "committed"
    VERIFIED = "verified"
    REJECTED = "rejected"
    VOIDED = "voided"
    """A unit counts for nothing, and nobody is called wrong."""
    SLASHED = "slashed"
    ROLLED_BACK = "rolled-back"
    DISPUTED = "disputed"
    COMPENSATED = "compensated"
    RETURNED = "returned"
    FORFEITED = "forfeited"
    QUARANTINED = "quarantined"
    CORRECTED = "corrected"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PAID = "paid"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def who(device_name: str, device_key_id: str) -> str:
    """A worker in the words of a story: two cards of one make are told apart by their key."""
    return f"{device_name} [{device_key_id[:8]}]"


@dataclass(frozen=True, slots=True)
class Event:
    """One line. ``cause`` is the id of what led to it: a key, a lease, a request."""

    job_id: str
    sequence: int
    time_us: int
    kind: EventKind
    text: str
    cause: str
