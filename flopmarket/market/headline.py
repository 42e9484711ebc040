"""The headline class of a program: the one class of work that its price is told in.

Most programs do work of several classes. An order, a trade and the depth of the book state theirs
in the class that takes the longest, with every overhead in the price: "300 PFLOP dot-f32 at 0.02".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.money import MAX_NANO, Nano, check_price, round_up_nano
from flopmarket.market.work import DeviceRates, StepWork

PFLOP = 10**15

TYPICAL_RATES: Mapping[str, int] = MappingProxyType(
    {
        "dot-f32": 10 * 10**12,
        "dot-int": 20 * 10**12,
        "elementwise-f32": 2 * 10**12,
        "reduce-f32": 10**11,
        "integer": 2 * 10**12,
        "f64": 3 * 10**11,
    }
)
"""Operations per second of no device in particular: they weigh the classes of a program that is
looked at without one, in the proportions of a consumer card. Nothing is paid by them."""


def headline_class(work: StepWork, rates: DeviceRates) -> str:
    """The class with the largest predicted time on a device; ties in the order of WORK_CLASSES.

    A class that the device has no rate for is passed over: it cannot run such a program anyway.
    "" for a program that counts no operation of any class; it has no price per PFLOP.
    """
    return _heaviest(work.flops, rates.flops_per_second)


def program_class(work: StepWork) -> str:
    """The headline class of a program alone, by :data:`TYPICAL_RATES`; "" as above."""
    return _heaviest(work.flops, TYPICAL_RATES)


def unit_price_nano(price_nano: Nano, operations: int) -> Nano:
    """Nano-units per 10^15 operations, rounded up; all overheads of the price are in it.

    ``operations`` are those of the headline class, above zero. A figure to compare and never a
    bill: that of a program which is nothing but overhead ends at the largest amount there is.
    """
    if check_price(price_nano) * PFLOP > MAX_NANO * operations > 0:
        return MAX_NANO
    return round_up_nano(price_nano * PFLOP, operations, "unit price")


def _heaviest(flops: Mapping[str, int], rates: Mapping[str, int]) -> str:
    """The class of the largest count / rate, compared as exact fractions."""
    best, best_count, best_rate = "", 0, 1
    for work_class in WORK_CLASSES:
        count, rate = flops.get(work_class, 0), rates.get(work_class, 0)
        if rate > 0 and count * best_rate > best_count * rate:
            best, best_count, best_rate = work_class, count, rate
    return best
