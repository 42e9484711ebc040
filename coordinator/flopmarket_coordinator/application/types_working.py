"""Values of the worker's side: what it says of itself, what it is told, what it commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flopmarket.market.price import PriceTerms
from flopmarket.trust.envelope import Envelope


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


@dataclass(frozen=True, slots=True)
class StepsAsked:
    """Instruction to a worker: answer for steps of a segment that it committed to
    (:mod:`flopmarket.trust.step_audit`). Without ``claim`` there are no steps yet."""

    device_key_id: str
    lease_id: str
    segment_index: int
    steps: tuple[int, ...]
    with_values: bool
    deadline_us: int
    work: LeaseOffered
    """What is needed to run the segment again, as a lease would name it."""
    commitment: Envelope
    claim: Envelope | None


@dataclass(frozen=True, slots=True)
class StepsAnswered:
    """A worker's signed claim or answer, or neither and why not."""

    lease_id: str
    segment_index: int
    claim: Envelope | None
    answer: Envelope | None
    code: str = ""
    message: str = ""


Instruction = LeaseOffered | LeaseRevoked | OpeningAsked | StepsAsked


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
