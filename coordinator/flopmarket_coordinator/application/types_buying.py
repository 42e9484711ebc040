"""Values of the buyer's side: what is asked for, and how a job and its files stand."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.accuracy import Accuracy
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    """A job before it exists. ``program`` bytes or, when empty, the digest of a stored artifact."""

    program: bytes
    program_artifact: str
    steps: int
    segment_steps: int
    input_bytes: int = 0
    verification: str = Level.DETER.value
    order: OrderTerms = MARKET_ORDER
    deadline_us: int = 0
    """When it must be done; 0 asks for nothing."""
    mode: str = Mode.EXACT.value
    device_class: str = ""
    """In class mode the class (hex) that is asked for; empty for the cheapest that may be had."""


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A signed JobSpec and the artifacts that hold what it binds ("" for an empty bundle)."""

    request_id: str
    spec: Envelope
    program_artifact: str
    frozen_artifact: str
    state_artifact: str
    data_artifact: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One live or refused segment of a job, as its buyer sees it."""

    index: int
    first_step: int
    steps: int
    state: SegmentState
    device_id: str
    device_name: str
    device_key_id: str
    price_nano: int
    state_root: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str
    reason: str
    surcharge_nano: int = 0


@dataclass(frozen=True, slots=True)
class JobView:
    """A job, as its buyer sees it. ``segments`` is empty in lists."""

    job_id: str
    title: str
    kind: str
    state: JobState
    reason: str
    created_at_us: int
    ended_at_us: int
    steps: int
    segment_steps: int
    steps_committed: int
    steps_verified: int
    ceiling_nano: int
    billed_nano: int
    program_digest: str
    state_artifact: str
    """Artifact and root of the last durable verified state; the initial state at first."""
    state_root: bytes
    segments: tuple[SegmentView, ...] = ()
    """The first of them."""
    segment_count: int = 0
    order: OrderTerms = MARKET_ORDER
    deadline_us: int = 0
    verification: str = Level.DETER.value
    mode: Mode = Mode.EXACT
    device_class: str = ""
    """Hex of the class of devices that a job in class mode is bound to."""
    surcharge_ppm: int = 0
    """What the level of verification adds to every price; ``surcharge_nano`` is within the bill."""
    surcharge_nano: int = 0


@dataclass(frozen=True, slots=True)
class SegmentPage:
    """Segments of a job, in order of steps."""

    segments: tuple[SegmentView, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first."""

    jobs: tuple[JobView, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's story. ``kind`` is one of :class:`core.events.EventKind`."""

    sequence: int
    time_us: int
    kind: str
    text: str
    cause: str


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """A stored artifact that the caller may read."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """How far predictions were off lately; ``overall`` is all of ``rows``' segments together."""

    as_of_us: int
    overall: Accuracy
    rows: tuple[Accuracy, ...]
