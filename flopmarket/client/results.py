"""What the client answers with: frozen values with units in their names.

:mod:`flopmarket.client.messages` makes them from what came over the wire; protobuf never leaves the
package. Texts in them are fit for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from flopmarket.client.money import Money
from flopmarket.errors import Conflict
from flopmarket.jobs.order import rows_of_output
from flopmarket.jobs.spec import DataOrder
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.receipt import VerifiedReceipt

if TYPE_CHECKING:
    from flopmarket.engine.formats.onnx import Model

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
    """One offer that can run a quoted job: its price for the whole and its predicted time.

    ``setup_seconds`` (transfer and kernel builds) are part of ``seconds``; ``calibration_ppm`` is
    what the device's deliveries correct its benchmark by; ``busy_seconds`` is 0 for an idle one.
    """

    offer_id: str
    device_name: str
    total: Money
    seconds: float
    setup_seconds: float
    joules: float
    joules_source: str
    calibration_ppm: int
    busy_seconds: float
    work_class: str
    per_pflop: Money


@dataclass(frozen=True, slots=True)
class QuotedLevel:
    """A level of verification of the same job: what it costs and what it sees.

    ``audited_ppm`` of the segments are recomputed by somebody else, at least. ``surcharge`` is
    within ``expected``: ``surcharge_ppm`` of the price of every segment at most, less where only
    steps of them are looked at. ``detected_*_ppm`` are the chances that at least one of 1, of 10,
    of all segments is found wrong when these are.
    """

    level: str
    audited_ppm: int
    surcharge_ppm: int
    surcharge: Money
    expected: Money
    ceiling: Money
    detected_one_ppm: int
    detected_ten_ppm: int
    detected_all_ppm: int


@dataclass(frozen=True, slots=True)
class QuotedClass:
    """A class of devices (64 hex digits) and what the job would cost in it.

    ``other_accounts`` beside that of the cheapest offer could audit it: none, and it cannot be run
    there; few, and they could agree against the one who runs it: ``convicted_ppm`` and
    ``outvoted_ppm`` are the chances that one audit convicts a wrong device, and an honest one, if
    as many of them collude as the market's rules assume.
    """

    device_class: str
    device_name: str
    driver: str
    devices: int
    other_accounts: int
    expected: Money
    ceiling: Money
    convicted_ppm: int = 0
    outvoted_ppm: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of a job before it runs.

    ``ceiling`` is firm; ``expected`` is the price on the cheapest offer, and ``per_pflop`` the same
    for 10^15 operations of ``work_class``, the one that takes longest. ``eligible`` counts the
    offers that fit, ``offers`` are the cheapest of them. Transfer and builds happen once a job and
    are inside the price; storage is covered by the fee. ``joules`` is 0 when no eligible offer
    states its power. ``spread_segments`` delivered segments stand behind the finish times.
    ``ineligible`` counts offers by the reason that ruled them out; ``without_offers`` says what a
    submission comes to when none fits: refuse, or rest in the book. ``verification`` is the level
    that was asked for; ``verification_price`` is what it adds, within ``expected``; ``levels`` has
    what every level would come to.
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
    work_class: str
    per_pflop: Money
    eligible: int
    transfer_bytes: int
    transfer_seconds: float
    transfer_price: Money
    kernel_builds: int
    build_seconds: float
    build_price: Money
    storage_bytes: int
    storage_retention_us: int
    verification_price: Money
    wait_seconds_p50: float
    wait_seconds_p95: float
    spread_segments: int
    without_offers: str
    levels: tuple[QuotedLevel, ...] = ()
    mode: str = "exact"
    device_class: str = ""
    """In class mode the class that the quote is for; empty when there is none to run in."""
    classes: tuple[QuotedClass, ...] = ()
    audited_steps: int = 0
    """Where the operator does not recompute segments whole: how many steps of ``audited_of_steps``
    of one it looks at; else 0."""
    audited_of_steps: int = 0
    others_recompute: bool = False
    """Whether others are there who could recompute such a segment whole."""

    @property
    def surcharge_ppm(self) -> int:
        """What the level adds to the price of every segment, at most."""
        return next((i.surcharge_ppm for i in self.levels if i.level == self.verification), 0)


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
    """A job as its coordinator sees it now; artifacts are hex digests, empty where none.

    ``segments`` are the first few hundred of ``segment_count``; :meth:`Client.segments` has all.
    """

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
    segment_count: int = 0
    order_kind: str = ""
    """``market`` or ``limit``."""
    work_class: str = ""
    """Class of ``limit_per_pflop``, which is None when the order names none."""
    limit_per_pflop: Money | None = None
    deadline_us: int = 0
    """When the order ends by itself; far away when its buyer named none."""
    verification: str = ""
    surcharge_ppm: int = 0
    """What the level of verification adds to the price of every segment."""
    surcharge: Money | None = None
    """What it added so far, within ``billed``."""
    mode: str = "exact"
    device_class: str = ""
    """64 hex digits of the class of devices that a job in class mode is bound to."""


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
class Account:
    """Balances of the caller: free, reserved for running jobs, earned but held back, and bond.

    ``available`` may be as far below zero as ``overdraft``.
    """

    account_id: str
    display_name: str
    available: Money
    reserved: Money
    held: Money
    bond: Money
    overdraft: Money


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
    data_order: DataOrder | None = None

    @property
    def order(self) -> DataOrder:
        """How rows became steps; Conflict ``JOB_NOT_ENDED`` while no receipt tells."""
        if self.data_order is None:
            raise Conflict(
                "rows can be told apart once the job has ended and its receipt is here",
                code="JOB_NOT_ENDED",
                hint="fetch into a folder, or wait for the end",
                retryable=True,
            )
        return self.data_order


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

    def outputs_of(self, model: Model) -> Mapping[str, Array]:
        """Outputs under the names of ``model``, one row an input row where they have rows."""
        from flopmarket.jobs.models import model_outputs  # only whoever has a model has an engine

        return model_outputs(model, self)[0]
