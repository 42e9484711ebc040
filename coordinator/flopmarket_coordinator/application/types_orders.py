"""What the use cases of orders answer: why a job waits, why a device is idle."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.reasons import Reason
from flopmarket_coordinator.core.lifecycle import JobState


@dataclass(frozen=True, slots=True)
class Why:
    """One reason as its reader sees it: what it says, what can be done, and how often it holds."""

    reason: Reason | str
    """Of why orders wait and devices are idle, or a code of ``flopmarket.trust.reason_codes``."""
    text: str
    hint: str
    count: int


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why a job waits. Unit prices are nano-units a PFLOP of ``work_class``; None is unknown."""

    as_of_us: int
    job_id: str
    state: JobState
    summary: str
    reasons: tuple[Why, ...] = ()
    offers: int = 0
    """Offers that were looked at."""
    fitting: int = 0
    """Of these, those that could take the next range now."""
    ahead: int = 0
    """Waiting orders that choose before this one."""
    work_class: str = ""
    limit_nano: int | None = None
    best_ask_nano: int | None = None
    """The cheapest ask among offers that satisfy everything but the price."""


@dataclass(frozen=True, slots=True)
class OfferExplanation:
    """Why a device has work, or has none. ``state``: idle, busy, offline, banned,
    quarantined, withdrawn."""

    offer_id: str
    device_name: str
    state: str
    summary: str
    reasons: tuple[Why, ...] = ()
    proof: str = ""
    """What the device proved and when; empty where nothing is asked to be proved."""
