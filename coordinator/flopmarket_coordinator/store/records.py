"""Rows as values. Field names are column names; states are enums, absent text is empty."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.trust.audit_policy import Level
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.escrow import Hold
from flopmarket_coordinator.core.leasing import Part
from flopmarket_coordinator.core.lifecycle import JobState, LeaseState, SegmentState


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job. ``ending`` is the final state it is on its way to while audits are outstanding."""

    number: int
    job_id: str
    buyer: str
    title: str
    kind: str
    state: JobState
    reason: str
    ending: str
    envelope: bytes
    spec: bytes
    program_artifact: str
    frozen_artifact: str
    state_artifact: str
    data_artifact: str
    stateless: bool
    work: str
    peak_memory_bytes: int
    steps: int
    segment_steps: int
    ceiling_nano: int
    billed_nano: int
    fee_nano: int
    hold_id: str
    hold_number: int
    hold_nano: int
    fence: int
    event_count: int
    created_at_us: int
    deadline_us: int
    ended_at_us: int
    settled_steps: int
    checked_steps: int
    live_steps: int
    unaudited_segments: int
    audit_fence: int
    verification: str
    surcharge_ppm: int
    surcharge_nano: int
    mode: Mode
    device_class: str
    """Hex of the class of devices that may run and audit it; empty unless in class mode."""
    returned_nano: int
    unreturned_nano: int

    @property
    def level(self) -> Level:
        """How much of it is recomputed."""
        return Level(self.verification)

    @property
    def hold(self) -> Hold | None:
        """The money reserved for this job now."""
        return Hold(self.hold_id, self.hold_number, self.hold_nano) if self.hold_nano else None


@dataclass(frozen=True, slots=True)
class JobSums:
    """What a job's segments come to; the artifact and root are of its newest durable state."""

    segments: int
    steps_committed: int
    steps_verified: int
    checkpoint_artifact: str
    checkpoint_root: bytes


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease and how far it got: ``next_*`` is what its next commitment must start from."""

    lease_id: str
    job_id: str
    fence: int
    offer_id: str
    device_key_id: str
    device_id: str
    device_name: str
    account_id: str
    chain: bool
    first_step: int
    step_count: int
    first_segment: int
    state_artifact: str
    state_root: bytes
    ask_nano_per_hour: int
    step_picoseconds: int
    next_step: int
    next_segment: int
    next_root: bytes
    state: LeaseState
    reason: str
    detail: str
    told: bool
    created_at_us: int
    expires_at_us: int
    ended_at_us: int
    milliwatts: int
    watts_source: str
    work_class: str
    roofline_picoseconds: int
    factor_ppm: int
    setup_roofline_us: int
    setup_predicted_us: int
    accepted_at_us: int
    measured_us: int
    audit_id: str

    @property
    def end_step(self) -> int:
        """First step after the lease."""
        return self.first_step + self.step_count


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A committed segment. ``held_state`` says where ``to_held_nano`` of its pay is."""

    segment_id: int
    job_id: str
    lease_id: str
    segment_index: int
    first_step: int
    steps: int
    state: SegmentState
    reason: str
    account_id: str
    device_key_id: str
    device_id: str
    device_name: str
    offer_id: str
    price_nano: int
    fee_nano: int
    to_bond_nano: int
    to_held_nano: int
    held_state: str
    root_before: bytes
    root_after: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str
    commitment: bytes
    commitment_digest: bytes
    verdict: bytes | None
    verdict_accepted: bool
    committed_at_us: int
    settled_at_us: int
    trade_number: int
    house_task: str
    files_checked: bool
    auditor: str
    challenge_digest: bytes | None
    surcharge_nano: int
    to_audit_nano: int

    @property
    def bill_nano(self) -> int:
        """What its buyer pays: price and surcharge."""
        return self.price_nano + self.surcharge_nano

    def part(self) -> Part:
        """What the chain rules need of it."""
        return Part(
            self.segment_id,
            self.segment_index,
            self.first_step,
            self.steps,
            self.state,
            self.root_after,
            self.checkpoint_artifact,
        )


@dataclass(frozen=True, slots=True)
class OfferRow:
    """An offer as listed last, and what its device did so far."""

    offer_id: str
    account_id: str
    device_key_id: str
    device_id: str
    envelope: bytes
    terms: bytes
    listed: bool
    updated_at_us: int
    verified_segments: int
    rejected_segments: int
    streak: int
    exact: bool
    """Whether it takes jobs in exact mode."""
    device_class: str
    """Hex of its class of devices; empty when it does not offer class mode."""


@dataclass(frozen=True, slots=True)
class ChallengeRow:
    """What a lease's draws follow from; documents are named by their digests."""

    lease_id: str
    envelope: bytes
    rules: bytes
    candidates: bytes
    house: bytes
    audit_steps: int
    right_verdicts: int


@dataclass(frozen=True, slots=True)
class AuditorRow:
    """An offer of a device that may audit, and the bond of its account."""

    offer_id: str
    device_key_id: str
    account_id: str
    bond_nano: int
    updated_at_us: int


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """A commitment and what was drawn for it: an encoded record, envelopes in binary form."""

    segment_index: int
    state: str
    auditor: str
    device_key_id: str
    record: bytes
    commitment: bytes
    verdict: bytes | None
    segment_id: int
    account_id: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A registered key. A banned key may be shown to the world and act for nobody.

    ``lineage`` is the first key of those that took each other's place, empty for itself;
    ``successor`` took this key's place; ``ended_at_us`` is when its owner ended it, 0 for never.
    """

    key_id: str
    account_id: str
    role: str
    public_key: bytes
    label: str
    created_at_us: int
    revoked: bool
    banned_reason: str
    lineage: str
    successor: str
    ended_at_us: int
    ended_by: bytes | None
