"""Use cases of those who check the coordinator: what was drawn in a job, once it has ended.

Before that, the lists would tell a worker's friends who audits it.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import Conflict, NotFound
from flopmarket.limits import MAX_AUDITS_PAGE_BYTES
from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment
from flopmarket.trust.canaries import DAY_US, CanaryDay, CanaryDraw
from flopmarket.trust.cross_draws import CrossDraw
from flopmarket.trust.modes import Mode
from flopmarket.trust.step_records import StepsDrawn
from flopmarket_coordinator.application.arbitration_views import ArbitrationViewUseCases
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_auditing import AuditsPage, LeaseDraws
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.store import (
    audits,
    challenges,
    draws,
    identity,
    jobs,
    step_audits,
    work,
)
from flopmarket_coordinator.store.draws import CanaryRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import DrawnRow, JobRow

_FIRST = (0, 0)
"""The position before the first commitment of a job's first lease."""


@dataclass(frozen=True, slots=True)
class CanaryPage:
    """Some of a day's draws, in order."""

    day: CanaryDay
    next_page_token: str


class PublishingUseCases(ArbitrationViewUseCases):
    """Records of draws, for everybody who took part in a job."""

    def list_audits(
        self, tx: Transaction, session: Session, job_id: str, asked_size: int, page_token: str
    ) -> AuditsPage:
        """Commitments of a job by lease, with what was drawn and what came of it.

        A page names its leases again, and ends early when it is full. For the buyer and for owners
        of workers that had a lease; :class:`Conflict` ``JOB_NOT_ENDED`` while the job runs.
        """
        job = self._ended_job(tx, session, job_id)
        query = f"audits/{job_id}"
        size = page_size(asked_size)
        position = tuple(self._page_position(query, page_token) or _FIRST)
        rows = challenges.drawn(tx, job_id, position, size + 1)
        leases: dict[str, LeaseDraws] = {}
        segments: list[tuple[str, DrawnSegment]] = []
        full_bytes = 0
        for fence, number, lease_id, drawn in rows[:size]:
            added = 0
            if lease_id not in leases:
                leases[lease_id] = self._draws_of(tx, lease_id)
                added += leases[lease_id].size_bytes
            answer = self._answer_to(tx, drawn.segment_id, drawn.auditor)
            cross = self._cross_of(tx, drawn.segment_id)
            decided = self._decided(tx, job, drawn)
            steps = self._steps_of(tx, drawn.segment_id)
            added += 0 if steps is None else steps.size_bytes
            added += len(drawn.record) + len(drawn.commitment) + len(drawn.verdict or b"")
            added += 0 if answer is None else answer.size_bytes
            added += 0 if cross is None else cross.size_bytes
            added += 0 if decided is None else decided.size_bytes
            if segments and full_bytes + added > MAX_AUDITS_PAGE_BYTES:
                if not any(lease_id == known for known, _ in segments):
                    del leases[lease_id]
                break
            full_bytes += added
            position = (fence, number)
            key = identity.key(tx, drawn.device_key_id)
            segments.append(
                (
                    lease_id,
                    DrawnSegment(
                        drawn.segment_index,
                        drawn.state,
                        drawn.auditor,
                        drawn.record,
                        drawn.commitment,
                        b"" if key is None else key.public_key,
                        drawn.verdict or b"",
                        answer,
                        drawn.account_id,
                        cross,
                        decided,
                        steps,
                    ),
                )
            )
        more = len(rows) > len(segments)
        token = self._page_token(query, list(position)) if more else ""
        return AuditsPage(tuple(leases.values()), tuple(segments), token)

    def _steps_of(self, tx: Transaction, segment_id: int) -> StepsDrawn | None:
        """What a worker answered about steps of a segment, and the value that drew them."""
        audit = step_audits.newest_of_segment(tx, segment_id)
        if audit is None:
            return None
        return StepsDrawn(audit.number, audit.value, audit.claim, audit.answer)

    def _answer_to(self, tx: Transaction, segment_id: int, auditor: str) -> AuditorAnswer | None:
        """What the auditor of a segment said itself; of several, the one that was believed.

        Nothing while an audit of the segment lasts: its auditor is to compute on its own.
        """
        if audits.is_open(tx, segment_id):
            return None
        answers = audits.answers(tx, segment_id)
        if not answers:
            return None
        audit, commitment = next(
            (it for it in answers if it[0].auditor_key_id == auditor), answers[-1]
        )
        key = identity.key(tx, audit.auditor_key_id)
        return AuditorAnswer(
            audit.auditor_account_id,
            b"" if key is None else key.public_key,
            commitment,
            audit.auditor_secret,
            audit.worker_secret,
        )

    def _cross_of(self, tx: Transaction, segment_id: int) -> CrossDraw | None:
        """What was drawn about the answer to a segment."""
        row = draws.cross_of(tx, segment_id)
        if row is None:
            return None
        key = identity.key(tx, row.auditor_key_id)
        second = audits.get(tx, row.audit_id) if row.audit_id else None
        return CrossDraw(
            row.document,
            row.answer,
            b"" if key is None else key.public_key,
            "" if second is None else second.finding or second.outcome,
        )

    # --- canaries -----------------------------------------------------------------------------

    def canary_day(self, tx: Transaction, day: int, asked_size: int, page_token: str) -> CanaryPage:
        """A day's canaries, for anybody: its signed terms at once, its draws when it is over and
        the last of its canaries is in. ``day`` counts days since the epoch."""
        query = f"canaries/{day}"
        size = page_size(asked_size)
        after = int(self._page_position(query, page_token) or 0)
        terms = draws.canary_terms(tx, day) or b""
        over = day < tx.now_us // DAY_US and not draws.canary_is_out(tx, day)
        rows = draws.canaries(tx, day, after, size + 1) if over else []
        shown: list[CanaryDraw] = []
        full_bytes = 0
        for row in rows[:size]:
            item = self._canary(tx, row)
            full_bytes += len(item.record) + len(item.known) + len(item.answer)
            if shown and full_bytes > MAX_AUDITS_PAGE_BYTES:
                break
            shown.append(item)
            after = row.number
        token = self._page_token(query, after) if len(rows) > len(shown) else ""
        return CanaryPage(CanaryDay(day, terms, over, tuple(shown)), token)

    def _canary(self, tx: Transaction, row: CanaryRow) -> CanaryDraw:
        known = b"" if row.known is None else challenges.document(tx, row.known)
        audit = audits.get(tx, row.audit_id) if row.audit_id else None
        if audit is None:
            return CanaryDraw(row.document, known)
        key = identity.key(tx, audit.auditor_key_id)
        answers = audits.commitments(tx, audit.lease_id) if audit.lease_id else []
        return CanaryDraw(
            row.document,
            known,
            audit.finding or audit.outcome,
            answers[-1].commitment if answers else b"",
            key.public_key if key is not None and answers else b"",
        )

    def _decided(self, tx: Transaction, job: JobRow, drawn: DrawnRow) -> Arbitrated | None:
        """How its class decided about a segment; nothing while an audit of it lasts."""
        if job.mode != Mode.CLASS or audits.is_open(tx, drawn.segment_id):
            return None
        return self._arbitration_about(tx, drawn.segment_id, drawn.auditor)

    def _ended_job(self, tx: Transaction, session: Session, job_id: str) -> JobRow:
        job = jobs.get(tx, job_id)
        if job is None or not (
            job.buyer == session.account_id or work.had_lease(tx, job_id, session.account_id)
        ):
            raise NotFound(f"there is no job {job_id[:80]}", code="JOB_UNKNOWN")
        if job.state not in FINAL_JOB_STATES:
            raise Conflict(
                f"job {job_id} is {job.state}; its draws are published when it ends",
                code="JOB_NOT_ENDED",
                retryable=True,
            )
        if draws.crossed_now(tx, job_id):
            raise Conflict(
                "an audit of the job is being audited; its draws are published when that ends",
                code="JOB_NOT_ENDED",
                retryable=True,
            )
        return job

    def _draws_of(self, tx: Transaction, lease_id: str) -> LeaseDraws:
        row = challenges.get(tx, lease_id)
        assert row is not None, "its records are there"
        return LeaseDraws(
            lease_id,
            row.envelope,
            challenges.document(tx, row.rules),
            challenges.document(tx, row.candidates),
            challenges.document(tx, row.house),
        )
