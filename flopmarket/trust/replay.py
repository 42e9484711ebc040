"""Remembering nonces, so that a signed request counts once.

The coordinator keeps nonces where its other facts are; :class:`MemoryReplayCache` serves single
processes and tests. Both refuse a nonce until the document that used it has expired, after which
:func:`flopmarket.trust.envelope.open_envelope` refuses the document itself.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from flopmarket.errors import QuotaExceeded
from flopmarket.limits import MAX_REPLAY_NONCES, MAX_REPLAY_NONCES_PER_KEY


class ReplayCache(Protocol):
    """Port: remembers which nonces a key has used."""

    def remember(self, nonce: bytes, key_id: str, expires_at_us: int) -> bool:
        """True when this key uses the nonce for the first time before ``expires_at_us``."""
        ...


class MemoryReplayCache:
    """Bounded and in memory. Not thread-safe; one event loop owns it.

    ``now_us`` is the clock, in microseconds since the Unix epoch. A full cache refuses new nonces
    (:class:`~flopmarket.errors.QuotaExceeded`, retryable) and never forgets a live one.
    """

    def __init__(
        self,
        now_us: Callable[[], int],
        *,
        max_nonces: int = MAX_REPLAY_NONCES,
        max_nonces_per_key: int = MAX_REPLAY_NONCES_PER_KEY,
    ) -> None:
        self._now_us = now_us
        self._max_nonces = max_nonces
        self._max_nonces_per_key = max_nonces_per_key
        self._used: set[tuple[str, bytes]] = set()
        self._by_expiry: list[tuple[int, str, bytes]] = []
        self._count_by_key: Counter[str] = Counter()

    def __len__(self) -> int:
        """Nonces held now."""
        return len(self._used)

    def remember(self, nonce: bytes, key_id: str, expires_at_us: int) -> bool:
        """See :class:`ReplayCache`."""
        self._forget_expired()
        if (key_id, nonce) in self._used:
            return False
        if len(self._used) >= self._max_nonces:
            raise _full("the replay cache", self._max_nonces)
        if self._count_by_key[key_id] >= self._max_nonces_per_key:
            raise _full(f"the replay cache for key {key_id}", self._max_nonces_per_key)
        self._used.add((key_id, nonce))
        self._count_by_key[key_id] += 1
        heapq.heappush(self._by_expiry, (expires_at_us, key_id, nonce))
        return True

    def _forget_expired(self) -> None:
        now_us = self._now_us()
        while self._by_expiry and self._by_expiry[0][0] <= now_us:
            _, key_id, nonce = heapq.heappop(self._by_expiry)
            self._used.discard((key_id, nonce))
            self._count_by_key[key_id] -= 1
            if not self._count_by_key[key_id]:
                del self._count_by_key[key_id]


def _full(what: str, limit: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"{what} holds {limit} live nonces, its limit",
        code="REPLAY_CACHE_FULL",
        retryable=True,
        hint="sign requests with shorter lifetimes",
    )
