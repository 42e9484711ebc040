"""Live streams of the market over gRPC: nothing twice, nothing missed, nobody waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from flopmarket.v1 import market_pb2
from flopmarket_coordinator.rpc import book_line, subscribers
from flopmarket_coordinator.rpc.feeds import MarketFeeds
from flopmarket_coordinator.rpc.series import Series
from tests.integration.coordinator.live_world import CALM, LiveWorld
from tests.integration.coordinator.market import (
    CALL_SECONDS,
    Caller,
    Market,
    refused,
    with_market,
)

Code = grpc.StatusCode
CLASS = "elementwise-f32"


def live(folder: Path, scenario: Callable[[Market, LiveWorld], Awaitable[None]]) -> None:
    """Run a scenario with a coordinator and a world on it."""

    async def run(market: Market) -> None:
        await scenario(market, LiveWorld(market))

    with_market(folder, run, **CALM)


class Listener(Caller):
    """One stream over a connection of its own."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.stream: Any = None

    def trades(self, token: str = "", work_class: str = "") -> Listener:
        request = market_pb2.StreamTradesRequest(work_class=work_class, resume_token=token)
        self.stream = self.prices.StreamTrades(request)
        return self

    def book(self, token: str = "", work_class: str = CLASS) -> Listener:
        request = market_pb2.StreamBookRequest(work_class=work_class, resume_token=token)
        self.stream = self.prices.StreamBook(request)
        return self

    async def next(self) -> Any:
        """The next message; the stream must not end."""
        async with asyncio.timeout(CALL_SECONDS):
            message = await self.stream.read()
        assert message is not aio.EOF
        return message

    async def until(self, sequence: int) -> list[Any]:
        """Messages up to the one that covers a sequence number."""
        found = [await self.next()]
        while found[-1].sequence < sequence:
            found.append(await self.next())
        return found


@contextlib.asynccontextmanager
async def listening(market: Market) -> AsyncIterator[Listener]:
    listener = Listener(market)
    try:
        yield listener
    finally:
        if listener.stream is not None:
            listener.stream.cancel()
        await listener.close()


def feeds(market: Market) -> MarketFeeds:
    """The coordinator's own end of the streams."""
    found = market.coordinator._feeds
    assert found is not None
    return found


def bid(world: LiveWorld) -> None:
    """A limit order that nobody takes."""
    world.buyer("carl").submit("resting", max_price_nano=10)
    world.match()


def numbers(messages: list[Any]) -> list[int]:
    """Numbers of the trades of messages."""
    return [
        trade.number
        for message in messages
        for trade in (*message.snapshot.trades, *message.batch.trades)
    ]


class TestTrades:
    def test_a_stream_begins_with_the_newest_and_goes_on(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            await asyncio.to_thread(world.sell, 2, "first")
            async with listening(market) as listener:
                first = await listener.trades().next()
                assert first.WhichOneof("body") == "snapshot"
                assert numbers([first]) == [1, 2] and not first.snapshot.gap
                assert first.sequence == 2 and first.as_of_us > 0
                await asyncio.to_thread(world.sell, 3, "second", 350_000_000)
                assert numbers(await listener.until(5)) == [3, 4, 5]

        live(tmp_path, scenario)

    def test_a_client_that_comes_back_gets_exactly_what_it_missed(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as listener:
                empty = await listener.trades().next()
                assert empty.WhichOneof("body") == "snapshot" and numbers([empty]) == []
            await asyncio.to_thread(world.sell, 3, "first")
            async with listening(market) as listener:
                missed = await listener.trades(empty.resume_token).until(3)
                assert numbers(missed) == [1, 2, 3]
                await asyncio.to_thread(world.sell, 2, "second", 350_000_000)
                after = await listener.until(5)
                assert numbers(after) == [4, 5]
            async with listening(market) as listener:
                nothing = await listener.trades(after[-1].resume_token).next()
                assert nothing.WhichOneof("body") == "alive" and nothing.sequence == 5
            async with listening(market) as listener:  # other classes count on, and print nothing
                other = await listener.trades(work_class="dot-f32").next()
                assert (numbers([other]), other.sequence) == ([], 5)

        live(tmp_path, scenario)

    def test_a_token_too_old_gets_a_snapshot_that_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flopmarket_coordinator.application.tape.MAX_STREAM_REPLAY_TRADES", 2)
        monkeypatch.setattr("flopmarket_coordinator.application.tape.STREAM_SNAPSHOT_TRADES", 1)

        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as listener:
                empty = await listener.trades().next()
            await asyncio.to_thread(world.sell, 3)
            for token in (empty.resume_token, "trades.*.3.00000000", "trades.*.99.01234567"):
                async with listening(market) as listener:
                    first = await listener.trades(token).next()
                    assert first.snapshot.gap and numbers([first]) == [3] and first.sequence == 3

        live(tmp_path, scenario)

    @pytest.mark.parametrize(
        "token",
        [
            "x",
            "trades.*.1",
            "trades.*.-1.ab",
            "trades.*.1.",
            "trades.*.0.ab",
            "trades.dot-f32.1.ab",
            "book.dot-f32.ab.1",
            "trades.*." + "9" * 40 + ".ab",
        ],
    )
    def test_a_token_of_another_stream_is_refused(self, tmp_path: Path, token: str) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            bad = refused(Code.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
            async with listening(market) as listener, bad:
                await listener.trades(token).next()
            unknown = refused(Code.INVALID_ARGUMENT, "WORK_CLASS_UNKNOWN")
            async with listening(market) as listener, unknown:
                await listener.trades(work_class="nothing").next()

        live(tmp_path, scenario)


class TestBook:
    def test_changes_lead_from_the_snapshot_to_the_book(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as listener:
                first = await listener.book().next()
                assert first.WhichOneof("body") == "snapshot" and not first.snapshot.asks
                await asyncio.to_thread(world.worker, "ann")
                change = await listener.next()
                assert change.sequence == first.sequence + 1
                (level,) = change.change.asks
                assert level.count == 1 and change.change.offers == 1
                await asyncio.to_thread(world.worker, "bob", ask=350_000_000)
                await asyncio.to_thread(bid, world)
                known = {level.per_pflop.nano: level for level in change.change.asks}
                bids: dict[int, Any] = {}
                while len(known) < 2 or not bids:
                    change = await listener.next()
                    known |= {level.per_pflop.nano: level for level in change.change.asks}
                    bids |= {level.per_pflop.nano: level for level in change.change.bids}
                request = market_pb2.GetBookRequest(work_class=CLASS)
                book = await listener.call(listener.prices.GetBook, request)
                assert [level.per_pflop.nano for level in book.asks] == sorted(known)
                assert [level.per_pflop.nano for level in book.bids] == sorted(bids)[::-1]
                assert (book.offers, book.orders) == (2, 1)

        live(tmp_path, scenario)

    def test_a_client_that_comes_back_gets_the_changes_it_missed(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as listener:
                before = await listener.book().next()
            await asyncio.to_thread(world.worker, "ann")
            async with listening(market) as listener:
                missed = await listener.book(before.resume_token).next()
                assert missed.WhichOneof("body") == "change"
                assert missed.sequence == before.sequence + 1 and len(missed.change.asks) == 1
            async with listening(market) as listener:
                same = await listener.book(missed.resume_token).next()
                assert same.WhichOneof("body") == "alive"

        live(tmp_path, scenario)

    def test_a_token_of_another_run_or_too_old_gets_a_snapshot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(book_line, "MAX_STREAM_REPLAY_MESSAGES", 1)

        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as listener:
                before = await listener.book().next()
                for name in ("ann", "bob"):
                    await asyncio.to_thread(world.worker, name)
                    await listener.next()
            run = before.resume_token.split(".")[-2]
            for token in (
                before.resume_token,
                f"book.{CLASS}.another.1",
                f"book.{CLASS}.{run}.99",
            ):
                async with listening(market) as listener:
                    first = await listener.book(token).next()
                    assert first.snapshot.gap and first.snapshot.offers == 2
            bad = refused(Code.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
            async with listening(market) as listener, bad:
                await listener.book(before.resume_token, "dot-f32").next()

        live(tmp_path, scenario)


class TestSubscribers:
    def test_silence_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subscribers, "STREAM_ALIVE_SECONDS", 0.05)

        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as trades, listening(market) as book:
                for stream in (trades.trades(), book.book()):
                    first = await stream.next()
                    again = [await stream.next() for _ in range(3)]
                    assert all(message.WhichOneof("body") == "alive" for message in again)
                    assert {message.sequence for message in again} == {first.sequence}
                    assert again[-1].as_of_us > first.as_of_us
                    assert again[-1].resume_token == first.resume_token

        live(tmp_path, scenario)

    def test_too_many_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            feeds(market).subscribers._most = 1
            async with listening(market) as first, listening(market) as second:
                await first.trades().next()
                async with refused(Code.RESOURCE_EXHAUSTED, "STREAMS_FULL"):
                    await second.book().next()

        live(tmp_path, scenario)

    def test_one_who_goes_away_is_forgotten(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            present = feeds(market).subscribers
            async with listening(market) as first, listening(market) as second:
                await first.trades().next()
                await second.book().next()
                assert len(present) == 2
            async with asyncio.timeout(5):
                while len(present):
                    await asyncio.sleep(0.01)

        live(tmp_path, scenario)

    def test_streams_end_with_a_reason_when_the_coordinator_goes(self, tmp_path: Path) -> None:
        async def scenario(market: Market, world: LiveWorld) -> None:
            async with listening(market) as trades, listening(market) as book:
                await trades.trades().next()
                await book.book().next()
                feeds(market).drain()
                for listener in (trades, book):
                    async with refused(Code.UNAVAILABLE, "DRAINING"):
                        await listener.next()

        live(tmp_path, scenario)

    def test_one_who_never_reads_is_let_go_and_the_others_hear_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribers, "MAX_STREAM_QUEUE_MESSAGES", 8)
        names = [market_pb2.Trade(device_name="x" * 200) for _ in range(1_000)]

        async def scenario(market: Market, world: LiveWorld) -> None:
            present = feeds(market).subscribers
            async with listening(market) as deaf, listening(market) as reader:
                await deaf.trades().next()
                await reader.trades().next()
                heard = asyncio.create_task(reader.until(40))
                for sequence in range(1, 41):
                    message = market_pb2.StreamTradesResponse(
                        sequence=sequence, batch=market_pb2.TradeBatch(trades=names)
                    )
                    message.batch.trades[0].number = sequence
                    for subscriber in present.of("trades", Series()):
                        subscriber.put(message)
                    await asyncio.sleep(0.02)
                assert [message.sequence for message in await heard] == list(range(1, 41))
                async with asyncio.timeout(CALL_SECONDS):
                    while len(present) > 1:  # its last write is waited for
                        await asyncio.sleep(0.01)
                async with refused(Code.RESOURCE_EXHAUSTED, "STREAM_TOO_SLOW"):
                    await deaf.until(40)

        live(tmp_path, scenario)

    def test_one_who_holds_a_write_too_long_is_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribers, "STREAM_WRITE_SECONDS", 0.1)
        names = [market_pb2.Trade(device_name="x" * 200) for _ in range(10_000)]

        async def scenario(market: Market, world: LiveWorld) -> None:
            present = feeds(market).subscribers
            async with listening(market) as deaf:
                await deaf.trades().next()
                batch = market_pb2.TradeBatch(trades=names)
                async with asyncio.timeout(CALL_SECONDS):
                    sequence = 0
                    while mine := present.of("trades", Series()):
                        sequence += 1
                        message = market_pb2.StreamTradesResponse(sequence=sequence, batch=batch)
                        message.batch.trades[0].number = sequence
                        mine[0].put(message)
                        await asyncio.sleep(0.05)

        live(tmp_path, scenario)


def test_a_write_under_way_is_waited_for_before_its_stream_ends() -> None:
    """gRPC cannot tell a peer why its call ends while a write of it is pending."""
    told: list[str] = []

    async def scenario() -> None:
        reads = asyncio.Event()

        async def write(message: Any) -> None:
            await reads.wait()
            told.append("written")

        async def stream() -> None:
            try:
                await subscribers.write_in_time(write, market_pb2.StreamTradesResponse())
            except asyncio.CancelledError:
                told.append("ended")

        task = asyncio.create_task(stream())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        reads.set()
        await task

    asyncio.run(scenario())
    assert told == ["written", "ended"]
