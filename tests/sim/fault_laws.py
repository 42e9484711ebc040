"""Laws of the money that a fault moves, read from the transfers alone.

Who found a fault, who is refunded and who had built on it may all be friends of the cheat: of its
stake a share leaves the platform at most, and nobody is paid for work that nobody recomputed, but
out of that share where the house recomputes nothing.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket_coordinator.core.ledger import ESCROW, RESERVE, Purpose
from tests.sim.broken import Broken

PLATFORM = "platform/"


class FaultLaws:
    """Reads the transfers of each tick."""

    def __init__(self, raw: sqlite3.Connection, refund_ppm: int) -> None:
        self._raw = raw
        self._refund_ppm = refund_ppm
        self._taken: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._paid: list[tuple[str, str]] = []
        """Segment and who paid; the stake comes from the reserve."""

    def entry(self, row: dict[str, Any], pending: dict[str, Any] | None) -> None:
        """A transfer; ``pending`` is the one that it resolves."""
        purpose = row["purpose"] if pending is None else pending["purpose"]
        kind, debit, job_id = row["kind"], row["debit"], row["job_id"]
        if purpose == Purpose.COMPENSATION:
            if kind in ("direct", "post"):
                self._paid.append((row["reference"].removeprefix("segment "), debit))
            if kind in ("direct", "pending") and debit == RESERVE:
                self._left[job_id] += row["amount_nano"]
        elif purpose == Purpose.SLASH and row["credit"] == ESCROW:
            self._taken[job_id] += row["amount_nano"]
        elif purpose in (Purpose.SLASH, Purpose.REFUND) and debit == ESCROW:
            outside = not row["credit"].startswith(PLATFORM)
            self._left[job_id] += row["amount_nano"] if outside else 0

    def follow(self) -> None:
        """Judge what this tick's faults did."""
        for job_id, nano in self._left.items():
            most = self._taken[job_id] * self._refund_ppm // PARTS_PER_MILLION
            if nano > most:
                raise Broken("stake", f"{nano} left the platform for job {job_id}, at most {most}")
        for segment_id, payer in self._paid:
            verdict, state, whole = self._raw.execute(
                "SELECT verdict, segment.state, mode = 'exact' AND audit_steps = 0 FROM segment "
                "JOIN job USING (job_id) JOIN challenge ON challenge.lease_id = segment.lease_id "
                "WHERE segment_id = ?",
                (int(segment_id),),
            ).fetchone()
            if verdict is None and (whole or payer != RESERVE):
                raise Broken("unseen", f"segment {segment_id} is {state}, unseen, and paid for")
        self._left.clear()
        self._taken.clear()
        self._paid.clear()
