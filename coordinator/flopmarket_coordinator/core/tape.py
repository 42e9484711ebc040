"""From settled segments to trades, from trades to candles. Pure: the store only keeps the results.

A trade counts in the period of its settlement, whatever the clock did: a late one changes an older
candle, one whose candle is no longer kept changes nothing. So candles are a function of the set of
trades and their numbers, and a check derives them again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    MAX_DAY_CANDLES,
    MAX_FIVE_MINUTE_CANDLES,
    MAX_HOUR_CANDLES,
    MAX_MINUTE_CANDLES,
)
from flopmarket.market.headline import PFLOP, unit_price_nano
from flopmarket.market.money import MAX_NANO, Nano
from flopmarket.market.tape import Trade
from flopmarket.trust.documents import WattsSource
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core import sketch
from flopmarket_coordinator.core.sketch import Sketch

DEFAULT_WORK_CLASS = "dot-f32"
SECOND_US = 1_000_000
KEPT_CANDLES: Mapping[int, int] = {
    60: MAX_MINUTE_CANDLES,
    300: MAX_FIVE_MINUTE_CANDLES,
    3_600: MAX_HOUR_CANDLES,
    86_400: MAX_DAY_CANDLES,
}
"""Resolutions in seconds, and how many candles of each a class keeps in a mode: the newest."""
_PICOSECOND_MILLIWATTS_PER_MICROJOULE = 10**9


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a trade is made of, as stored with a settled segment, its lease and its job.

    ``flops_per_step`` are operations of ``work_class``; ``step_picoseconds`` and power are those
    frozen in the lease.
    """

    number: int
    time_us: int
    segment_id: int
    work_class: str
    flops_per_step: int
    steps: int
    price_nano: Nano
    step_picoseconds: int
    milliwatts: int
    watts_source: WattsSource
    offer_id: str
    device_name: str
    commitment_digest: bytes
    mode: Mode = Mode.EXACT


def trade_of(item: Settlement) -> Trade | None:
    """The trade that a settlement prints.

    None when there is no price per PFLOP: the work counts no operation, or so few that the price
    does not fit 64 bits.
    """
    flops = item.flops_per_step * item.steps
    if item.price_nano * PFLOP > MAX_NANO * flops:
        return None
    energy = item.step_picoseconds * item.steps * item.milliwatts
    return Trade(
        number=item.number,
        time_us=item.time_us,
        work_class=item.work_class,
        flops=flops,
        price_nano=item.price_nano,
        per_pflop_nano=unit_price_nano(item.price_nano, flops),
        microjoules=min(energy // _PICOSECOND_MILLIWATTS_PER_MICROJOULE, MAX_NANO),
        watts_source=item.watts_source,
        offer_id=item.offer_id,
        device_name=item.device_name,
        commitment_digest=item.commitment_digest,
        mode=item.mode,
    )


@dataclass(frozen=True, slots=True)
class Candle:
    """One period of one class of work in one mode.

    Prices are nano-units per PFLOP; volumes are operations. 10, 50 and 90 % of the volume were sold
    at or below the quantiles, which are 0.4 % off at most.
    """

    work_class: str
    resolution_seconds: int
    start_us: int
    open_nano: Nano
    high_nano: Nano
    low_nano: Nano
    close_nano: Nano
    p10_nano: Nano
    p50_nano: Nano
    p90_nano: Nano
    paid_nano: Nano
    flops: int
    flops_of_unknown_power: int
    trades: int
    microjoules_measured: int
    microjoules_declared: int
    spread: Sketch = field(repr=False)
    """Volume by price: what the quantiles are of. Empty where a candle is only shown."""
    mode: Mode = Mode.EXACT


CandleKey = tuple[str, int, int, Mode]
"""Class of work, resolution in seconds, start, mode."""


def start_of(time_us: int, resolution_seconds: int) -> int:
    """Start of the period that an instant is in."""
    return time_us - time_us % (resolution_seconds * SECOND_US)


def with_trade(candle: Candle | None, trade: Trade, resolution_seconds: int) -> Candle:
    """The candle with one trade more, the newest by number; a first one without a candle."""
    price, source = trade.per_pflop_nano, trade.watts_source
    measured = trade.microjoules if source is WattsSource.MEASURED else 0
    declared = trade.microjoules if source is WattsSource.DECLARED else 0
    unknown = trade.flops if source is WattsSource.UNKNOWN else 0
    if candle is None:
        return Candle(
            work_class=trade.work_class,
            resolution_seconds=resolution_seconds,
            start_us=start_of(trade.time_us, resolution_seconds),
            open_nano=price,
            high_nano=price,
            low_nano=price,
            close_nano=price,
            p10_nano=price,
            p50_nano=price,
            p90_nano=price,
            paid_nano=trade.price_nano,
            flops=trade.flops,
            flops_of_unknown_power=unknown,
            trades=1,
            microjoules_measured=measured,
            microjoules_declared=declared,
            spread=sketch.added({}, price, trade.flops),
            mode=trade.mode,
        )
    high, low = max(candle.high_nano, price), min(candle.low_nano, price)
    spread = sketch.added(candle.spread, price, trade.flops)
    p10, p50, p90 = (min(max(q, low), high) for q in sketch.quantiles(spread, (10, 50, 90)))
    return replace(
        candle,
        high_nano=high,
        low_nano=low,
        close_nano=price,
        p10_nano=p10,
        p50_nano=p50,
        p90_nano=p90,
        paid_nano=min(candle.paid_nano + trade.price_nano, MAX_NANO),
        flops=candle.flops + trade.flops,
        flops_of_unknown_power=candle.flops_of_unknown_power + unknown,
        trades=candle.trades + 1,
        microjoules_measured=min(candle.microjoules_measured + measured, MAX_NANO),
        microjoules_declared=min(candle.microjoules_declared + declared, MAX_NANO),
        spread=spread,
    )


def candles_of(
    trades: Iterable[Trade], kept: Mapping[int, int] = KEPT_CANDLES
) -> dict[CandleKey, Candle]:
    """All candles that are kept after ``trades``, which come in order of number."""
    found: dict[CandleKey, Candle] = {}
    for trade in trades:
        for resolution in kept:
            key = key_at(trade, resolution)
            found[key] = with_trade(found.get(key), trade, resolution)
    starts: dict[tuple[str, int, Mode], list[int]] = defaultdict(list)
    for work_class, resolution, start_us, mode in found:
        starts[work_class, resolution, mode].append(start_us)
    first = {
        (work_class, resolution, mode): sorted(every)[-kept[resolution] :][0]
        for (work_class, resolution, mode), every in starts.items()
    }
    return {key: candle for key, candle in found.items() if key[2] >= first[key[0], key[1], key[3]]}


def key_at(trade: Trade, resolution_seconds: int) -> CandleKey:
    """The candle that a trade counts in."""
    start_us = start_of(trade.time_us, resolution_seconds)
    return trade.work_class, resolution_seconds, start_us, trade.mode


def check_mode(mode: str) -> Mode:
    """A mode, exact for none; ``MODE_UNKNOWN`` otherwise."""
    if mode not in ("", *Mode):
        raise InvalidInput(
            f"{mode[:40]!r} is no mode",
            code="MODE_UNKNOWN",
            hint=f"one of {', '.join(Mode)}",
            details={"mode": mode[:80]},
        )
    return Mode(mode or Mode.EXACT)


def check_class(work_class: str) -> str:
    """A class of work, dot-f32 for none; ``WORK_CLASS_UNKNOWN`` otherwise."""
    name = work_class or DEFAULT_WORK_CLASS
    if name not in WORK_CLASSES:
        raise InvalidInput(
            f"{name[:40]!r} is no class of work",
            code="WORK_CLASS_UNKNOWN",
            hint=f"one of {', '.join(WORK_CLASSES)}",
            details={"work_class": name[:80]},
        )
    return name


def check_resolution(resolution_seconds: int) -> int:
    """A resolution that is kept, an hour for 0; ``RESOLUTION_UNKNOWN`` otherwise."""
    resolution = resolution_seconds or 3_600
    if resolution not in KEPT_CANDLES:
        raise InvalidInput(
            f"there are no candles of {resolution} seconds",
            code="RESOLUTION_UNKNOWN",
            hint=f"one of {', '.join(map(str, KEPT_CANDLES))}",
            details={"resolution_seconds": str(resolution)},
        )
    return resolution


def check_range(from_us: int, to_us: int) -> None:
    """``RANGE_INVALID`` for a range of instants that is negative or ends before it starts."""
    if from_us < 0 or to_us < 0 or (to_us and to_us < from_us):
        raise InvalidInput(
            f"from {from_us} to {to_us} is no range of instants",
            code="RANGE_INVALID",
            hint="microseconds since 1970, the end not before the start; 0 leaves a side open",
        )
