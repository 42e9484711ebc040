"""What happens to a worker's leases, and what is to be done about it: values only.

The shell (:mod:`flopmarket_worker.leasing`) turns messages, timers and finished tasks into events,
gives them to :class:`flopmarket_worker.core.session.SessionMachine`, and carries out what it says.
Everything that concerns one lease names it by id and fence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class ReleaseReason(StrEnum):
    """Why a worker gives a lease back; the words of the wire."""

    DECLINED = "DECLINED"
    PREEMPTED = "PREEMPTED"
    EXECUTOR_DIED = "EXECUTOR_DIED"
    DRAINING = "DRAINING"
    FINISHED = "FINISHED"
    PROGRAM_REFUSED = "PROGRAM_REFUSED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"


@dataclass(frozen=True, slots=True, order=True)
class LeaseKey:
    """One lease at one fence. Two keys that differ in the fence are two leases."""

    lease_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What the machine needs to know of a lease: which steps, cut how, from which state.

    ``checkpoint_segments`` counts from the start of the job; ``stateless`` programs carry no state
    from step to step.
    """

    key: LeaseKey
    device_id: str
    first_step: int
    step_count: int
    first_segment: int
    segment_steps: int
    checkpoint_segments: int
    state_root: bytes
    stateless: bool

    @property
    def end_step(self) -> int:
        """The first step that is not part of the lease."""
        return self.first_step + self.step_count


@dataclass(frozen=True, slots=True)
class Times:
    """What a segment took, microseconds: the run itself, and before the first segment of a lease
    what was fetched and built for all of them."""

    run_us: int = 0
    build_us: int = 0
    transfer_us: int = 0


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A computed segment. ``has_state``: its end state is on this machine's disk;
    ``upload_state``: that state is a checkpoint to be made durable elsewhere. ``times``: what it
    took."""

    index: int
    first_step: int
    steps: int
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    inner: bytes
    has_state: bool
    upload_state: bool
    times: Times = Times()

    @property
    def end_step(self) -> int:
        """Steps of the job done at the end of this segment."""
        return self.first_step + self.steps


@dataclass(frozen=True, slots=True)
class UploadedFiles:
    """Artifact ids of a segment's outputs and checkpoint (empty when none was due)."""

    outputs_artifact: str
    checkpoint_artifact: str


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a preparation starts: the state after ``segment_index`` (None: the lease's start)."""

    segment_index: int | None
    step: int
    state_root: bytes


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Recovered:
    """A lease found on disk at start: what was computed, and what of it was uploaded."""

    terms: LeaseTerms
    computed: tuple[SegmentRecord, ...]
    uploaded: tuple[tuple[int, UploadedFiles], ...]
    answered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is open and these leases are still this worker's."""

    kept: tuple[LeaseKey, ...]


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone. Work goes on."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The coordinator offers a lease whose spec was checked."""

    terms: LeaseTerms


@dataclass(frozen=True, slots=True)
class OfferUnusable:
    """The coordinator offers a lease that cannot be taken: bad spec, unknown device."""

    key: LeaseKey
    detail: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """The lease is no longer this worker's."""

    key: LeaseKey
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The coordinator's durable answer to one commitment."""

    lease_id: str
    segment_index: int
    accepted: bool
    code: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Artifacts are here, roots are right, the state (of ``state_bytes``) is on the device."""

    key: LeaseKey
    state_bytes: int


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job cannot start or go on here, whatever process runs it."""

    key: LeaseKey
    reason: ReleaseReason
    detail: str


@dataclass(frozen=True, slots=True)
class SegmentRan:
    """The executor finished a segment (or was interrupted after ``steps`` of it)."""

    key: LeaseKey
    first_step: int
    steps: int
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    inner: bytes
    times: Times = Times()


@dataclass(frozen=True, slots=True)
class ExecutorDied:
    """The engine's process ended, or failed in a way that a fresh one may not."""

    key: LeaseKey
    detail: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A segment's files are durable."""

    key: LeaseKey
    segment_index: int
    files: UploadedFiles


@dataclass(frozen=True, slots=True)
class UploadFailed:
    """A segment's files were refused for good."""

    key: LeaseKey
    segment_index: int
    detail: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The device is wiped and free again."""

    key: LeaseKey


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The worker is to stop: end at the next step boundary, report what is done, give back."""


Event: TypeAlias = (
    Recovered
    | Connected
    | Disconnected
    | Offered
    | OfferUnusable
    | Revoked
    | Answered
    | Prepared
    | JobFailed
    | SegmentRan
    | ExecutorDied
    | Uploaded
    | UploadFailed
    | Closed
    | DrainRequested
)


# ---------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch and check what the lease needs and load the state; answer Prepared, JobFailed
    or ExecutorDied."""

    terms: LeaseTerms
    start: ResumePoint


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop fetching, if still fetching. The preparation answers in any case."""

    key: LeaseKey


@dataclass(frozen=True, slots=True)
class Accept:
    """Tell the coordinator, signed, that the lease is taken."""

    terms: LeaseTerms


@dataclass(frozen=True, slots=True)
class Run:
    """Run a segment; answer SegmentRan or ExecutorDied. ``keep_state``: write the end state."""

    key: LeaseKey
    segment_index: int
    first_step: int
    count: int
    keep_state: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the running segment after its present step. SegmentRan follows all the same."""

    key: LeaseKey


@dataclass(frozen=True, slots=True)
class Upload:
    """Record the segment on disk and upload its files, after those before it."""

    key: LeaseKey
    segment: SegmentRecord


@dataclass(frozen=True, slots=True)
class Commit:
    """Sign and send the commitment of an uploaded segment."""

    key: LeaseKey
    segment: SegmentRecord
    files: UploadedFiles


@dataclass(frozen=True, slots=True)
class Release:
    """Tell the coordinator that the lease is given back."""

    key: LeaseKey
    reason: ReleaseReason
    detail: str


@dataclass(frozen=True, slots=True)
class Close:
    """Wipe the device, stop uploads, delete the job's files; answer Closed."""

    key: LeaseKey


Instruction: TypeAlias = (
    Prepare | Abandon | Accept | Run | Interrupt | Upload | Commit | Release | Close
)
