"""One lease of a worker: its phase, what is computed, uploaded and answered, and its story."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from flopmarket.errors import FlopmarketError
from flopmarket.limits import (
    MAX_LEASE_STORY_LINES,
    MAX_LOCAL_STATE_BYTES,
    MAX_UNANSWERED_COMMITMENTS,
    WORKER_EXECUTOR_RETRIES,
)
from flopmarket_worker.core.events import (
    LeaseTerms,
    ReleaseReason,
    ResumePoint,
    SegmentRecord,
    UploadedFiles,
)


class Phase(StrEnum):
    """Where a lease is. The executor is busy in PREPARING, RUNNING and CLOSING."""

    RECOVERED = "recovered"  # found on disk; the coordinator has not said whether it is still ours
    PREPARING = "preparing"
    RUNNING = "running"
    WAITING = "waiting"  # for uploads and answers; nothing to compute now
    CLOSING = "closing"
    ENDED = "ended"


LEGAL: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        Phase.RECOVERED: frozenset({Phase.PREPARING, Phase.WAITING, Phase.CLOSING}),
        Phase.PREPARING: frozenset({Phase.PREPARING, Phase.RUNNING, Phase.WAITING, Phase.CLOSING}),
        Phase.RUNNING: frozenset({Phase.RUNNING, Phase.PREPARING, Phase.WAITING, Phase.CLOSING}),
        Phase.WAITING: frozenset({Phase.WAITING, Phase.RUNNING, Phase.CLOSING}),
        Phase.CLOSING: frozenset({Phase.ENDED}),
        Phase.ENDED: frozenset(),
    }
)
"""The transitions that exist; every other one is a bug and raises with the lease's story."""


class IllegalTransition(FlopmarketError):
    """An event reached a lease in a phase where it cannot happen. A bug; the story tells which."""

    default_code = "WORKER_ILLEGAL_TRANSITION"


@dataclass(frozen=True, slots=True)
class Ending:
    """Decided: the lease ends. ``discard``: what is not answered yet counts for nothing.
    ``tell``: the coordinator is told (it knows already when it revoked the lease itself)."""

    reason: ReleaseReason
    detail: str
    discard: bool
    tell: bool


@dataclass(slots=True)
class Lease:
    """Mutable record of one lease, changed by the machine alone.

    ``position`` counts segments of ``computed`` that the executor's present state includes; it is
    behind ``len(computed)`` while a fresh process repeats segments from an older state.
    """

    terms: LeaseTerms
    phase: Phase
    computed: list[SegmentRecord] = field(default_factory=list)
    uploaded: dict[int, UploadedFiles] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    position: int = 0
    retries_left: int = WORKER_EXECUTOR_RETRIES
    accepted: bool = False
    small_state: bool = False
    ending: Ending | None = None
    story: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LEASE_STORY_LINES))

    def enter(self, phase: Phase, cause: str) -> None:
        """Change the phase; :class:`IllegalTransition` when the table has no such change."""
        if phase not in LEGAL[self.phase]:
            raise self.illegal(f"cannot go from {self.phase} to {phase} on {cause}")
        self.story.append(f"{self.phase} -> {phase}: {cause}")
        self.phase = phase

    def expect(self, phase: Phase, cause: str) -> None:
        """:class:`IllegalTransition` unless the lease is in ``phase``."""
        if self.phase is not phase:
            raise self.illegal(f"{cause} in phase {self.phase}, expected {phase}")

    def illegal(self, what: str) -> IllegalTransition:
        """The error for a bug that concerns this lease, with its story."""
        key = self.terms.key
        told = "; ".join(self.story) or "nothing happened yet"
        return IllegalTransition(
            f"lease {key.lease_id} fence {key.fence}: {what}. Story: {told}",
            details={"lease_id": key.lease_id, "fence": str(key.fence)},
        )

    # ------------------------------------------------------------ what is left

    @property
    def next_step(self) -> int:
        """Step at which the next new segment starts."""
        return self.computed[-1].end_step if self.computed else self.terms.first_step

    @property
    def all_computed(self) -> bool:
        """Whether every step of the lease is computed."""
        return self.next_step >= self.terms.end_step

    @property
    def unanswered(self) -> int:
        """Computed segments whose commitment the coordinator has not answered."""
        return len(self.computed) - len(self.answered)

    @property
    def window_open(self) -> bool:
        """Whether another segment may be computed ahead of the coordinator's answers."""
        return self.unanswered < MAX_UNANSWERED_COMMITMENTS

    @property
    def replaying(self) -> bool:
        """Whether the next run repeats a segment that was computed before."""
        return self.position < len(self.computed)

    # ------------------------------------------------------------ plans

    def planned(self) -> tuple[int, int, int, bool]:
        """(segment index, first step, steps, keep the end state) of the next run."""
        if self.replaying:
            again = self.computed[self.position]
            return again.index, again.first_step, again.steps, again.has_state
        index = self.terms.first_segment + len(self.computed)
        first = self.next_step
        count = min(self.terms.segment_steps, self.terms.end_step - first)
        return index, first, count, self._keeps_state(index, first + count)

    def is_due(self, index: int, end_step: int) -> bool:
        """Whether a checkpoint is due at the end of this segment."""
        counted = (index + 1) % self.terms.checkpoint_segments == 0
        return not self.terms.stateless and (counted or end_step == self.terms.end_step)

    def _keeps_state(self, index: int, end_step: int) -> bool:
        # A small state is written after every segment: cheap, and a restart repeats nothing.
        return self.is_due(index, end_step) or (self.small_state and not self.terms.stateless)

    def note_state_size(self, state_bytes: int) -> None:
        """Remember whether the state is small enough to be written after every segment."""
        self.small_state = state_bytes <= MAX_LOCAL_STATE_BYTES

    def resume_point(self) -> ResumePoint:
        """The newest state on disk, and everything before it."""
        for record in reversed(self.computed):
            if record.has_state or self.terms.stateless:
                return ResumePoint(record.index, record.end_step, record.state_root_after)
        return ResumePoint(None, self.terms.first_step, self.terms.state_root)

    def rewind(self, point: ResumePoint) -> None:
        """Set ``position`` to what the state of ``point`` includes."""
        self.position = (
            0 if point.segment_index is None else point.segment_index - self.terms.first_segment + 1
        )
