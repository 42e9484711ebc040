"""What is recomputed, what the comparison means, and what falls when a segment was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flopmarket.market.money import Nano
from flopmarket_coordinator.core.leasing import Part
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.reputation import DeviceHistory, Stake


class VerdictCode(StrEnum):
    """Outcome of an audit, as signed in the verdict."""

    EQUAL = "EQUAL"
    STATE_DIFFERS = "STATE_DIFFERS"
    OUTPUTS_DIFFER = "OUTPUTS_DIFFER"
    CHECKPOINT_FILE_DIFFERS = "CHECKPOINT_FILE_DIFFERS"
    """The committed root is right and the uploaded file holds something else."""
    OUTPUTS_FILE_DIFFERS = "OUTPUTS_FILE_DIFFERS"


class VoidReason(StrEnum):
    """Why a segment counts for nothing though nobody proved it wrong."""

    BUILT_ON_WRONG_STATE = "BUILT_ON_WRONG_STATE"
    NOT_DURABLE = "NOT_DURABLE"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    JOB_ENDED = "JOB_ENDED"


@dataclass(frozen=True, slots=True)
class AuditDecision:
    """Whether a segment is recomputed, and the probability it was decided with."""

    audited: bool
    probability: float


class AuditPolicy(Protocol):
    """Port: decides what is audited."""

    def decide(self, history: DeviceHistory, stake: Stake, price_nano: Nano) -> AuditDecision:
        """The decision for one committed segment."""
        ...


class AuditAll:
    """Every segment is recomputed."""

    def decide(self, history: DeviceHistory, stake: Stake, price_nano: Nano) -> AuditDecision:
        """See :class:`AuditPolicy`."""
        return AuditDecision(audited=True, probability=1.0)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker committed to. Artifacts are empty when it uploaded none."""

    state_root: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the auditor found: its own roots, and those of the uploaded files."""

    state_root: bytes
    outputs_root: bytes
    outputs_artifact_root: bytes | None
    checkpoint_artifact_root: bytes | None


def judge(claimed: Claimed, found: Recomputed) -> VerdictCode:
    """Compare bits. Files are held to the auditor's roots, not to the worker's."""
    if claimed.state_root != found.state_root:
        return VerdictCode.STATE_DIFFERS
    if claimed.outputs_root != found.outputs_root:
        return VerdictCode.OUTPUTS_DIFFER
    if claimed.checkpoint_artifact and found.checkpoint_artifact_root != found.state_root:
        return VerdictCode.CHECKPOINT_FILE_DIFFERS
    if claimed.outputs_artifact and found.outputs_artifact_root != found.outputs_root:
        return VerdictCode.OUTPUTS_FILE_DIFFERS
    return VerdictCode.EQUAL


def built_upon(rejected: Part, live: Sequence[Part], *, stateless: bool) -> tuple[Part, ...]:
    """Segments that fall with a rejected one: the later ones of a chain, none if stateless."""
    if stateless:
        return ()
    return tuple(
        part
        for part in live
        if part.first_step >= rejected.end_step and part.state is not SegmentState.SETTLED
    )
