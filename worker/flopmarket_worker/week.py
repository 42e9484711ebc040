"""Hours of the week, and spans of them: what tariffs and schedules are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_SCHEDULE_SPANS

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOURS_OF_DAY = 24

_SPAN = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-,][a-z]{3}){0,6}) )?(?P<first>[0-9]{1,2})-(?P<end>[0-9]{1,2})"
)


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of the week: ``day`` 0 is Monday, ``hour`` 0 to 23."""

    day: int
    hour: int

    def __str__(self) -> str:
        return f"{DAYS[self.day]} {self.hour:02d}:00"


ALL_HOURS = tuple(Hour(day, hour) for day in range(len(DAYS)) for hour in range(HOURS_OF_DAY))


@dataclass(frozen=True, slots=True)
class Span:
    """From hour ``first`` up to hour ``end``, on the days it begins on."""

    days: frozenset[int]
    first: int
    end: int

    def holds(self, at: Hour) -> bool:
        """Whether the hour lies in the span; after midnight it belongs to the day before."""
        if self.first < self.end:
            return at.day in self.days and self.first <= at.hour < self.end
        evening = at.day in self.days and at.hour >= self.first
        morning = (at.day - 1) % len(DAYS) in self.days and at.hour < self.end
        return evening or morning


@dataclass(frozen=True, slots=True)
class Schedule:
    """When devices are offered; always, without any span."""

    spans: tuple[Span, ...] = ()

    def is_open(self, at: Hour) -> bool:
        """Whether devices are offered in that hour."""
        return not self.spans or any(span.holds(at) for span in self.spans)


ALWAYS = Schedule()


def parse_schedule(texts: Sequence[str]) -> Schedule:
    """The schedule of ``--hours 'mon-fri 22-6' --hours 'sat,sun 0-24'``.

    InvalidInput ``SCHEDULE_MALFORMED`` for a text that is no such span.
    """
    if len(texts) > MAX_SCHEDULE_SPANS:
        raise InvalidInput(
            f"{len(texts)} spans of hours, at most {MAX_SCHEDULE_SPANS}", code="SCHEDULE_MALFORMED"
        )
    return Schedule(tuple(_span(text) for text in texts))


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise _malformed(text)
    first, end = int(match["first"]), int(match["end"])
    if first >= HOURS_OF_DAY or end > HOURS_OF_DAY or first == end:
        raise _malformed(text)
    return Span(_days(match["days"], text), first, end)


def _days(text: str | None, whole: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(len(DAYS)))
    found: set[int] = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or any(end not in DAYS for end in ends):
            raise _malformed(whole)
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found |= {(first + step) % len(DAYS) for step in range((last - first) % len(DAYS) + 1)}
    return frozenset(found)


def _malformed(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:40]!r} is not a span of hours",
        code="SCHEDULE_MALFORMED",
        hint="write it like '22-6', 'mon-fri 18-8' or 'sat,sun 0-24'",
    )
