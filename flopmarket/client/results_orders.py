"""Why a job waits and why a device is idle, as the coordinator explains it."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.client.money import Money
from flopmarket.client.results import JobState


@dataclass(frozen=True, slots=True)
class Why:
    """One reason: its code, what it says, what can be done, and of how many offers or orders."""

    code: str
    text: str
    hint: str
    count: int


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why a job waits. Prices are for a PFLOP of ``work_class``; None is unknown.

    ``offers`` were looked at and ``fitting`` of them could take the job now; ``ahead`` orders
    choose before it.
    """

    as_of_us: int
    job_id: str
    state: JobState
    summary: str
    reasons: tuple[Why, ...]
    offers: int
    fitting: int
    ahead: int
    work_class: str
    limit_per_pflop: Money | None
    best_ask_per_pflop: Money | None


@dataclass(frozen=True, slots=True)
class OfferExplanation:
    """Why a device has work, or has none. ``state``: idle, busy, offline, banned, withdrawn."""

    offer_id: str
    device_name: str
    state: str
    summary: str
    reasons: tuple[Why, ...]
    proof: str = ""
    """What the device proved and when, or why nothing."""
