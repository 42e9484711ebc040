"""The trading of a market day: the plan carried out against the clock, and what was seen of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from flopmarket.client import Client
from flopmarket.client.money import Money
from flopmarket.client.orders import Order
from flopmarket.client.results import JobState, Quote
from flopmarket.client.results_prices import Spot
from flopmarket.demo.market_day_jobs import Jobs
from flopmarket.demo.market_day_plan import Planned, Wish, Work
from flopmarket.errors import Conflict, FlopmarketError

HEADLINE_CLASS = "dot-f32"
LOOK_SECONDS = 0.5
SIXTEEN_GIBIBYTES = 16 << 30


@dataclass(frozen=True, slots=True)
class Clock:
    """The day's clock: ``start_seconds`` of the machine's own, and how long an hour takes."""

    start_seconds: float
    hour_seconds: float

    @property
    def hour(self) -> float:
        """The hour now, as a fraction; negative before the day."""
        return (time.time() - self.start_seconds) / self.hour_seconds

    def at_us(self, hour: float) -> int:
        """When an hour is, microseconds since the epoch."""
        return int((self.start_seconds + hour * self.hour_seconds) * 1e6)

    def __str__(self) -> str:
        """As ``flop worker up --clock`` reads it."""
        return f"{int(self.start_seconds * 1e6)}/{round(self.hour_seconds * 1e3)}"


@dataclass(slots=True)
class Purchase:
    """One order that was taken. ``ceiling`` is the quote's, or what the limit comes to."""

    planned: Planned
    job_id: str
    ceiling: Money
    why: str = ""
    why_codes: tuple[str, ...] = ()
    why_fitting: int = 0
    cancelled: bool = False


class Trading:
    """Buyers with their clients, from one thread."""

    def __init__(
        self,
        clients: Mapping[str, Client],
        onlooker: Client,
        jobs: Jobs,
        clock: Clock,
        owners: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._clients = clients
        self._onlooker = onlooker
        self._jobs = jobs
        self._clock = clock
        self._owners = owners
        self._say = say
        self.purchases: list[Purchase] = []
        self.refused: dict[str, int] = {}
        """Orders that the market refused, by code."""
        self.looks: list[int] = []
        """The as_of of every answer, microseconds."""
        self._offers = 0
        self._limits: dict[tuple[Work, Wish, int], Money] = {}

    def day(self, orders: tuple[Planned, ...], check: Callable[[], None]) -> None:
        """From now to the last hour; ``check`` is called at every look."""
        waiting = list(orders)
        told = -1
        while (hour := self._clock.hour) < 24:
            check()
            while waiting and waiting[0].hour <= hour:
                self._order(waiting.pop(0))
            self._attend(hour)
            spot = self._look()
            if int(hour) > told:
                told = int(hour)
                self._tell(told, spot)
            time.sleep(LOOK_SECONDS)

    def close(self, seconds: float) -> bool:
        """Wait for what runs; whether every job has ended in time. The rest is cancelled."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._look()
            if all(self._state(purchase).has_ended for purchase in self.purchases):
                return True
            time.sleep(LOOK_SECONDS)
        for purchase in self.purchases:
            if not self._state(purchase).has_ended:
                self._cancel(purchase)
        return False

    # ------------------------------------------------------------ orders

    def _order(self, planned: Planned) -> None:
        client = self._clients[planned.buyer]
        job = replace(self._jobs.prepared[planned.work], title=planned.title)
        try:
            order = self._wished(planned)
            quote = client.quote(job, order)
            if planned.limit_percent is None:
                handle = client.submit(job, quote.ceiling, order=order)
            else:
                order = replace(
                    order,
                    limit=self._limit(client, planned, quote),
                    wait=True,
                    work_class=quote.work_class,
                    deadline_us=self._clock.at_us(planned.ends_hour),
                )
                handle = client.submit(job, order=order)
        except FlopmarketError as error:
            if error.retryable:
                raise
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            self._say(f"         {planned.buyer}: {planned.title}: refused, {error.code}")
            return
        self.purchases.append(Purchase(planned, handle.job_id, handle.info.ceiling))

    def _limit(self, client: Client, planned: Planned, quote: Quote) -> Money:
        """The share of the quoted unit price; of any offer's where none of the wished ones is."""
        assert planned.limit_percent is not None
        alike = (planned.work, planned.wish, planned.limit_percent)
        if planned.wish is Wish.ONLY_NIGHT_OWNER and alike in self._limits:
            return self._limits[alike]  # equal limits are what time priority is about
        if not quote.offers:
            quote = client.quote(self._jobs.prepared[planned.work])
        nano = quote.per_pflop.nano * planned.limit_percent // 100
        self._limits[alike] = Money(max(1, nano), quote.per_pflop.currency)
        return self._limits[alike]

    def _wished(self, planned: Planned) -> Order:
        match planned.wish:
            case Wish.EFFICIENT:
                figures = [
                    offer.flops_per_second.get(HEADLINE_CLASS, 0) * 1000 // offer.milliwatts
                    for offer in self._onlooker.offers()
                    if offer.milliwatts
                ]
                least = int(median(figures)) if figures else 1
                return Order(min_flops_per_watt=least, work_class=HEADLINE_CLASS)
            case Wish.EUROPE:
                return Order(regions=("eu",))
            case Wish.NOT_TEXAS:
                return Order(not_regions=("us-tx",))
            case Wish.MEMORY:
                return Order(min_memory_bytes=SIXTEEN_GIBIBYTES)
            case Wish.NOT_THE_CHEAPEST:
                cheapest = next(self._onlooker.offers(order_by="price"), None)
                return Order(not_owners=(cheapest.account_id,)) if cheapest else Order()
            case Wish.ONLY_NIGHT_OWNER:
                return Order(owners=(self._owners["hopper"],))
            case _:
                return Order()

    def _attend(self, hour: float) -> None:
        """Cancel and ask why, where the plan says so."""
        for purchase in self.purchases:
            planned = purchase.planned
            if planned.why_hour is not None and hour >= planned.why_hour and not purchase.why:
                found = self._clients[planned.buyer].explain_job(purchase.job_id)
                purchase.why = found.summary
                purchase.why_codes = tuple(reason.code for reason in found.reasons)
                purchase.why_fitting = found.fitting
                self._say(f"         {planned.buyer} asks why a job rests: {found.summary}")
            due = planned.cancel_hour is not None and hour >= planned.cancel_hour
            if due and not purchase.cancelled:
                self._cancel(purchase)

    def _cancel(self, purchase: Purchase) -> None:
        purchase.cancelled = True
        with contextlib.suppress(Conflict):  # it ended by itself meanwhile, and its claim says so
            self._clients[purchase.planned.buyer].cancel(purchase.job_id)

    def _state(self, purchase: Purchase) -> JobState:
        return self._clients[purchase.planned.buyer].job(purchase.job_id).state

    # ------------------------------------------------------------ looking on

    def _look(self) -> Spot:
        page = self._onlooker.offers_page()
        spot = self._onlooker.spot()
        book = self._onlooker.book(HEADLINE_CLASS)
        self.looks += [page.as_of_us, spot.as_of_us, book.as_of_us]
        self._offers = page.matching
        return spot

    def _tell(self, hour: int, spot: Spot) -> None:
        price = next((each for each in spot.prices if each.work_class == HEADLINE_CLASS), None)
        states = [self._state(purchase) for purchase in self.purchases]
        resting = states.count(JobState.QUEUED)
        ask, bid, last = (price.per_pflop, price.bid, price.last) if price else (None, None, None)
        self._say(
            f"  {hour:02d}:00  {self._offers:3d} offers  {_or_dash(ask)} {_or_dash(bid)} "
            f"{_or_dash(last)}   {spot.trade_sequence:6d}   {len(states):3d} ({resting} rest)"
        )


def _or_dash(price: Money | None) -> str:
    """To four digits, for a line of text."""
    return f"{'-':>8}" if price is None else f"{price.nano / 1e9:8.4g}"
