"""What is asked and what is bid for one class of work in one mode, level by level, and the best.

An offer asks ``ask / rate`` for 10^15 operations, rounded up once as every price is
(:meth:`Offer.pflop_price`, here over many offers at once). An offer so dear that this does not fit
64 bits has no price and is in no level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flopmarket.market.money import MAX_NANO, Nano
from flopmarket.market.offer import PFLOP, SECONDS_PER_HOUR
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.orders import OrderTable
from flopmarket_coordinator.core.book.search import MARGIN
from flopmarket_coordinator.core.book.table import (
    ASK,
    CLASS_COLUMN,
    Flags,
    Floats,
    Integers,
    OfferTable,
    Rows,
)

_SURE_BELOW = float(1 << 50)
_SURE_ASK = 1 << 60
_NEAR = 2.0**-50
_LEVELS_AT_ONCE = 4
_SURELY_PRICED = MAX_NANO * (1.0 - MARGIN)


@dataclass(frozen=True, slots=True)
class AskLevel:
    """Offers at one price. Sums of operations per second that their devices sustain."""

    per_pflop_nano: Nano
    offers: int
    flops_per_second: int
    idle_flops_per_second: int


@dataclass(frozen=True, slots=True)
class BidLevel:
    """Resting orders at one price, and the operations that they still want."""

    per_pflop_nano: Nano
    orders: int
    operations: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Both sides of one class, best first; the counts are of all levels."""

    asks: tuple[AskLevel, ...]
    bids: tuple[BidLevel, ...]
    offers: int
    orders: int


@dataclass(frozen=True, slots=True)
class Best:
    """Where a class stands: its cheapest live offer (of equal prices the lowest id), its highest
    bid, and how many there are of both."""

    row: int | None
    ask_nano: Nano | None
    bid_nano: Nano | None
    offers: int
    orders: int


def depth(
    offers: OfferTable, orders: OrderTable, since_us: int, work_class: str, mode: Mode, levels: int
) -> Depth:
    """The best levels of both sides of a class in a mode."""
    live = np.flatnonzero(live_flags(offers, since_us) & offers.takes(mode))
    rows, prices, rates = _asks(offers, live, work_class)
    bids, prices_bid, wanted = orders.bids(work_class, mode)
    bid_levels = []
    for price in _least_distinct(-prices_bid, levels):
        at = np.flatnonzero(prices_bid == -price)
        operations = sum(wanted[row] for row in bids[at].tolist())
        bid_levels.append(BidLevel(-int(price), len(at), operations))
    return Depth(
        asks=_ask_levels(offers, rows, prices, rates, levels),
        bids=tuple(bid_levels),
        offers=len(rows),
        orders=len(bids),
    )


def best(offers: OfferTable, orders: OrderTable, live: Flags, work_class: str, mode: Mode) -> Best:
    """The best of both sides. ``live`` marks the rows whose devices are there and take the mode."""
    asked = np.where(live, offers.asked[: offers.size, CLASS_COLUMN[work_class]], np.inf)
    sure, dear = asked < _SURELY_PRICED, (asked >= _SURELY_PRICED) & (asked < np.inf)
    rows, prices, _ = _asks(offers, np.flatnonzero(dear), work_class)
    count = int(np.count_nonzero(sure)) + len(rows)
    if sure.any():
        # Whatever rounds up to the same price is at most that far away.
        near = np.flatnonzero(asked <= np.ceil(asked.min()) * (1.0 + MARGIN))
        rows, prices, _ = _asks(offers, near, work_class)
    row = ask_nano = None
    if len(rows):
        ask_nano = int(prices.min())
        cheapest = rows[prices == ask_nano]
        row = int(cheapest[np.argmin(offers.id_rank[cheapest])])
    _, bids, _ = orders.bids(work_class, mode)
    bid_nano = int(bids.max()) if len(bids) else None
    return Best(row, ask_nano, bid_nano, offers=count, orders=len(bids))


def count_below(offers: OfferTable, rows: Rows, work_class: str, price_nano: Nano) -> int:
    """How many of these rows ask less than that for a class."""
    _, prices, _ = _asks(offers, rows, work_class)
    return int(np.count_nonzero(prices < price_nano))


def live_flags(offers: OfferTable, since_us: int) -> Flags:
    """Offers whose devices are there and may take work, idle or busy."""
    return offers.tradable(slice(0, offers.size), since_us)


def _asks(offers: OfferTable, live: Rows, work_class: str) -> tuple[Rows, Integers, Integers]:
    """Rows with a price in a class, their prices and their rates."""
    rates = offers.shown[:, CLASS_COLUMN[work_class]][live]
    able = rates > 0
    rows, rates = live[able], rates[able]
    prices = pflop_prices(offers.exact[:, ASK][rows], rates)
    priced = prices >= 0
    if not priced.all():
        rows, prices, rates = rows[priced], prices[priced], rates[priced]
    return rows, prices, rates


def _ask_levels(
    offers: OfferTable, rows: Rows, prices: Integers, rates: Integers, levels: int
) -> tuple[AskLevel, ...]:
    shown = _least_distinct(prices, levels)
    if not len(shown):
        return ()
    among = prices <= shown[-1]
    rows, rates = rows[among], rates[among]
    level = np.searchsorted(shown, prices[among])
    idle = ~offers.busy[rows]
    counts = np.bincount(level, minlength=len(shown))
    total = _exact_sums(level, rates, len(shown))
    free = _exact_sums(level[idle], rates[idle], len(shown))
    return tuple(
        AskLevel(int(price), int(counts[at]), total[at], free[at])
        for at, price in enumerate(shown.tolist())
    )


def _exact_sums(level: Rows, values: Integers, levels: int) -> list[int]:
    """Sums per level in whole numbers: halves of 32 bits are exact as floats."""
    low = np.bincount(level, (values & 0xFFFFFFFF).astype(np.float64), levels)
    high = np.bincount(level, (values >> 32).astype(np.float64), levels)
    return [int(h) * 2**32 + int(w) for h, w in zip(high.tolist(), low.tolist(), strict=True)]


def _least_distinct(values: Integers, count: int) -> Integers:
    """The ``count`` smallest distinct values, ascending."""
    take = _LEVELS_AT_ONCE * count
    while take < len(values):
        least = np.unique(values[values <= np.partition(values, take)[take]])
        if len(least) >= count:
            return least[:count]
        take *= 8
    return np.unique(values)[:count]


def pflop_prices(asks: Integers, rates: Integers) -> Integers:
    """``ceil(ask * 10^15 / (rate * 3600))`` exactly, for rates above zero; -1 above 63 bits.

    The float quotient is off by less than the margin. Where no whole number lies that near, its
    ceiling is right. Else the nearest whole number is multiplied out: the true difference fits 64
    bits, so wrapping integers show its sign.
    """
    quotient: Floats = asks.astype(np.float64) * (PFLOP / SECONDS_PER_HOUR) / rates
    nearest = np.rint(np.minimum(quotient, _SURE_BELOW))
    prices: Integers = np.ceil(np.minimum(quotient, _SURE_BELOW)).astype(np.int64)
    doubtful = (quotient >= _SURE_BELOW) | (asks > _SURE_ASK)
    near = np.flatnonzero(~doubtful & (np.abs(quotient - nearest) <= quotient * _NEAR))
    if len(near):
        whole = nearest[near].astype(np.uint64)
        product = asks[near].astype(np.uint64) * np.uint64(PFLOP)
        product -= whole * rates[near].astype(np.uint64) * np.uint64(SECONDS_PER_HOUR)
        prices[near] = nearest[near].astype(np.int64) + (product.view(np.int64) > 0)
    for at in np.flatnonzero(doubtful).tolist():
        exact = -(-int(asks[at]) * PFLOP // (int(rates[at]) * SECONDS_PER_HOUR))
        prices[at] = exact if exact <= MAX_NANO else -1
    return prices
