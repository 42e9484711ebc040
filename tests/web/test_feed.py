"""Live figures: one stream from upstream, bounded browsers behind it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from flopmarket.errors import QuotaExceeded, Unavailable
from flopmarket.limits import (
    BOARD_TAPE_TRADES,
    MAX_BOARD_LISTENER_MESSAGES,
    MAX_BOARD_LISTENERS,
    MAX_BOARD_LOSS_POINTS,
    MAX_BOARD_WATCHED_JOBS,
)
from flopmarket_coordinator.web import feed as feed_module
from flopmarket_coordinator.web.feed import JobFeeds, JobStory, Listeners, Seats, TapeFeed
from flopmarket_coordinator.web.model import JobEvent, TapeMessage, Trade
from tests.web.sample import SampleMarket

TRADE = Trade(1, 10, "dot-f32", 10**15, 5, 5, None, "unknown", "offer", "device")


def trade(number: int, work_class: str = "dot-f32") -> Trade:
    return dataclasses.replace(TRADE, number=number, work_class=work_class)


class Stream(SampleMarket):
    """A market whose tape is a list of connections, each a list of messages or an error."""

    def __init__(self, *connections: list[TapeMessage | Exception]) -> None:
        super().__init__(days=0)
        self.connections = list(connections)
        self.done = asyncio.Event()

    async def trades(self) -> AsyncIterator[TapeMessage]:
        if not self.connections:
            self.done.set()
            await asyncio.Event().wait()
        for message in self.connections.pop(0):
            if isinstance(message, Exception):
                raise message
            yield message


def followed(*connections: list[TapeMessage | Exception]) -> TapeFeed:
    """A feed that has read all connections."""

    async def run() -> TapeFeed:
        stream = Stream(*connections)
        tape = TapeFeed(stream, Seats())
        tape.start()
        await asyncio.wait_for(stream.done.wait(), 5)
        await tape.close()
        return tape

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "BOARD_RECONNECT_SECONDS", (0.0, 0.0))


def test_the_newest_trades_of_each_class_are_kept() -> None:
    many = tuple(trade(n) for n in range(2, 300))
    tape = followed([TapeMessage(1, (trade(1, "f64"), *many), True)])
    assert len(tape.recent("dot-f32")) == BOARD_TAPE_TRADES
    assert tape.recent("dot-f32")[0].number == 299
    assert [t.number for t in tape.recent("f64")] == [1], "a busy class pushes no other out"
    assert tape.recent("nothing") == ()


def test_a_connection_begun_again_prints_nothing_twice() -> None:
    first: list[TapeMessage | Exception] = [
        TapeMessage(1, (trade(1), trade(2)), True),
        Unavailable("gone"),
    ]
    second: list[TapeMessage | Exception] = [
        TapeMessage(2, (trade(1), trade(2), trade(3)), True),
        TapeMessage(3, (trade(4),)),
    ]
    tape = followed(first, second)
    assert [t.number for t in tape.recent()] == [4, 3, 2, 1]
    assert tape.trouble is None
    assert tape.as_of_us == 3


def test_another_tape_replaces_the_first() -> None:
    tape = followed([TapeMessage(1, (trade(900),), True)], [TapeMessage(2, (trade(3),), True)])
    assert [t.number for t in tape.recent()] == [3]


def test_a_browser_that_is_slow_is_let_go() -> None:
    async def run() -> None:
        listeners: Listeners[int] = Listeners(Seats())
        async with listeners.follow() as queue, listeners.follow() as quick:
            for number in range(MAX_BOARD_LISTENER_MESSAGES + 5):
                listeners.publish(number)
                if len(listeners) == 2 or not quick.empty():
                    assert quick.get_nowait() == number
            assert len(listeners) == 1
            received = [queue.get_nowait() for _ in range(queue.qsize())]
            assert received[-1] is None
            assert received[:-1] == list(range(MAX_BOARD_LISTENER_MESSAGES))

    asyncio.run(run())


def test_there_are_only_so_many_seats() -> None:
    async def run() -> None:
        seats = Seats()
        seats.taken = MAX_BOARD_LISTENERS - 1
        listeners: Listeners[int] = Listeners(seats)
        async with listeners.follow():
            with pytest.raises(QuotaExceeded) as refusal:
                async with listeners.follow():
                    pass
            assert refusal.value.code == "BOARD_FULL"
        async with listeners.follow():
            assert seats.taken == MAX_BOARD_LISTENERS
        assert seats.taken == MAX_BOARD_LISTENERS - 1

    asyncio.run(run())


def progress(step: int, loss: float) -> JobEvent:
    return JobEvent(0, 0, "progress", "", step, {"loss": loss})


def test_a_curve_thins_out_and_keeps_its_ends() -> None:
    story = JobStory()
    for step in range(1, 3 * MAX_BOARD_LOSS_POINTS):
        story.take(progress(step, float(step)))
    points = story.curves["loss"]
    assert len(points) <= MAX_BOARD_LOSS_POINTS
    assert points[0] == (1, 1.0)
    assert points[-1][0] == 3 * MAX_BOARD_LOSS_POINTS - 1
    assert points == sorted(points)


def test_steps_computed_again_replace_what_was_reported() -> None:
    story = JobStory()
    for step, loss in ((10, 3.0), (20, 2.0), (30, 9.0), (20, 1.9), (30, 1.8)):
        story.take(progress(step, loss))
    assert story.curves["loss"] == [(10, 3.0), (20, 1.9), (30, 1.8)]
    assert story.step == 30


def test_few_jobs_are_followed_at_a_time() -> None:
    async def run() -> None:
        feeds = JobFeeds(SampleMarket(days=0), Seats())
        first = feeds.story("job-0")
        for number in range(1, MAX_BOARD_WATCHED_JOBS + 1):
            feeds.story(f"job-{number}")
        assert feeds.story("job-0") is not first, "it had been dropped"
        await feeds.close()

    asyncio.run(run())


def test_a_story_begins_at_its_beginning() -> None:
    async def run() -> None:
        market = SampleMarket(days=0)
        feeds = JobFeeds(market, Seats())
        story = await feeds.begun("5f" * 32)
        assert story.events[0].kind == "queued"
        assert len(story.curves["loss"]) > 100
        assert market.calls["job_events"] == 1
        await feeds.begun("5f" * 32)
        assert market.calls["job_events"] == 1
        await feeds.close()

    asyncio.run(run())
