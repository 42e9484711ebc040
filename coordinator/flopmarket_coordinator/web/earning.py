"""What a device of ours earned by day: the tape's trades of its offer, added up.

Trades of days gone by do not change, so each is read once and the next question goes on behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from flopmarket.client.results import CoordinatorInfo
from flopmarket.client.results_prices import TradeInfo
from flopmarket.limits import MAX_BOARD_EARNING_OFFERS
from flopmarket.market.price import split_fee
from flopmarket_coordinator.web.model import Day, Earnings

DAYS = 30
DAY_US = 86_400 * 1_000_000
CLOCK_STEP_US = 3_600 * 1_000_000
"""A clock may have been set back this far between two trades; their numbers tell them apart."""


class Trades(Protocol):
    """What is asked of a client."""

    def coordinator(self) -> CoordinatorInfo:
        """Whose tape it is, and its fee."""

    def trades(self, *, offer_id: str, since_us: int) -> Iterator[TradeInfo]:
        """Trades of an offer from an instant on, oldest first."""


@dataclass(slots=True)
class _Sum:
    gross_nano: int = 0
    fee_nano: int = 0
    segments: int = 0
    joules: float = 0.0
    is_known: bool = True


@dataclass(slots=True)
class _Read:
    days: dict[int, _Sum] = field(default_factory=dict)
    number: int = 0
    time_us: int = 0


class Ledger:
    """Sums by offer. Shared by the gateway's threads."""

    def __init__(self, now_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        self._now_us = now_us
        self._lock = threading.Lock()
        self._offers: dict[str, _Read] = {}

    def earnings(self, client: Trades, offer_id: str) -> Earnings:
        """The last 30 days of an offer, days without a trade left out."""
        info = client.coordinator()
        now_us = self._now_us()
        first_us = now_us // DAY_US * DAY_US - (DAYS - 1) * DAY_US
        with self._lock:
            read = self._offers.pop(offer_id, None) or _Read()
            self._offers[offer_id] = read
            while len(self._offers) > MAX_BOARD_EARNING_OFFERS:
                del self._offers[next(iter(self._offers))]
            since_us = max(first_us, read.time_us - CLOCK_STEP_US)
            for trade in client.trades(offer_id=offer_id, since_us=since_us):
                if trade.number <= read.number:
                    continue
                read.number, read.time_us = trade.number, max(read.time_us, trade.time_us)
                day = read.days.setdefault(trade.time_us // DAY_US * DAY_US, _Sum())
                day.gross_nano += trade.price.nano
                day.fee_nano += split_fee(trade.price.nano, info.fee_ppm).fee_nano
                day.segments += 1
                day.joules += trade.joules
                day.is_known = day.is_known and trade.joules_source != "unknown"
            for old in [start_us for start_us in read.days if start_us < first_us]:
                del read.days[old]
            days = tuple(
                Day(
                    start_us=start_us,
                    gross_nano=one.gross_nano,
                    fee_nano=one.fee_nano,
                    segments=one.segments,
                    joules=one.joules if one.is_known else None,
                )
                for start_us, one in sorted(read.days.items())
            )
        return Earnings(now_us, info.currency, days)
