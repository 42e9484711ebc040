"""Trades, candles and quantiles as pure values: what must hold whatever trades come in."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.market.headline import PFLOP
from flopmarket.market.money import MAX_NANO
from flopmarket.market.tape import EMPTY_TAPE, Trade, digest_of_tape, tape_digest
from flopmarket.trust.documents import WattsSource
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core import sketch
from flopmarket_coordinator.core.tape import (
    SECOND_US,
    Candle,
    CandleKey,
    Settlement,
    candles_of,
    check_range,
    check_resolution,
    start_of,
    trade_of,
    with_trade,
)

SOME = Settlement(
    number=1,
    time_us=1_000_000,
    segment_id=5,
    work_class="dot-f32",
    flops_per_step=3 * 10**14,
    steps=10,
    price_nano=6_000,
    step_picoseconds=2 * 10**12,
    milliwatts=200_000,
    watts_source=WattsSource.DECLARED,
    offer_id="offer",
    device_name="card",
    commitment_digest=bytes(32),
)

prices = st.integers(1, MAX_NANO)
volumes = st.integers(1, 10**24)


@st.composite
def trade_lists(draw: st.DrawFn) -> list[Trade]:
    """Trades in order of number; times jump back and forth."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 40 * 60 * SECOND_US),
                st.sampled_from(("dot-f32", "integer")),
                st.integers(1, 10**6),
                st.integers(1, 10**20),
                st.sampled_from(WattsSource),
                st.sampled_from(Mode),
            ),
            max_size=40,
        )
    )
    return [
        Trade(
            number=number,
            time_us=time_us,
            work_class=work_class,
            flops=flops,
            price_nano=max(1, price * flops // PFLOP),
            per_pflop_nano=price,
            microjoules=0 if source is WattsSource.UNKNOWN else number * 1_000,
            watts_source=source,
            offer_id="offer",
            device_name="card",
            commitment_digest=hashlib.sha256(bytes([number])).digest(),
            mode=mode,
        )
        for number, (time_us, work_class, price, flops, source, mode) in enumerate(rows, 1)
    ]


# --- quantiles ------------------------------------------------------------------------------------


@given(prices)
def test_a_bucket_holds_its_price_within_the_stated_error(price: int) -> None:
    middle = sketch.middle_of(sketch.bucket_of(price))
    assert abs(middle - price) * 256 <= price
    assert sketch.bucket_of(middle) == sketch.bucket_of(price)


@given(st.integers(0, 10**6))
def test_buckets_are_in_the_order_of_prices_without_a_gap(price: int) -> None:
    step = sketch.bucket_of(price + 1) - sketch.bucket_of(price)
    assert step in (0, 1)


def _exact_quantile(sales: Iterable[tuple[int, int]], percent: int) -> int:
    ordered = sorted(sales)
    wanted = Fraction(sum(volume for _, volume in ordered) * percent, 100)
    below = 0
    for price, volume in ordered:
        below += volume
        if below >= wanted:
            return price
    raise AssertionError("no volume")


@given(st.lists(st.tuples(prices, volumes), min_size=1, max_size=30), st.sampled_from((10, 50, 90)))
def test_a_quantile_is_within_one_256th_of_the_exact_one(
    sales: list[tuple[int, int]], percent: int
) -> None:
    spread: sketch.Sketch = {}
    for price, volume in sales:
        spread = sketch.added(spread, price, volume)
    exact = _exact_quantile(sales, percent)
    (found,) = sketch.quantiles(spread, (percent,))
    assert abs(found - exact) * 256 <= exact
    assert found in sketch.quantiles(spread, (10, 50, 90))


@given(st.lists(st.tuples(prices, volumes), max_size=30))
def test_a_sketch_does_not_depend_on_the_order_of_sales(sales: list[tuple[int, int]]) -> None:
    def of(sales: list[tuple[int, int]]) -> sketch.Sketch:
        spread: sketch.Sketch = {}
        for price, volume in sales:
            spread = sketch.added(spread, price, volume)
        return spread

    spread = of(sales)
    assert spread == of(sales[::-1])
    assert sketch.from_bytes(sketch.to_bytes(spread)) == spread


def test_an_empty_sketch_has_no_prices() -> None:
    assert sketch.quantiles({}, (10, 50)) == [0, 0] and sketch.to_bytes({}) == b""


# --- trades ---------------------------------------------------------------------------------------


def test_a_trade_is_priced_in_the_headline_class() -> None:
    trade = trade_of(SOME)
    assert trade is not None
    assert (trade.flops, trade.pflop, trade.per_pflop_nano) == (3 * 10**15, 3.0, 2_000)
    assert trade.joules == 2 * 10 * 200  # seconds a step, steps, watts


@pytest.mark.parametrize(
    "changes",
    [
        {"flops_per_step": 0},
        {"flops_per_step": 1, "steps": 1, "price_nano": 10**10},  # does not fit 64 bits
    ],
)
def test_work_without_a_unit_price_prints_nothing(changes: dict[str, int]) -> None:
    assert trade_of(replace(SOME, **changes)) is None  # type: ignore[arg-type]


@given(
    price=st.integers(1, MAX_NANO),
    flops=st.integers(1, MAX_NANO),
    steps=st.integers(1, 10**6),
    picoseconds=st.integers(1, MAX_NANO),
    milliwatts=st.integers(0, MAX_NANO),
)
def test_the_unit_price_covers_the_price_and_everything_fits_64_bits(
    price: int, flops: int, steps: int, picoseconds: int, milliwatts: int
) -> None:
    trade = trade_of(
        replace(
            SOME,
            price_nano=price,
            flops_per_step=flops,
            steps=steps,
            step_picoseconds=picoseconds,
            milliwatts=milliwatts,
        )
    )
    if trade is None:
        assert price * PFLOP > MAX_NANO * flops * steps
        return
    assert trade.per_pflop_nano * trade.flops >= price * PFLOP
    assert (trade.per_pflop_nano - 1) * trade.flops < price * PFLOP
    assert max(trade.per_pflop_nano, trade.microjoules) <= MAX_NANO


@given(trade_lists())
def test_the_digest_of_the_tape_covers_every_trade_and_their_order(trades: list[Trade]) -> None:
    whole = digest_of_tape(trades)
    middle = len(trades) // 2
    assert digest_of_tape(trades[middle:], digest_of_tape(trades[:middle])) == whole
    if not trades:
        assert whole == EMPTY_TAPE
        return
    changed = [*trades[:-1], replace(trades[-1], price_nano=trades[-1].price_nano + 1)]
    assert digest_of_tape(changed) != whole
    for mode in set(Mode) - {trades[-1].mode}:
        assert digest_of_tape([*trades[:-1], replace(trades[-1], mode=mode)]) != whole
    assert digest_of_tape(trades[:-1]) != whole
    assert tape_digest(digest_of_tape(trades[:-1]), trades[-1]) == whole
    if len(trades) > 1:
        assert digest_of_tape(trades[::-1]) != whole


def test_a_trade_in_exact_mode_counts_as_before_there_were_modes() -> None:
    """Snapshots that were signed over such a tape still fit it."""
    trade = Trade(1, 2, "dot-f32", 3, 4, 5, 6, WattsSource.MEASURED, "o", "d", bytes(32))
    assert tape_digest(EMPTY_TAPE, trade).hex() == (
        "96d6f72f3bb52bb760f48831932bb4928ac9684431e4afcdfc8ab94ccd5c805e"
    )


# --- candles --------------------------------------------------------------------------------------

SHORT = {60: 5, 300: 3, 3_600: 10}


class Incremental:
    """Candles as the store keeps them: one trade at a time, the oldest dropped at once."""

    def __init__(self) -> None:
        self.kept: dict[CandleKey, Candle] = {}

    def add(self, trade: Trade) -> None:
        for resolution, most in SHORT.items():
            start_us = start_of(trade.time_us, resolution)
            key = (trade.work_class, resolution, start_us, trade.mode)
            mine = self.series(key)
            if key not in self.kept and len(mine) >= most and key < mine[0]:
                continue
            self.kept[key] = with_trade(self.kept.get(key), trade, resolution)
            mine = self.series(key)
            for old in mine[:-most]:
                del self.kept[old]

    def series(self, key: CandleKey) -> list[CandleKey]:
        return sorted(k for k in self.kept if (*k[:2], k[3]) == (*key[:2], key[3]))


@given(trade_lists())
def test_candles_are_the_same_made_one_by_one_or_all_at_once(trades: list[Trade]) -> None:
    """Also when trades are late, out of order, or a clock stepped back."""
    one_by_one = Incremental()
    for trade in trades:
        one_by_one.add(trade)
    assert one_by_one.kept == candles_of(trades, SHORT)


@given(trade_lists())
def test_candles_add_up(trades: list[Trade]) -> None:
    candles = candles_of(trades, {60: 10**6, 3_600: 10**6})
    for work_class, mode in itertools.product(("dot-f32", "integer"), Mode):
        mine = [t for t in trades if (t.work_class, t.mode) == (work_class, mode)]
        for resolution in (60, 3_600):
            wanted = (work_class, resolution, mode)
            some = [c for key, c in candles.items() if (*key[:2], key[3]) == wanted]
            assert sum(c.trades for c in some) == len(mine)
            assert sum(c.flops for c in some) == sum(t.flops for t in mine)
            assert sum(c.paid_nano for c in some) == sum(t.price_nano for t in mine)
            energy = sum(c.microjoules_measured + c.microjoules_declared for c in some)
            assert energy == sum(t.microjoules for t in mine)
    for (_, resolution, start_us, mode), candle in candles.items():
        inside = [
            trade
            for trade in trades
            if (trade.work_class, trade.mode) == (candle.work_class, mode)
            and start_us <= trade.time_us < start_us + resolution * SECOND_US
        ]
        assert candle.open_nano == inside[0].per_pflop_nano
        assert candle.close_nano == inside[-1].per_pflop_nano
        assert candle.high_nano == max(t.per_pflop_nano for t in inside)
        assert candle.low_nano == min(t.per_pflop_nano for t in inside)
        quantiles = [candle.p10_nano, candle.p50_nano, candle.p90_nano]
        assert quantiles == sorted(quantiles)
        assert candle.low_nano <= quantiles[0] and quantiles[-1] <= candle.high_nano


# --- questions that make no sense -----------------------------------------------------------------


def test_resolutions() -> None:
    assert check_resolution(0) == 3_600 and check_resolution(60) == 60
    with pytest.raises(InvalidInput) as error:
        check_resolution(61)
    assert error.value.code == "RESOLUTION_UNKNOWN"


@pytest.mark.parametrize("bounds", [(-1, 0), (0, -1), (5, 4), (2**63, 1)])
def test_ranges_that_are_none(bounds: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput) as error:
        check_range(*bounds)
    assert error.value.code == "RANGE_INVALID"


@pytest.mark.parametrize("bounds", [(0, 0), (5, 0), (5, 5), (0, 2**62)])
def test_ranges_that_may_be_empty_are_an_answer(bounds: tuple[int, int]) -> None:
    check_range(*bounds)
