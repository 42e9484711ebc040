"""Waiting longer after each failure, never in step with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flopmarket.limits import RECONNECT_FIRST_SECONDS, RECONNECT_MOST_SECONDS

Jitter = Callable[[], float]
"""Uniform in [0, 1)."""


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
