"""What a buyer asks of the market: a market or limit order and the constraints it is signed with.

A *market order* runs now on the cheapest offers that fit, or is refused. A *limit order* rests in
the book until offers fit, is filled piecemeal, and ends at the job's deadline. The constraints are
part of the signed job, so nobody but the buyer can widen them. What the program itself asks for
(its classes of work, its peak memory, exact mode) is implied and not repeated here; the deadline
is the job's own ``deadline_us``.

Unit prices are nano-units for 10^15 operations (a PFLOP) of one named class, all overheads included
(:mod:`flopmarket.market.headline`).
"""

from __future__ import annotations

import re
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_ORDER_OWNERS, MAX_ORDER_REGIONS, MAX_REGION_CHARACTERS
from flopmarket.market.money import MAX_NANO, Nano, check_price, round_up_nano
from flopmarket.market.price import PriceTerms, price, surcharge
from flopmarket.market.reasons import Reason
from flopmarket.market.region import check_region, region_within
from flopmarket.trust.encoding import MaxLength, document

if TYPE_CHECKING:  # the signed types alone are light: clients import them without an engine
    from flopmarket.market.offer import Offer
    from flopmarket.market.work import StepWork

PFLOP = 10**15
NO_CAP = 2**63
"""Above every price and every step time: what is not limited."""

PICOSECONDS_PER_MICROSECOND = 10**6
MILLI = 1_000
MAX_MEMORY_BYTES = 2**63 - 1
MAX_FLOPS_PER_WATT = 2**63 - 1

_CLASS = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

Region = Annotated[str, MaxLength(MAX_REGION_CHARACTERS)]
Owner = Annotated[str, MaxLength(128)]


class OrderType(StrEnum):
    """Whether an order that no offer fits is refused or rests."""

    MARKET = "market"
    LIMIT = "limit"


@document("flopmarket.order-constraints.v1")
class Constraints:
    """What an offer must be for this buyer. Zero and the empty tuple ask for nothing.

    ``work_class`` names the class that ``max_unit_price_nano`` (nano-units a PFLOP) and
    ``min_flops_per_watt`` are in, and is empty when neither is given. Regions and owners are
    ascending, each once. A region admits its parts: ``eu`` admits ``eu-de``. An offer that states
    no region satisfies no demand about regions.
    """

    work_class: Annotated[str, MaxLength(64)] = ""
    max_unit_price_nano: int = 0
    min_memory_bytes: int = 0
    min_flops_per_watt: int = 0
    allowed_regions: Annotated[tuple[Region, ...], MaxLength(MAX_ORDER_REGIONS)] = ()
    denied_regions: Annotated[tuple[Region, ...], MaxLength(MAX_ORDER_REGIONS)] = ()
    allowed_owners: Annotated[tuple[Owner, ...], MaxLength(MAX_ORDER_OWNERS)] = ()
    denied_owners: Annotated[tuple[Owner, ...], MaxLength(MAX_ORDER_OWNERS)] = ()

    def __post_init__(self) -> None:
        _check_figure("a limit price", self.max_unit_price_nano, MAX_NANO, "ORDER_PRICE")
        _check_figure("a memory demand", self.min_memory_bytes, MAX_MEMORY_BYTES, "ORDER_MEMORY")
        _check_figure(
            "a FLOPS/W demand", self.min_flops_per_watt, MAX_FLOPS_PER_WATT, "ORDER_EFFICIENCY"
        )
        if bool(self.work_class) != bool(self.max_unit_price_nano or self.min_flops_per_watt):
            raise InvalidInput(
                "a class of work goes with a limit price or FLOPS/W, and they with a class",
                code="ORDER_CLASS",
            )
        if self.work_class and not _CLASS.fullmatch(self.work_class):
            raise InvalidInput(
                f"{self.work_class[:64]!r} is not a class of work", code="ORDER_CLASS"
            )
        for region in (*self.allowed_regions, *self.denied_regions):
            check_region(region)
        _check_list("allowed regions", self.allowed_regions, MAX_ORDER_REGIONS)
        _check_list("denied regions", self.denied_regions, MAX_ORDER_REGIONS)
        _check_list("allowed owners", self.allowed_owners, MAX_ORDER_OWNERS)
        _check_list("denied owners", self.denied_owners, MAX_ORDER_OWNERS)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        for owner in self.allowed_owners:
            if owner in self.denied_owners:
                raise _contradiction(f"owner {owner} is allowed and denied")
        for region in self.allowed_regions:
            for denied in self.denied_regions:
                if region_within(region, denied):
                    raise _contradiction(f"region {region} is allowed and {denied} is denied")


@document("flopmarket.order-terms.v1")
class OrderTerms:
    """A market or limit order, as it stands in the signed job."""

    kind: OrderType = OrderType.MARKET
    constraints: Constraints = field(default_factory=Constraints)


def region_admitted(constraints: Constraints, region: str) -> bool:
    """Whether a device that states this region satisfies what the order says of regions."""
    if not constraints.allowed_regions and not constraints.denied_regions:
        return True
    if not region or any(region_within(region, area) for area in constraints.denied_regions):
        return False
    return not constraints.allowed_regions or any(
        region_within(region, area) for area in constraints.allowed_regions
    )


def owner_admitted(constraints: Constraints, account_id: str) -> bool:
    """Whether the order admits this owner."""
    if account_id in constraints.denied_owners:
        return False
    return not constraints.allowed_owners or account_id in constraints.allowed_owners


def unmet(constraints: Constraints, offer: Offer) -> Reason | None:
    """The first demand of the order that the device does not satisfy, prices and time apart."""
    if not owner_admitted(constraints, offer.account_id):
        return Reason.OWNER
    if not region_admitted(constraints, offer.region):
        return Reason.REGION
    if offer.memory_bytes < constraints.min_memory_bytes:
        return Reason.MIN_MEMORY
    if constraints.min_flops_per_watt:
        if not offer.milliwatts:
            return Reason.POWER_UNKNOWN
        rate = offer.rates.flops_per_second.get(constraints.work_class, 0)
        if rate * MILLI < constraints.min_flops_per_watt * offer.milliwatts:
            return Reason.EFFICIENCY
    return None


def _check_figure(name: str, value: int, most: int, code: str) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidInput(f"{name} is from 0 (none) to {most}, got {value}", code=code)


def _check_list(name: str, items: tuple[str, ...], most: int) -> None:
    if len(items) > most:
        raise LimitExceeded(f"{len(items)} {name}, at most {most}", code="ORDER_LIST_TOO_LONG")
    if list(items) != sorted(set(items)) or "" in items:
        raise InvalidInput(
            f"{name} are ascending, each once, none empty: {items}"[:300], code="ORDER_LIST"
        )


def _contradiction(what: str) -> InvalidInput:
    return InvalidInput(
        f"no offer can satisfy the order: {what}",
        code="ORDER_CONTRADICTION",
        hint="drop one of the two",
    )


# --- caps: what a vectorised search compares -------------------------------------------------


def step_cap_nano(constraints: Constraints, work: StepWork, money_nano: Nano, steps: int) -> Nano:
    """The most that one step may cost: the limit price, and the money left for ``steps`` steps.

    An offer fits when ``price(terms, 1)`` is not above this; then no split of the steps costs more
    than the limit or the money. :data:`NO_CAP` never occurs here: money is always bounded.
    """
    cap = money_nano // steps
    if constraints.max_unit_price_nano:
        operations = work.flops.get(constraints.work_class, 0)
        cap = min(cap, constraints.max_unit_price_nano * operations // PFLOP)
    return cap


def ceiling_of_limit_nano(
    max_unit_price_nano: Nano, step_operations: int, steps: int, surcharge_ppm: int = 0
) -> Nano:
    """What steps of so many operations of the limit's class are billed at most at a limit price:
    rounded up once, and the level's surcharge once a step, as in the worst split."""
    of_step = max_unit_price_nano * step_operations
    work = round_up_nano(of_step * steps, PFLOP, "ceiling")
    extra = surcharge(round_up_nano(of_step, PFLOP, "ceiling"), surcharge_ppm)
    return check_price(work + steps * extra, "ceiling")


def order_ceiling_nano(
    constraints: Constraints,
    work: StepWork,
    steps: int,
    max_price_nano: Nano,
    surcharge_ppm: int = 0,
) -> Nano:
    """What to hold for an order: its limit price times its work and the level's surcharge, at most
    ``max_price_nano``."""
    limit = constraints.max_unit_price_nano
    operations = work.flops.get(constraints.work_class, 0)
    if not limit or limit * operations * steps >= max_price_nano * PFLOP:
        return max_price_nano
    return min(max_price_nano, ceiling_of_limit_nano(limit, operations, steps, surcharge_ppm))


def check_order_fits_program(order: OrderTerms, work: StepWork) -> None:
    """Raise :class:`InvalidInput` when the order's class or limit makes no sense for a program."""
    constraints = order.constraints
    if not constraints.work_class:
        return
    if not work.flops.get(constraints.work_class, 0):
        counted = ", ".join(name for name, count in sorted(work.flops.items()) if count)
        raise InvalidInput(
            f"the order is in {constraints.work_class}, of which the program has no work",
            code="ORDER_CLASS",
            hint=f"the program's classes of work: {counted or 'none'}",
        )
    if step_limit_nano(constraints, work) == 0:
        raise InvalidInput(
            f"at {constraints.max_unit_price_nano} nano-units a PFLOP a step is worth less than "
            "a nano-unit, for which nothing can run",
            code="ORDER_PRICE",
            hint="raise --limit, or put more work into a step",
        )


def step_limit_nano(constraints: Constraints, work: StepWork) -> Nano:
    """The limit price alone, as the most that one step may cost; :data:`NO_CAP` without one."""
    if not constraints.max_unit_price_nano:
        return NO_CAP
    operations = work.flops.get(constraints.work_class, 0)
    return constraints.max_unit_price_nano * operations // PFLOP


def over_limit(constraints: Constraints, work: StepWork, terms: PriceTerms) -> bool:
    """Whether a step at these terms costs more than the order's limit price."""
    return price(terms, 1) > step_limit_nano(constraints, work)


def step_time_cap(steps: int, now_us: int, deadline_us: int) -> int:
    """The longest predicted step, in picoseconds, with which ``steps`` steps end in time.

    Zero when the deadline has passed, so that nothing fits.
    """
    return max(0, deadline_us - now_us) * PICOSECONDS_PER_MICROSECOND // steps


MARKET_ORDER = OrderTerms()
"""Run now, on anybody's device that fits the program."""
