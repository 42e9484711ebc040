"""A board on a loopback port of its own, in a thread, for a real browser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.board import Board
from flopmarket_coordinator.web.model import JobEvent
from flopmarket_coordinator.web.serve import server
from tests.web.sample import NOW_US, SampleMarket

START_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Served:
    """Where the board is, its market, and a way to do something on its event loop."""

    address: str
    market: SampleMarket
    board: Board
    loop: asyncio.AbstractEventLoop

    def trade_now(
        self, work_class: str, pflop: float, device_name: str, mode: Mode = Mode.EXACT
    ) -> None:
        """Print a trade on the tape from another thread."""
        trade = work_class, pflop, device_name, mode
        self.loop.call_soon_threadsafe(self.market.trade_now, *trade)

    def job_event(self, event: JobEvent) -> None:
        """Let something happen to the sample market's running job."""
        self.loop.call_soon_threadsafe(self.market.job_story.append, event)


@contextmanager
def served(market: SampleMarket) -> Iterator[Served]:
    """Serve a market until the end of the block."""
    board = Board(market, clock=lambda: NOW_US / 1e6, tariff_nano_per_kwh=300_000_000)
    http, ready = server(board, "127.0.0.1", 0), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.ensure_future(http.serve())
        while not http.started and not task.done():
            await asyncio.sleep(0.01)
        ready.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="board")
    thread.start()
    assert ready.wait(START_SECONDS), "the board did not start"
    try:
        yield Served(f"http://127.0.0.1:{http.port}", market, board, loops[0])
    finally:
        http.should_exit = True
        thread.join(START_SECONDS)
