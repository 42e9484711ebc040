"""The plan of a market day, and claims that notice what is wrong."""

from __future__ import annotations

from dataclasses import replace

from flopmarket.client.money import Money
from flopmarket.client.results_prices import Candle, History, TradeInfo
from flopmarket.demo import market_day_claims as evidence
from flopmarket.demo.claims import Claims
from flopmarket.demo.market_day_plan import BUYERS, FIXED, Wish, plan
from flopmarket.market.snapshot import PriceSnapshot, VerifiedSnapshot
from flopmarket.market.tape import EMPTY_TAPE
from flopmarket.trust.keys import KeyPair

MINUTE = 60_000_000


def test_a_plan_follows_from_its_seed_in_the_order_of_hours() -> None:
    orders = plan(1, 30)
    assert orders == plan(1, 30) != plan(2, 30)
    assert len(orders) == 30 + len(FIXED)
    assert [item.hour for item in orders] == sorted(item.hour for item in orders)
    assert {item.buyer for item in orders} == set(BUYERS)


def test_every_day_has_each_feature_without_any_drawn_order() -> None:
    orders = plan(1, 0)
    assert {item.wish for item in orders} == set(Wish)
    assert any(item.cancel_hour for item in orders) and any(item.why_hour for item in orders)
    twins = [item for item in orders if item.wish is Wish.ONLY_NIGHT_OWNER]
    assert len({(item.work, item.limit_percent) for item in twins}) == 1 < len(twins)


def trade(number: int, time_us: int, nano: int) -> TradeInfo:
    return TradeInfo(
        number, time_us, "dot-f32", Money(nano), 10**12, 1e-3, Money(nano // 1000), 0.5,
        "declared", "offer", "card", bytes([number]) * 32,
    )  # fmt: skip


TRADES = [trade(1, 5, 3_000), trade(2, 6, 9_000), trade(3, 7, 1_000), trade(4, MINUTE, 2_000)]


def candle(start_us: int, *nano: int, trades: int, paid: int) -> Candle:
    first, high, low, last = (Money(each) for each in nano)
    middle, flops = Money(1), trades * 10**12
    return Candle(
        start_us, first, high, low, last, middle, middle, middle, flops, 0.0, Money(paid), trades,
        0.0, 0.0, 0.0,
    )  # fmt: skip


CANDLES = (
    candle(0, 3_000, 9_000, 1_000, 1_000, trades=3, paid=13),
    candle(MINUTE, 2_000, 2_000, 2_000, 2_000, trades=1, paid=2),
)


def history_holds(trades: list[TradeInfo], candles: tuple[Candle, ...]) -> bool:
    claims = Claims()
    evidence.check_history(claims, trades, [History(0, "USD", "dot-f32", 60, candles, 0)])
    return claims.all_hold


def test_candles_are_derived_from_trades() -> None:
    assert history_holds(TRADES, CANDLES)
    assert history_holds(TRADES[::-1], CANDLES)
    assert not history_holds(TRADES, CANDLES[:1])
    assert not history_holds(TRADES[:-1], CANDLES)
    for wrong in ({"close": Money(3_000)}, {"flops": 1}, {"trades": 2}, {"paid": Money(14)}):
        changed = replace(CANDLES[0], **wrong)
        assert not history_holds(TRADES, (changed, CANDLES[1]))


def test_a_stream_that_misses_repeats_or_swaps_a_trade_does_not_hold() -> None:
    def holds(heard: list[TradeInfo], gaps: int = 0, trouble: str = "") -> bool:
        claims = Claims()
        evidence.check_stream(claims, heard, TRADES, gaps, trouble)
        return claims.all_hold

    assert holds(TRADES)
    assert not holds(TRADES[1:])
    assert not holds([*TRADES, TRADES[-1]])
    assert not holds([TRADES[1], TRADES[0], *TRADES[2:]])
    assert not holds(TRADES, gaps=1)
    assert not holds(TRADES, trouble="lost")


def test_a_clock_that_steps_back_is_seen_in_each_series_alone() -> None:
    def holds(*series: list[int]) -> bool:
        claims = Claims()
        evidence.check_times(claims, *series)
        return claims.all_hold

    assert holds([1, 1, 2], [0, 5])
    assert not holds([1, 2, 1], [0, 5])
    assert not holds([1], [])


def test_a_snapshot_covers_the_very_trades_that_are_listed() -> None:
    tape = evidence.tape_of(TRADES)
    key = KeyPair.from_seed(b"k" * 32).public
    snapshot = PriceSnapshot(1, 9, "USD", key, bytes(32), len(TRADES), tape, ())

    def holds(trades: list[TradeInfo], found: PriceSnapshot, trusted: bool = True) -> bool:
        claims = Claims()
        evidence.check_snapshot(claims, VerifiedSnapshot(found, trusted), trades)
        return claims.all_hold

    assert holds(TRADES, snapshot)
    assert not holds(TRADES, snapshot, trusted=False)
    assert not holds([*TRADES[:-1], replace(TRADES[-1], price=Money(3))], snapshot)
    assert not holds(TRADES[:-1], snapshot)
    assert not holds([], replace(snapshot, trades=0, tape_digest=EMPTY_TAPE))
