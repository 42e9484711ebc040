"""A whole market in memory, made from a seed: the board's gateway in tests and on screenshots.

40 owners with real makes of cards at invented prices, a month of invented trades, an order book,
and one owner's own jobs and devices. ``mood`` makes it empty, away or slow.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections.abc import AsyncIterator
from enum import StrEnum

from flopmarket.errors import NotFound, Unavailable
from flopmarket.limits import MAX_BOARD_CANDLES
from flopmarket.market.price import split_fee
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import (
    PFLOP,
    Accuracy,
    Book,
    Candle,
    ClassSpot,
    Day,
    Earnings,
    History,
    Job,
    JobEvent,
    Level,
    Offer,
    OfferQuery,
    Offers,
    Reason,
    Spot,
    TapeMessage,
    Trade,
    Why,
)
from tests.web.sample_jobs import make_jobs, make_story
from tests.web.sample_offers import HOSTILE_NAMES, fits, make_offers, metric

NOTICE = "Sample data: a made-up market of 40 owners. Nothing here is for sale."
NOW_US = 1_795_381_200_000_000  # 2026-11-22 21:00 UTC
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
FEE_PPM = 30_000
US = "us"
CLASSES = ("dot-f32", "dot-int", "elementwise-f32", "reduce-f32", "integer")


class Mood(StrEnum):
    """How the coordinator behaves."""

    WELL = "well"
    EMPTY = "empty"
    AWAY = "away"
    SLOW = "slow"


class SampleMarket:
    """Implements :class:`~flopmarket_coordinator.web.gateway.Gateway`."""

    def __init__(
        self,
        *,
        mood: Mood = Mood.WELL,
        with_key: bool = True,
        hostile: bool = False,
        days: int = 30,
        slow_seconds: float = 30.0,
    ) -> None:
        self.mood = mood
        self.calls: dict[str, int] = {}
        self._account = "owner-07" if with_key else ""
        self._slow_seconds = slow_seconds
        self._random = random.Random(7)
        self._offers = make_offers(self._random, hostile)
        self._trades = self._make_trades(days)
        self._new = asyncio.Event()
        self._jobs = make_jobs(
            NOW_US, HOSTILE_NAMES[1] if hostile else "digits perceptron, 40 epochs"
        )
        self.job_story: list[JobEvent] = make_story(self._jobs[0])

    @property
    def account_id(self) -> str:
        return self._account

    @property
    def notice(self) -> str:
        return NOTICE

    async def _asked(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1
        if self.mood is Mood.AWAY:
            raise Unavailable(
                "the coordinator at 127.0.0.1:7443 cannot be reached",
                code="COORDINATOR_UNREACHABLE",
                hint="is it running, and is the address right?",
            )
        if self.mood is Mood.SLOW:
            await asyncio.sleep(self._slow_seconds)
            raise Unavailable("no answer in time", code="DEADLINE_EXCEEDED")

    # --- the market ---------------------------------------------------------------------------

    async def spot(self, mode: Mode) -> Spot:
        await self._asked("spot")
        classes = () if self.mood is Mood.EMPTY or mode is Mode.TOLERANCE else CLASSES
        return Spot(NOW_US, "USD", tuple(self._class_spot(c, mode) for c in classes), mode)

    def _class_spot(self, work_class: str, mode: Mode) -> ClassSpot:
        book = self._book(work_class, mode)
        best = min(
            (offer for offer in self._offers if mode in offer.modes),
            key=lambda o: o.prices[work_class],
        )
        ask = book.asks[0].price_nano
        bid = book.bids[0].price_nano if book.bids else None
        mine = (t for t in reversed(self._trades) if (t.work_class, t.mode) == (work_class, mode))
        last = next(mine, None)
        return ClassSpot(
            work_class=work_class,
            ask_nano=ask,
            bid_nano=bid,
            mid_nano=None if bid is None or mode is Mode.CLASS else (ask + bid + 1) // 2,
            last_nano=last.unit_nano if last else None,
            last_trade_us=last.time_us if last else 0,
            offer_id=best.offer_id,
            device_name=best.device_name,
            flop_per_unit=best.flop_per_unit(work_class) or 0.0,
            rate_per_unit_hour=(best.flop_per_unit(work_class) or 0.0) / 3600,
            flops_per_watt=best.flops_per_watt(work_class),
            watts_source=best.watts_source,
            offers=book.offers,
            orders=book.orders,
        )

    async def offers(self, query: OfferQuery) -> Offers:
        await self._asked("offers")
        if self.mood is Mood.EMPTY:
            return Offers(NOW_US, "USD", (), 0, "")
        found = [offer for offer in self._offers if fits(offer, query)]
        key = query.order_by.removeprefix("-")
        found.sort(key=lambda offer: offer.offer_id)
        found.sort(
            key=lambda offer: metric(offer, key, query.work_class or "dot-f32"),
            reverse=query.order_by.startswith("-"),
        )
        start = int(query.page_token or 0)
        end = start + query.page_size
        token = str(end) if end < len(found) else ""
        return Offers(NOW_US, "USD", tuple(found[start:end]), len(found), token)

    async def book(self, work_class: str, mode: Mode) -> Book:
        await self._asked("book")
        if self.mood is Mood.EMPTY or work_class not in CLASSES or mode is Mode.TOLERANCE:
            return Book(NOW_US, "USD", work_class, (), (), 0, 0, mode)
        return self._book(work_class, mode)

    def _book(self, work_class: str, mode: Mode) -> Book:
        by_price: dict[int, list[Offer]] = {}
        listed = [offer for offer in self._offers if mode in offer.modes]
        for offer in listed:
            by_price.setdefault(offer.prices[work_class], []).append(offer)
        asks = []
        for price, offers in sorted(by_price.items()):
            hourly = sum(o.rates[work_class] * 3600 / PFLOP for o in offers)
            idle = sum(o.rates[work_class] * 3600 / PFLOP for o in offers if o.state == "idle")
            asks.append(Level(price, len(offers), 0.0, hourly, idle))
        chance = random.Random(work_class)
        best = asks[0].price_nano
        bids = tuple(
            Level(int(best * (0.97 - 0.035 * i)), chance.randint(1, 4), chance.uniform(40, 900))
            for i in range(0 if work_class == "integer" else 9)
        )
        orders = sum(level.count for level in bids)
        return Book(NOW_US, "USD", work_class, tuple(asks), bids, len(listed), orders, mode)

    async def history(
        self, work_class: str, mode: Mode, resolution_seconds: int, from_us: int, to_us: int
    ) -> History:
        await self._asked("history")
        step_us = resolution_seconds * SECOND_US
        periods: dict[int, list[Trade]] = {}
        if self.mood is not Mood.EMPTY:
            for trade in self._trades:
                series = trade.work_class, trade.mode
                if series == (work_class, mode) and trade.time_us >= from_us:
                    periods.setdefault(trade.time_us // step_us * step_us, []).append(trade)
        candles = [_candle(start, periods[start]) for start in sorted(periods)]
        kept = tuple(candles[-MAX_BOARD_CANDLES:])
        since_us = NOW_US - 400 * DAY_US
        return History(NOW_US, "USD", work_class, resolution_seconds, kept, since_us, mode)

    async def trades(self) -> AsyncIterator[TapeMessage]:
        await self._asked("trades")
        sent = len(self._trades)
        shown = () if self.mood is Mood.EMPTY else tuple(self._trades[-400:])
        yield TapeMessage(NOW_US, shown, is_snapshot=True)
        while True:
            await self._new.wait()
            self._new.clear()
            fresh, sent = tuple(self._trades[sent:]), len(self._trades)
            yield TapeMessage(fresh[-1].time_us, fresh)

    def trade_now(
        self, work_class: str, pflop: float, device_name: str, mode: Mode = Mode.EXACT
    ) -> Trade:
        """Print one more trade on the tape."""
        last = self._trades[-1]
        price = self._class_spot(work_class, mode).ask_nano or 0
        trade = dataclasses.replace(
            last,
            number=last.number + 1,
            time_us=last.time_us + SECOND_US,
            work_class=work_class,
            operations=int(pflop * PFLOP),
            unit_nano=price,
            price_nano=int(price * pflop),
            device_name=device_name,
            mode=mode,
        )
        self._trades.append(trade)
        self._new.set()
        return trade

    async def accuracy(self) -> Accuracy:
        await self._asked("accuracy")
        return Accuracy(0 if self.mood is Mood.EMPTY else 48_211, 61_000, 184_000)

    async def snapshot(self) -> bytes:
        await self._asked("snapshot")
        return b'{"payload":"c2FtcGxl","payloadType":"sample","signatures":[]}'

    # --- with a key ---------------------------------------------------------------------------

    async def jobs(self) -> tuple[Job, ...]:
        await self._asked("jobs")
        if self.mood is Mood.EMPTY:
            return ()
        return tuple(dataclasses.replace(job, segments=()) for job in self._jobs)

    async def job(self, job_id: str) -> Job:
        await self._asked("job")
        for job in self._jobs:
            if job.job_id == job_id:
                return job
        raise NotFound("no such job", code="JOB_NOT_FOUND")

    def end_job(self, job_id: str) -> None:
        """Let a job succeed."""
        ended = {"state": "succeeded", "has_ended": True, "ended_at_us": NOW_US}
        self._jobs = [
            dataclasses.replace(job, **ended) if job.job_id == job_id else job for job in self._jobs
        ]

    async def why(self, job_id: str) -> Why:
        await self._asked("why")
        return Why(
            "Waits for an offer at its limit: the best of those that fit asks $0.0243 per PFLOP.",
            (
                Reason("MAX_PRICE", "asks more than the limit of $0.02 per PFLOP", "", 38),
                Reason("MEMORY", "has less than the 18.2 GiB this program needs", "", 21),
                Reason("REGION", "is not in eu-north", "drop the constraint", 4),
            ),
        )

    async def job_events(self, job_id: str) -> AsyncIterator[JobEvent]:
        await self._asked("job_events")
        for event in self.job_story if job_id == self._jobs[0].job_id else []:
            yield event
        if job_id == self._jobs[0].job_id:
            seen = len(self.job_story)
            while True:
                await asyncio.sleep(0.02)
                for event in self.job_story[seen:]:
                    yield event
                seen = len(self.job_story)

    async def why_idle(self, offer_id: str) -> Why:
        await self._asked("why_idle")
        return Why(
            "Six cheaper devices fit every open order.",
            (Reason("PRICE_RANK", "an offer with a lower price was taken first", "ask less", 6),),
        )

    async def earnings(self, offer_id: str) -> Earnings:
        await self._asked("earnings")
        offer = next(o for o in self._offers if o.offer_id == offer_id)
        chance, days = random.Random(offer_id), []
        for index in range(30):
            if index % 9 == 4:
                continue  # its owner needed it
            hours = max(0.3, 6.5 + 3.5 * math.sin(index / 3.1) + chance.uniform(-2, 2))
            gross = int(offer.ask_nano_per_hour * hours * chance.uniform(0.55, 1.3))
            joules = offer.milliwatts / 1000 * hours * 3600 if offer.milliwatts else None
            fee = split_fee(gross, FEE_PPM).fee_nano
            day_us = NOW_US // DAY_US * DAY_US - (29 - index) * DAY_US
            days.append(Day(day_us, gross, fee, int(hours * 40), joules))
        return Earnings(NOW_US, "USD", tuple(days))

    async def close(self) -> None:
        self.calls["close"] = 1

    # --- making -------------------------------------------------------------------------------

    def _make_trades(self, days: int) -> list[Trade]:
        chance, trades = self._random, []
        start_us = NOW_US - days * DAY_US
        for index, work_class in enumerate(CLASSES):
            base = self._class_spot_price(work_class)
            mean_gap = (45, 170, 500, 1500, 4200)[index] * SECOND_US
            time_us, drift = start_us, 0.0
            while True:
                hour = time_us / SECOND_US % 86_400 / 3_600
                pace = 0.45 + 0.55 * math.sin((hour - 4) / 24 * math.tau) ** 2
                time_us += int(chance.expovariate(1) * mean_gap / pace) + SECOND_US
                if time_us >= NOW_US:
                    break
                drift = drift * 0.992 + chance.gauss(0, 0.008)
                daily = 0.07 * math.sin((hour - 9) / 24 * math.tau)
                factor = 1.18 * math.exp(drift + daily + chance.gauss(0, 0.018))
                unit = int(base * factor)
                pflop = math.exp(chance.gauss(2.4, 0.9)) * (0.6, 1.2, 0.05, 0.02, 0.2)[index]
                offer = chance.choice(self._offers)
                seconds = pflop * PFLOP / offer.rates[work_class]
                joules = seconds * offer.milliwatts / 1000 if offer.milliwatts else None
                trades.append(
                    Trade(
                        number=0,
                        time_us=time_us,
                        work_class=work_class,
                        operations=int(pflop * PFLOP),
                        unit_nano=unit,
                        price_nano=int(unit * pflop),
                        joules=joules,
                        joules_source=offer.watts_source,
                        offer_id=offer.offer_id,
                        device_name=offer.device_name,
                        mode=Mode.EXACT if Mode.EXACT in offer.modes else Mode.CLASS,
                    )
                )
        trades.sort(key=lambda trade: trade.time_us)
        return [dataclasses.replace(t, number=i) for i, t in enumerate(trades, 1)]

    def _class_spot_price(self, work_class: str) -> int:
        return min(offer.prices[work_class] for offer in self._offers if Mode.EXACT in offer.modes)


def _candle(start_us: int, trades: list[Trade]) -> Candle:
    prices = [trade.unit_nano for trade in trades]
    weighted = sorted((trade.unit_nano, trade.operations) for trade in trades)
    whole = sum(operations for _, operations in weighted)

    def percentile(share: float) -> int:
        reached = 0
        for price, operations in weighted:
            reached += operations
            if reached >= share * whole:
                return price
        return weighted[-1][0]

    by_source = dict.fromkeys(("measured", "declared", "unknown"), 0.0)
    for trade in trades:
        by_source[trade.joules_source] += trade.joules or 0.0
    return Candle(
        start_us=start_us,
        open_nano=prices[0],
        high_nano=max(prices),
        low_nano=min(prices),
        close_nano=prices[-1],
        p10_nano=percentile(0.1),
        p50_nano=percentile(0.5),
        p90_nano=percentile(0.9),
        operations=whole,
        paid_nano=sum(trade.price_nano for trade in trades),
        trades=len(trades),
        joules_measured=by_source["measured"],
        joules_declared=by_source["declared"],
        joules_unknown_pflop=sum(t.pflop for t in trades if t.joules_source == "unknown"),
    )
