"""Published draws as messages."""

from __future__ import annotations

from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits
from flopmarket.trust.cross_draws import CrossDraw
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.step_records import StepsDrawn
from flopmarket.v1 import audit_pb2, common_pb2, job_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_coordinator.application.publishing import CanaryPage
from flopmarket_coordinator.application.types_auditing import AuditsPage, LeaseDraws


def audits_page(page: AuditsPage) -> job_pb2.ListAuditsResponse:
    """A page of a job's draws."""
    return job_pb2.ListAuditsResponse(
        leases=[lease_draws(lease) for lease in page.leases],
        commitments=[drawn_commitment(lease_id, item) for lease_id, item in page.segments],
        next_page_token=page.next_page_token,
    )


def lease_draws(lease: LeaseDraws | LeaseAudits) -> job_pb2.LeaseDraws:
    """What a lease's draws follow from."""
    return job_pb2.LeaseDraws(
        lease_id=lease.lease_id,
        terms=envelope_to_proto(Envelope.from_bytes(lease.terms)),
        rules=lease.rules,
        candidates=lease.candidates,
        house=lease.house,
    )


def drawn_commitment(lease_id: str, item: DrawnSegment) -> job_pb2.DrawnCommitment:
    """A commitment with all that is published about it."""
    return job_pb2.DrawnCommitment(
        lease_id=lease_id,
        segment_index=item.segment_index,
        state=item.state,
        auditor=item.auditor,
        record=item.record,
        commitment=envelope_to_proto(Envelope.from_bytes(item.commitment)),
        worker_public_key=item.worker_key,
        verdict=_envelope(item.verdict),
        answer=None if item.answer is None else auditor_answer(item.answer),
        worker_account_id=item.worker_account,
        cross=None if item.cross is None else _cross(item.cross),
        arbitration=None if item.arbitration is None else _arbitration(item.arbitration),
        steps=None if item.steps is None else _steps(item.steps),
    )


def auditor_answer(answer: AuditorAnswer) -> job_pb2.AuditorAnswer:
    """An auditor's own words."""
    return job_pb2.AuditorAnswer(
        account_id=answer.account_id,
        public_key=answer.public_key,
        commitment=_envelope(answer.commitment),
        opening=_envelope(answer.opening),
        worker_opening=_envelope(answer.worker_opening),
    )


def _steps(steps: StepsDrawn) -> job_pb2.StepsDrawn:
    return job_pb2.StepsDrawn(
        number=steps.number,
        value=steps.value,
        claim=_envelope(steps.claim),
        answer=_envelope(steps.answer),
    )


def _arbitration(found: Arbitrated) -> job_pb2.ClassArbitration:
    return job_pb2.ClassArbitration(
        outcome=found.outcome,
        auditor=auditor_answer(found.auditor),
        arbiters=[auditor_answer(answer) for answer in found.arbiters],
        house_account_ids=found.house_accounts,
    )


def _cross(cross: CrossDraw) -> job_pb2.CrossDraw:
    return job_pb2.CrossDraw(
        record=cross.record,
        answer=_envelope(cross.answer),
        auditor_public_key=cross.auditor_key,
        outcome=cross.outcome,
    )


def canary_page(page: CanaryPage) -> audit_pb2.GetCanaryDayResponse:
    """A page of a day's canaries."""
    return audit_pb2.GetCanaryDayResponse(
        day=page.day.day,
        terms=_envelope(page.day.terms),
        over=page.day.over,
        draws=[
            audit_pb2.CanaryDraw(
                record=item.record,
                known=item.known,
                outcome=item.outcome,
                answer=_envelope(item.answer),
                auditor_public_key=item.auditor_key,
            )
            for item in page.day.draws
        ],
        next_page_token=page.next_page_token,
    )


def _envelope(data: bytes) -> common_pb2.Envelope | None:
    return envelope_to_proto(Envelope.from_bytes(data)) if data else None
