"""The price board under load: pages and JSON a second, and how soon a trade reaches every browser.

``python -m tests.bench.bench_board``. Client and server share the machine, so a figure here is a
lower bound; questions to the coordinator are counted, because the board exists to keep them few.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from tests.browser.serving import Served, served
from tests.web.sample import SampleMarket

REQUESTS = 2_000
AT_ONCE = 32
FOLLOWERS = 250
TRADES = 20
PATHS = ("/api/v1/spot.json", "/metrics", "/", "/class/dot-f32", "/offers")


async def requests(board: Served, path: str) -> None:
    """Print requests a second and their times."""
    seconds: list[float] = []
    async with httpx.AsyncClient(base_url=board.address) as client:
        await client.get(path)
        left = iter(range(REQUESTS))

        async def reader() -> None:
            for _ in left:
                started = time.perf_counter()
                (await client.get(path)).raise_for_status()
                seconds.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(AT_ONCE)))
        whole = time.perf_counter() - started
    cuts = statistics.quantiles(seconds, n=100)
    print(
        f"{path:<20} {REQUESTS / whole:6.0f}/s   median {cuts[49] * 1e3:5.1f} ms   "
        f"99 % {cuts[98] * 1e3:5.1f} ms   ({AT_ONCE} at once)"
    )


async def followers(board: Served) -> None:
    """Print how long a trade takes to the last of many browsers."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        ready, heard = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def follow() -> None:
            async with client.stream("GET", f"{board.address}/api/v1/trades") as answer:
                seen = 0
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        (heard if seen else ready).release()
                        seen += 1
                        if seen > TRADES:
                            return

        tasks = [asyncio.ensure_future(follow()) for _ in range(FOLLOWERS)]
        for _ in tasks:
            await ready.acquire()
        seconds = []
        for _ in range(TRADES):
            started = time.perf_counter()
            board.trade_now("dot-f32", 1.0, "bench")
            for _ in tasks:
                await heard.acquire()
            seconds.append(time.perf_counter() - started)
        await asyncio.gather(*tasks)
    print(
        f"a trade to {FOLLOWERS} browsers: median {statistics.median(seconds) * 1e3:.0f} ms, "
        f"worst {max(seconds) * 1e3:.0f} ms"
    )


def main() -> None:
    """Serve the sample market and measure."""
    with served(SampleMarket(days=10)) as board:
        for path in PATHS:
            asyncio.run(requests(board, path))
        asyncio.run(followers(board))
        asked = sum(board.market.calls.values())
        print(f"questions to the coordinator: {asked} for {REQUESTS * len(PATHS)} requests")


if __name__ == "__main__":
    main()
