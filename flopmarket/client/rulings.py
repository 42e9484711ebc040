"""What was decided without a dispute of lists, about our jobs and by or against our devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flopmarket.client.auditing import answer_of_proto, lease_of_proto, segment_of_proto
from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.session import Session
from flopmarket.trust.ruling_records import RulingRecord
from flopmarket.v1 import dispute_pb2, dispute_pb2_grpc


@dataclass(frozen=True, slots=True)
class RulingInfo:
    """One ruling. ``kind`` is arbitration, steps or house; ``roles`` are ours: producer, auditor,
    arbiter, buyer. ``ended_at_us`` is 0 while further accounts of a class are asked; ``unheard``
    are key and word of those who gave no answer that counts."""

    ruling_id: str
    kind: str
    job_id: str
    segment_index: int
    first_step: int
    steps: int
    roles: tuple[str, ...]
    opened_at_us: int
    ended_at_us: int
    outcome: str
    reason: str
    seen: str
    unheard: tuple[tuple[str, str], ...]
    follows: tuple[str, ...]


class RulingCalls:
    """What :class:`Client` can do about rulings."""

    _session: Session

    def rulings(self) -> tuple[RulingInfo, ...]:
        """Rulings about jobs that we bought, and about or by our devices; newest first."""
        service, request = self._ruling_service, dispute_pb2.ListRulingsRequest()
        pages = self._session.pages(service.ListRulings, request, "rulings")
        return tuple(_info(item) for page in pages for item in page.rulings)

    def ruling(self, ruling_id: str) -> tuple[RulingInfo, RulingRecord | None]:
        """One of them, with the signed words behind it; nothing in these is checked
        (:func:`flopmarket.trust.ruling_records.check_ruling`). None while it lasts."""
        request = dispute_pb2.GetRulingRequest(ruling_id=ruling_id)
        answer = self._session.call(self._ruling_service.GetRuling, request)
        info = _info(answer.ruling)
        if not answer.HasField("record"):
            return info, None
        return info, _record(info, answer.record)

    @property
    def _ruling_service(self) -> dispute_pb2_grpc.DisputeServiceStub:
        return dispute_pb2_grpc.DisputeServiceStub(self._session.channel)


def _info(found: dispute_pb2.Ruling) -> RulingInfo:
    return RulingInfo(
        clean_text(found.ruling_id),
        clean_text(found.kind),
        clean_text(found.job_id),
        found.segment_index,
        found.first_step,
        found.steps,
        tuple(clean_text(role) for role in found.roles),
        found.opened_at_us,
        found.ended_at_us,
        clean_text(found.outcome),
        clean_text(found.reason),
        clean_text(found.seen),
        tuple((clean_text(item.key_id), clean_text(item.word)) for item in found.unheard),
        tuple(clean_text(line) for line in found.follows),
    )


def _record(info: RulingInfo, found: dispute_pb2.RulingRecord) -> RulingRecord:
    draws = None
    if found.HasField("draws"):
        if not found.HasField("drawn"):
            raise AnswerRefused("a draw without what was drawn")
        segment = segment_of_proto(found.drawn)
        draws = replace(lease_of_proto(found.draws), segments=(segment,))
    return RulingRecord(
        info.ruling_id,
        info.kind,
        info.reason,
        segment_of_proto(found.segment),
        tuple(answer_of_proto(item) for item in found.witnesses),
        draws,
    )
