"""Why an order is not matched and why a device is idle: one table of reasons.

Quotes, matching, `flop job why`, `flop worker why` and errors speak in these codes. A code is part
of the public surface; what it means for a buyer, what it means for an owner and what either can do
about it stand in :data:`REASONS`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Reason(StrEnum):
    """What keeps an offer and a piece of work apart, or keeps one of them waiting."""

    # An offer does not fit the work, whoever asks and whenever.
    PROFILE = "PROFILE"
    MODE_NOT_OFFERED = "MODE_NOT_OFFERED"
    CLASS_DIFFERS = "CLASS_DIFFERS"
    MEMORY = "MEMORY"
    NO_RATE = "NO_RATE"
    UNPRICEABLE = "UNPRICEABLE"
    SAME_OWNER = "SAME_OWNER"
    # An offer does not fit what the order asks for.
    REGION = "REGION"
    OWNER = "OWNER"
    MIN_MEMORY = "MIN_MEMORY"
    POWER_UNKNOWN = "POWER_UNKNOWN"
    EFFICIENCY = "EFFICIENCY"
    DEADLINE = "DEADLINE"
    LIMIT_PRICE = "LIMIT_PRICE"
    MAX_PRICE = "MAX_PRICE"
    # An offer that fits cannot take it now.
    BANNED = "BANNED"
    QUARANTINED = "QUARANTINED"
    OFFLINE = "OFFLINE"
    UNPROVED = "UNPROVED"
    CLASS_ALONE = "CLASS_ALONE"
    BUSY = "BUSY"
    RECENTLY_DECLINED = "RECENTLY_DECLINED"
    # A job waits for something else than an offer.
    PRICE_RANK = "PRICE_RANK"
    WAITING_AUDIT = "WAITING_AUDIT"
    WAITING_DURABLE = "WAITING_DURABLE"
    NO_OFFERS = "NO_OFFERS"
    # A device is idle for a reason of its own.
    NO_OPEN_ORDERS = "NO_OPEN_ORDERS"
    CALIBRATING = "CALIBRATING"
    FAST_ONLY = "FAST_ONLY"
    NOT_MEASURED = "NOT_MEASURED"
    SCHEDULE_CLOSED = "SCHEDULE_CLOSED"
    TARIFF = "TARIFF"
    DRAINING = "DRAINING"
    OFFER_REFUSED = "OFFER_REFUSED"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one reason says. Whole sentences without an end mark; ``remedy`` may be empty."""

    for_buyers: str
    for_owners: str
    remedy: str
    owner_remedy: str = ""


def tell(counts: Mapping[Reason, int]) -> str:
    """Reasons with their counts for a buyer, most frequent first."""
    return "; ".join(
        f"{reason} {count} ({REASONS[reason].for_buyers})" for reason, count in ranked(counts)
    )


def remedies(counts: Mapping[Reason, int]) -> str:
    """What a buyer can do about each reason, most frequent first."""
    return "; ".join(f"{reason}: {REASONS[reason].remedy}" for reason, _ in ranked(counts))


def ranked(counts: Mapping[Reason, int]) -> list[tuple[Reason, int]]:
    """Reasons by falling count, then in the order of the table."""
    order = {reason: place for place, reason in enumerate(Reason)}
    return sorted(counts.items(), key=lambda item: (-item[1], order[item[0]]))


REASONS: Mapping[Reason, Meaning] = MappingProxyType(
    {
        Reason.PROFILE: Meaning(
            "the device computes another numerics profile",
            "the job asks for another numerics profile than this device was admitted for",
            "none: only devices of the job's profile give verifiable bits",
            "update the agent, so that the device is admitted for the current profile",
        ),
        Reason.MODE_NOT_OFFERED: Meaning(
            "the device does not take jobs of this mode",
            "the job is in a mode that this offer does not state",
            "choose another --mode, or wait for devices that offer this one",
            "add the mode with flop worker up --modes; exact needs a device that was admitted",
        ),
        Reason.CLASS_DIFFERS: Meaning(
            "the device is of another class than the job is bound to",
            "the job is bound to another class of devices: name, driver or kernels differ",
            "quote again and choose another --class, or none",
            "none: what this device computes with fast kernels has other bits",
        ),
        Reason.MEMORY: Meaning(
            "the device has less memory than the program's peak",
            "the program needs more memory than this device has",
            "use a smaller batch or model",
        ),
        Reason.NO_RATE: Meaning(
            "the device states no rate for a class of work that the program has",
            "the program has a class of work that this device was not measured in",
            "change the element types of the program, or wait for other devices",
            "run `flop worker bench` and read which class failed",
        ),
        Reason.UNPRICEABLE: Meaning(
            "the price on this device does not fit 64 bits of nano-units",
            "at this ask the price of the job does not fit 64 bits of nano-units",
            "split the job",
            "lower the ask",
        ),
        Reason.SAME_OWNER: Meaning(
            "the device belongs to the buyer, who may not be their own provider",
            "the job is your own, and no account is its own provider",
            "run it here with run_local(), or wait for another owner",
        ),
        Reason.REGION: Meaning(
            "the device is not in a region that the order admits, or states none",
            "the order asks for another region, or the offer states none",
            "name more regions with --region, or drop --not-region",
            "state where the device is: flop worker up --region",
        ),
        Reason.OWNER: Meaning(
            "the order does not admit this owner",
            "the order names other owners, or excludes you",
            "change --owner or --not-owner",
        ),
        Reason.MIN_MEMORY: Meaning(
            "the device has less memory than the order asks for",
            "the order asks for more memory than this device has",
            "lower --min-memory; the program's own peak is checked anyway",
        ),
        Reason.POWER_UNKNOWN: Meaning(
            "the order asks for FLOPS/W and the owner states no watts",
            "the order asks for FLOPS/W and this offer states no watts",
            "drop --min-flops-per-watt",
            "state the watts: flop worker up --watts",
        ),
        Reason.EFFICIENCY: Meaning(
            "the device gives fewer FLOPS/W than the order asks for",
            "the order asks for more FLOPS/W than this device gives",
            "lower --min-flops-per-watt",
            "lower the power cap, if the card computes more a watt there",
        ),
        Reason.DEADLINE: Meaning(
            "the device is too slow to finish its part before the deadline",
            "this device is too slow to finish before the order's deadline",
            "set a later --deadline, or split the data into more segments",
        ),
        Reason.LIMIT_PRICE: Meaning(
            "the price is above the order's limit a PFLOP",
            "the ask comes to more than the order's limit a PFLOP",
            "raise --limit, or wait for cheaper offers",
            "lower the ask",
        ),
        Reason.MAX_PRICE: Meaning(
            "the job could cost more on this device than the money that is left for it",
            "the job could cost more on this device than its buyer has set aside",
            "wait for cheaper offers, or cancel the rest and submit it with a higher --max-price",
            "lower the ask",
        ),
        Reason.BANNED: Meaning(
            "the device is banned",
            "this device or its account is banned",
            "none: other offers are taken",
            "read the ban's reason in `flop account show`; write to the operator",
        ),
        Reason.QUARANTINED: Meaning(
            "the device showed a soft error and waits for a new admission",
            "this device showed a soft error and is offered again after a new admission",
            "none: other offers are taken",
            "run `flop worker bench`; it is listed with the first offer after the pause",
        ),
        Reason.OFFLINE: Meaning(
            "the device is not connected",
            "the agent is not connected to the coordinator",
            "wait: an owner may come back",
            "start the agent with `flop worker up`, or read its log",
        ),
        Reason.UNPROVED: Meaning(
            "the device has not yet proved its rates in a benchmark challenge",
            "this device has not yet passed a benchmark challenge, or failed the last one",
            "wait: a new device is challenged as soon as it is idle",
            "wait a minute; read the verdict in `flop worker why`, and try "
            "`flop worker bench --challenge`",
        ),
        Reason.CLASS_ALONE: Meaning(
            "no further account has a device of this class, so nobody could audit the job",
            "yours is the only account with devices of this class, so nobody could audit your work",
            "choose another --class or mode, or wait for a second owner with --wait",
            "invite another owner of the same device and driver, or offer another mode",
        ),
        Reason.BUSY: Meaning(
            "the device computes something else",
            "this device computes for somebody now",
            "wait until it is free, or raise the price limit",
        ),
        Reason.RECENTLY_DECLINED: Meaning(
            "the device gave this job back a moment ago, or nobody could judge its part of it",
            "this device gave the job back a moment ago, or nobody could judge its part of it",
            "wait a minute: it is asked again then, if it gave the job back",
        ),
        Reason.PRICE_RANK: Meaning(
            "other orders stand before this one and take the offers that fit",
            "cheaper idle offers stand before this one",
            "raise the price limit, or wait",
            "lower the ask",
        ),
        Reason.WAITING_AUDIT: Meaning(
            "all steps are computed; what is left waits for its audit",
            "segments of this device wait for their audit",
            "wait: an audit takes about as long as the segment",
        ),
        Reason.WAITING_DURABLE: Meaning(
            "verified segments wait until a state after them is durable",
            "pay for verified segments waits until a state after them is durable",
            "wait: it comes with the next checkpoint",
            "keep the agent running until the next checkpoint is uploaded",
        ),
        Reason.NO_OFFERS: Meaning(
            "there is no offer at all",
            "there is no other offer",
            "wait with --wait: the order rests until an owner comes",
        ),
        Reason.NO_OPEN_ORDERS: Meaning(
            "no work is open",
            "nobody has work waiting",
            "none",
            "wait: the offer is listed and the first order that fits comes here",
        ),
        Reason.CALIBRATING: Meaning(
            "the device is being measured",
            "the device is being admitted and measured; it is offered afterwards",
            "wait some seconds",
        ),
        Reason.FAST_ONLY: Meaning(
            "the device does not compute exactly, and its owner offers no other mode",
            "the device failed admission for exact work and can offer none of the modes asked for",
            "choose --mode class or --mode tolerance to use such devices",
            "leave --modes out: tolerance mode is always left; or update the driver",
        ),
        Reason.NOT_MEASURED: Meaning(
            "the device could not be measured",
            "measuring the device failed, and without rates it has no price",
            "none: other offers are taken",
            "read the error, then `flop worker bench`",
        ),
        Reason.SCHEDULE_CLOSED: Meaning(
            "the owner's schedule is closed",
            "your schedule is closed at this hour",
            "wait until it opens",
            "change --hours",
        ),
        Reason.TARIFF: Meaning(
            "the owner's ask has no value at this hour's tariff",
            "the ask's formula gives nothing that can be offered at this hour's tariff",
            "wait for the next hour",
            "change --ask or --tariff",
        ),
        Reason.DRAINING: Meaning(
            "the owner takes no new work",
            "the agent is ending what it has and takes nothing new",
            "wait: an owner may come back",
            "start the agent again",
        ),
        Reason.OFFER_REFUSED: Meaning(
            "the offer is not listed",
            "the coordinator refused the offer, or a newer hello left it out",
            "none: other offers are taken",
            "read the refusal in the agent's log",
        ),
    }
)
