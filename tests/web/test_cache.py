"""One upstream answer for many viewers; the last good one while the coordinator is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flopmarket.errors import NotFound, Unavailable
from flopmarket.limits import (
    MAX_BOARD_CACHE_ENTRIES,
    MAX_BOARD_STALE_SECONDS,
    MAX_BOARD_UPSTREAM_CALLS,
)
from flopmarket_coordinator.web import cache as cache_module
from flopmarket_coordinator.web.cache import Cache


class Upstream:
    """Counts questions; answers with the count, or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> int:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.asked


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Story = Callable[[Cache, Upstream, Clock], Coroutine[Any, Any, None]]


def run(story: Story) -> None:
    async def inner() -> None:
        clock = Clock()
        cache = Cache(clock)
        await story(cache, Upstream(), clock)
        await cache.close()

    asyncio.run(inner())


def test_many_viewers_are_one_question() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        upstream.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(cache.get("k", 2, upstream)) for _ in range(500)]
        await asyncio.sleep(0)
        upstream.gate.set()
        answers = await asyncio.gather(*waiting)
        assert upstream.asked == 1
        assert {answer.value for answer in answers} == {1}

    run(story)


def test_an_answer_serves_its_lifetime() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        for now, asked in ((0.0, 1), (2.0, 1), (2.1, 2), (4.0, 2), (4.2, 3)):
            clock.now = now
            assert (await cache.get("k", 2, upstream)).value == asked

    run(story)


def test_a_failure_serves_the_older_answer_with_its_trouble() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        await cache.get("k", 2, upstream)
        upstream.error, clock.now = Unavailable("away"), 60.0
        answer = await cache.get("k", 2, upstream)
        assert (answer.value, answer.age_seconds) == (1, 60.0)
        assert answer.trouble is upstream.error
        clock.now = MAX_BOARD_STALE_SECONDS + 1
        with pytest.raises(Unavailable):
            await cache.get("k", 2, upstream)

    run(story)


def test_a_first_failure_is_the_viewers() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        upstream.error = Unavailable("away")
        with pytest.raises(Unavailable):
            await cache.get("k", 2, upstream)

    run(story)


def test_what_is_gone_is_gone() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        await cache.get("k", 2, upstream)
        upstream.error, clock.now = NotFound("no such job"), 60.0
        with pytest.raises(NotFound):
            await cache.get("k", 2, upstream)

    run(story)


def test_a_slow_answer_is_not_waited_for_when_there_is_an_older_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "BOARD_PATIENCE_SECONDS", 0.01)

    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        await cache.get("k", 2, upstream)
        upstream.gate, clock.now = asyncio.Event(), 10.0
        answer = await cache.get("k", 2, upstream)
        assert answer.value == 1
        assert answer.trouble is not None
        assert answer.trouble.code == "COORDINATOR_SLOW"
        # It was not given up: who asks next gets it, and it was one question.
        upstream.gate.set()
        await asyncio.sleep(0)
        assert (await cache.get("k", 2, upstream)).value == 2
        assert upstream.asked == 2

    run(story)


def test_open_questions_and_remembered_answers_are_bounded() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        for key in range(MAX_BOARD_CACHE_ENTRIES + 10):
            await cache.get(key, 2, upstream)
        asked = upstream.asked
        await cache.get(0, 2, upstream)
        assert upstream.asked == asked + 1, "the oldest was forgotten"
        upstream.gate = asyncio.Event()
        waiting = [
            asyncio.ensure_future(cache.get(("new", key), 2, upstream))
            for key in range(MAX_BOARD_UPSTREAM_CALLS + 1)
        ]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        (refused,) = done
        error = refused.exception()
        assert isinstance(error, Unavailable)
        assert error.code == "BOARD_BUSY"
        upstream.gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(story)


def test_a_viewer_who_leaves_takes_nothing_with_him() -> None:
    async def story(cache: Cache, upstream: Upstream, clock: Clock) -> None:
        upstream.gate = asyncio.Event()
        leaver = asyncio.ensure_future(cache.get("k", 2, upstream))
        stayer = asyncio.ensure_future(cache.get("k", 2, upstream))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        upstream.gate.set()
        assert (await stayer).value == 1

    run(story)
