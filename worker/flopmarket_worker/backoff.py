"""Trying again: pauses that grow after each failure, never in step with others; one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from flopmarket.errors import FlopmarketError
from flopmarket.limits import RECONNECT_FIRST_SECONDS, RECONNECT_MOST_SECONDS

Jitter = Callable[[], float]
"""Uniform in [0, 1)."""
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Backoff:
    """Delays that double up to ``most_seconds``; each is between half and whole."""

    jitter: Jitter
    first_seconds: float = RECONNECT_FIRST_SECONDS
    most_seconds: float = RECONNECT_MOST_SECONDS
    failures: int = field(default=0, init=False)

    def next_seconds(self) -> float:
        """How long to wait after one more failure."""
        ceiling = min(self.most_seconds, self.first_seconds * float(1 << min(self.failures, 32)))
        self.failures += 1
        return ceiling * (0.5 + self.jitter() / 2)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0

    def pauses(self) -> Iterator[float]:
        """The next pause in seconds, for ever."""
        while True:
            yield self.next_seconds()


async def persistently(
    attempt: Callable[[], Awaitable[Answer]],
    pauses: Iterator[float],
    failed: Callable[[FlopmarketError], None] | None = None,
) -> Answer:
    """What ``attempt`` comes to, again after a pause in seconds while its error is retryable.

    ``failed`` hears of every error that another attempt follows. Raises the error that no retry
    can mend, or the last one when the pauses are used up.
    """
    while True:
        try:
            return await attempt()
        except FlopmarketError as error:
            pause_seconds = next(pauses, None) if error.retryable else None
            if pause_seconds is None:
                raise
            if failed is not None:
                failed(error)
        await asyncio.sleep(pause_seconds)
