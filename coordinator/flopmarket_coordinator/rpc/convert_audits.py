"""Published draws as messages."""

from __future__ import annotations

from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.envelope import Envelope
from flopmarket.v1 import common_pb2, job_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_coordinator.application.types import AuditsPage


def audits_page(page: AuditsPage) -> job_pb2.ListAuditsResponse:
    """A page of a job's draws."""
    return job_pb2.ListAuditsResponse(
        leases=[
            job_pb2.LeaseDraws(
                lease_id=lease.lease_id,
                terms=envelope_to_proto(Envelope.from_bytes(lease.terms)),
                rules=lease.rules,
                candidates=lease.candidates,
                house=lease.house,
            )
            for lease in page.leases
        ],
        commitments=[
            job_pb2.DrawnCommitment(
                lease_id=lease_id,
                segment_index=item.segment_index,
                state=item.state,
                auditor=item.auditor,
                record=item.record,
                commitment=envelope_to_proto(Envelope.from_bytes(item.commitment)),
                worker_public_key=item.worker_key,
                verdict=_envelope(item.verdict),
                answer=None if item.answer is None else _answer(item.answer),
                worker_account_id=item.worker_account,
            )
            for lease_id, item in page.segments
        ],
        next_page_token=page.next_page_token,
    )


def _answer(answer: AuditorAnswer) -> job_pb2.AuditorAnswer:
    return job_pb2.AuditorAnswer(
        account_id=answer.account_id,
        public_key=answer.public_key,
        commitment=_envelope(answer.commitment),
        opening=_envelope(answer.opening),
        worker_opening=_envelope(answer.worker_opening),
    )


def _envelope(data: bytes) -> common_pb2.Envelope | None:
    return envelope_to_proto(Envelope.from_bytes(data)) if data else None
