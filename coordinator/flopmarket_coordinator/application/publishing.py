"""Use cases of those who check the coordinator: what was drawn in a job, once it has ended.

Before that, the lists would tell a worker's friends who audits it.
"""

from __future__ import annotations

from flopmarket.errors import Conflict, NotFound
from flopmarket.limits import MAX_AUDITS_PAGE_BYTES
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types import AuditsPage, LeaseDraws, Session
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.store import audits, challenges, identity, jobs, work
from flopmarket_coordinator.store.engine import Transaction

_FIRST = (0, 0)
"""The position before the first commitment of a job's first lease."""


class PublishingUseCases(UseCases):
    """Records of draws, for everybody who took part in a job."""

    def list_audits(
        self, tx: Transaction, session: Session, job_id: str, asked_size: int, page_token: str
    ) -> AuditsPage:
        """Commitments of a job by lease, with what was drawn and what came of it.

        A page names its leases again, and ends early when it is full. For the buyer and for owners
        of workers that had a lease; :class:`Conflict` ``JOB_NOT_ENDED`` while the job runs.
        """
        self._ended_job(tx, session, job_id)
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
            added += len(drawn.record) + len(drawn.commitment) + len(drawn.verdict or b"")
            added += 0 if answer is None else answer.size_bytes
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
                    ),
                )
            )
        more = len(rows) > len(segments)
        token = self._page_token(query, list(position)) if more else ""
        return AuditsPage(tuple(leases.values()), tuple(segments), token)

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

    def _ended_job(self, tx: Transaction, session: Session, job_id: str) -> None:
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
