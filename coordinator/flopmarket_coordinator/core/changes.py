"""What a command changed, as its transaction remembers it and as observers of the tick hear it.

A change names a row and says nothing about its contents: whoever follows it reads the row. So a
change that is heard twice, or of a row that changed again meanwhile, does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass


class Change:
    """Base of everything that :meth:`Transaction.note` takes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class OfferChanged(Change):
    """An offer was listed, repriced, withdrawn, or its device's record grew."""

    offer_id: str


@dataclass(frozen=True, slots=True)
class PresenceChanged(Change):
    """A worker gave a sign of life, or its connection ended."""

    device_key_id: str


@dataclass(frozen=True, slots=True)
class EveryPresenceChanged(Change):
    """All workers at once: connections forgotten, or time that stood still."""


@dataclass(frozen=True, slots=True)
class KeyChanged(Change):
    """A key was banned, or may act again."""

    key_id: str


@dataclass(frozen=True, slots=True)
class SessionsEnded(Change):
    """Tokens are worth nothing any more: one session of a key, or all where none is named."""

    key_id: str
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class LeaseChanged(Change):
    """A lease was made, accepted, moved forward, or ended."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class JobChanged(Change):
    """A job was submitted, or its state, money or remaining work changed."""

    job_id: str


@dataclass(frozen=True, slots=True)
class SegmentChanged(Change):
    """A segment was committed, or its state changed."""

    segment_id: int
    job_id: str


@dataclass(frozen=True, slots=True)
class SegmentSettled(Change):
    """A segment was verified and paid: the one thing that is a trade."""

    segment_id: int


@dataclass(frozen=True, slots=True)
class CalibrationChanged(Change):
    """What delivered work says about predictions for an offer changed."""

    offer_id: str


@dataclass(frozen=True, slots=True)
class ParametersChanged(Change):
    """An operator's order changed parameters, operators' keys, or whether to drain."""


@dataclass(frozen=True, slots=True)
class RoundMatched(Change):
    """A round of matching was carried out."""
