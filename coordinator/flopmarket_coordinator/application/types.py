"""What goes into and comes out of the use cases: plain values, one dataclass a meaning.

The gRPC servicers build these from protobuf and turn them back; nothing here knows either side. Ids
are text (job ids and digests in lower-case hex), roots 32 bytes, amounts nano-units of currency,
instants microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flopmarket.limits import DEFAULT_BOOK_LEVELS
from flopmarket.market.accuracy import Accuracy
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.market.price import PriceTerms
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.core.book.depth import AskLevel, BidLevel
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
    verification: str = "audit-all"
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
    """Raw owner key that verifies ``grant``."""


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """Instruction to a worker: stop, this lease is over."""

    device_key_id: str
    lease_id: str
    fence: int
    reason: str
    detail: str


Instruction = LeaseOffered | LeaseRevoked


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


@dataclass(frozen=True, slots=True)
class ExpireReport:
    """What the passing of time did."""

    leases_expired: int
    jobs_failed: int
    downtime_us: int
    """Time in which the coordinator was not running; live leases were extended by it."""


# --- auditing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditTask:
    """One segment to recompute. Tasks of a job come in order of its steps.

    An auditor that still has the state after ``first_step`` steps goes on from it; else it loads
    ``replay_artifact`` ("" for an empty state), whose root is ``replay_root`` after ``replay_step``
    steps, and runs forward.
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


# --- market ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfferView:
    """A live offer, as anybody sees it. Figures that its owner does not state are 0 or empty."""

    offer_id: str
    account_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    memory_bytes: int
    rates: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    ask_nano_per_hour: int
    milliwatts: int
    watts_source: str
    card_price_nano: int
    state: str
    """``idle`` or ``busy``."""
    flops_per_dollar: float
    """Operations of the chosen work class that one currency unit buys."""
    flops_per_watt: float
    """Sustained operations per second and watt; 0 when the power is unknown."""
    verified_segments: int
    rejected_segments: int
    region: str = ""
    reliability: float = 0.0
    """Verified segments of all that were decided; 0 before the first."""
    suited_for: tuple[str, ...] = ()
    flops_per_card_dollar: float = 0.0
    """Sustained operations per second for each currency unit that the card costs."""
    updated_at_us: int = 0


@dataclass(frozen=True, slots=True)
class OfferQuery:
    """Filter, order and page of a list of offers.

    ``order_by`` is a name of :data:`core.book.listing.NUMBERS`, ``price`` when empty; ``-``
    reverses. ``work_class`` is what rates are compared in; naming one leaves out devices without a
    rate for it. All ``filters`` must hold.
    """

    page_size: int = 0
    page_token: str = ""
    order_by: str = ""
    min_memory_bytes: int = 0
    work_class: str = ""
    filters: tuple[OfferFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class OfferPage:
    """Offers as of one instant. ``matching`` counts those of all pages."""

    as_of_us: int
    offers: tuple[OfferView, ...]
    next_page_token: str
    matching: int = 0


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """Where a class of work stands: its cheapest live offer and its highest bid.

    Without an offer ``per_pflop_nano`` is None and what describes the offer is empty; without a
    bid ``bid_nano`` is None.
    """

    work_class: str
    best_offer_id: str
    device_name: str
    per_pflop_nano: int | None
    flops_per_dollar_hour: float
    flop_per_dollar: float
    flops_per_watt: float
    watts_source: str
    offers: int
    bid_nano: int | None = None
    orders: int = 0


@dataclass(frozen=True, slots=True)
class SpotReport:
    """Spot prices as of one instant, of classes with an offer or an order; none is an answer."""

    as_of_us: int
    currency: str
    prices: tuple[SpotPrice, ...]


@dataclass(frozen=True, slots=True)
class DepthQuery:
    """Depth of one class; ``levels`` prices of each side."""

    work_class: str
    levels: int = DEFAULT_BOOK_LEVELS


@dataclass(frozen=True, slots=True)
class DepthReport:
    """Both sides of a class as of one instant, best first. The counts are of all levels."""

    as_of_us: int
    currency: str
    work_class: str
    asks: tuple[AskLevel, ...]
    bids: tuple[BidLevel, ...]
    offers: int
    orders: int


# --- money ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balances:
    """Money of one account. ``reserved`` is held for running jobs and not in ``available``.

    ``overdraft_nano`` is how far below zero ``available`` may go.
    """

    account_id: str
    display_name: str
    available_nano: int
    reserved_nano: int
    held_nano: int
    bond_nano: int
    overdraft_nano: int = 0


@dataclass(frozen=True, slots=True)
class TransferView:
    """One line of a statement. ``change_nano`` is the signed change of ``balance``."""

    transfer_id: str
    time_us: int
    kind: str
    balance: str
    change_nano: int
    amount_nano: int
    purpose: str
    job_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class TransferPage:
    """Lines of a statement, oldest first."""

    transfers: tuple[TransferView, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class DepositResult:
    """A recorded deposit. ``available_nano`` is the balance it went to, afterwards."""

    transfer_id: str
    available_nano: int


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
