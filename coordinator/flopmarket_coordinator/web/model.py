"""What the board shows: frozen values, money in nano-units, units in the names.

:class:`~flopmarket_coordinator.web.gateway.Gateway` answers with these; templates, JSON and metrics
read them. ``None`` is "not known", never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.limits import BOARD_PAGE_ROWS
from flopmarket.market.money import NANO_PER_UNIT
from flopmarket.trust.modes import Mode

PFLOP = 10**15
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class ClassSpot:
    """One class of work now. Prices are nano-units per 1e15 operations of that class."""

    work_class: str
    ask_nano: int | None
    bid_nano: int | None
    mid_nano: int | None
    last_nano: int | None
    last_trade_us: int
    offer_id: str
    device_name: str
    flop_per_unit: float
    """Operations that one currency unit buys."""
    rate_per_unit_hour: float
    """Sustained operations per second that one currency unit an hour rents."""
    flops_per_watt: float | None
    watts_source: str
    offers: int
    orders: int

    @classmethod
    def nothing(cls, work_class: str) -> ClassSpot:
        """A class of which nothing is offered, wanted or was traded."""
        return cls(work_class, None, None, None, None, 0, "", "", 0.0, 0.0, None, "", 0, 0)


@dataclass(frozen=True, slots=True)
class Spot:
    """The cheapest of every class in one mode at one moment; no class at all in an empty market."""

    as_of_us: int
    currency: str
    classes: tuple[ClassSpot, ...]
    mode: str = Mode.EXACT


@dataclass(frozen=True, slots=True)
class Candle:
    """Trades of one class in one mode within one stretch of time.

    Prices are nano-units per 1e15 operations.
    """

    start_us: int
    open_nano: int
    high_nano: int
    low_nano: int
    close_nano: int
    p10_nano: int
    p50_nano: int
    p90_nano: int
    operations: int
    paid_nano: int
    trades: int
    joules_measured: float
    joules_declared: float
    joules_unknown_pflop: float
    """Volume of devices that do not state their power."""

    @property
    def pflop(self) -> float:
        """Volume in 1e15 operations."""
        return self.operations / PFLOP


@dataclass(frozen=True, slots=True)
class History:
    """Candles of one class in one mode, oldest first; stretches without a trade are absent."""

    as_of_us: int
    currency: str
    work_class: str
    resolution_seconds: int
    candles: tuple[Candle, ...]
    kept_since_us: int
    """Candles before this instant are no longer kept."""
    mode: str = Mode.EXACT


@dataclass(frozen=True, slots=True)
class Level:
    """Offers or orders at one price (nano-units per 1e15 operations).

    ``pflop`` is what orders still want; ``pflop_per_hour`` what devices sustain, and of that
    ``idle_pflop_per_hour`` is free now.
    """

    price_nano: int
    count: int
    pflop: float = 0.0
    pflop_per_hour: float = 0.0
    idle_pflop_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Book:
    """Depth of one class in one mode: asks rise, bids fall. Counts are of all levels."""

    as_of_us: int
    currency: str
    work_class: str
    asks: tuple[Level, ...]
    bids: tuple[Level, ...]
    offers: int
    orders: int
    mode: str = Mode.EXACT


@dataclass(frozen=True, slots=True)
class Trade:
    """One verified and paid segment. Trades are numbered from 1 without gaps."""

    number: int
    time_us: int
    work_class: str
    operations: int
    unit_nano: int
    """Nano-units per 1e15 operations of the class, all overheads included."""
    price_nano: int
    joules: float | None
    joules_source: str
    offer_id: str
    device_name: str
    mode: str = Mode.EXACT
    """That its job was signed in."""

    @property
    def pflop(self) -> float:
        """Size in 1e15 operations."""
        return self.operations / PFLOP


@dataclass(frozen=True, slots=True)
class TapeMessage:
    """What the tape says: trades (oldest first), or none when only ``as_of_us`` moved on.

    ``is_snapshot`` marks the newest trades at the start of a stream.
    """

    as_of_us: int
    trades: tuple[Trade, ...]
    is_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """One device for rent. Rates are operations per second by class of work."""

    offer_id: str
    account_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    region: str
    state: str
    memory_bytes: int
    rates: Mapping[str, int]
    prices: Mapping[str, int]
    """Nano-units per 1e15 operations by class of work."""
    bandwidth_bytes_per_second: int
    ask_nano_per_hour: int
    milliwatts: int
    watts_source: str
    card_price_nano: int
    suited_for: tuple[str, ...]
    verified_segments: int
    rejected_segments: int
    proved_at_us: int = 0
    """When its device last passed a benchmark challenge; 0 for an unproved one."""
    proved_flops_per_second: int = 0
    modes: tuple[str, ...] = (Mode.EXACT,)
    """What it takes jobs of."""
    device_class: str = ""
    """64 hex digits of its class of devices; empty when it does not offer class mode."""

    @property
    def reliability(self) -> float | None:
        """Share of decided segments that were right; None before the first one."""
        decided = self.verified_segments + self.rejected_segments
        return self.verified_segments / decided if decided else None

    def flop_per_unit(self, work_class: str) -> float | None:
        """Operations that one currency unit buys; None without a rate or an ask."""
        rate = self.rates.get(work_class, 0)
        if not rate or not self.ask_nano_per_hour:
            return None
        return rate * SECONDS_PER_HOUR * NANO_PER_UNIT / self.ask_nano_per_hour

    def flops_per_watt(self, work_class: str) -> float | None:
        """Sustained operations per second and watt; None when rate or power is unknown."""
        rate = self.rates.get(work_class, 0)
        return rate * 1000 / self.milliwatts if rate and self.milliwatts else None

    def flops_per_card_unit(self, work_class: str) -> float | None:
        """Sustained operations per second per currency unit of the card's price."""
        rate = self.rates.get(work_class, 0)
        return (
            rate * NANO_PER_UNIT / self.card_price_nano if rate and self.card_price_nano else None
        )


@dataclass(frozen=True, slots=True)
class OfferQuery:
    """Which offers, in which order; a bound of None (or empty text) does not filter."""

    work_class: str = "dot-f32"
    order_by: str = "price"
    page_size: int = BOARD_PAGE_ROWS
    page_token: str = ""
    min_memory_bytes: int | None = None
    max_price_nano: int | None = None
    min_flops_per_watt: float | None = None
    min_reliability: float | None = None
    region: str = ""
    suited_for: str = ""
    device_name: str = ""
    account_id: str = ""
    idle_only: bool = False
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Offers:
    """One page of live offers; ``matching`` counts those of all pages."""

    as_of_us: int
    currency: str
    offers: tuple[Offer, ...]
    matching: int
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a job; ``state`` is committed, verified, settled, rejected or void."""

    index: int
    first_step: int
    steps: int
    state: str
    device_name: str
    price_nano: int
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job of ours as the coordinator sees it now."""

    job_id: str
    title: str
    state: str
    has_ended: bool
    kind: str
    created_at_us: int
    ended_at_us: int
    steps: int
    steps_committed: int
    steps_verified: int
    ceiling_nano: int
    billed_nano: int
    currency: str
    reason: str
    segments: tuple[Segment, ...]
    """The first few hundred of ``segment_count``."""
    segment_count: int
    verification: str = ""
    """The level; what it added to the prices so far is in ``surcharge_nano``, within the bill."""
    surcharge_nano: int = 0


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's story, or progress: the step reached and its scalar outputs."""

    sequence: int
    time_us: int
    kind: str
    text: str
    step: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of the project's table: code, sentence, what to change, how often it holds."""

    code: str
    text: str
    hint: str
    count: int


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job waits or a device idles; no reasons when nothing is in the way."""

    summary: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far predictions were off, of all segments together (parts per million)."""

    segments: int
    error_p50_ppm: int
    error_p90_ppm: int


@dataclass(frozen=True, slots=True)
class Day:
    """What one device earned on one day (UTC); ``joules`` is None when its power is unknown."""

    start_us: int
    gross_nano: int
    fee_nano: int
    segments: int
    joules: float | None


@dataclass(frozen=True, slots=True)
class Earnings:
    """What one device of ours earned, oldest day first."""

    as_of_us: int
    currency: str
    days: tuple[Day, ...]
