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
from flopmarket.market.money import NANO_PER_UNIT, round_up_nano
from flopmarket.market.price import split_fee
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
    Segment,
    Spot,
    TapeMessage,
    Trade,
    Why,
)

NOTICE = "Sample data: a made-up market of 40 owners. Nothing here is for sale."
NOW_US = 1_795_381_200_000_000  # 2026-11-22 21:00 UTC
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
FEE_PPM = 30_000
US = "us"
CLASSES = ("dot-f32", "dot-int", "elementwise-f32", "reduce-f32", "integer")

# make, GiB, GB/s, watts, card price, dot-f32 TFLOP/s sustained
CARDS = (
    ("AMD Radeon RX 7900 XTX", 24, 960, 355, 999, 26.1),
    ("AMD Radeon RX 7900 XT", 20, 800, 315, 749, 21.4),
    ("AMD Radeon RX 7800 XT", 16, 624, 263, 499, 14.8),
    ("AMD Radeon RX 7700 XT", 12, 432, 245, 419, 12.2),
    ("AMD Radeon RX 7600", 8, 288, 165, 269, 8.1),
    ("AMD Radeon RX 6800 XT", 16, 512, 300, 0, 10.9),
    ("AMD Radeon RX 9070 XT", 16, 640, 304, 599, 19.7),
    ("NVIDIA GeForce RTX 3060", 12, 360, 170, 289, 6.4),
    ("NVIDIA GeForce RTX 4070", 12, 504, 200, 549, 17.6),
    ("Intel Arc A770", 16, 560, 225, 289, 9.3),
    ("AMD Ryzen 9 7950X (PoCL)", 64, 83, 170, 549, 1.1),
)
REGIONS = ("eu-north", "eu-central", "us-west", "us-east", "in-south", "br-south", "")
HOSTILE_NAMES = (
    '<img src=x onerror="document.title=1">',
    "</td></table><script>document.title='owned'</script>",
    "\u202egpj.XTX 0097\u202c مرحبا بالعالم",
    "A very long name " + "without end " * 40,
    "Wide" + "W" * 300,
)


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
        self._offers = self._make_offers(hostile)
        self._trades = self._make_trades(days)
        self._new = asyncio.Event()
        self._jobs = _make_jobs(hostile)
        self.job_story: list[JobEvent] = _make_story(self._jobs[0])

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

    async def spot(self) -> Spot:
        await self._asked("spot")
        if self.mood is Mood.EMPTY:
            return Spot(NOW_US, "USD", ())
        return Spot(NOW_US, "USD", tuple(self._class_spot(c) for c in CLASSES))

    def _class_spot(self, work_class: str) -> ClassSpot:
        book = self._book(work_class)
        best = min(self._offers, key=lambda o: o.prices[work_class])
        ask = book.asks[0].price_nano
        bid = book.bids[0].price_nano if book.bids else None
        last = next((t for t in reversed(self._trades) if t.work_class == work_class), None)
        return ClassSpot(
            work_class=work_class,
            ask_nano=ask,
            bid_nano=bid,
            mid_nano=None if bid is None else (ask + bid + 1) // 2,
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
        found = [offer for offer in self._offers if _fits(offer, query)]
        key = query.order_by.removeprefix("-")
        found.sort(key=lambda offer: offer.offer_id)
        found.sort(
            key=lambda offer: _metric(offer, key, query.work_class or "dot-f32"),
            reverse=query.order_by.startswith("-"),
        )
        start = int(query.page_token or 0)
        end = start + query.page_size
        token = str(end) if end < len(found) else ""
        return Offers(NOW_US, "USD", tuple(found[start:end]), len(found), token)

    async def book(self, work_class: str) -> Book:
        await self._asked("book")
        if self.mood is Mood.EMPTY or work_class not in CLASSES:
            return Book(NOW_US, "USD", work_class, (), (), 0, 0)
        return self._book(work_class)

    def _book(self, work_class: str) -> Book:
        by_price: dict[int, list[Offer]] = {}
        for offer in self._offers:
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
        return Book(NOW_US, "USD", work_class, tuple(asks), bids, len(self._offers), orders)

    async def history(
        self, work_class: str, resolution_seconds: int, from_us: int, to_us: int
    ) -> History:
        await self._asked("history")
        step_us = resolution_seconds * SECOND_US
        periods: dict[int, list[Trade]] = {}
        if self.mood is not Mood.EMPTY:
            for trade in self._trades:
                if trade.work_class == work_class and trade.time_us >= from_us:
                    periods.setdefault(trade.time_us // step_us * step_us, []).append(trade)
        candles = [_candle(start, periods[start]) for start in sorted(periods)]
        kept = tuple(candles[-MAX_BOARD_CANDLES:])
        return History(NOW_US, "USD", work_class, resolution_seconds, kept, NOW_US - 400 * DAY_US)

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

    def trade_now(self, work_class: str, pflop: float, device_name: str) -> Trade:
        """Print one more trade on the tape."""
        last = self._trades[-1]
        price = self._class_spot(work_class).ask_nano or 0
        trade = dataclasses.replace(
            last,
            number=last.number + 1,
            time_us=last.time_us + SECOND_US,
            work_class=work_class,
            operations=int(pflop * PFLOP),
            unit_nano=price,
            price_nano=int(price * pflop),
            device_name=device_name,
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

    def _make_offers(self, hostile: bool) -> list[Offer]:
        chance, offers = self._random, []
        for owner in range(40):
            for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
                card = chance.choice(CARDS)
                offers.append(_offer(chance, owner, len(offers), card))
        if hostile:
            for index, name in enumerate(HOSTILE_NAMES):
                offers[index] = dataclasses.replace(
                    offers[index], device_name=name, region=name[:60], ask_nano_per_hour=1_000_000
                )
                offers[index] = _priced(offers[index])
        return offers

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
                    )
                )
        trades.sort(key=lambda trade: trade.time_us)
        return [dataclasses.replace(t, number=i) for i, t in enumerate(trades, 1)]

    def _class_spot_price(self, work_class: str) -> int:
        return min(offer.prices[work_class] for offer in self._offers)


def _offer(
    chance: random.Random, owner: int, index: int, card: tuple[str, int, int, int, int, float]
) -> Offer:
    name, gib, gbs, watts, price, tflops = card
    speed = chance.uniform(0.9, 1.05)
    rates = {
        "dot-f32": int(tflops * speed * 1e12),
        "dot-int": int(tflops * speed * 1.7e12),
        "elementwise-f32": int(gbs * speed * 0.11e9),
        "reduce-f32": int(gbs * speed * 0.24e9),
        "integer": int(tflops * speed * 0.31e12),
    }
    source = chance.choice(("measured", "measured", "declared", "unknown"))
    region = chance.choice(REGIONS)
    verified = int(chance.paretovariate(0.7) * 20) % 9000 if chance.random() > 0.06 else 0
    rejected = chance.choice((0, 0, 0, 0, 1, 2)) if verified > 30 else 0
    ask = int((watts * 0.00026 + tflops * 0.0035) * chance.uniform(0.85, 1.6) * NANO_PER_UNIT)
    suited = (["training"] if gib >= 12 and tflops > 8 else []) + (["inference"] if gib > 8 else [])
    return _priced(
        Offer(
            offer_id=f"{index:04x}{chance.getrandbits(48):012x}-{chance.getrandbits(32):08x}",
            account_id=f"owner-{owner:02d}",
            device_id=f"{chance.getrandbits(64):016x}",
            device_name=name,
            driver="rusticl 26.2",
            profile="FX1-d256-l64-b4096",
            region=region,
            state=chance.choice(("idle", "idle", "busy")),
            memory_bytes=gib << 30,
            rates=rates,
            prices={},
            bandwidth_bytes_per_second=int(gbs * speed * 0.82e9),
            ask_nano_per_hour=ask,
            milliwatts=0 if source == "unknown" else int(watts * 1000 * chance.uniform(0.7, 0.95)),
            watts_source=source,
            card_price_nano=price * NANO_PER_UNIT,
            suited_for=tuple(suited),
            verified_segments=verified,
            rejected_segments=rejected,
        )
    )


def _priced(offer: Offer) -> Offer:
    prices = {
        work_class: round_up_nano(offer.ask_nano_per_hour * PFLOP, rate * 3600)
        for work_class, rate in offer.rates.items()
    }
    return dataclasses.replace(offer, prices=prices)


def _fits(offer: Offer, query: OfferQuery) -> bool:
    work_class = query.work_class or "dot-f32"
    per_watt = offer.flops_per_watt(work_class)
    return (
        (not query.work_class or work_class in offer.rates)
        and offer.memory_bytes >= (query.min_memory_bytes or 0)
        and (query.max_price_nano is None or offer.prices[work_class] <= query.max_price_nano)
        and (query.min_flops_per_watt is None or (per_watt or 0) >= query.min_flops_per_watt)
        and (query.min_reliability is None or (offer.reliability or 0) >= query.min_reliability)
        and (not query.region or offer.region == query.region)
        and (not query.suited_for or query.suited_for in offer.suited_for)
        and query.device_name.lower() in offer.device_name.lower()
        and (not query.account_id or offer.account_id == query.account_id)
        and (not query.idle_only or offer.state == "idle")
    )


def _metric(offer: Offer, order: str, work_class: str) -> float:
    figures = {
        "price": offer.prices.get(work_class),
        "ask_per_hour": offer.ask_nano_per_hour,
        "flops": offer.rates.get(work_class),
        "flops_per_dollar": offer.flop_per_unit(work_class),
        "flops_per_watt": offer.flops_per_watt(work_class),
        "flops_per_card_dollar": offer.flops_per_card_unit(work_class),
        "memory": offer.memory_bytes,
        "bandwidth": offer.bandwidth_bytes_per_second,
        "reliability": offer.reliability,
    }
    return float(figures[order] or 0)


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


def _make_jobs(hostile: bool) -> list[Job]:
    title = HOSTILE_NAMES[1] if hostile else "digits perceptron, 40 epochs"
    steps, per_segment = 20_000, 800
    devices = ("AMD Radeon RX 7900 XTX", "AMD Radeon RX 7800 XT", "NVIDIA GeForce RTX 4070")
    segments = []
    for index in range(14):
        state = "settled" if index < 11 else "verified" if index == 11 else "committed"
        segments.append(
            Segment(
                index=index,
                first_step=index * per_segment,
                steps=per_segment,
                state="rejected" if index == 6 else state,
                device_name=devices[index // 6] if index != 6 else "AMD Radeon RX 6800 XT",
                price_nano=0 if index == 6 else 18_734_211,
                reason="an audit recomputed it with another state root" if index == 6 else "",
            )
        )
    running = Job(
        job_id="5f" * 32,
        title=title,
        state="running",
        has_ended=False,
        kind="training",
        created_at_us=NOW_US - 2_900 * SECOND_US,
        ended_at_us=0,
        steps=steps,
        steps_committed=14 * per_segment,
        steps_verified=12 * per_segment,
        ceiling_nano=612_000_000,
        billed_nano=10 * 18_734_211,
        currency="USD",
        reason="",
        segments=tuple(segments),
        segment_count=len(segments),
    )
    waiting = dataclasses.replace(
        running,
        job_id="a1" * 32,
        title="SmolLM2 adapter, night shift",
        state="queued",
        created_at_us=NOW_US - 9_000 * SECOND_US,
        steps_committed=0,
        steps_verified=0,
        billed_nano=0,
        ceiling_nano=6_000_000_000,
        segments=(),
        segment_count=0,
    )
    done = dataclasses.replace(
        running,
        job_id="c3" * 32,
        title="MiniLM embeddings of 120,000 abstracts",
        kind="inference",
        state="succeeded",
        has_ended=True,
        created_at_us=NOW_US - 90_000 * SECOND_US,
        ended_at_us=NOW_US - 82_000 * SECOND_US,
        steps_committed=steps,
        steps_verified=steps,
        billed_nano=468_355_275,
    )
    return [running, waiting, done]


def _make_story(job: Job) -> list[JobEvent]:
    story = [JobEvent(1, job.created_at_us, "queued", "$0.612 held", 0, {})]
    chance, time_us = random.Random(3), job.created_at_us
    for segment in job.segments:
        time_us += 190 * SECOND_US
        kind = "rejected" if segment.state == "rejected" else "committed"
        text = f"segment {segment.index} on {segment.device_name}"
        story.append(JobEvent(len(story) + 1, time_us, kind, text, 0, {}))
        for part in range(1, 11):
            step = segment.first_step + part * segment.steps // 10
            loss = 2.3 * math.exp(-step / 3_500) + 0.11 + chance.gauss(0, 0.012)
            right = 0.985 - 0.88 * math.exp(-step / 2_600) + chance.gauss(0, 0.006)
            scalars = {"loss": loss, "accuracy": min(1.0, right)}
            story.append(JobEvent(len(story), time_us, "progress", "", step, scalars))
    return story
