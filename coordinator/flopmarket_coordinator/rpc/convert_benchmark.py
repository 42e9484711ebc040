"""Messages of benchmark challenges."""

from __future__ import annotations

from flopmarket.trust.benchmark import BenchmarkPlan, BenchmarkStart, OpeningRequest
from flopmarket.trust.encoding import encode
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_benchmark import ChallengeVerdict


def asked(
    challenge_id: str, device_id: str, document: BenchmarkPlan | BenchmarkStart | OpeningRequest
) -> worker_pb2.SessionResponse:
    """The plan, the nonce or the request to open, for the device."""
    message = worker_pb2.BenchmarkAsked(challenge_id=challenge_id, device_id=device_id)
    match document:
        case BenchmarkPlan():
            message.plan = encode(document)
        case BenchmarkStart():
            message.start = encode(document)
        case OpeningRequest():
            message.opening_request = encode(document)
    return worker_pb2.SessionResponse(benchmark_asked=message)


def verdict(ended: ChallengeVerdict) -> worker_pb2.SessionResponse:
    """What came of a challenge."""
    return worker_pb2.SessionResponse(
        benchmark_verdict=worker_pb2.BenchmarkVerdict(
            challenge_id=ended.challenge_id,
            device_id=ended.device_id,
            reason=ended.reason,
            detail=ended.detail,
            remedy=ended.remedy,
            report=ended.report,
        )
    )
