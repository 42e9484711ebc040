"""The order book at scale: ``python -m tests.bench.bench_book [most offers]``.

Random markets of 1,000 to 1,000,000 offers (24 kinds of cards, each device a little different) and
10,000 open orders of 200 programs. Printed for each size: the answers that anybody may ask for, as
the use cases give them, and ticks of matching. Then a tick on the real path, through SQLite.

Expected before the first measurement, at 100,000 offers on two shared cores: GetSpot 5 ms, a page
of 50 offers 6 ms, the eight best for a quote 1 ms, all at the 99th percentile; the first tick over
10,000 orders 400 ms, one where 1 % of the devices changed 50 ms, one where nothing did 1 ms;
everything linear in offers or better. On the real path 3 ms for each lease that is written.

Columns of ticks: the first one after a start, with the limits of a round; the same without them;
one after 1 % of the devices became free and 100 orders came; one without news; and one over 10,000
orders of as many programs, where nothing can be shared.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.limits import MAX_LEASES_PER_TICK, MAX_SEARCHES_PER_TICK
from flopmarket.market.offer import Offer
from flopmarket.market.order import Constraints
from flopmarket.market.predict import DeviceRates, JobWork, StepWork
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.application.types_market import DepthQuery, OfferQuery
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.book.clearing import Cleared
from flopmarket_coordinator.core.book.listing import OfferFilter
from flopmarket_coordinator.core.book.orders import OpenOrder, Piece
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.leasing import StartPoint
from flopmarket_coordinator.core.matching import Demand
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import MemoryArtifacts, World

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ORDERS = 10_000
PROGRAMS = 200
CARDS = 24
QUESTIONS = 300
NOW_US = 10**15
HOUR_US = 3_600 * 10**6
ALL = 10**9
REAL_JOBS = 64


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
    print(f"{ORDERS:,} open orders of {PROGRAMS} programs; milliseconds, median / p99\n")
    heading = ("offers", "GetSpot", "ListOffers", "filtered", "GetBook", "quote", "reasons")
    print(_row(heading))
    ticks: list[tuple[str, ...]] = []
    for size in (size for size in SIZES if size <= most):
        application, market = _market(size)
        print(_row(_questions(application, market, size)), flush=True)
        ticks.append(_ticks(application.keeper.book, market, size))
        del application
        gc.collect()
    _print_ticks(ticks)
    _print_worst(min(most, 1_000_000))
    _print_real()


def _print_ticks(ticks: list[tuple[str, ...]]) -> None:
    print("\nticks of matching, milliseconds by the clock / of processor (pieces matched)\n")
    heading = ("offers", "first", "all first", "1 % changed", "nothing new", "all distinct")
    print(_row(heading))
    for tick in ticks:
        print(_row(tick))


# --- markets --------------------------------------------------------------------------------------


class Market:
    """Random offers and orders from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cards = [self._card() for _ in range(CARDS)]
        self.programs = [self.program() for _ in range(PROGRAMS)]

    def _card(self) -> dict[str, float]:
        speed = 10 ** self.random.uniform(11.5, 13.9)
        shares = (1.0, 2.0, 0.2, 0.02, 0.2, 0.03)
        rates = {
            name: speed * share * self.random.lognormvariate(0, 0.4)
            for name, share in zip(WORK_CLASSES, shares, strict=True)
        }
        return rates | {"bandwidth": speed / self.random.uniform(8, 40), "speed": speed}

    def listing(self, number: int) -> Listing:
        draw = self.random
        card = draw.randrange(CARDS)
        figures = self.cards[card]
        rates = {name: int(figures[name] * draw.gauss(1.0, 0.02)) for name in WORK_CLASSES}
        if card % 4 == 0:
            del rates["f64"]
        ask = figures["speed"] / 1e13 * 2.5e8 * draw.lognormvariate(0, 0.5)
        offer = Offer(
            offer_id=f"{draw.getrandbits(64):016x}-{number:016x}",
            account_id=f"account {number // 3}",
            device_key_id=f"key {number // 2}",
            device_id=f"device {number}",
            device_name=f"card {card}",
            driver="driver 1.0",
            profile="FX1",
            memory_bytes=(4 << 30) << draw.randrange(4),
            rates=DeviceRates(
                MappingProxyType(rates),
                int(figures["bandwidth"] * draw.gauss(1.0, 0.02)),
                draw.randrange(2_000, 20_000),
                draw.randrange(1_000, 50_000),
                draw.randrange(20, 80),
                draw.randrange(10**6, 10**8),
            ),
            ask_nano_per_hour=max(1, int(ask)),
            milliwatts=draw.choice((0, 150_000, 250_000, 350_000)),
            watts_source="declared",
            card_price_nano=999 * 10**9,
            region=draw.choice(("", "eu-de", "eu-fr", "us-ca")),
        )
        busy = draw.random() < 0.3
        return Listing(offer, True, NOW_US, busy, False, draw.randrange(50), draw.randrange(3))

    def program(self) -> JobWork:
        draw = self.random
        operations = 10 ** draw.uniform(9, 13)
        flops = dict.fromkeys(WORK_CLASSES, 0)
        flops[draw.choice(("dot-f32", "dot-f32", "dot-int"))] = int(operations)
        flops["elementwise-f32"] = int(operations * draw.uniform(0.001, 0.2))
        flops["reduce-f32"] = int(operations * draw.uniform(0, 0.001))
        return JobWork(
            StepWork(flops, int(operations / draw.uniform(5, 100)), draw.randrange(10, 400)),
            steps=draw.randrange(10, 10_000),
            download_bytes=draw.randrange(10**6, 10**9),
            kernels=draw.randrange(5, 60),
        )

    def order(self, number: int, work: JobWork | None = None) -> OpenOrder:
        """Two of five run now; the others rest below the market."""
        draw = self.random
        work = work or draw.choice(self.programs)
        rests = draw.random() < 0.6
        main = max(work.step.flops, key=lambda name: work.step.flops[name])
        wanted = Constraints(
            work_class=main if rests else "",
            max_unit_price_nano=draw.randrange(1, 2 * 10**5) if rests else 0,
            allowed_regions=("eu",) if draw.random() < 0.1 else (),
            min_memory_bytes=(8 << 30) if draw.random() < 0.2 else 0,
        )
        return OpenOrder(
            job_id=f"job {number}",
            number=number,
            demand=Demand(f"account {draw.randrange(10**6)}", "FX1", 1 << 30, work, wanted),
            pieces=(Piece(StartPoint(0, 0, "", b""), work.steps),),
            money_nano=10**15,
            money_steps=work.steps,
            deadline_us=NOW_US + 30 * 24 * HOUR_US,
            rests=rests,
        )


def _market(size: int) -> tuple[Application, Market]:
    market = Market(size)
    application = Application(
        key=KeyPair.from_seed(b"k" * 32),
        parameters=Parameters(),
        artifacts=MemoryArtifacts(),
        entropy=bytes,
        operator_keys=[],
        chain_secret=bytes(32),
    )
    book = application.keeper.book
    for number in range(size):
        book.put_offer(market.listing(number))
    for number in range(ORDERS):
        book.put_order(market.order(number))
    return application, market


# --- questions ------------------------------------------------------------------------------------


def _questions(application: Application, market: Market, size: int) -> tuple[str, ...]:
    tx = Transaction(None, NOW_US)  # type: ignore[arg-type]  # the book answers, not the store
    draw = market.random
    cheap = OfferQuery(page_size=50, order_by="price", work_class="dot-f32")
    tokens = ["", application.list_offers(tx, cheap).next_page_token]
    fields = ("price", "-flops_per_watt", "-memory", "flops_per_dollar", "-reliability")
    filters = (
        OfferFilter("memory", ">=", str(8 << 30)),
        OfferFilter("region", "~", "eu"),
        OfferFilter("reliability", ">", "0.9"),
    )

    def page() -> object:
        return application.list_offers(
            tx, OfferQuery(50, draw.choice(tokens), "price", work_class="dot-f32")
        )

    def filtered() -> object:
        return application.list_offers(tx, OfferQuery(50, "", draw.choice(fields), filters=filters))

    def quote() -> object:
        demand = market.order(0).demand
        return application._best_offers(tx, demand, 100, 8)

    def reasons() -> object:
        return application._reason_counts(tx, market.order(0).demand, 100)

    asked: tuple[Callable[[], object], ...] = (
        lambda: application.spot(tx),
        page,
        filtered,
        lambda: application.depth(tx, DepthQuery("dot-f32", 50)),
        quote,
        reasons,
    )
    return (f"{size:,}", *(_percentiles(ask, size) for ask in asked))


def _percentiles(ask: Callable[[], object], size: int) -> str:
    ask()
    times = sorted(_timed(ask)[0] for _ in range(QUESTIONS if size <= 100_000 else 50))
    return f"{times[len(times) // 2]:.2f} / {times[len(times) * 99 // 100]:.2f}"


def _timed(ask: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = ask()
    return (time.perf_counter() - begun) * 1e3, answer


# --- ticks ----------------------------------------------------------------------------------------


def _ticks(book: Book, market: Market, size: int) -> tuple[str, ...]:
    book.match(NOW_US, 1, 1)  # grows the leaves
    first = _tick(book, MAX_LEASES_PER_TICK, MAX_SEARCHES_PER_TICK)
    everything = _tick(book, ALL, ALL)
    ids = sorted(book._offers.row_of)
    for _ in range(max(1, size // 100)):
        offer_id = market.random.choice(ids)
        book.set_busy(offer_id, busy=True)
        book.set_busy(offer_id, busy=False)
    for number in range(ORDERS, ORDERS + 100):
        book.put_order(market.order(number))
    changed, quiet = _tick(book, ALL, ALL), _tick(book, ALL, ALL)
    for number in range(ORDERS):
        book.put_order(market.order(number, market.program()))
    distinct = _tick(book, ALL, ALL)
    return (f"{size:,}", first, everything, changed, quiet, distinct)


def _tick(book: Book, most: int, most_searches: int) -> str:
    begun = time.process_time()
    taken, cleared = _timed(lambda: book.match(NOW_US, most, most_searches))
    settled, _ = _timed(lambda: book.settle(cleared, NOW_US))
    busy = (time.process_time() - begun) * 1e3
    _carry_out(book, cleared)
    return f"{taken + settled:.0f} / {busy:.0f} ({len(cleared.matches):,})"


def _carry_out(book: Book, cleared: Cleared) -> None:
    for match in cleared.matches:
        book.set_busy(match.found.offer.offer_id, busy=True)
        book.remove_order(match.order.job_id)


def _print_worst(size: int) -> None:
    """Equal offers, and asks of one nano-unit and of 2^62 among them."""
    market, book = Market(1), Book(10**6)
    listing = market.listing(0)
    offer = listing.offer
    for number in range(size):
        ask = (1, 2**62)[number] if number < 2 else offer.ask_nano_per_hour
        book.put_offer(
            Listing(
                Offer(
                    f"{number:033}", "owner", f"key {number}", f"device {number}", *(
                        getattr(offer, name) for name in Offer.__slots__[4:9]
                    ), ask, *(getattr(offer, name) for name in Offer.__slots__[10:]),
                ),
                True, NOW_US, False, False,
            )
        )  # fmt: skip
    for number in range(ORDERS):
        book.put_order(market.order(number, market.programs[number % PROGRAMS]))
    demand = market.order(0).demand
    best = _percentiles(lambda: book.best_offers(demand, steps=9, count=8, now_us=NOW_US), size)
    spot = _percentiles(lambda: book.best(now_us=NOW_US), size)
    print(
        f"\n{size:,} equal offers: best for a quote {best}, spot {spot}, "
        f"tick {_tick(book, ALL, ALL)} ms"
    )


# --- the real path --------------------------------------------------------------------------------


def _print_real() -> None:
    """Jobs and workers in a store on disk, one tick that leases all of them out."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        buyer = world.buyer(money=10**18)
        for number in range(REAL_JOBS):
            world.worker(f"w{number}")
            buyer.submit(f"j{number}", max_price_nano=10**15)
        world.now_us += 1
        taken, leases = _timed(world.offers)
        again, _ = _timed(world.match)
        quiet, _ = _timed(world.match)
        loading, _ = _timed(lambda: world.see(world.application.keeper.load))
        print(
            f"\nthrough SQLite: {len(leases)} leases in one tick in {taken:.0f} ms, "
            f"{taken / len(leases):.2f} ms each; one that reads their jobs again {again:.0f} ms; "
            f"one without news {quiet:.2f} ms; "
            f"loading {REAL_JOBS} offers {loading:.0f} ms"
        )
        world.close()


def _row(cells: tuple[str, ...]) -> str:
    return " ".join(f"{cell:>20}" for cell in cells)


if __name__ == "__main__":
    main()
