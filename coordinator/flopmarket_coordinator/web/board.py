"""The board's figures: every question goes through the cache, live ones through the feeds.

Pages, JSON and metrics are made from the same answers, so they cannot disagree.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from flopmarket.errors import FlopmarketError, InvalidInput, NotFound
from flopmarket.limits import (
    BOARD_CACHE_SECONDS,
    BOARD_HISTORY_CACHE_SECONDS,
    MAX_BOARD_PAGE_ROWS,
)
from flopmarket.market.money import Nano, round_up_nano
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.cache import Answer, Cache
from flopmarket_coordinator.web.feed import JobFeeds, Seats, TapeFeed
from flopmarket_coordinator.web.gateway import Gateway
from flopmarket_coordinator.web.model import (
    Accuracy,
    Book,
    Candle,
    ClassSpot,
    Earnings,
    History,
    Job,
    OfferQuery,
    Offers,
    Spot,
    Why,
)

SECOND_US = 1_000_000
DAY_SECONDS = 86_400
JOULES_PER_KWH = 3_600_000


@dataclass(frozen=True, slots=True)
class Resolution:
    """Length of a candle and how far back a chart of such candles goes."""

    key: str
    words: str
    seconds: int
    span_seconds: int
    span_words: str


RESOLUTIONS = {
    r.key: r
    for r in (
        Resolution("1m", "1 min", 60, 6 * 3_600, "6 hours"),
        Resolution("5m", "5 min", 300, DAY_SECONDS, "24 hours"),
        Resolution("1h", "1 hour", 3_600, 14 * DAY_SECONDS, "14 days"),
        Resolution("1d", "1 day", DAY_SECONDS, 400 * DAY_SECONDS, "400 days"),
    )
}
DEFAULT_RESOLUTION = RESOLUTIONS["5m"]


@dataclass(frozen=True, slots=True)
class DaySummary:
    """The last 24 hours of one class; ``change`` is relative, None without two prices."""

    closes: tuple[tuple[int, int], ...]
    """(second, nano-units per 1e15 operations) of each candle, for a small chart."""
    change: float | None
    low_nano: int | None
    high_nano: int | None
    pflop: float
    paid_nano: int
    trades: int
    joules: float | None
    """None when no device that traded states its power."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of work on the overview."""

    spot: ClassSpot
    day: DaySummary


@dataclass(frozen=True, slots=True)
class Overview:
    """Every class with its day."""

    spot: Spot
    rows: tuple[ClassRow, ...]


class Board:
    """All figures of one market. Used from one event loop.

    ``clock`` gives seconds since the epoch; ``tariff_nano_per_kwh`` is what electricity costs the
    owner of the key, None when nobody said.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        tariff_nano_per_kwh: Nano | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateway = gateway
        self.tariff_nano_per_kwh = tariff_nano_per_kwh
        self.clock = clock
        self._cache = Cache(monotonic)
        seats = Seats()
        self.tape = TapeFeed(gateway, seats)
        self.job_feeds = JobFeeds(gateway, seats, self._job_changed)

    def end_streams(self) -> None:
        """Let every live page go; it will connect again when it can."""
        self.tape.listeners.close()
        self.job_feeds.end_streams()

    async def close(self) -> None:
        """Stop following and asking."""
        await self.tape.close()
        await self.job_feeds.close()
        await self._cache.close()
        await self.gateway.close()

    # --- the market ---------------------------------------------------------------------------

    async def spot(self, mode: Mode = Mode.EXACT) -> Answer[Spot]:
        """Every class of work now, in a mode."""
        return await self._cache.get(
            ("spot", mode), BOARD_CACHE_SECONDS, lambda: self.gateway.spot(mode)
        )

    async def class_spot(self, work_class: str, mode: Mode) -> tuple[Answer[Spot], ClassSpot]:
        """One class now; NotFound WORK_CLASS_UNKNOWN when there is nothing of it in any mode."""
        answer = await self.spot(mode)
        for asked in (mode, *Mode):
            for found in (await self.spot(asked)).value.classes:
                if found.work_class == work_class:
                    return answer, found if asked is mode else ClassSpot.nothing(work_class)
        raise NotFound(
            f"nothing of class {work_class[:40]!r} is offered, wanted or was traded",
            code="WORK_CLASS_UNKNOWN",
            hint="the market page lists the classes there are",
        )

    async def overview(self, mode: Mode = Mode.EXACT) -> Answer[Overview]:
        """Every class with its last 24 hours in a mode; a history that fails is an empty one."""
        spot = await self.spot(mode)
        days = await asyncio.gather(*(self.day(c.work_class, mode) for c in spot.value.classes))
        rows = tuple(ClassRow(c, d) for c, d in zip(spot.value.classes, days, strict=True))
        return Answer(Overview(spot.value, rows), spot.age_seconds, spot.trouble)

    async def day(self, work_class: str, mode: Mode) -> DaySummary:
        """The last 24 hours of one class in a mode."""
        hours = Resolution("day", "1 hour", 3_600, DAY_SECONDS, "24 hours")
        try:
            answer = await self.history(work_class, hours, mode)
        except FlopmarketError:
            return summary(())
        return summary(answer.value.candles)

    async def history(self, work_class: str, resolution: Resolution, mode: Mode) -> Answer[History]:
        """Candles of one class in a mode, as far back as the resolution's charts go."""
        step_us = resolution.seconds * SECOND_US
        now_us = int(self.clock() * SECOND_US)
        from_us = (now_us - resolution.span_seconds * SECOND_US) // step_us * step_us
        # The key has no moving part: the same chart a second later is the same question.
        return await self._cache.get(
            ("history", work_class, mode, resolution.key),
            BOARD_HISTORY_CACHE_SECONDS,
            lambda: self.gateway.history(work_class, mode, resolution.seconds, from_us, 0),
        )

    async def book(self, work_class: str, mode: Mode = Mode.EXACT) -> Answer[Book]:
        """Depth of one class in a mode."""
        return await self._cache.get(
            ("book", work_class, mode),
            BOARD_CACHE_SECONDS,
            lambda: self.gateway.book(work_class, mode),
        )

    async def offers(self, query: OfferQuery) -> Answer[Offers]:
        """One page of live offers."""
        return await self._cache.get(
            ("offers", query), BOARD_CACHE_SECONDS, lambda: self.gateway.offers(query)
        )

    async def accuracy(self) -> Answer[Accuracy]:
        """How far predictions were off."""
        return await self._cache.get("accuracy", BOARD_HISTORY_CACHE_SECONDS, self.gateway.accuracy)

    async def snapshot(self) -> Answer[bytes]:
        """The newest signed price snapshot."""
        return await self._cache.get("snapshot", BOARD_CACHE_SECONDS, self.gateway.snapshot)

    # --- with a key ---------------------------------------------------------------------------

    def need_key(self) -> None:
        """NotFound BOARD_NO_KEY when the board was started without a key."""
        if not self.gateway.account_id:
            raise NotFound(
                "this board was started without a key, so it shows no jobs or devices",
                code="BOARD_NO_KEY",
                hint="start it with --key to see your own",
            )

    async def jobs(self) -> Answer[tuple[Job, ...]]:
        """Our newest jobs."""
        self.need_key()
        return await self._cache.get("jobs", BOARD_CACHE_SECONDS, self.gateway.jobs)

    async def job(self, job_id: str) -> Answer[Job]:
        """One job of ours."""
        self.need_key()
        return await self._cache.get(
            ("job", job_id), BOARD_CACHE_SECONDS, lambda: self.gateway.job(job_id)
        )

    async def why(self, job_id: str) -> Answer[Why]:
        """What a job waits for."""
        self.need_key()
        return await self._cache.get(
            ("why", job_id), BOARD_CACHE_SECONDS, lambda: self.gateway.why(job_id)
        )

    async def devices(self) -> Answer[Offers]:
        """Our own offers."""
        self.need_key()
        return await self.offers(
            OfferQuery(
                account_id=self.gateway.account_id, work_class="", page_size=MAX_BOARD_PAGE_ROWS
            )
        )

    def _job_changed(self, job_id: str) -> None:
        for what in ("job", "why"):
            self._cache.forget((what, job_id))

    async def why_idle(self, offer_id: str) -> Answer[Why]:
        """Why a device of ours has no work."""
        self.need_key()
        return await self._cache.get(
            ("idle", offer_id), BOARD_CACHE_SECONDS, lambda: self.gateway.why_idle(offer_id)
        )

    async def earnings(self, offer_id: str) -> Answer[Earnings]:
        """What a device of ours earned."""
        self.need_key()
        return await self._cache.get(
            ("earnings", offer_id),
            BOARD_HISTORY_CACHE_SECONDS,
            lambda: self.gateway.earnings(offer_id),
        )


def summary(candles: tuple[Candle, ...]) -> DaySummary:
    """What happened in ``candles`` together."""
    known = [c for c in candles if c.joules_measured or c.joules_declared]
    return DaySummary(
        closes=tuple((c.start_us // SECOND_US, c.close_nano) for c in candles),
        change=candles[-1].close_nano / candles[0].open_nano - 1
        if candles and candles[0].open_nano
        else None,
        low_nano=min((c.low_nano for c in candles), default=None),
        high_nano=max((c.high_nano for c in candles), default=None),
        pflop=sum(c.pflop for c in candles),
        paid_nano=sum(c.paid_nano for c in candles),
        trades=sum(c.trades for c in candles),
        joules=sum(c.joules_measured + c.joules_declared for c in known) if known else None,
    )


def electricity_nano(joules: float | None, tariff_nano_per_kwh: Nano | None) -> Nano | None:
    """What ``joules`` cost at a tariff, rounded up; None when either is unknown."""
    if joules is None or tariff_nano_per_kwh is None:
        return None
    return round_up_nano(Fraction(round(joules)) * tariff_nano_per_kwh, JOULES_PER_KWH)


def mode_of(name: str) -> Mode:
    """The mode of a query; exact for none, InvalidInput for one there is not."""
    if name not in ("", *Mode):
        raise InvalidInput(
            f"mode {name[:20]!r} is not one of {', '.join(Mode)}", code="MODE_UNKNOWN"
        )
    return Mode(name or Mode.EXACT)


def resolution_of(key: str) -> Resolution:
    """The resolution of a query; the default for none, InvalidInput for one there is not."""
    if not key:
        return DEFAULT_RESOLUTION
    if key not in RESOLUTIONS:
        raise InvalidInput(
            f"resolution {key[:20]!r} is not one of {', '.join(RESOLUTIONS)}",
            code="BOARD_RESOLUTION",
        )
    return RESOLUTIONS[key]
