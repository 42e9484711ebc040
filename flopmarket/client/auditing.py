"""What a coordinator publishes of a job's audits, fetched to be checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.following import check_job_id
from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, LeaseFinding, check
from flopmarket.trust.canaries import CanaryDay, CanaryDraw
from flopmarket.trust.cross_draws import CrossDraw
from flopmarket.trust.step_records import StepsDrawn
from flopmarket.v1 import audit_pb2, audit_pb2_grpc, job_pb2
from flopmarket.wire import envelope_from_proto

if TYPE_CHECKING:
    from flopmarket.client.session import Session
    from flopmarket.v1.job_pb2_grpc import JobServiceStub


class AuditCalls:
    """The part of a client that checks how audits were drawn. Needs a key."""

    _session: Session
    _jobs: JobServiceStub

    def audits(self, job_id: str) -> tuple[LeaseAudits, ...]:
        """Draws of a job that has ended, by lease; as they came, nothing in them is checked.

        Conflict ``JOB_NOT_ENDED`` before. For the buyer, and for owners of workers that took part.
        """
        request = job_pb2.ListAuditsRequest(job_id=check_job_id(job_id))
        pages = self._session.pages(self._jobs.ListAudits, request, "audits")
        return audits_from_proto(list(pages))

    def check_audits(self, job_id: str) -> tuple[LeaseFinding, ...]:
        """What contradicts itself in the draws of a job; empty when everything follows from what
        the coordinator signed."""
        return check(self.audits(job_id), self._session.coordinator().public_key)

    def canary_day(self, day: int) -> CanaryDay:
        """A day's canaries, as they came; nothing in them is checked. Needs no key.

        ``day`` counts days (UTC) since the epoch. Its draws are there once it is ``over``;
        :func:`flopmarket.trust.canaries.check_day` repeats them.
        """
        service = audit_pb2_grpc.AuditServiceStub(self._session.channel)
        request, draws = audit_pb2.GetCanaryDayRequest(day=day), list[CanaryDraw]()
        for page in self._session.pages(
            service.GetCanaryDay, request, "canaries", authenticated=False
        ):
            draws += [_canary(item) for item in page.draws]
        terms = envelope_from_proto(page.terms).to_bytes() if page.HasField("terms") else b""
        return CanaryDay(day, terms, page.over, tuple(draws))


def _canary(message: audit_pb2.CanaryDraw) -> CanaryDraw:
    answered = message.HasField("answer")
    return CanaryDraw(
        message.record,
        message.known,
        clean_text(message.outcome),
        envelope_from_proto(message.answer).to_bytes() if answered else b"",
        message.auditor_public_key,
    )


def audits_from_proto(pages: Iterable[job_pb2.ListAuditsResponse]) -> tuple[LeaseAudits, ...]:
    """The draws of a job from all pages of them, lease by lease."""
    found: dict[str, LeaseAudits] = {}
    segments: dict[str, list[DrawnSegment]] = {}
    for page in pages:
        for lease in page.leases:
            found.setdefault(lease.lease_id, lease_of_proto(lease))
        for item in page.commitments:
            segments.setdefault(item.lease_id, []).append(segment_of_proto(item))
    if set(segments) - set(found):
        raise AnswerRefused("commitments of a lease whose terms are missing")
    return tuple(
        replace(lease, segments=tuple(segments.get(lease_id, ())))
        for lease_id, lease in found.items()
    )


def lease_of_proto(message: job_pb2.LeaseDraws) -> LeaseAudits:
    """A lease without its commitments."""
    return LeaseAudits(
        message.lease_id,
        envelope_from_proto(message.terms).to_bytes(),
        message.rules,
        message.candidates,
        message.house,
        (),
    )


def segment_of_proto(message: job_pb2.DrawnCommitment) -> DrawnSegment:
    """A commitment with what is published about it."""
    verdict = message.HasField("verdict")
    return DrawnSegment(
        message.segment_index,
        message.state,
        message.auditor,
        message.record,
        envelope_from_proto(message.commitment).to_bytes(),
        message.worker_public_key,
        envelope_from_proto(message.verdict).to_bytes() if verdict else b"",
        answer_of_proto(message.answer) if message.HasField("answer") else None,
        message.worker_account_id,
        _cross(message.cross) if message.HasField("cross") else None,
        _arbitration(message.arbitration) if message.HasField("arbitration") else None,
        _steps(message.steps) if message.HasField("steps") else None,
    )


def _steps(message: job_pb2.StepsDrawn) -> StepsDrawn:
    return StepsDrawn(
        message.number,
        message.value,
        envelope_from_proto(message.claim).to_bytes(),
        envelope_from_proto(message.answer).to_bytes(),
    )


def _arbitration(message: job_pb2.ClassArbitration) -> Arbitrated:
    return Arbitrated(
        clean_text(message.outcome),
        answer_of_proto(message.auditor),
        tuple(answer_of_proto(item) for item in message.arbiters),
        tuple(message.house_account_ids),
    )


def _cross(message: job_pb2.CrossDraw) -> CrossDraw:
    return CrossDraw(
        message.record,
        envelope_from_proto(message.answer).to_bytes(),
        message.auditor_public_key,
        clean_text(message.outcome),
    )


def answer_of_proto(message: job_pb2.AuditorAnswer) -> AuditorAnswer:
    """An auditor's own words."""
    ours, theirs = message.HasField("opening"), message.HasField("worker_opening")
    return AuditorAnswer(
        message.account_id,
        message.public_key,
        envelope_from_proto(message.commitment).to_bytes(),
        envelope_from_proto(message.opening).to_bytes() if ours else b"",
        envelope_from_proto(message.worker_opening).to_bytes() if theirs else b"",
    )
