"""What the client answers with: frozen values with units in their names.

:mod:`flopmarket.client.messages` makes them from what came over the wire; protobuf never leaves the
package. Texts in them are fit for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np

from flopmarket.client.money import Money
from flopmarket.jobs.order import rows_of_output
from flopmarket.jobs.spec import DataOrder
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.receipt import VerifiedReceipt

Array: TypeAlias = np.ndarray[Any, Any]


class JobState(StrEnum):
    """Where a job is. The last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen to the job any more."""
        return self in (JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class CoordinatorInfo:
    """Who a coordinator says it is; ``fee_ppm`` is parts per million of the price."""

    key_id: str
    public_key: PublicKey
    profile: str
    currency: str
    time_us: int
    version: str
    fee_ppm: int


@dataclass(frozen=True, slots=True)
class ClassWork:
    """Counted work of one class in one step."""

    work_class: str
    flops_per_step: int


@dataclass(frozen=True, slots=True)
class EligibleOffer:
    """One offer that can run a quoted job: its price for the whole and its predicted time."""

    offer_id: str
    device_name: str
    total: Money
    seconds: float


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of a job before it runs.

    ``ceiling`` is firm; ``expected`` is the price on the cheapest offer.
    ``joules`` is 0 when no eligible offer states its power. ``ineligible`` counts offers by the
    reason that ruled them out.
    """

    quote_id: str
    as_of_us: int
    expires_at_us: int
    ceiling: Money
    expected: Money
    fee_within_expected: Money
    work: tuple[ClassWork, ...]
    steps: int
    bytes_moved_per_step: int
    peak_memory_bytes: int
    offers: tuple[EligibleOffer, ...]
    finish_seconds_p50: float
    finish_seconds_p95: float
    verification: str
    detection_probability: float
    joules: float
    joules_source: str
    ineligible: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of a job; ``state`` is committed, verified, settled, rejected or void."""

    index: int
    first_step: int
    steps: int
    state: str
    device_id: str
    device_name: str
    worker_key_id: str
    price: Money
    state_root: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as its coordinator sees it now; artifacts are hex digests, empty where none."""

    job_id: str
    title: str
    state: JobState
    kind: str
    created_at_us: int
    ended_at_us: int
    steps: int
    steps_committed: int
    steps_verified: int
    segment_steps: int
    ceiling: Money
    billed: Money
    reason: str
    segments: tuple[SegmentInfo, ...]
    state_artifact: str
    state_root: bytes
    program_digest: str


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's story. ``sequence`` rises; progress repeats the last one."""

    sequence: int
    time_us: int
    kind: str
    text: str
    job: JobInfo | None
    step: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """The cheapest offer of one class of work.

    ``per_pflop`` buys 1e15 operations; ``flops_per_dollar_hour`` is the sustained rate that one
    currency unit an hour rents; ``flop_per_dollar`` is operations per currency unit.
    """

    work_class: str
    best_offer_id: str
    device_name: str
    per_pflop: Money
    flops_per_dollar_hour: float
    flop_per_dollar: float
    flops_per_watt: float
    watts_source: str
    offers: int


@dataclass(frozen=True, slots=True)
class Spot:
    """Prices of every class at one moment; none at all in an empty market."""

    as_of_us: int
    currency: str
    prices: tuple[SpotPrice, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """One device of somebody's, what it measured, and what it asks."""

    offer_id: str
    account_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    memory_bytes: int
    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    ask_per_hour: Money
    milliwatts: int
    watts_source: str
    card_price: Money
    state: str
    flops_per_dollar: float
    flops_per_watt: float
    verified_segments: int
    rejected_segments: int


@dataclass(frozen=True, slots=True)
class Account:
    """Balances of the caller: free, reserved for running jobs, earned but held back, and bond."""

    account_id: str
    display_name: str
    available: Money
    reserved: Money
    held: Money
    bond: Money


@dataclass(frozen=True, slots=True)
class Transfer:
    """One line of a statement. ``change`` is signed; a pending transfer only reserves."""

    transfer_id: str
    time_us: int
    kind: str
    balance: str
    change: Money
    amount: Money
    purpose: str
    job_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class Deposited:
    """What a deposit did; the same request id gives the same transfer."""

    transfer_id: str
    available: Money


@dataclass(frozen=True, slots=True)
class Tensors:
    """Tensors of a job, checked against the roots that the coordinator signed or stated.

    ``outputs`` has one row a step along the first axis; steps that have no verified segment yet are
    absent from its end. ``receipt`` is None while the job runs: then the roots are only what the
    coordinator says now.
    """

    job: JobInfo
    state: Mapping[str, Array]
    outputs: Mapping[str, Array]
    receipt: VerifiedReceipt | None
    receipt_file: bytes


@dataclass(frozen=True, slots=True)
class JobResult:
    """A finished job: tensors whose roots the receipt proves, and what was paid.

    ``state`` is the final state; ``outputs`` stacks each output over all steps: [steps, ...].
    ``receipt_file`` is the signed receipt to keep; ``flop receipt verify`` reads it offline.
    """

    job_id: str
    state: Mapping[str, Array]
    outputs: Mapping[str, Array]
    billed: Money
    job: JobInfo
    receipt: VerifiedReceipt
    receipt_file: bytes
    order: DataOrder

    @property
    def state_root(self) -> bytes:
        """Root of the final state, as the receipt states it."""
        return self.receipt.receipt.final_state_root

    @property
    def outputs_root(self) -> bytes:
        """Root over the outputs of all segments, as the receipt states it."""
        return self.receipt.receipt.outputs_root

    def rows(self, name: str) -> Array:
        """An output with one row per row of sequential data: [rows, ...].

        Raises InvalidInput (RESULT_NOT_ROWS) when the output has no batch axis.
        """
        return rows_of_output(self.order, name, self.outputs[name])
