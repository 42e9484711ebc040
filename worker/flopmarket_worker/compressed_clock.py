"""An owner's clock that runs fast, for demonstrations: a day of tariffs and schedules in minutes.

Only what an owner asks and when follows it. Signatures, leases and money keep the machine's time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket_worker.week import DAYS, HOURS_OF_DAY, Hour

SHORTEST_HOUR_MS = 100

_TEXT = re.compile(r"([0-9]{1,18})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class CompressedClock:
    """Monday begins at ``start_us`` (Unix microseconds); an hour takes ``hour_ms``."""

    start_us: int
    hour_ms: int

    def hour(self, now_us: int) -> Hour:
        """The hour of the week at an instant; before the start it is Monday's first."""
        hours = max(0, now_us - self.start_us) // (self.hour_ms * 1_000)
        return Hour(hours // HOURS_OF_DAY % len(DAYS), hours % HOURS_OF_DAY)

    def __str__(self) -> str:
        return f"{self.start_us}/{self.hour_ms}"


def parse_clock(text: str) -> CompressedClock:
    """The clock of ``START_US/HOUR_MS``; InvalidInput ``CLOCK_MALFORMED`` for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None or int(match[2]) < SHORTEST_HOUR_MS:
        raise InvalidInput(
            f"{text[:40]!r} is no clock",
            code="CLOCK_MALFORMED",
            hint=f"write START_US/HOUR_MS, an hour of at least {SHORTEST_HOUR_MS} ms",
        )
    return CompressedClock(int(match[1]), int(match[2]))
