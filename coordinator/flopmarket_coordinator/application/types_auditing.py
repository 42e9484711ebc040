"""Values of audits: what the house recomputes, what it found, what is published of draws."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flopmarket.trust.audit_records import DrawnSegment
from flopmarket_coordinator.application.types_steps import StepTask


class AuditKind(StrEnum):
    """What the house has to do about a segment."""

    FILES = "files"
    """Read the uploaded files and compare their roots with the committed ones."""
    RECOMPUTE = "recompute"
    """Compute the segment again, and read its files too."""
    STEPS = "steps"
    """Run the drawn steps from the states that its worker handed over, and read its files too."""


@dataclass(frozen=True, slots=True)
class PathSegment:
    """A segment between the state that a replay starts from and the one it is about."""

    segment_id: int
    first_step: int
    steps: int
    root_after: bytes
    outputs_root: bytes
    recomputed: bool
    """Whether the house itself found it right before."""

    @property
    def end_step(self) -> int:
        """First step after it."""
        return self.first_step + self.steps


@dataclass(frozen=True, slots=True)
class AuditTask:
    """One segment that the house looks at. Recomputations of a job come in order of its steps.

    An auditor that still has the state after ``first_step`` steps goes on from it; else it loads
    ``replay_artifact`` ("" for an empty state), whose root is ``replay_root`` after ``replay_step``
    steps, and runs forward over ``path``, comparing each segment with what was committed.
    """

    job_id: str
    segment_id: int
    segment_index: int
    first_step: int
    steps: int
    commitment_digest: bytes
    spec: bytes
    program_artifact: str
    frozen_artifact: str
    data_artifact: str
    replay_artifact: str
    replay_root: bytes
    replay_step: int
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str
    kind: AuditKind = AuditKind.RECOMPUTE
    path: tuple[PathSegment, ...] = ()
    step_task: StepTask | None = None
    """Of kind STEPS alone."""


@dataclass(frozen=True, slots=True)
class FilesResult:
    """Roots read from a segment's files, as in :class:`AuditResult`."""

    outputs_artifact_root: bytes | None
    checkpoint_artifact_root: bytes | None


@dataclass(frozen=True, slots=True)
class PathDiffers:
    """A replay came to other roots in a segment before the one it was for; the first such one."""

    segment_id: int
    state_root: bytes
    outputs_root: bytes


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What the auditor computed, and the roots of the files that the worker uploaded.

    ``outputs_artifact_root`` and ``checkpoint_artifact_root`` are the roots read from those files;
    ``b""`` when a file is no bundle at all, None when the task names no such file.
    """

    state_root: bytes
    outputs_root: bytes
    outputs_artifact_root: bytes | None
    checkpoint_artifact_root: bytes | None
    inner: bytes = b""
    """Hash of the step checksums, which a commitment hides."""


@dataclass(frozen=True, slots=True)
class JobRefusedByAuditor:
    """The job itself is bad (wrong roots, no legal program): it fails, nobody is slashed."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What a finished audit led to. ``applied`` is False when the segment was no longer waiting."""

    applied: bool
    accepted: bool
    reason_code: str


@dataclass(frozen=True, slots=True)
class LeaseDraws:
    """What a lease's draws follow from: the signed terms, and the documents that they name."""

    lease_id: str
    terms: bytes
    rules: bytes
    candidates: bytes
    house: bytes

    @property
    def size_bytes(self) -> int:
        """Of all four together."""
        return len(self.terms) + len(self.rules) + len(self.candidates) + len(self.house)


@dataclass(frozen=True, slots=True)
class AuditsPage:
    """Commitments of a job with their lease's id, in order, and the leases that they are of."""

    leases: tuple[LeaseDraws, ...]
    segments: tuple[tuple[str, DrawnSegment], ...]
    next_page_token: str
