"""Disputes of our jobs and devices: what was asked, who was wrong, and the file that proves it."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.client.artifacts import Artifacts
from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.session import Session
from flopmarket.errors import NotFound
from flopmarket.limits import MAX_DISPUTE_TRANSCRIPT_BYTES
from flopmarket.trust.dispute_documents import DisputeVerdict
from flopmarket.trust.envelope import open_envelope
from flopmarket.trust.errors import EnvelopeError
from flopmarket.v1 import dispute_pb2, dispute_pb2_grpc
from flopmarket.wire import envelope_from_proto


@dataclass(frozen=True, slots=True)
class DisputeInfo:
    """One dispute. ``roles`` are ours: producer, auditor, buyer. ``ended_at_us`` is 0 while it
    lasts; then ``level`` is asked until ``deadline_us``. ``transcript`` names the file, if any."""

    dispute_id: str
    job_id: str
    segment_index: int
    first_step: int
    steps: int
    roles: tuple[str, ...]
    opened_at_us: int
    ended_at_us: int
    level: str
    deadline_us: int
    outcome: str
    reason: str
    seen: str
    remedy: str
    transcript: str


class DisputeCalls:
    """What :class:`Client` can do about disputes."""

    _session: Session
    _artifacts: Artifacts

    def disputes(self) -> tuple[DisputeInfo, ...]:
        """Disputes about jobs that we bought or computed, newest first."""
        service, request = self._dispute_service, dispute_pb2.ListDisputesRequest()
        pages = self._session.pages(service.ListDisputes, request, "disputes")
        return tuple(_info(item) for page in pages for item in page.disputes)

    def dispute(self, dispute_id: str) -> DisputeInfo:
        """One of them; its verdict is checked against the coordinator's signature."""
        return _info(self._checked(dispute_id))

    def dispute_transcript(self, dispute_id: str) -> bytes:
        """The file that anybody replays. NotFound (DISPUTE_NO_TRANSCRIPT) while there is none."""
        found = self._checked(dispute_id)
        if not found.transcript_artifact:
            raise NotFound(
                "this dispute has no transcript" + ("" if found.ended_at_us else " yet"),
                code="DISPUTE_NO_TRANSCRIPT",
            )
        return self._artifacts.download(
            found.transcript_artifact,
            dispute_id=found.dispute_id,
            max_bytes=MAX_DISPUTE_TRANSCRIPT_BYTES,
        )

    def _checked(self, dispute_id: str) -> dispute_pb2.Dispute:
        request = dispute_pb2.GetDisputeRequest(dispute_id=dispute_id)
        found = self._session.call(self._dispute_service.GetDispute, request).dispute
        if not found.ended_at_us:
            return found
        key = self._session.coordinator().public_key
        try:
            verdict = open_envelope(
                envelope_from_proto(found.verdict),
                DisputeVerdict,
                keys={key.key_id: key},
                audience=key.key_id,
                now_us=None,
                replay=None,
            ).body
        except EnvelopeError as error:
            raise AnswerRefused(error.message, code="DISPUTE_VERDICT_UNSIGNED") from None
        told = (found.dispute_id, found.outcome, found.reason)
        if (verdict.dispute_id.hex(), verdict.outcome, verdict.reason) != told:
            raise AnswerRefused("the verdict is another one", code="DISPUTE_VERDICT_DIFFERS")
        return found

    @property
    def _dispute_service(self) -> dispute_pb2_grpc.DisputeServiceStub:
        return dispute_pb2_grpc.DisputeServiceStub(self._session.channel)


def _info(found: dispute_pb2.Dispute) -> DisputeInfo:
    return DisputeInfo(
        clean_text(found.dispute_id),
        clean_text(found.job_id),
        found.segment_index,
        found.first_step,
        found.steps,
        tuple(clean_text(role) for role in found.roles),
        found.opened_at_us,
        found.ended_at_us,
        clean_text(found.level),
        found.deadline_us,
        clean_text(found.outcome),
        clean_text(found.reason),
        clean_text(found.seen),
        clean_text(found.remedy),
        clean_text(found.transcript_artifact),
    )
