"""What a buyer asks of the market beside a price cap: an order, as people write it.

:class:`Order` is turned into the signed :class:`~flopmarket.market.order.OrderTerms` by
:func:`order_terms`, in the headline class of the quoted program.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.client.money import Amount, nano_of
from flopmarket.client.results import Quote
from flopmarket.errors import InvalidInput
from flopmarket.market.money import Nano
from flopmarket.market.order import (
    MARKET_ORDER,
    Constraints,
    OrderTerms,
    OrderType,
    ceiling_of_limit_nano,
)
from flopmarket.market.work import StepWork


@dataclass(frozen=True, slots=True)
class Order:
    """Which offers may run a job, and whether it waits for them.

    ``wait``: rest in the book until offers fit (a limit order), else run now or be refused.
    ``limit``: most per 10^15 operations of ``work_class``, all overheads included.
    ``min_flops_per_watt`` is operations per second and watt, of ``work_class`` too, which is the
    job's headline class when empty. ``deadline_us``: microseconds since the epoch, 0 for none.
    Regions admit their parts (``eu`` admits ``eu-de``); owners are account ids.
    """

    wait: bool = False
    limit: Amount | None = None
    deadline_us: int = 0
    min_flops_per_watt: int = 0
    min_memory_bytes: int = 0
    regions: tuple[str, ...] = ()
    not_regions: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    not_owners: tuple[str, ...] = ()
    work_class: str = ""

    @property
    def needs_class(self) -> bool:
        """Whether a class of work must be found before the order can be signed."""
        return not self.work_class and bool(self.limit is not None or self.min_flops_per_watt)


ANY_OFFER = Order()


def order_terms(order: Order, work_class: str = "") -> OrderTerms:
    """The terms to sign; ``work_class`` is used where the order names none.

    InvalidInput ``ORDER_...`` for what contradicts itself or is out of bounds.
    """
    if order == ANY_OFFER:
        return MARKET_ORDER
    limit_nano: Nano = 0
    if order.limit is not None:
        limit_nano = nano_of(order.limit, "limit")
        if limit_nano <= 0:
            raise InvalidInput(
                f"a limit price is above zero, not {order.limit}",
                code="ORDER_PRICE",
                hint="leave --limit out to take any price up to --max-price",
            )
    if order.min_flops_per_watt < 0 or order.min_memory_bytes < 0:
        raise InvalidInput("FLOPS/W and memory are not below zero", code="ORDER_NEGATIVE")
    asks = bool(limit_nano or order.min_flops_per_watt)
    return OrderTerms(
        OrderType.LIMIT if order.wait else OrderType.MARKET,
        Constraints(
            work_class=(order.work_class or work_class) if asks else "",
            max_unit_price_nano=limit_nano,
            min_memory_bytes=order.min_memory_bytes,
            min_flops_per_watt=order.min_flops_per_watt,
            allowed_regions=_once(order.regions),
            denied_regions=_once(order.not_regions),
            allowed_owners=_once(order.owners),
            denied_owners=_once(order.not_owners),
        ),
    )


def class_of_work(quote: Quote) -> str:
    """The headline class of a quoted program, whatever offers there are: signed, so repeatable."""
    from flopmarket.market.headline import program_class  # the engine's classes: loaded when needed

    flops = {work.work_class: work.flops_per_step for work in quote.work}
    return program_class(StepWork(flops, quote.bytes_moved_per_step, 0))


def budget_nano(terms: OrderTerms, quote: Quote) -> Nano:
    """The price cap of an order for which the buyer gave none.

    A resting order with a limit price is worth its limit times its work, and the surcharge of the
    quoted level; any other order the quote's ceiling. InvalidInput ``ORDER_WITHOUT_PRICE`` when
    nothing tells.
    """
    asked = terms.constraints
    if terms.kind is OrderType.LIMIT and asked.max_unit_price_nano:
        counted = {work.work_class: work.flops_per_step for work in quote.work}
        operations = counted.get(asked.work_class, 0)
        return ceiling_of_limit_nano(
            asked.max_unit_price_nano, operations, quote.steps, quote.surcharge_ppm
        )
    if terms.kind is OrderType.LIMIT and not quote.offers:
        raise InvalidInput(
            "no offer fits now, so nothing tells what the job may cost",
            code="ORDER_WITHOUT_PRICE",
            hint="say --limit PRICE_PER_PFLOP or --max-price AMOUNT",
        )
    return quote.ceiling.nano


def _once(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(items)))
