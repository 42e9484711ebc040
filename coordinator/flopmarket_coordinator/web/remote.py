"""The gateway over gRPC: :class:`flopmarket.client.client.Client`, one a thread, a few threads.

The client is synchronous and belongs to one thread. The board asks little (its cache sees to that),
so a handful of threads with a client each is enough; a stream has a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from flopmarket.client.client import SYSTEM_PORTS, Client
from flopmarket.client.config import Settings, key_file
from flopmarket.client.prices import RESOLUTIONS
from flopmarket.client.session import Ports
from flopmarket.errors import FlopmarketError, NotFound, Unavailable
from flopmarket.limits import (
    BOARD_CALL_SECONDS,
    BOARD_UPSTREAM_THREADS,
    MAX_BOARD_CANDLES,
    MAX_BOARD_JOBS,
    MAX_BOARD_LISTENER_MESSAGES,
)
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web import convert
from flopmarket_coordinator.web.earning import Ledger
from flopmarket_coordinator.web.model import (
    Accuracy,
    Book,
    Earnings,
    History,
    Job,
    JobEvent,
    OfferQuery,
    Offers,
    Spot,
    TapeMessage,
    Why,
)

Value = TypeVar("Value")
RESOLUTION_NAMES = {seconds: name for name, seconds in RESOLUTIONS.items()}
STREAM_END_SECONDS = 2.0


class RemoteGateway:
    """A coordinator by its settings; ``with_key`` also asks about the key's own account.

    Raises what reading the key raises. Nothing is sent yet.
    """

    def __init__(self, settings: Settings, *, with_key: bool) -> None:
        self._settings = settings
        self._key = KeyPair.load(key_file(settings.key)) if with_key else None
        self._local = threading.local()
        self._clients: list[Client] = []
        self._pool = ThreadPoolExecutor(BOARD_UPSTREAM_THREADS, thread_name_prefix="board")
        self._ledger = Ledger()

    @property
    def account_id(self) -> str:
        if self._key is None:
            return ""
        return self._settings.account or self._key.key_id

    @property
    def notice(self) -> str:
        return ""

    async def spot(self, mode: Mode) -> Spot:
        return convert.spot(await self._ask(lambda client: client.spot(mode=mode)))

    async def offers(self, query: OfferQuery) -> Offers:
        def ask(client: Client) -> Offers:
            page = client.offers_page(
                order_by=query.order_by,
                work_class=query.work_class,
                filters=conditions(query),
                page_size=query.page_size,
                page_token=query.page_token,
            )
            return convert.offers(page, client.coordinator().currency)

        return await self._ask(ask)

    async def book(self, work_class: str, mode: Mode) -> Book:
        return convert.book(await self._ask(lambda client: client.book(work_class, mode=mode)))

    async def history(
        self, work_class: str, mode: Mode, resolution_seconds: int, from_us: int, to_us: int
    ) -> History:
        name = RESOLUTION_NAMES[resolution_seconds]
        found = await self._ask(
            lambda client: client.history(work_class, name, from_us, to_us, mode)
        )
        return convert.history(found, MAX_BOARD_CANDLES)

    async def trades(self) -> AsyncIterator[TapeMessage]:
        async for message in self._streamed(lambda client: client.watch_trades()):
            yield convert.tape(message)

    async def accuracy(self) -> Accuracy:
        found = (await self._ask(lambda client: client.accuracy())).overall
        return Accuracy(found.segments, found.error_p50_ppm, found.error_p90_ppm)

    async def snapshot(self) -> bytes:
        return await self._ask(lambda client: client.snapshot())

    async def jobs(self) -> tuple[Job, ...]:
        return await self._ask(
            lambda client: tuple(map(convert.job, islice(client.jobs(), MAX_BOARD_JOBS)))
        )

    async def job(self, job_id: str) -> Job:
        return convert.job(await self._ask(lambda client: client.job(job_id)))

    async def why(self, job_id: str) -> Why:
        found = await self._ask(lambda client: client.explain_job(job_id))
        return convert.why(found.summary, found.reasons)

    async def job_events(self, job_id: str) -> AsyncIterator[JobEvent]:
        async for event in self._streamed(lambda client: client.watch(job_id)):
            yield convert.job_event(event)

    async def why_idle(self, offer_id: str) -> Why:
        found = await self._ask(lambda client: client.explain_offers(offer_id))
        for one in found:
            if one.offer_id == offer_id:
                return convert.why(one.summary, one.reasons)
        raise NotFound("the coordinator does not know this offer", code="OFFER_NOT_FOUND")

    async def earnings(self, offer_id: str) -> Earnings:
        return await self._ask(lambda client: self._ledger.earnings(client, offer_id))

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    # --- threads ------------------------------------------------------------------------------

    def _open(self, ports: Ports) -> Client:
        settings = self._settings
        return Client(
            settings.address,
            self._key,
            Path(settings.ca) if settings.ca else None,
            coordinator_key=settings.coordinator_key,
            account_id=settings.account if self._key else "",
            ports=ports,
        )

    async def _ask(self, question: Callable[[Client], Value]) -> Value:
        """One question on a thread of the pool; Unavailable DEADLINE_EXCEEDED when it takes long.

        A question that is given up goes on in its thread until its own deadline, and its answer is
        lost; the cache does not ask the same thing twice meanwhile.
        """

        def run() -> Value:
            client: Client | None = getattr(self._local, "client", None)
            if client is None:
                client = self._local.client = self._open(SYSTEM_PORTS)
                self._clients.append(client)
            return question(client)

        running = asyncio.get_running_loop().run_in_executor(self._pool, run)
        try:
            return await asyncio.wait_for(running, BOARD_CALL_SECONDS)
        except TimeoutError:
            raise Unavailable(
                f"the coordinator at {self._settings.address} did not answer in "
                f"{BOARD_CALL_SECONDS:g} s",
                code="DEADLINE_EXCEEDED",
            ) from None

    async def _streamed(self, listen: Callable[[Client], Iterator[Value]]) -> AsyncIterator[Value]:
        """What a stream says, from a thread of its own that ends with this generator."""
        loop, stopping = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[Value | FlopmarketError | None]
        queue = asyncio.Queue(MAX_BOARD_LISTENER_MESSAGES)
        # A pause between two tries must end when the board does.
        client = self._open(replace(SYSTEM_PORTS, sleep=lambda s: void(stopping.wait(s))))

        def tell(item: Value | FlopmarketError | None) -> None:
            """Wait for room: a stream that is not read is not to fill the memory."""
            if not stopping.is_set():
                asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

        def run() -> None:
            try:
                for item in listen(client):
                    tell(item)
                    if stopping.is_set():
                        return
                tell(None)
            except FlopmarketError as error:
                tell(error)
            except ValueError:  # gRPC's own, for a call on the channel that was closed below
                if not stopping.is_set():
                    raise

        thread = threading.Thread(target=run, name="board-stream", daemon=True)
        thread.start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, FlopmarketError):
                    raise item
                yield item
        finally:
            stopping.set()
            client.close()
            until = time.monotonic() + STREAM_END_SECONDS
            while thread.is_alive() and time.monotonic() < until:
                while not queue.empty():
                    queue.get_nowait()  # whoever waits for room goes on, and sees that it is over
                await asyncio.sleep(0.01)


def conditions(query: OfferQuery) -> list[str]:
    """The filters of a query as the coordinator reads them."""
    texts = {
        "region=": query.region,
        "suited_for=": query.suited_for,
        "account=": query.account_id,
        "mode=": query.mode,
    }
    found = [name + value for name, value in texts.items() if value]
    if query.device_name:
        found.append(f"device_name~{query.device_name}")
    if query.idle_only:
        found.append("state=idle")
    if query.min_memory_bytes is not None:
        found.append(f"memory>={query.min_memory_bytes}")
    if query.max_price_nano is not None:
        found.append(f"price<={query.max_price_nano}")
    if query.min_flops_per_watt is not None:
        found.append(f"flops_per_watt>={query.min_flops_per_watt!r}")
    if query.min_reliability is not None:
        found.append(f"reliability>={query.min_reliability!r}")
    return found


def void(_: object) -> None:
    """Nothing of something."""
