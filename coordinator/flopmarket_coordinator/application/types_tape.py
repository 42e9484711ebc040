"""What the use cases of the tape are asked and answer."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.money import Nano, round_up_nano
from flopmarket.market.tape import Trade
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.types_market import SpotPrice
from flopmarket_coordinator.core.tape import Candle


@dataclass(frozen=True, slots=True)
class ClassPrices:
    """Where one class of work stands in a mode: live offers and orders, and the newest trade."""

    work_class: str
    spot: SpotPrice | None
    last: Trade | None
    mode: Mode

    @property
    def mid_nano(self) -> Nano | None:
        """Halfway between best ask and best bid, rounded up; None unless both are there.

        None in class mode, too: the best bid and the best ask may be of two classes of devices.
        """
        if self.spot is None or self.spot.per_pflop_nano is None or self.spot.bid_nano is None:
            return None
        if self.mode is Mode.CLASS:
            return None
        return round_up_nano(self.spot.per_pflop_nano + self.spot.bid_nano, 2)


@dataclass(frozen=True, slots=True)
class PriceReport:
    """Prices in one mode as of one instant; an empty market has none. ``trades`` is how many there
    were in all modes."""

    as_of_us: int
    currency: str
    trades: int
    prices: tuple[ClassPrices, ...]
    mode: Mode


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Candles of one class in one mode that start in ``[from_us, to_us)``.

    Empty or zero: dot-f32, an hour, from the oldest that is kept, to the newest.
    """

    work_class: str = ""
    resolution_seconds: int = 0
    from_us: int = 0
    to_us: int = 0
    page_size: int = 0
    page_token: str = ""
    mode: Mode = Mode.EXACT


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Candles, oldest first. Those that start before ``kept_since_us`` are no longer kept."""

    as_of_us: int
    currency: str
    work_class: str
    resolution_seconds: int
    candles: tuple[Candle, ...]
    next_page_token: str
    kept_since_us: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class TradesQuery:
    """Trades settled in ``[from_us, to_us)``; empty or zero leaves a side open, None takes every
    mode."""

    work_class: str = ""
    offer_id: str = ""
    from_us: int = 0
    to_us: int = 0
    page_size: int = 0
    page_token: str = ""
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class TradesPage:
    """Trades by time, then by number."""

    as_of_us: int
    currency: str
    trades: tuple[Trade, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class NewTrades:
    """What a stream tells: trades of one class or all, up to ``number`` of all classes.

    ``mark`` is that of trade ``number``. ``gap``: between what the subscriber had and these there
    were more.
    """

    as_of_us: int
    number: int
    mark: str
    trades: tuple[Trade, ...]
    gap: bool


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A signed price snapshot as kept."""

    as_of_us: int
    number: int
    oldest_number: int
    envelope: bytes
