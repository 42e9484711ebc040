"""Deadlines as people write them: a weekday and a time, a time, a span, or an ISO time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from flopmarket.errors import InvalidInput

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"([0-9]{1,6}) ?(m|min|h|d)")
_CLOCK = re.compile(r"(?:([a-z]{3,9}) )?([0-9]{1,2}):([0-9]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days"}


def parse_deadline(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """The instant that ``text`` names after ``now``, in a time zone (None: this machine's).

    ``Fri 18:00`` and ``18:00`` are the next such time on the wall there, ``24h``, ``90m`` and
    ``3d`` count from now, ``2026-11-27T18:00`` is in that zone unless it names one. InvalidInput
    ``DEADLINE_...`` for anything else, and for a time that has passed.
    """
    found = _parsed(text.strip(), now, zone)
    if found <= now:
        raise InvalidInput(f"the deadline {text[:40]!r} has passed", code="DEADLINE_PASSED")
    return found


def microseconds(at: datetime) -> int:
    """Microseconds since the epoch of an instant with a time zone."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def _parsed(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    if span := _SPAN.fullmatch(text.lower()):
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    if clock := _CLOCK.fullmatch(text.lower()):
        return _next(clock[1], int(clock[2]), int(clock[3]), now, zone, text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise _malformed(text) from None
    return found if found.tzinfo is not None else _there(found, zone)


def _there(wall: datetime, zone: tzinfo | None) -> datetime:
    """What a clock on the wall shows, as an instant; summer time is the zone's business."""
    return wall.replace(tzinfo=zone) if zone is not None else wall.astimezone()


def _next(
    day: str | None, hour: int, minute: int, now: datetime, zone: tzinfo | None, text: str
) -> datetime:
    """The next time the clock shows that, on that weekday if one is named."""
    if hour > 23 or minute > 59 or (day is not None and day[:3] not in _DAYS):
        raise _malformed(text)
    wall = now.astimezone(zone).replace(tzinfo=None)
    found = wall.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if day is not None:
        found += timedelta(days=(_DAYS.index(day[:3]) - wall.weekday()) % 7)
    if found <= wall:
        found += timedelta(days=7 if day is not None else 1)
    return _there(found, zone)


def _malformed(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:40]!r} is not a deadline",
        code="DEADLINE_MALFORMED",
        hint="write `Fri 18:00`, `18:00`, `24h`, `3d` or 2026-11-27T18:00",
    )
