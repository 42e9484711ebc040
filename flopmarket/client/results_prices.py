"""What the client answers about prices: spot, offers, the book, history, trades.

Prices are for 1e15 counted operations (one PFLOP) of a class of work, all overheads included. Exact
counts of operations are ``flops``; ``pflop`` beside one is the same as a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flopmarket.client.money import Money
from flopmarket.trust.modes import Mode


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """Where one class of work stands in a mode; a price that does not exist now is None.

    ``per_pflop`` is the cheapest ask; ``flops_per_dollar_hour`` is the sustained rate that one
    currency unit an hour rents; ``flop_per_dollar`` is operations per currency unit. ``mid`` is
    halfway between the cheapest ask and the highest ``bid``; ``last`` is the newest trade.
    """

    work_class: str
    best_offer_id: str
    device_name: str
    per_pflop: Money | None
    flops_per_dollar_hour: float
    flop_per_dollar: float
    flops_per_watt: float
    watts_source: str
    offers: int
    bid: Money | None
    mid: Money | None
    last: Money | None
    last_trade_us: int
    orders: int


@dataclass(frozen=True, slots=True)
class Spot:
    """Prices of every class at one moment; none at all in an empty market."""

    as_of_us: int
    currency: str
    prices: tuple[SpotPrice, ...]
    trade_sequence: int
    """Number of the newest trade, of all modes."""
    mode: str = Mode.EXACT


@dataclass(frozen=True, slots=True)
class ClassPrice:
    """What one class of work costs on one device; ``flops_per_watt`` is 0 when unknown."""

    work_class: str
    per_pflop: Money
    flop_per_dollar: float
    flops_per_dollar_hour: float
    flops_per_watt: float


@dataclass(frozen=True, slots=True)
class Offer:
    """One device of somebody's, what it measured, and what it asks.

    ``reliability`` is the part of its decided segments that was verified, 0 before the first;
    ``suited_for`` names training, inference or both. What a benchmark challenge proved is 0 for an
    unproved device; ``delivered`` is the share of it that verified work showed. Watts are reported.
    """

    offer_id: str
    account_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    memory_bytes: int
    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    ask_per_hour: Money
    milliwatts: int
    watts_source: str
    card_price: Money
    state: str
    flops_per_dollar: float
    flops_per_watt: float
    verified_segments: int
    rejected_segments: int
    region: str
    reliability: float
    suited_for: tuple[str, ...]
    prices: tuple[ClassPrice, ...]
    flops_per_card_dollar: float
    updated_at_us: int
    proved_at_us: int = 0
    proved_flops_per_second: int = 0
    proved_bandwidth_bytes_per_second: int = 0
    proved_memory_bytes: int = 0
    delivered: float = 0.0
    modes: tuple[str, ...] = ()
    """What it takes jobs of: exact, class, tolerance."""
    device_class: str = ""
    """64 hex digits of its class of devices; empty when it does not offer class mode."""


@dataclass(frozen=True, slots=True)
class OfferPage:
    """Some of the offers that satisfy all conditions, of ``matching`` in all."""

    as_of_us: int
    offers: tuple[Offer, ...]
    next_page_token: str
    matching: int


@dataclass(frozen=True, slots=True)
class BookLevel:
    """One price of one side: ``count`` offers or orders.

    Bids want ``pflop``; the devices of asks sustain ``pflop_per_hour``, part of it idle now.
    """

    per_pflop: Money
    count: int
    pflop: float
    pflop_per_hour: float
    idle_pflop_per_hour: float


@dataclass(frozen=True, slots=True)
class Book:
    """Depth of one class in one mode, best first; the totals count levels that are not shown,
    too."""

    as_of_us: int
    currency: str
    work_class: str
    asks: tuple[BookLevel, ...]
    bids: tuple[BookLevel, ...]
    offers: int
    orders: int
    mode: str = Mode.EXACT

    def after(self, message: BookMessage) -> Book:
        """The book once a message of :meth:`Client.watch_book` has been heard."""
        if not message.is_snapshot and not message.is_change:
            return replace(self, as_of_us=message.as_of_us)
        asks = _levels(() if message.is_snapshot else self.asks, message.asks)
        bids = _levels(() if message.is_snapshot else self.bids, message.bids)
        return replace(
            self,
            as_of_us=message.as_of_us,
            asks=tuple(asks[price] for price in sorted(asks)),
            bids=tuple(bids[price] for price in sorted(bids, reverse=True)),
            offers=message.offers,
            orders=message.orders,
        )


@dataclass(frozen=True, slots=True)
class Candle:
    """One period of one class. Half of the volume was sold at ``p50`` or less (0.4 % off at most).

    ``joules_unknown_pflop`` is volume of devices that do not state their power.
    """

    start_us: int
    open: Money
    high: Money
    low: Money
    close: Money
    p10: Money
    p50: Money
    p90: Money
    flops: int
    pflop: float
    paid: Money
    trades: int
    joules_measured: float
    joules_declared: float
    joules_unknown_pflop: float


@dataclass(frozen=True, slots=True)
class History:
    """Candles of one class in one mode, oldest first; periods without a trade have none.

    Candles that start before ``kept_since_us`` are no longer kept.
    """

    as_of_us: int
    currency: str
    work_class: str
    resolution_seconds: int
    candles: tuple[Candle, ...]
    kept_since_us: int
    mode: str = Mode.EXACT


@dataclass(frozen=True, slots=True)
class TradeInfo:
    """A settled segment: verified and paid. ``joules`` is 0 when ``joules_source`` is unknown."""

    number: int
    time_us: int
    work_class: str
    per_pflop: Money
    flops: int
    pflop: float
    price: Money
    joules: float
    joules_source: str
    offer_id: str
    device_name: str
    commitment_digest: bytes
    mode: str = Mode.EXACT
    """That its job was signed in."""


@dataclass(frozen=True, slots=True)
class TradeMessage:
    """What a trade stream says: trades up to ``sequence``, oldest first; none: nothing happened.

    A snapshot begins a stream with the newest trades; with ``gap``, others were missed before them.
    """

    as_of_us: int
    sequence: int
    resume_token: str
    trades: tuple[TradeInfo, ...]
    is_snapshot: bool
    gap: bool


@dataclass(frozen=True, slots=True)
class BookMessage:
    """What a book stream says: all levels (a snapshot), changed ones, or that nothing changed.

    A changed level with ``count`` 0 is gone. :meth:`Book.after` applies a message.
    """

    as_of_us: int
    sequence: int
    resume_token: str
    asks: tuple[BookLevel, ...]
    bids: tuple[BookLevel, ...]
    offers: int
    orders: int
    is_snapshot: bool
    is_change: bool
    gap: bool


def _levels(before: tuple[BookLevel, ...], changed: tuple[BookLevel, ...]) -> dict[int, BookLevel]:
    levels = {level.per_pflop.nano: level for level in before}
    for level in changed:
        if level.count:
            levels[level.per_pflop.nano] = level
        else:
            levels.pop(level.per_pflop.nano, None)
    return levels
