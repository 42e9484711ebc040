"""Step audits: what is asked to messages, what workers say to values."""

from __future__ import annotations

from flopmarket.trust.envelope import Envelope
from flopmarket.v1 import common_pb2, worker_pb2
from flopmarket.wire import envelope_from_proto, envelope_to_proto
from flopmarket_coordinator.application.types_working import StepsAnswered, StepsAsked


def asked(value: StepsAsked, work: worker_pb2.LeaseOffered) -> worker_pb2.SessionResponse:
    """A question to a worker; ``work`` is what its own field says, as a message."""
    message = worker_pb2.StepsAsked(
        lease_id=value.lease_id,
        segment_index=value.segment_index,
        steps=value.steps,
        with_values=value.with_values,
        deadline_us=value.deadline_us,
        work=work,
        commitment=envelope_to_proto(value.commitment),
        claim=None if value.claim is None else envelope_to_proto(value.claim),
    )
    return worker_pb2.SessionResponse(steps_asked=message)


def answered(message: worker_pb2.StepsAnswered) -> StepsAnswered:
    """A worker's answer."""
    return StepsAnswered(
        message.lease_id[:128],
        message.segment_index,
        _envelope(message.HasField("claim"), message.claim),
        _envelope(message.HasField("answer"), message.answer),
        message.code[:64],
        message.message[:1000],
    )


def _envelope(given: bool, message: common_pb2.Envelope) -> Envelope | None:
    return envelope_from_proto(message) if given else None
