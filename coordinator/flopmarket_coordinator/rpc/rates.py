"""Token buckets: how much one caller may ask for, with an injected clock.

Buckets live in memory of one process: they keep a stranger from starving the others and are not a
promise about totals. Called by the interceptor for each call and by the worker session for each
message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from flopmarket.errors import QuotaExceeded


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens that come back each second, and how many can be saved up."""

    per_second: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    updated: float


class RateLimiter:
    """One bucket a caller. ``now`` is a monotonic clock in seconds.

    At most ``max_callers`` buckets are kept; the one unused for longest goes first, and starts full
    again when its caller comes back.
    """

    def __init__(self, rate: Rate, now: Callable[[], float], *, max_callers: int) -> None:
        self._rate = rate
        self._now = now
        self._max_callers = max_callers
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, caller: str, cost: float) -> float:
        """Take ``cost`` tokens and return 0, or take none and return the seconds until it fits."""
        now = self._now()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(self._rate.burst, now)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(caller)
        gained = max(0.0, now - bucket.updated) * self._rate.per_second
        bucket.tokens = min(self._rate.burst, bucket.tokens + gained)
        bucket.updated = now
        cost = min(cost, self._rate.burst)
        if bucket.tokens >= cost:
            bucket.tokens -= cost
            return 0.0
        return (cost - bucket.tokens) / self._rate.per_second

    def take(self, caller: str, cost: float) -> None:
        """:class:`QuotaExceeded` ``RATE_LIMITED`` (retryable) when the bucket has too little."""
        wait = self.wait_seconds(caller, cost)
        if wait > 0:
            raise QuotaExceeded(
                f"more than {self._rate.per_second:g} requests a second, "
                f"{self._rate.burst:g} at once",
                code="RATE_LIMITED",
                retryable=True,
                hint="send fewer requests, or wait",
                details={"retry_after_ms": str(int(wait * 1000) + 1)},
            )


class ConcurrencyLimiter:
    """Calls that one caller has open at the same time."""

    def __init__(self, max_open: int) -> None:
        self._max_open = max_open
        self._open: dict[str, int] = {}

    def enter(self, caller: str) -> None:
        """Count one more; :class:`QuotaExceeded` ``TOO_MANY_CALLS`` at the limit."""
        count = self._open.get(caller, 0)
        if count >= self._max_open:
            raise QuotaExceeded(
                f"{count} calls are open, at most {self._max_open} for one caller",
                code="TOO_MANY_CALLS",
                retryable=True,
                hint="close a stream first",
                details={"limit": str(self._max_open)},
            )
        self._open[caller] = count + 1

    def leave(self, caller: str) -> None:
        """Count one less."""
        count = self._open[caller] - 1
        if count:
            self._open[caller] = count
        else:
            del self._open[caller]
