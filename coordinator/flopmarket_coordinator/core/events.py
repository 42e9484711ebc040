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
    SLASHED = "slashed"
    ROLLED_BACK = "rolled-back"
    COMPENSATED = "compensated"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PAID = "paid"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Event:
    """One line. ``cause`` is the id of what led to it: a key, a lease, a request."""

    job_id: str
    sequence: int
    time_us: int
    kind: EventKind
    text: str
    cause: str
