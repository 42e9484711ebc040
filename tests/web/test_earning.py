"""Earnings by day: every trade once, however often it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flopmarket.client.money import Money
from flopmarket.client.results import CoordinatorInfo
from flopmarket.client.results_prices import TradeInfo
from flopmarket.market.price import split_fee
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.web.earning import DAY_US, Ledger

FEE_PPM = 30_000
TODAY_US = 1_795_381_200_000_000 // DAY_US * DAY_US


@dataclass
class Tape:
    """Trades of one offer, and how many were read."""

    settled: list[TradeInfo] = field(default_factory=list)
    read: int = 0

    def coordinator(self) -> CoordinatorInfo:
        key = KeyPair.from_seed(bytes(32)).public
        return CoordinatorInfo(key.key_id, key, "FX1", "USD", 0, "1", FEE_PPM)

    def trades(self, *, offer_id: str, since_us: int) -> Iterator[TradeInfo]:
        for trade in self.settled:
            if trade.offer_id == offer_id and trade.time_us >= since_us:
                self.read += 1
                yield trade

    def add(self, time_us: int, nano: int, joules: float = 10.0, source: str = "declared") -> None:
        number = len(self.settled) + 1
        price = Money(nano)
        self.settled.append(
            TradeInfo(
                *(number, time_us, "dot-f32", price, 10**15, 1.0, price),
                *(joules, source, "mine", "card", bytes(32)),
            )
        )


def test_days_add_up_and_trades_are_read_once() -> None:
    tape, ledger = Tape(), Ledger(lambda: TODAY_US + DAY_US // 2)
    for hour in range(48):
        tape.add(TODAY_US - DAY_US + hour * 3_600_000_000, 1_000 + hour)
    first = ledger.earnings(tape, "mine")
    assert [day.start_us for day in first.days] == [TODAY_US - DAY_US, TODAY_US]
    assert [day.segments for day in first.days] == [24, 24]
    assert sum(day.gross_nano for day in first.days) == sum(1_000 + hour for hour in range(48))
    fees = sum(split_fee(1_000 + hour, FEE_PPM).fee_nano for hour in range(48))
    assert sum(day.fee_nano for day in first.days) == fees
    assert [day.joules for day in first.days] == [240.0, 240.0]
    tape.read = 0
    assert ledger.earnings(tape, "mine") == first
    assert tape.read <= 2, "what is behind the last trade was not read again"


def test_a_clock_set_back_loses_no_trade() -> None:
    tape, ledger = Tape(), Ledger(lambda: TODAY_US + DAY_US // 2)
    tape.add(TODAY_US + 7_200_000_000, 100)
    ledger.earnings(tape, "mine")
    tape.add(TODAY_US + 5_400_000_000, 50)
    (day,) = ledger.earnings(tape, "mine").days
    assert (day.gross_nano, day.segments) == (150, 2)


def test_unknown_watts_make_a_day_unknown() -> None:
    tape, ledger = Tape(), Ledger(lambda: TODAY_US + DAY_US // 2)
    tape.add(TODAY_US, 100)
    tape.add(TODAY_US + 1, 100, 0.0, "unknown")
    (day,) = ledger.earnings(tape, "mine").days
    assert day.joules is None


def test_days_long_gone_are_forgotten() -> None:
    now_us = [TODAY_US + DAY_US // 2]
    tape, ledger = Tape(), Ledger(lambda: now_us[0])
    tape.add(TODAY_US, 100)
    assert len(ledger.earnings(tape, "mine").days) == 1
    now_us[0] += 40 * DAY_US
    assert ledger.earnings(tape, "mine").days == ()
    assert ledger.earnings(tape, "other").days == ()
