"""Streams and history of the tape at scale: ``python -m tests.bench.bench_tape``.

First 500 subscribers, half of the trades, half of the book, in a process of their own over real
connections, against ticks of matching in a coordinator with 100,000 offers and 10,000 open orders
where prices move and segments are settled all the time: rounds without and with subscribers take
turns. Then questions about a year of trades, one million of them.

Expected before the first measurement, on two shared cores: the median tick at most 1.2 times as
long with subscribers as without, no subscriber dropped, every trade heard by all; a page of 500
candles 15 ms, a page of 500 trades 10 ms, printing one trade 1 ms.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc import aio

from flopmarket.market.headline import PFLOP
from flopmarket.market.tape import EMPTY_TAPE, Trade, tape_digest
from flopmarket.trust.documents import WattsSource
from flopmarket.v1 import market_pb2, market_pb2_grpc
from flopmarket_coordinator import server
from flopmarket_coordinator.application.types_tape import HistoryQuery, TradesQuery
from flopmarket_coordinator.core.changes import Change
from flopmarket_coordinator.core.tape import candles_of
from flopmarket_coordinator.rpc.rates import Rate
from flopmarket_coordinator.store import tape
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.tape_rows import candle_row, trade_row
from tests.bench.bench_book import Market as Offers
from tests.integration.coordinator.live_world import CALM, LiveWorld
from tests.integration.coordinator.market import running_market
from tests.unit.coordinator.world import World

OFFERS, ORDERS, SUBSCRIBERS = 100_000, 10_000, 500
STREAMS_OF_A_CONNECTION = 10
ROUND_SECONDS, ROUNDS = 8.0, 3
LISTENING_SECONDS = 25.0  # connecting included
REPRICED = 20  # offers whose price moves in one tick
TICK_SECONDS = 0.1
YEAR_TRADES, YEAR_SECONDS = 1_000_000, 365 * 86_400
QUESTIONS = 100
WORK_CLASS = "dot-f32"
TRADED_CLASS = "elementwise-f32"


@dataclass(frozen=True, slots=True)
class _PricesMoved(Change):
    """Offers of this benchmark were repriced in the book."""


@dataclass
class Round:
    """What one stretch of time came to. Milliseconds."""

    ticks: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    prints: list[float] = field(default_factory=list)
    listeners: dict[str, Any] = field(default_factory=dict)
    trades: int = 0


# --- subscribers ----------------------------------------------------------------------------------


async def _listen(address: str, count: int, seconds: float) -> dict[str, Any]:
    """``count`` streams for so long: what they heard, and how old it was."""
    channels = [
        aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
        for _ in range(-(-count // STREAMS_OF_A_CONNECTION))
    ]
    heard: list[int] = []
    last: list[int] = []
    ages_ms: list[float] = []
    failures: list[str] = []

    async def follow(number: int) -> None:
        stub = market_pb2_grpc.MarketServiceStub(channels[number // STREAMS_OF_A_CONNECTION])
        if number % 2:
            call: Any = stub.StreamTrades(market_pb2.StreamTradesRequest(work_class=TRADED_CLASS))
        else:
            call = stub.StreamBook(market_pb2.StreamBookRequest(work_class=WORK_CLASS))
        messages = sequence = 0
        try:
            async for message in call:
                messages, sequence = messages + 1, message.sequence
                if message.WhichOneof("body") in ("batch", "change"):
                    ages_ms.append(time.time_ns() / 1e6 - message.as_of_us / 1e3)
        except aio.AioRpcError as error:
            failures.append(str(error.details()))
        finally:
            call.cancel()
            heard.append(messages)
            if number % 2:
                last.append(sequence)

    streams = [asyncio.create_task(follow(number)) for number in range(count)]
    await asyncio.sleep(seconds)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    for channel in channels:
        await channel.close()
    ages_ms.sort()
    return {
        "messages": sum(heard),
        "failures": sorted(set(failures)),
        "failed": len(failures),
        "least": min(heard),
        "last_trades": [min(last), max(last)],
        "age_ms": [ages_ms[len(ages_ms) // 2], ages_ms[len(ages_ms) * 99 // 100]]
        if ages_ms
        else [],
    }


# --- the market -----------------------------------------------------------------------------------


class Busy:
    """A market in which something happens all the time."""

    def __init__(self, world: LiveWorld) -> None:
        self.world = world
        self.now = Round()
        self._offers = Offers(1)
        self._application = world.application
        book = self._application.keeper.book
        self._listings = [self._offers.listing(number) for number in range(OFFERS)]
        for listing in self._listings:
            book.put_offer(listing)
        for number in range(ORDERS):
            book.put_order(self._offers.order(number))
        self._print = tape.print_trade
        tape.print_trade = self._timed_print

    def _timed_print(self, tx: Transaction, segment_id: int) -> int:
        begun = time.perf_counter()
        number = self._print(tx, segment_id)
        self.now.prints.append((time.perf_counter() - begun) * 1e3)
        self.now.trades += bool(number)
        return number

    def _tick(self, tx: Transaction) -> None:
        """As matching does it, on the writer thread: prices moved, and orders look again."""
        book, draw = self._application.keeper.book, self._offers.random
        begun, cpu = time.perf_counter(), time.thread_time()
        for _ in range(REPRICED):
            book.put_offer(draw.choice(self._listings))
        tx.note(_PricesMoved())
        cleared = book.match(tx.now_us, 0)
        book.settle(cleared, tx.now_us)
        self.now.ticks.append((time.perf_counter() - begun) * 1e3)
        self.now.cpu.append((time.thread_time() - cpu) * 1e3)

    def work(self, until: float) -> None:
        """Ticks and settlements until a monotonic instant."""
        trading = threading.Thread(target=self._trade, args=(until,))
        trading.start()
        while (now := time.monotonic()) < until:
            self.world.do(self._tick)
            time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
        trading.join()

    def _trade(self, until: float) -> None:
        """Segments of one long job are committed, verified and paid."""
        while time.monotonic() < until:
            self.world.worker_commits()


class BusyWorld(LiveWorld):
    """One worker with one endless job."""

    def prepare(self) -> None:
        buyer = self.buyer("buyer", money=10**18)
        self._worker = self.worker("worker")
        buyer.submit("endless", steps=3 * 40_000, max_price_nano=10**17)
        (self._lease,) = self.offers()
        self._worker.accept(self._lease)

    def worker_commits(self) -> None:
        self._worker.commit(self._lease, 3)
        self.audit_all()


async def _rounds(folder: Path) -> None:
    server.MAX_CALLS_PER_CALLER = 2 * SUBSCRIBERS  # they all come from this machine
    quiet, crowded = [], []
    plenty = Rate(per_second=1e6, burst=1e6)
    async with running_market(folder, audit=False, strangers=plenty, **CALM) as market:
        feeds = market.coordinator._feeds
        assert feeds is not None
        world = BusyWorld(market)
        await asyncio.to_thread(world.prepare)
        busy = await asyncio.to_thread(Busy, world)
        for number in range(2 * ROUNDS):
            busy.now = Round()
            listeners = None
            if number % 2:
                listeners = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.bench.bench_tape", "listen"),
                    *(market.coordinator.address, str(SUBSCRIBERS), str(LISTENING_SECONDS)),
                    stdout=subprocess.PIPE,
                )
                while len(feeds.subscribers) < SUBSCRIBERS:
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(busy.work, time.monotonic() + ROUND_SECONDS)
            if listeners is not None:
                said, _ = await listeners.communicate()
                busy.now.listeners = json.loads(said)
            (crowded if number % 2 else quiet).append(busy.now)
    _print_rounds(quiet, crowded)


def _print_rounds(quiet: list[Round], crowded: list[Round]) -> None:
    heading = ("ticks", "median", "p90", "p99", "CPU", "print p50", "trades/s")
    print(f"{'':>28} " + " ".join(f"{name:>9}" for name in heading))
    for name, rounds in (("without subscribers", quiet), (f"with {SUBSCRIBERS}", crowded)):
        for each in rounds:
            ticks = sorted(each.ticks)
            figures = (
                statistics.median(ticks),
                ticks[len(ticks) * 9 // 10],
                ticks[len(ticks) * 99 // 100],
                statistics.median(each.cpu),
                statistics.median(each.prints),
                each.trades / ROUND_SECONDS,
            )
            shown = " ".join(f"{figure:>9.2f}" for figure in figures)
            print(f"{name:>28} {len(ticks):>9} {shown}")
    medians = [
        statistics.median(tick for each in rounds for tick in each.ticks)
        for rounds in (quiet, crowded)
    ]
    print(f"median tick with subscribers over without: {medians[1] / medians[0]:.2f}")
    for each in crowded:
        heard = each.listeners
        print(
            f"heard {heard['messages']:,} messages, the least {heard['least']}, dropped "
            f"{heard['failed']} {heard['failures']}, last trade {heard['last_trades']}, age "
            f"median {heard['age_ms'][0]:.0f} ms p99 {heard['age_ms'][1]:.0f} ms"
        )


# --- a year ---------------------------------------------------------------------------------------


def _year(folder: Path) -> None:
    world = World(folder)
    draw, start_us = random.Random(7), world.now_us
    print(f"\na year of {YEAR_TRADES:,} trades, milliseconds, median / 99th percentile")
    before, rows, trades = EMPTY_TAPE, [], []
    for number in range(1, YEAR_TRADES + 1):
        flops = int(PFLOP * draw.lognormvariate(0, 1.5))
        price = int(2e7 * draw.lognormvariate(0, 0.3))
        trade = Trade(
            number=number,
            time_us=start_us + number * YEAR_SECONDS * 1_000_000 // YEAR_TRADES,
            work_class=WORK_CLASS if number % 4 else "dot-int",
            flops=flops,
            price_nano=max(1, price * flops // PFLOP),
            per_pflop_nano=price,
            microjoules=flops // 10**5,
            watts_source=WattsSource.DECLARED,
            offer_id=f"offer {number % 500}",
            device_name=f"card {number % 24}",
            commitment_digest=number.to_bytes(32, "big"),
        )
        before = tape_digest(before, trade)
        trades.append(trade)
        rows.append(trade_row(trade, number, before))
    candles = [candle_row(candle) for candle in candles_of(trades).values()]
    with sqlite3.connect(world.path) as connection:  # without references to segments
        for table, values in (("trade", rows), ("candle", candles)):
            names = list(values[0])
            marks = ", ".join(f":{name}" for name in names)
            connection.executemany(
                f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values
            )
    connection.close()
    world.now_us = start_us + YEAR_SECONDS * 1_000_000
    application = world.application
    spread = max(len(candle["spread"]) for candle in candles)
    print(f"{len(candles):,} candles kept, the largest histogram {spread} bytes")

    def ask(name: str, question: Callable[[Transaction], object]) -> None:
        world.see(question)
        times = []
        for _ in range(QUESTIONS):
            begun = time.perf_counter()
            world.see(question)
            times.append((time.perf_counter() - begun) * 1e3)
        times.sort()
        print(f"{name:>44} {times[len(times) // 2]:8.2f} / {times[len(times) * 99 // 100]:.2f}")

    for resolution in (60, 300, 3_600, 86_400):
        query = HistoryQuery(WORK_CLASS, resolution, page_size=500)
        ask(f"500 candles of {resolution} s", lambda tx, q=query: application.history(tx, q))  # type: ignore[misc]
    middle = start_us + YEAR_SECONDS * 500_000
    for name, trades_query in (
        ("500 trades from the middle of the year", TradesQuery(from_us=middle, page_size=500)),
        ("500 trades of one offer", TradesQuery(offer_id="offer 9", page_size=500)),
    ):
        ask(name, lambda tx, q=trades_query: application.trades(tx, q))  # type: ignore[misc]
    ask("prices of all classes", application.prices)
    ask("what a stream begins with", lambda tx: application.newest_trades(tx, "", gap=False))
    world.close()


def main() -> None:
    if sys.argv[1:2] == ["listen"]:
        address, count, seconds = sys.argv[2:]
        print(json.dumps(asyncio.run(_listen(address, int(count), float(seconds)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_rounds(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        _year(Path(folder))


if __name__ == "__main__":
    main()
