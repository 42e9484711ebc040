"""What goes into and comes out of the use cases: plain values, one dataclass a meaning.

The gRPC servicers build these from protobuf and turn them back; nothing here knows either side. Ids
are text (job ids and digests in lower-case hex), roots 32 bytes, amounts nano-units of currency,
instants microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flopmarket.market.accuracy import Accuracy
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.market.price import PriceTerms
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.audit_records import DrawnSegment
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.core.book.listing import OfferFilter as OfferFilter
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.spending import Budget
from flopmarket_coordinator.core.webhooks import DeliveryState

# --- identity -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoordinatorInfo:
    """Who this coordinator is; needs no key to ask."""

    public_key: PublicKey
    profile: str
    currency: str
    fee_ppm: int

    @property
    def key_id(self) -> str:
        """Audience of everything that is signed for this coordinator."""
        return self.public_key.key_id


@dataclass(frozen=True, slots=True)
class Session:
    """Who is calling: what :meth:`Application.authenticate` returns for a bearer token.

    ``account_id`` is empty for an operator key.
    """

    account_id: str
    key_id: str
    role: KeyRole
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new bearer token. Only its hash is stored."""

    token: str
    session: Session


# --- buying ---------------------------------------------------------------------------------------


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
class KeyBudget:
    """What a CI key may spend, over its life and in this month, and what counts against it."""

    key_id: str
    label: str
    total: Budget
    month: Budget
    expires_at_us: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Limits of an account as of one instant; ``month_start_us`` is where its month began."""

    as_of_us: int
    month_start_us: int
    month: Budget
    keys: tuple[KeyBudget, ...]


@dataclass(frozen=True, slots=True)
class WebhookView:
    """A webhook, as its owner sees it."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str
    failures: int
    last_error: str
    pending: int
    created_at_us: int
    delivered_at_us: int


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """How one message to a webhook stands. ``error`` is what went wrong last."""

    state: DeliveryState
    error: str


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A message to send now."""

    number: int
    message_id: str
    webhook_id: str
    url: str
    body: bytes


# --- working --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease a worker says it still works on."""

    lease_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a worker's connection."""

    agent_version: str
    offers: tuple[Envelope, ...]
    held: tuple[HeldLease, ...]


@dataclass(frozen=True, slots=True)
class OfferRefused:
    """Why one offer was not listed."""

    device_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class LeaseOffered:
    """Instruction to a worker: run these steps. Travels to the stream of ``device_key_id``."""

    device_key_id: str
    lease_id: str
    fence: int
    device_id: str
    job_id: str
    spec: Envelope
    spec_public_key: bytes
    """Raw key that verifies ``spec``."""
    program_artifact: str
    frozen_artifact: str
    data_artifact: str
    state_artifact: str
    state_root: bytes
    first_step: int
    step_count: int
    first_segment: int
    price: PriceTerms
    expires_at_us: int
    grant: Envelope | None = None
    """The owner's grant to the CI key that signed ``spec``; None when the owner signed it."""
    buyer_public_key: bytes = b""
    """The account's first owner key, where ``spec`` is not signed by it."""
    owner_links: tuple[Envelope, ...] = ()
    """From that key to the owner key that signed ``spec`` or ``grant``."""
    signer_rotations: tuple[Envelope, ...] = ()
    """From the granted CI key to the one that signed ``spec``."""
    challenge_terms: Envelope | None = None


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """Instruction to a worker: stop, this lease is over."""

    device_key_id: str
    lease_id: str
    fence: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class OpeningAsked:
    """Instruction to a worker: open what your commitment of this segment hides."""

    device_key_id: str
    lease_id: str
    segment_index: int


@dataclass(frozen=True, slots=True)
class SegmentOpening:
    """A worker's answer: the signed secret, or none and why not."""

    lease_id: str
    segment_index: int
    secret: Envelope | None
    code: str = ""
    message: str = ""


Instruction = LeaseOffered | LeaseRevoked | OpeningAsked


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to :class:`Hello`. ``again`` repeats instructions that the worker does not know."""

    session_id: str
    time_us: int
    heartbeat_ms: int
    kept: tuple[HeldLease, ...]
    refused: tuple[OfferRefused, ...]
    again: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a worker is inside a lease; shown to the buyer, never billed."""

    lease_id: str
    step: int
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """:class:`Progress` of a live lease, addressed to the watchers of its job. Not stored."""

    job_id: str
    step: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """What a heartbeat came to. ``lost`` are leases that are not this worker's (any more)."""

    progress: tuple[JobProgress, ...]
    lost: tuple[LeaseRevoked, ...]


@dataclass(frozen=True, slots=True)
class TimeReport:
    """What a worker says its time went into, microseconds; zeros when it does not say.

    ``build_us`` and ``transfer_us`` were spent once, before the first segment of a lease.
    """

    run_us: int = 0
    build_us: int = 0
    transfer_us: int = 0

    @property
    def setup_us(self) -> int:
        """Before the first step."""
        return self.build_us + self.transfer_us


@dataclass(frozen=True, slots=True)
class SegmentCommit:
    """A finished segment; the artifacts were uploaded before ("" when there is none)."""

    commitment: Envelope
    outputs_artifact: str
    checkpoint_artifact: str
    times: TimeReport = TimeReport()


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """Whether a commitment counts. ``code`` is empty when accepted."""

    lease_id: str
    segment_index: int
    accepted: bool
    code: str
    message: str
    challenge_value: bytes = b""
    """The value of the lease's chain that this commitment is answered with; empty when refused."""
    rate_ppm: int = 0
    audited: bool = False


@dataclass(frozen=True, slots=True)
class ExpireReport:
    """What the passing of time did."""

    leases_expired: int
    jobs_failed: int
    downtime_us: int
    """Time in which the coordinator was not running; live leases were extended by it."""


# --- auditing -------------------------------------------------------------------------------------


class AuditKind(StrEnum):
    """What the house has to do about a segment."""

    FILES = "files"
    """Read the uploaded files and compare their roots with the committed ones."""
    RECOMPUTE = "recompute"
    """Compute the segment again, and read its files too."""


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


# --- artifacts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """A stored artifact that the caller may read."""

    digest: str
    size_bytes: int


# --- prediction -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """How far predictions were off lately; ``overall`` is all of ``rows``' segments together."""

    as_of_us: int
    overall: Accuracy
    rows: tuple[Accuracy, ...]
