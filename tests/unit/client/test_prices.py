"""Parts of the price client that need no coordinator: filters, books, streams that come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from flopmarket.cli.tape_options import instant_of
from flopmarket.client.messages_prices import trade_from_proto
from flopmarket.client.money import Money
from flopmarket.client.offer_filters import filter_to_proto
from flopmarket.client.results_prices import Book, BookLevel, BookMessage
from flopmarket.client.resuming import resumed
from flopmarket.client.session import Ports
from flopmarket.errors import FlopmarketError, InvalidInput, QuotaExceeded, Unavailable
from flopmarket.limits import CLIENT_WATCH_GIVE_UP_SECONDS
from flopmarket.v1 import market_pb2

NOW_US = 1_795_000_000_000_000
HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("flops_per_watt>=2e10", ("flops_per_watt", ">=", "2e10")),
        (" region = eu ", ("region", "=", "eu")),
        ("device_name~RX 7900 > all", ("device_name", "~", "RX 7900 > all")),
        ("state!=busy", ("state", "!=", "busy")),
        ("memory<-1", ("memory", "<", "-1")),
    ],
)
def test_conditions_are_read(text: str, parts: tuple[str, str, str]) -> None:
    found = filter_to_proto(text)
    assert (found.field, found.op, found.value) == parts


@pytest.mark.parametrize(
    "text", ["", "memory", "=5", "memory=", "Memory>1", "a b>1", "memory==1x>"]
)
def test_what_is_no_condition(text: str) -> None:
    if text == "memory==1x>":
        assert filter_to_proto(text).value == "=1x>"  # the coordinator says that it is no number
        return
    with pytest.raises(InvalidInput) as error:
        filter_to_proto(text)
    assert error.value.code == "FILTER_MALFORMED"


@pytest.mark.parametrize(
    ("text", "instant_us"),
    [
        ("", 0),
        ("90m", NOW_US - HOUR_US * 3 // 2),
        ("7d", NOW_US - 7 * 24 * HOUR_US),
        ("1970-01-02", 24 * HOUR_US),
        ("1970-01-02T01:00", 25 * HOUR_US),
        ("1970-01-02T01:00+01:00", 24 * HOUR_US),
        ("1970-01-01", 1),  # 0 would leave the side open
        ("999999d", 1),
    ],
)
def test_instants_are_read(text: str, instant_us: int) -> None:
    assert instant_of(text, NOW_US) == instant_us


@pytest.mark.parametrize(
    "text", ["soon", "24", "-1h", "2026-13-01", "9999999d", "2026-11-22T25:00"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        instant_of(text, NOW_US)
    assert error.value.code == "TIME_MALFORMED"


@pytest.mark.parametrize("flops", ["", "-1", "1e3", "9" * 61, "１"])
def test_a_count_that_is_none_is_refused(flops: str) -> None:
    with pytest.raises(FlopmarketError):
        trade_from_proto(market_pb2.Trade(flops=flops), "USD")


# --- books ----------------------------------------------------------------------------------------


def level(nano: int, count: int = 1) -> BookLevel:
    return BookLevel(Money(nano), count, 0.0, 1.0, 1.0)


def message(
    asks: tuple[BookLevel, ...] = (),
    bids: tuple[BookLevel, ...] = (),
    *,
    is_snapshot: bool = False,
    is_change: bool = False,
) -> BookMessage:
    return BookMessage(9, 1, "token", asks, bids, 5, 6, is_snapshot, is_change, False)


def test_messages_lead_to_the_book() -> None:
    empty = Book(1, "USD", "dot-f32", (), (), 0, 0)
    first = empty.after(message((level(5), level(3)), (level(1), level(2)), is_snapshot=True))
    assert [item.per_pflop.nano for item in first.asks] == [3, 5]
    assert [item.per_pflop.nano for item in first.bids] == [2, 1]
    assert (first.offers, first.orders, first.as_of_us) == (5, 6, 9)
    second = first.after(message((level(3, 0), level(4, 7)), (level(9, 0),), is_change=True))
    assert [(item.per_pflop.nano, item.count) for item in second.asks] == [(4, 7), (5, 1)]
    assert second.bids == first.bids
    assert second.after(message()) == second


# --- streams that come back -----------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    resume_token: str


class Clock:
    """Time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_us = 0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_us += int(seconds * 1e6)

    @property
    def ports(self) -> Ports:
        return Ports(now_us=lambda: self.now_us, sleep=self.sleep, random_bytes=bytes)


def test_a_lost_stream_goes_on_behind_its_last_message() -> None:
    clock, opened = Clock(), []

    def connect(token: str) -> Iterator[Said]:
        opened.append(token)
        if len(opened) == 2:
            raise QuotaExceeded("too slow", code="STREAM_TOO_SLOW", retryable=True)
        yield Said(f"{len(opened)}a")
        yield Said(f"{len(opened)}b")
        if len(opened) == 1:
            raise Unavailable("gone")

    stream = resumed(connect, clock.ports, "start")
    assert [next(stream).resume_token for _ in range(6)] == ["1a", "1b", "3a", "3b", "4a", "4b"]
    assert opened == ["start", "1b", "1b", "3b"]
    assert clock.pauses == [0.2, 0.4, 0.2]


def test_a_refusal_is_told_at_once_and_silence_after_a_while() -> None:
    def refuse(token: str) -> Iterator[Said]:
        raise InvalidInput("no such token", code="RESUME_TOKEN_INVALID")
        yield Said(token)

    def away(token: str) -> Iterator[Said]:
        raise Unavailable("nobody there")
        yield Said(token)

    clock = Clock()
    with pytest.raises(InvalidInput):
        next(resumed(refuse, clock.ports, "x"))
    assert clock.pauses == []
    with pytest.raises(Unavailable):
        next(resumed(away, clock.ports, ""))
    assert sum(clock.pauses) >= CLIENT_WATCH_GIVE_UP_SECONDS
