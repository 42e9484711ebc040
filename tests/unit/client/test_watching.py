"""The loop of a watch: what it gives up on, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from flopmarket.client.results import JobEvent, JobInfo, JobState
from flopmarket.client.session import Ports
from flopmarket.client.watching import (
    LONGEST_PAUSE_SECONDS,
    WaitedLongEnough,
    watch_events,
)
from flopmarket.errors import FlopmarketError, NotFound, Unauthenticated, Unavailable
from flopmarket.limits import CLIENT_WATCH_GIVE_UP_SECONDS


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_us = 0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_us += int(seconds * 1e6)

    def ports(self) -> Ports:
        return Ports(now_us=lambda: self.now_us, sleep=self.sleep, random_bytes=bytes)


class Standing:
    """How a job stands, as far as the loop asks."""

    def __init__(self, state: JobState) -> None:
        self.state = state


def event(sequence: int, kind: str = "leased") -> JobEvent:
    return JobEvent(sequence, 0, kind, "", None, 0, {})


def watch(
    streams: list[list[JobEvent | FlopmarketError]],
    clock: Clock,
    state: JobState = JobState.RUNNING,
) -> tuple[Iterator[JobEvent], list[int]]:
    """A watch over scripted streams; the last one repeats. Also the places it went on from."""
    asked: list[int] = []

    def connect(after: int) -> Iterator[JobEvent]:
        script = streams[min(len(asked), len(streams) - 1)]
        asked.append(after)
        for item in script:
            if isinstance(item, FlopmarketError):
                raise item
            yield item

    current = cast(JobInfo, Standing(state))
    return watch_events(connect, lambda: current, clock.ports()), asked


def test_it_goes_on_from_the_last_event() -> None:
    clock = Clock()
    events, asked = watch(
        [[event(1), event(2), Unavailable("x")], [event(3), event(4, "succeeded")]], clock
    )
    assert [e.sequence for e in events] == [1, 2, 3, 4]
    assert asked == [0, 2]


def test_progress_passes_and_repeated_events_do_not() -> None:
    script = [event(1), event(1, "progress"), event(1), event(1, "progress"), event(2, "failed")]
    events, _ = watch([list(script)], Clock())
    assert [e.kind for e in events] == ["leased", "progress", "progress", "failed"]


def test_what_follows_the_end_is_told_too() -> None:
    events, asked = watch([[event(1, "succeeded"), event(2, "paid")]], Clock())
    assert [e.kind for e in events] == ["succeeded", "paid"]
    lost, asked = watch([[event(1, "succeeded"), Unavailable("gone")]], Clock())
    assert [e.kind for e in lost] == ["succeeded"]
    assert asked == [0]


def test_pauses_grow_and_it_gives_up() -> None:
    clock = Clock()
    events, asked = watch([[Unavailable("gone", code="COORDINATOR_UNREACHABLE")]], clock)
    with pytest.raises(Unavailable):
        list(events)
    assert clock.slept[:4] == [0.2, 0.4, 0.8, 1.6]
    assert max(clock.slept) == LONGEST_PAUSE_SECONDS
    assert clock.now_us >= CLIENT_WATCH_GIVE_UP_SECONDS * 1e6
    assert len(asked) < 100


def test_an_answer_starts_the_patience_again() -> None:
    clock = Clock()
    gone: list[JobEvent | FlopmarketError] = [Unavailable("gone")]
    events, _ = watch([*[gone] * 40, [event(1)], *[gone] * 40, [event(2, "succeeded")]], clock)
    assert [e.sequence for e in events] == [1, 2]
    assert clock.now_us > CLIENT_WATCH_GIVE_UP_SECONDS * 1e6


def test_a_refusal_is_not_repeated() -> None:
    clock = Clock()
    events, asked = watch([[NotFound("no such job")]], clock)
    with pytest.raises(NotFound):
        list(events)
    assert (len(asked), clock.slept) == (1, [])


def test_a_forgotten_session_is_tried_once_more() -> None:
    clock = Clock()
    events, asked = watch([[Unauthenticated("who?")]], clock)
    with pytest.raises(Unauthenticated):
        list(events)
    assert len(asked) == 2


def test_a_stream_that_ends_early_asks_how_the_job_stands() -> None:
    ended, asked = watch([[event(1)]], Clock(), JobState.CANCELLED)
    assert [e.sequence for e in ended] == [1]
    assert asked == [0]
    running, asked = watch([[event(1)], [event(2, "succeeded")]], Clock(), JobState.RUNNING)
    assert [e.sequence for e in running] == [1, 2]
    assert asked == [0, 1]


def test_a_watch_with_an_end_stops_there_and_says_that_the_job_goes_on() -> None:
    """The stream ends by its own deadline, which looks like a lost connection."""
    clock = Clock()
    streams: list[list[JobEvent | FlopmarketError]] = [[event(1), Unavailable("deadline")]]
    asked: list[int] = []

    def connect(after: int) -> Iterator[JobEvent]:
        asked.append(after)
        clock.now_us += 4_000_000
        for item in streams[0]:
            if isinstance(item, FlopmarketError):
                raise item
            yield item

    current = cast(JobInfo, Standing(JobState.RUNNING))
    watched = watch_events(connect, lambda: current, clock.ports(), 0, 9_000_000)
    seen: list[int] = []
    with pytest.raises(WaitedLongEnough) as caught:
        seen.extend(item.sequence for item in watched)
    assert caught.value.code == "WAIT_TIMEOUT" and caught.value.exit_code == 7
    assert asked == [0, 1, 1] and clock.now_us >= 9_000_000


def test_a_job_that_ends_in_time_ends_the_watch() -> None:
    clock = Clock()
    events = [event(1), event(2, "succeeded")]
    current = cast(JobInfo, Standing(JobState.SUCCEEDED))
    watched = watch_events(lambda _: iter(events), lambda: current, clock.ports(), 0, 5)
    assert [item.sequence for item in watched] == [1, 2]
