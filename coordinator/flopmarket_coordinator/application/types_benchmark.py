"""What use cases of benchmark challenges take and answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flopmarket.trust.benchmark import BenchmarkPlan


class VoidReason(StrEnum):
    """Why a challenge showed nothing. No fault of the device follows from it."""

    DECLINED = "BENCHMARK_DECLINED"
    DISCONNECTED = "BENCHMARK_DISCONNECTED"
    RESTARTED = "BENCHMARK_RESTARTED"
    UNVERIFIED = "BENCHMARK_UNVERIFIED"


REMEDY_OF_VOID = "nothing to do: the device is asked again"


@dataclass(frozen=True, slots=True)
class ChallengeAsked:
    """A device that is to be challenged now. ``nonce`` and ``sampling_seed`` stay with the
    coordinator until their time; challenges of one ``group_id`` start at the same moment."""

    challenge_id: str
    offer_id: str
    device_key_id: str
    device_id: str
    group_id: str
    plan: BenchmarkPlan
    nonce: bytes
    sampling_seed: bytes
    asked_at_us: int


@dataclass(frozen=True, slots=True)
class ChallengeVerdict:
    """The end of a challenge, for its worker. ``report`` is the signed file, empty when void."""

    challenge_id: str
    device_key_id: str
    device_id: str
    reason: str
    detail: str
    remedy: str
    report: bytes
