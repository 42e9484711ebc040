"""Who gets which work: the cheapest eligible offer, oldest job first, ties broken by id.

Eligibility is a list of named reasons, so that "why does my job wait" and "why does my card idle"
have an answer. The same check serves quotes (anybody who could run it, busy or not) and leases.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flopmarket.market.money import MoneyError, Nano
from flopmarket.market.offer import Offer
from flopmarket.market.predict import NoRate, StepWork
from flopmarket.market.price import PriceTerms, price_bound


class Reason(StrEnum):
    """Why an offer cannot take a piece of work."""

    PROFILE = "PROFILE"
    MEMORY = "MEMORY"
    NO_RATE = "NO_RATE"
    UNPRICEABLE = "UNPRICEABLE"
    SAME_OWNER = "SAME_OWNER"
    BANNED = "BANNED"
    OFFLINE = "OFFLINE"
    BUSY = "BUSY"
    RECENTLY_DECLINED = "RECENTLY_DECLINED"
    MAX_PRICE = "MAX_PRICE"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer and the standing of its device right now."""

    offer: Offer
    online: bool
    busy: bool
    banned: bool


@dataclass(frozen=True, slots=True)
class Demand:
    """What a program asks of a device."""

    buyer: str
    """Account that may not run it; empty when nobody is known yet."""
    profile: str
    peak_memory_bytes: int
    work: StepWork


@dataclass(frozen=True, slots=True)
class OpenWork:
    """A range of steps that may be leased. Ranges come oldest job first.

    ``money_nano`` is what the job may still spend on ``money_steps`` steps, those nobody has;
    ``avoid`` are offers that gave this job back a moment ago.
    """

    job_id: str
    first_step: int
    step_count: int
    demand: Demand
    money_nano: Nano
    money_steps: int
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Assignment:
    """This offer gets this range at these terms."""

    work: OpenWork
    offer: Offer
    terms: PriceTerms


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Work that stays in the queue, with a count of offers for each reason."""

    work: OpenWork
    reasons: tuple[tuple[str, int], ...]


def could_run(demand: Demand, offer: Offer) -> Reason | PriceTerms:
    """Price terms of the demand on this device, or why it could never run it."""
    if offer.profile != demand.profile:
        return Reason.PROFILE
    if offer.memory_bytes < demand.peak_memory_bytes:
        return Reason.MEMORY
    if offer.account_id == demand.buyer:
        return Reason.SAME_OWNER
    try:
        return offer.terms_for(demand.work)
    except NoRate:
        return Reason.NO_RATE
    except MoneyError:
        return Reason.UNPRICEABLE


def quotable(demand: Demand, candidate: Candidate, steps: int) -> Reason | PriceTerms:
    """As :func:`could_run`, for an offer that is there; being busy is no obstacle to a quote."""
    terms = could_run(demand, candidate.offer)
    if isinstance(terms, Reason):
        return terms
    if candidate.banned:
        return Reason.BANNED
    if not candidate.online:
        return Reason.OFFLINE
    try:
        price_bound(terms, steps)
    except MoneyError:
        return Reason.UNPRICEABLE
    return terms


def leasable(work: OpenWork, candidate: Candidate) -> Reason | PriceTerms:
    """Price terms at which this offer may take the work now, or why not."""
    terms = quotable(work.demand, candidate, work.money_steps)
    if isinstance(terms, Reason):
        return terms
    if candidate.busy:
        return Reason.BUSY
    if candidate.offer.offer_id in work.avoid:
        return Reason.RECENTLY_DECLINED
    if price_bound(terms, work.money_steps) > work.money_nano:
        return Reason.MAX_PRICE
    return terms


def assign(
    works: Sequence[OpenWork], candidates: Collection[Candidate]
) -> tuple[tuple[Assignment, ...], tuple[Unmatched, ...]]:
    """Give each range, in the order given, to the cheapest offer that may take it.

    An offer takes one range. Equal prices go to the faster device, then to the lower offer id.
    Money is checked per range against what the caller says is left; of several ranges of one job
    the bound covers all steps that nobody has, so giving them out one by one cannot overspend.
    """
    free = {candidate.offer.offer_id: candidate for candidate in candidates}
    assignments: list[Assignment] = []
    unmatched: list[Unmatched] = []
    for work in works:
        found: list[tuple[int, int, str, PriceTerms]] = []
        reasons: dict[str, int] = {}
        for identity, candidate in free.items():
            terms = leasable(work, candidate)
            if isinstance(terms, Reason):
                reasons[terms] = reasons.get(terms, 0) + 1
                continue
            rank = terms.ask_nano_per_hour * terms.step_picoseconds
            found.append((rank, terms.step_picoseconds, identity, terms))
        if not found:
            unmatched.append(Unmatched(work, tuple(sorted(reasons.items()))))
            continue
        *_, identity, terms = min(found, key=lambda item: item[:3])
        assignments.append(Assignment(work, free[identity].offer, terms))
        taken = free[identity]
        free[identity] = Candidate(taken.offer, taken.online, True, taken.banned)
    return tuple(assignments), tuple(unmatched)
