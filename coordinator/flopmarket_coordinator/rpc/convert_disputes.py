"""Disputes: messages of parties to values, and what is asked and shown to messages."""

from __future__ import annotations

from flopmarket.trust.envelope import Envelope
from flopmarket.v1 import dispute_pb2, worker_pb2
from flopmarket.wire import envelope_from_proto, envelope_to_proto
from flopmarket_coordinator.application.types_disputes import (
    DisputeAsked,
    DisputeMove,
    DisputePage,
    DisputeView,
    KeptList,
)
from flopmarket_coordinator.rpc import convert


def asked(value: DisputeAsked) -> worker_pb2.SessionResponse:
    """A question to a party."""
    message = worker_pb2.DisputeAsked(
        dispute_id=value.dispute_id,
        opening=value.opening,
        party=value.party.value,
        level="" if value.level is None else value.level.value,
        step=value.place.step,
        operation=value.place.operation,
        tile=value.place.tile,
        deadline_us=value.deadline_us,
        work=convert.instruction(value.work).lease_offered,
        lease_id=value.lease_id,
    )
    return worker_pb2.SessionResponse(dispute_asked=message)


def move_of(message: worker_pb2.DisputeMoved) -> DisputeMove:
    """A party's answer."""
    return DisputeMove(
        convert.text_of(message.dispute_id, "dispute_id"),
        envelope_from_proto(message.move),
        message.payload,
        convert.text_of(message.payload_artifact, "payload_artifact"),
        _kept(message),
    )


def _kept(message: worker_pb2.DisputeMoved) -> KeptList | None:
    """What a party kept of its segment; None when it says nothing of that."""
    if not message.HasField("secret"):
        return None
    artifact = convert.text_of(message.checksums_artifact, "checksums_artifact")
    return KeptList(envelope_from_proto(message.secret), message.checksums, artifact)


def dispute(view: DisputeView) -> dispute_pb2.Dispute:
    """A dispute as its parties and the buyer see it."""
    row, verdict = view.row, view.verdict
    return dispute_pb2.Dispute(
        dispute_id=row.dispute_id,
        job_id=row.job_id,
        segment_index=view.segment_index,
        first_step=view.first_step,
        steps=view.steps,
        roles=view.roles,
        opened_at_us=row.opened_at_us,
        ended_at_us=row.ended_at_us,
        level="" if row.ended_at_us else row.level,
        deadline_us=0 if row.ended_at_us else row.deadline_us,
        outcome=row.outcome,
        reason=row.reason,
        seen="" if verdict is None else verdict.seen,
        remedy="" if verdict is None else verdict.remedy,
        transcript_artifact=row.transcript_artifact,
        verdict=(
            None if row.verdict is None else envelope_to_proto(Envelope.from_bytes(row.verdict))
        ),
    )


def page(value: DisputePage) -> dispute_pb2.ListDisputesResponse:
    """A page of disputes."""
    return dispute_pb2.ListDisputesResponse(
        disputes=[dispute(view) for view in value.disputes],
        next_page_token=value.next_page_token,
    )
