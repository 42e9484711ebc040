"""Which offer may take which work, at what price, and who comes first: one offer at a time.

This is what matching means, written to be read. Eligibility is a list of named reasons, so that
"why does my job wait" and "why does my card idle" have an answer. :mod:`core.book` does the same
over a hundred thousand offers at once, and tests hold it against these functions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from flopmarket.market.headline import TYPICAL_RATES
from flopmarket.market.money import MAX_NANO, MoneyError, Nano
from flopmarket.market.offer import Offer
from flopmarket.market.order import (
    Constraints,
    step_cap_nano,
    step_limit_nano,
    step_time_cap,
    unmet,
)
from flopmarket.market.predict import PICOSECONDS_PER_SECOND, JobWork, NoRate
from flopmarket.market.price import PICOSECONDS_PER_HOUR, PriceTerms, price_bound
from flopmarket.market.reasons import Reason
from flopmarket.trust.modes import Mode

__all__ = [
    "Assignment",
    "Candidate",
    "Demand",
    "OpenWork",
    "Priority",
    "Rank",
    "Reason",
    "Unmatched",
    "assign",
    "bid_nano_per_hour",
    "could_run",
    "fits",
    "leasable",
    "money_cap",
    "priority",
    "quotable",
    "rank",
    "step_costs_more",
]

Rank = tuple[int, int, str]
"""Order of offers for one piece of work: price, then speed, then offer id."""

Priority = tuple[int, int, int, int]
"""Order of orders: with a limit or without, bid, leases held, arrival."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer and the standing of its device right now."""

    offer: Offer
    online: bool
    busy: bool
    banned: bool
    proved: bool = True
    """Whether its device proved what it can, where that is asked for."""
    class_accounts: frozenset[str] = frozenset()
    """Accounts, its own among them, that list a device of its class whose key may act."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a program, and the order that brings it, ask of a device."""

    buyer: str
    """Account that may not run it; empty when nobody is known yet."""
    profile: str
    peak_memory_bytes: int
    work: JobWork
    constraints: Constraints = field(default_factory=Constraints)
    mode: Mode = Mode.EXACT
    device_class: str = ""
    """In class mode the class it is bound to, as hex; empty while it may still be any."""


@dataclass(frozen=True, slots=True)
class OpenWork:
    """A range of steps that may be leased.

    ``number`` is the job's place in order of arrival, ``held`` the leases it has already.
    ``money_nano`` is what the job may still spend on ``money_steps`` steps, those nobody has;
    ``avoid`` are offers that gave this job back a moment ago.
    """

    job_id: str
    first_step: int
    step_count: int
    demand: Demand
    money_nano: Nano
    money_steps: int
    deadline_us: int
    number: int = 0
    held: int = 0
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
    reasons: tuple[tuple[Reason, int], ...]


def could_run(demand: Demand, offer: Offer) -> Reason | PriceTerms:
    """Price terms of the program on this device, or why it could never run it."""
    if offer.profile != demand.profile:
        return Reason.PROFILE
    if demand.mode not in offer.modes:
        return Reason.MODE_NOT_OFFERED
    if demand.device_class and offer.device_class != demand.device_class:
        return Reason.CLASS_DIFFERS
    if offer.memory_bytes < demand.peak_memory_bytes:
        return Reason.MEMORY
    if offer.account_id == demand.buyer:
        return Reason.SAME_OWNER
    try:
        terms = offer.terms_for(demand.work)
    except NoRate:
        return Reason.NO_RATE
    except MoneyError:
        return Reason.UNPRICEABLE
    return Reason.UNPRICEABLE if step_costs_more(terms, MAX_NANO) else terms


def fits(demand: Demand, offer: Offer) -> Reason | PriceTerms:
    """As :func:`could_run`, and the device is what the order asks for at a price it admits."""
    terms = could_run(demand, offer)
    if isinstance(terms, Reason):
        return terms
    reason = unmet(demand.constraints, offer)
    if reason is not None:
        return reason
    if step_costs_more(terms, step_limit_nano(demand.constraints, demand.work.step)):
        return Reason.LIMIT_PRICE
    return terms


def quotable(demand: Demand, candidate: Candidate, steps: int) -> Reason | PriceTerms:
    """As :func:`fits`, for an offer that is there; being busy is no obstacle to a quote."""
    terms = fits(demand, candidate.offer)
    if isinstance(terms, Reason):
        return terms
    if candidate.banned:
        return Reason.BANNED
    if not candidate.online:
        return Reason.OFFLINE
    if not candidate.proved:
        return Reason.UNPROVED
    if _alone(demand, candidate):
        return Reason.CLASS_ALONE
    try:
        price_bound(terms, steps)
    except MoneyError:
        return Reason.UNPRICEABLE
    return terms


def leasable(work: OpenWork, candidate: Candidate, now_us: int) -> Reason | PriceTerms:
    """Price terms at which this offer may take the work now, or why not."""
    terms = fits(work.demand, candidate.offer)
    if isinstance(terms, Reason):
        return terms
    if terms.step_picoseconds > step_time_cap(work.step_count, now_us, work.deadline_us):
        return Reason.DEADLINE
    if candidate.banned:
        return Reason.BANNED
    if not candidate.online:
        return Reason.OFFLINE
    if not candidate.proved:
        return Reason.UNPROVED
    if _alone(work.demand, candidate):
        return Reason.CLASS_ALONE
    if candidate.busy:
        return Reason.BUSY
    if candidate.offer.offer_id in work.avoid:
        return Reason.RECENTLY_DECLINED
    if step_costs_more(terms, money_cap(work)):
        return Reason.MAX_PRICE
    return terms


def _alone(demand: Demand, candidate: Candidate) -> bool:
    """Whether nobody could audit the work: in class mode only further accounts of the class can."""
    if demand.mode is not Mode.CLASS:
        return False
    return not candidate.class_accounts - {candidate.offer.account_id, demand.buyer}


def step_costs_more(terms: PriceTerms, most_nano: Nano) -> bool:
    """Whether ``price(terms, 1)`` is above an amount, without dividing: a price is a quotient
    rounded up, so it is above a whole number exactly when the quotient is."""
    return terms.ask_nano_per_hour * terms.step_picoseconds > most_nano * PICOSECONDS_PER_HOUR


def money_cap(work: OpenWork) -> Nano:
    """The most that one step may cost, by the money left and the limit price."""
    step = work.demand.work.step
    return step_cap_nano(work.demand.constraints, step, work.money_nano, work.money_steps)


def rank(terms: PriceTerms, offer_id: str) -> Rank:
    """Where an offer stands among others for the same work: the least comes first.

    Price per step before rounding, then the faster device, then the offer's id.
    """
    return (
        terms.ask_nano_per_hour * terms.step_picoseconds,
        terms.step_picoseconds,
        offer_id,
    )


def bid_nano_per_hour(demand: Demand) -> int | None:
    """What an order's limit price would pay for an hour of a typical device; None without a limit.

    This is the price in price-time priority: it orders limits of different classes of work on one
    scale, and limits of one program as their prices a PFLOP do.
    """
    if not demand.constraints.max_unit_price_nano:
        return None
    step = demand.work.step
    typical_picoseconds = sum(
        -(-count * PICOSECONDS_PER_SECOND // TYPICAL_RATES[work_class])
        for work_class, count in step.flops.items()
        if count
    )
    limit = step_limit_nano(demand.constraints, step)
    return limit * PICOSECONDS_PER_HOUR // max(1, typical_picoseconds)


def priority(demand: Demand, held: int, number: int) -> Priority:
    """Who chooses first; the least. Price, then fewest leases, then arrival.

    An order without a limit price stands before all that have one, then the higher bid. Of equal
    prices the one that holds the fewest leases comes first, so that a job of many ranges cannot
    starve one behind it, and among those the oldest.
    """
    bid = bid_nano_per_hour(demand)
    return (0, 0, held, number) if bid is None else (1, -bid, held, number)


def assign(
    works: Sequence[OpenWork], candidates: Collection[Candidate], now_us: int
) -> tuple[tuple[Assignment, ...], tuple[Unmatched, ...]]:
    """Give ranges, in order of priority, each to the best offer that may take it.

    An offer takes one range. ``works`` name the ranges of one job in order of their steps. Money is
    checked per range against what the caller says is left; of several ranges of one job the cap
    covers all steps that nobody has, so giving them out one by one cannot overspend.
    """
    free = {candidate.offer.offer_id: candidate for candidate in candidates}
    waiting = {(work.job_id, work.first_step): work for work in works}
    assignments: list[Assignment] = []
    unmatched: list[Unmatched] = []
    given: dict[str, int] = {}
    while waiting:
        key = min(
            waiting,
            key=lambda name: (
                *priority(
                    waiting[name].demand,
                    waiting[name].held + given.get(name[0], 0),
                    waiting[name].number,
                ),
                name[1],
            ),
        )
        work = waiting.pop(key)
        found: list[tuple[Rank, PriceTerms]] = []
        reasons: dict[Reason, int] = {}
        for offer_id, candidate in free.items():
            terms = leasable(work, candidate, now_us)
            if isinstance(terms, Reason):
                reasons[terms] = reasons.get(terms, 0) + 1
            else:
                found.append((rank(terms, offer_id), terms))
        if not found:
            unmatched.append(Unmatched(work, tuple(sorted(reasons.items()))))
            continue
        (_, _, offer_id), terms = min(found, key=lambda item: item[0])
        assignments.append(Assignment(work, free[offer_id].offer, terms))
        free[offer_id] = replace(free[offer_id], busy=True)
        given[work.job_id] = given.get(work.job_id, 0) + 1
    return tuple(assignments), tuple(unmatched)
