"""Which steps may be leased, where a job restarts, and whether a commitment fits its lease.

A training job is a chain: one live lease at a time, from the newest durable state. A stateless
program (batch inference) is a set of independent ranges that several workers may hold at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flopmarket.jobs.spec import JobSpec
from flopmarket_coordinator.core.lifecycle import SegmentState


class CommitCode(StrEnum):
    """Why a commitment was refused."""

    UNKNOWN_LEASE = "UNKNOWN_LEASE"
    STALE_FENCE = "STALE_FENCE"
    LEASE_ENDED = "LEASE_ENDED"
    JOB_ENDED = "JOB_ENDED"
    WRONG_SIGNER = "WRONG_SIGNER"
    WRONG_JOB = "WRONG_JOB"
    WRONG_RANGE = "WRONG_RANGE"
    WRONG_STATE = "WRONG_STATE"
    CHECKPOINT_MISSING = "CHECKPOINT_MISSING"
    OUTPUTS_MISSING = "OUTPUTS_MISSING"
    ARTIFACT_MISSING = "ARTIFACT_MISSING"


class ReleaseReason(StrEnum):
    """Why a worker gives a lease back."""

    DECLINED = "DECLINED"
    PREEMPTED = "PREEMPTED"
    EXECUTOR_DIED = "EXECUTOR_DIED"
    DRAINING = "DRAINING"
    FINISHED = "FINISHED"
    PROGRAM_REFUSED = "PROGRAM_REFUSED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    FORGOTTEN = "FORGOTTEN"
    """The worker came back and did not know the lease any more."""


class RevokeReason(StrEnum):
    """Why the coordinator ends a lease."""

    EXPIRED = "EXPIRED"
    STALE_FENCE = "STALE_FENCE"
    UNKNOWN_LEASE = "UNKNOWN_LEASE"
    JOB_CANCELLED = "JOB_CANCELLED"
    JOB_FAILED = "JOB_FAILED"
    ROLLED_BACK = "ROLLED_BACK"
    KEY_BANNED = "KEY_BANNED"
    NO_LONGER_NEEDED = "NO_LONGER_NEEDED"
    """Nobody wants the rest of its steps; what was committed counts."""
    KEY_REVOKED = "KEY_REVOKED"
    """The owner ended the device's key."""
    KEY_ROTATED = "KEY_ROTATED"
    """Another key took the place of the device's before it had accepted."""
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True)
class Part:
    """What the chain rules need to know of one segment, in order of its steps."""

    segment_id: int
    index: int
    first_step: int
    steps: int
    state: SegmentState
    root_after: bytes
    checkpoint_artifact: str

    @property
    def end_step(self) -> int:
        """First step after the segment."""
        return self.first_step + self.steps


@dataclass(frozen=True, slots=True)
class StartPoint:
    """Where a lease of a chain starts: after ``step`` steps, as segment ``index``."""

    step: int
    index: int
    state_artifact: str
    state_root: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """Consecutive steps that nobody has."""

    first_step: int
    step_count: int
    index: int


def checkpoint_due(
    spec: JobSpec, *, stateless: bool, index: int, end_step: int, lease_end: int
) -> bool:
    """Whether the state at the end of this segment must be uploaded with it: after every so many
    segments, and where the lease ends, whether or not the job does."""
    counted = (index + 1) % spec.checkpoint_segments == 0
    return not stateless and (counted or end_step == lease_end)


def restart_point(
    spec: JobSpec, state_artifact: str, live: Sequence[Part]
) -> tuple[StartPoint, tuple[Part, ...]]:
    """Where a chain starts again, and the segments after that point, which are lost.

    ``live`` are the committed, verified and settled segments in order.
    """
    for at in range(len(live) - 1, -1, -1):
        part = live[at]
        if part.checkpoint_artifact:
            start = StartPoint(
                part.end_step, part.index + 1, part.checkpoint_artifact, part.root_after
            )
            return start, tuple(live[at + 1 :])
    return StartPoint(0, 0, state_artifact, spec.state_root), tuple(live)


def open_ranges(
    steps: int, segment_steps: int, taken: Iterable[tuple[int, int]], most: int
) -> tuple[Range, ...]:
    """The first ranges of a stateless job that no segment and no lease covers, ``most`` at most,
    cut at segment borders.

    ``taken`` are ``(first step, steps)``; a range never spans two segments of the grid.
    """
    ranges: list[Range] = []
    position = 0
    for first, count in [*sorted(taken), (steps, 0)]:
        while position < first:
            if len(ranges) == most:
                return tuple(ranges)
            index = position // segment_steps
            end = min(first, (index + 1) * segment_steps)
            ranges.append(Range(position, end - position, index))
            position = end
        position = max(position, first + count)
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Checked:
    """How far a job is verified without a gap, and how far it may be paid; steps."""

    checked_steps: int
    payable_steps: int


def checked_run(
    following: Iterable[Part], checked: Checked, *, stateless: bool, every: bool
) -> Checked:
    """How far a job got, given how far it was and the live segments from there on, in order.

    Pay follows order without a gap. A chain's segment is paid once its end state, or a later
    verified one, is durable; ``every`` drops that condition, for a job its buyer cancelled.
    """
    position, payable = checked.checked_steps, checked.payable_steps
    for part in following:
        verified = part.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
        if not verified or part.first_step != position:
            break
        position = part.end_step
        if stateless or part.checkpoint_artifact:
            payable = position
    return Checked(position, position if every else payable)
