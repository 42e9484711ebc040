"""Laws of disputes in which the house is a party: nobody loses to its word before being heard."""

from __future__ import annotations

import sqlite3

from tests.sim.broken import Broken

LATE_US = 30_000_000
_BY_ROOTS = ("STATE_DIFFERS", "OUTPUTS_DIFFER")


class HouseLaws:
    """Reads the disputes; ``key_id`` is the house's."""

    def __init__(self, raw: sqlite3.Connection, key_id: str) -> None:
        self._raw = raw
        self._key_id = key_id
        self._asked: dict[str, str] = {}
        """State of the segment of each dispute with the house that lasts."""

    def follow(self, now_us: int, *, settled: bool) -> list[str]:
        """What lasts is not judged, and no longer than its time; outcomes of what ended."""
        ended = []
        open_: dict[str, str] = {}
        for dispute_id, segment_id, state, until_us in self._raw.execute(
            "SELECT dispute_id, dispute.segment_id, state, deadline_us FROM dispute "
            "JOIN segment USING (segment_id) WHERE auditor_key_id = ? AND ended_at_us = 0",
            (self._key_id,),
        ):
            open_[dispute_id] = state
            if state == "rejected":
                raise Broken("unheard", f"segment {segment_id} is rejected, dispute lasts")
            if state != self._asked.get(dispute_id, state) and state in ("verified", "settled"):
                raise Broken("unheard", f"segment {segment_id} became {state}, dispute lasts")
            if until_us < now_us - LATE_US and settled:
                raise Broken("dispute-deadline", f"dispute {dispute_id} lasts beyond its time")
        for dispute_id in sorted(self._asked.keys() - open_.keys()):
            (outcome,) = self._raw.execute(
                "SELECT outcome FROM dispute WHERE dispute_id = ?", (dispute_id,)
            ).fetchone()
            ended.append(outcome)
        self._asked = open_
        return ended

    def rejected(self, segment_id: int, *, shut_out: bool) -> None:
        """By roots that the house found otherwise: its worker could answer, unless it is shut out
        already, or for another segment in the same tick."""
        reason, auditor, others = self._raw.execute(
            "SELECT reason, auditor, (SELECT count(*) FROM segment AS other "
            "WHERE other.device_key_id = segment.device_key_id AND other.state = 'rejected' "
            "AND other.segment_id <> segment.segment_id) FROM segment WHERE segment_id = ?",
            (segment_id,),
        ).fetchone()
        if reason not in _BY_ROOTS or auditor != self._key_id or others or shut_out:
            return
        (heard,) = self._raw.execute(
            "SELECT count(*) FROM dispute WHERE segment_id = ? AND auditor_key_id = ?",
            (segment_id, self._key_id),
        ).fetchone()
        if not heard:
            raise Broken("unheard", f"segment {segment_id} is rejected by the house alone")
