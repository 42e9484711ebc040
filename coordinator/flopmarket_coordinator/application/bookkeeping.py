"""Keeping the order book in step with the store: the observer that does it.

Offers follow every change at once. Jobs are only marked, and read when matching needs them, so that
a round costs what changed since the last one and not what there is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice

from flopmarket.limits import MAX_ORDERS_READ_PER_TICK
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.book.clearing import Cleared
from flopmarket_coordinator.core.changes import (
    CalibrationChanged,
    Change,
    EveryPresenceChanged,
    JobChanged,
    KeyChanged,
    LeaseChanged,
    OfferChanged,
    PresenceChanged,
    RoundMatched,
    SegmentChanged,
)
from flopmarket_coordinator.store import book as rows
from flopmarket_coordinator.store import identity, jobs
from flopmarket_coordinator.store.engine import Transaction


class BookKeeper:
    """The book, the jobs whose orders must be read again, and the round that was decided last."""

    def __init__(self, presence_ttl_us: int, *, requires_proof: bool = False) -> None:
        self.book = Book(presence_ttl_us, threading.RLock(), requires_proof=requires_proof)
        self._changed_jobs: dict[str, None] = {}  # those that waited longest first
        self._due: list[tuple[int, str]] = []  # jobs whose order changes as time passes
        self._round: tuple[Cleared, Sequence[str], int] | None = None
        self._uncommitted: list[Change] = []
        self._loaded = False
        self._behind = False

    # --- for matching -------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether the last round left something that another one would go on with at once."""
        return self._behind

    def changed_jobs(self, now_us: int) -> Sequence[str]:
        """Jobs whose orders are not up to date, as many as one round reads."""
        while self._due and self._due[0][0] <= now_us:
            self._changed_jobs.setdefault(heappop(self._due)[1])
        return list(islice(self._changed_jobs, MAX_ORDERS_READ_PER_TICK))

    def read_again(self, job_id: str, at_us: int) -> None:
        """The order of a job will be another one from that instant on."""
        heappush(self._due, (at_us, job_id))

    def matched(self, cleared: Cleared, read: Sequence[str], now_us: int) -> None:
        """A round was decided; it counts when its command has succeeded."""
        self._round = cleared, read, now_us

    # --- as an observer of the tick -----------------------------------------------------------

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`."""
        self._uncommitted += changes
        if RoundMatched() in changes and self._round is not None:
            cleared, read, now_us = self._round
            self._round = None
            for job_id in read:
                self._changed_jobs.pop(job_id, None)
            self._behind = bool(cleared.left_over or self._changed_jobs)
            self.book.settle(cleared, now_us)
        self._follow(tx, changes)

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`."""
        self._uncommitted.clear()

    def reset(self, tx: Transaction) -> None:
        """See :class:`~flopmarket_coordinator.tick.Observer`.

        After a failed commit only the rows that its commands named can differ from the store.
        """
        self._round = None
        if self._loaded:
            self._loaded = False
            self._follow(tx, tuple(self._uncommitted))
        else:
            self.load(tx)
        self._uncommitted.clear()
        self._loaded = True

    def load(self, tx: Transaction) -> None:
        """Read everything anew."""
        self.book.clear_all()
        self._due.clear()
        for listing in rows.listings(tx):
            self.book.put_offer(listing)
        self._changed_jobs = dict.fromkeys(jobs.unfinished_ids(tx))

    def _follow(self, tx: Transaction, changes: Sequence[Change]) -> None:
        offers: set[str] = set()
        workers: set[str] = set()
        leases: set[str] = set()
        every_worker = False
        for change in dict.fromkeys(changes):
            match change:
                case OfferChanged(offer_id) | CalibrationChanged(offer_id):
                    offers.add(offer_id)
                case PresenceChanged(device_key_id):
                    workers.add(device_key_id)
                case EveryPresenceChanged():
                    every_worker = True
                case LeaseChanged(lease_id):
                    leases.add(lease_id)
                case KeyChanged(key_id):
                    key = identity.key(tx, key_id)
                    self.book.set_banned(key_id, banned=key is None or key.revoked)
                case JobChanged(job_id) | SegmentChanged(_, job_id):
                    self._changed_jobs.setdefault(job_id)
        for offer_id in offers:
            listing = rows.listing(tx, offer_id)
            if listing is None:
                self.book.remove_offer(offer_id)
            else:
                self.book.put_offer(listing)
        if workers or every_worker:
            present = rows.presence(tx, None if every_worker else workers)
            for device_key_id, connected, seen_us in present:
                self.book.set_presence(device_key_id, connected=connected, seen_us=seen_us)
        if leases:
            for offer_id, job_id, busy in rows.leased(tx, leases):
                self.book.set_busy(offer_id, busy=busy)
                # Should this be undone, the lease may be gone and name its offer no more.
                self._uncommitted += (OfferChanged(offer_id), JobChanged(job_id))
                self._changed_jobs.setdefault(job_id)
