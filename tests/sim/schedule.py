"""Virtual time and the story of a run.

Nothing here or in the rooms beside it reads the machine's clock or its randomness: the same seed
gives the same events in the same order, whatever the hash seed of the process.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

SECOND_US = 1_000_000
LINES_TOLD = 40
"""Events that a broken law prints."""


class Schedule:
    """Events to come, in order of time, then of when they were arranged."""

    def __init__(self, start_us: int) -> None:
        self.now_us = start_us
        self.start_us = start_us
        self._number = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time_us: int, run: Callable[..., None], *arguments: Any) -> None:
        """Call ``run`` when it is ``time_us``; what lies behind happens now."""
        self._number += 1
        heappush(self._heap, (max(time_us, self.now_us), self._number, run, arguments))

    def after(self, delay_us: int, run: Callable[..., None], *arguments: Any) -> None:
        """Call ``run`` this much later."""
        self.at(self.now_us + delay_us, run, *arguments)

    def run_until(self, time_us: int, enough: Callable[[], bool] = lambda: False) -> None:
        """Let everything up to ``time_us`` happen, or until ``enough`` says so."""
        heap = self._heap
        while heap and heap[0][0] <= time_us and not enough():
            self.now_us, _, run, arguments = heappop(heap)
            run(*arguments)
        if not enough():
            self.now_us = max(self.now_us, time_us)


class Trace:
    """What happened, as a digest of all of it and the last lines as text."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._hash = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=LINES_TOLD)
        self.count = 0

    def tell(self, text: str) -> None:
        """One more event."""
        elapsed = (self._schedule.now_us - self._schedule.start_us) / SECOND_US
        line = f"{elapsed:11.6f}  {text}"
        self._hash.update(line.encode() + b"\n")
        self.lines.append(line)
        self.count += 1

    @property
    def digest(self) -> str:
        """Of all lines so far, 16 hex digits."""
        return self._hash.hexdigest()[:16]


class Dice(random.Random):
    """Randomness of one party: its own stream, so that others' draws do not shift it."""

    def __init__(self, seed: int, name: str) -> None:
        super().__init__(f"{seed}/{name}")
        self.seed_name = f"{seed}/{name}"

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return probability > 0 and self.random() < probability

    def between_us(self, least_seconds: float, most_seconds: float) -> int:
        """A duration in microseconds."""
        return int(self.uniform(least_seconds, most_seconds) * SECOND_US)
