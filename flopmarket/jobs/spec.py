"""The signed specification of a job: everything that decides its result and its price.

``job_id`` is the digest of these canonical bytes (docs/keys.md), so two jobs that differ in
anything, the nonce included, have different ids, and a worker or auditor that has the id and the
bytes needs to believe nobody about what is to be computed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_JOB_STEPS, MAX_SEGMENT_STEPS, MAX_TOLERANCE_SEGMENT_STEPS
from flopmarket.market.order import OrderTerms
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.encoding import Digest, Length, MaxLength, digest, document
from flopmarket.trust.modes import NO_CLASS, Mode

__all__ = [
    "NO_CLASS",
    "DataOrder",
    "JobKind",
    "JobSpec",
    "Mode",
    "OrderKind",
    "check_mode",
    "class_hex",
    "job_id",
    "segment_count",
    "segment_steps_in",
]


class JobKind(StrEnum):
    """What the scan is for. The runner treats them alike; people and prices tell them apart."""

    TRAINING = "training"
    INFERENCE = "inference"


class OrderKind(StrEnum):
    """How rows of the data are assigned to steps."""

    SEQUENTIAL = "sequential"
    SHUFFLED = "shuffled"


@document("flopmarket.data-order.v1")
class DataOrder:
    """Which rows a step sees: a pure function of the job's seed (``flopmarket.jobs.order``).

    ``rows`` is the length of every data tensor's first axis, ``batch`` the rows of one step.
    """

    kind: OrderKind
    rows: int
    batch: int

    def __post_init__(self) -> None:
        if not 0 < self.batch < 2**31 or not 0 < self.rows < 2**40:
            raise InvalidInput(
                f"data order wants 0 < batch < 2^31 and 0 < rows < 2^40, got batch {self.batch} "
                f"of {self.rows} rows",
                code="JOB_DATA_ORDER",
            )


@document("flopmarket.job-spec.v4")
class JobSpec:
    """A job, as its buyer signs it.

    ``mode`` is what its verification relies on. In class mode ``class_digest`` names the class of
    devices (:mod:`flopmarket.trust.device_class`) that every lease and every audit of the job is
    of; otherwise it is :data:`NO_CLASS`. Segments of tolerance mode are short, so that what can be
    steered inside the bounds stays small.

    Roots are Merkle roots of named tensors (``trust.merkle``). A segment has ``segment_steps``
    steps (the last may be shorter); a checkpoint is due after every ``checkpoint_segments``
    segments and at the end. ``max_price_nano`` is a hard ceiling in nano-units of currency;
    ``order`` says which offers may run it and whether it waits for them; ``verification`` how much
    of it is recomputed; ``deadline_us``, microseconds since the epoch, ends the job and the order.
    """

    kind: JobKind
    program_digest: Digest
    profile: Annotated[str, MaxLength(64)]
    mode: Mode
    class_digest: Digest
    frozen_root: Digest
    state_root: Digest
    data_root: Digest
    data_order: DataOrder
    seed: int
    steps: int
    segment_steps: int
    checkpoint_segments: int
    max_memory_bytes: int
    max_price_nano: int
    order: OrderTerms
    verification: Level
    deadline_us: int
    buyer: Annotated[str, MaxLength(64)]
    nonce: Annotated[bytes, Length(16)]

    def __post_init__(self) -> None:
        if not 0 < self.steps <= MAX_JOB_STEPS:
            raise InvalidInput(
                f"a job has 1 to {MAX_JOB_STEPS} steps, got {self.steps}", code="JOB_STEPS"
            )
        if not 0 < self.segment_steps <= MAX_SEGMENT_STEPS:
            raise InvalidInput(
                f"a segment has 1 to {MAX_SEGMENT_STEPS} steps, got {self.segment_steps}",
                code="JOB_SEGMENT_STEPS",
            )
        check_mode(self.mode, self.class_digest, self.segment_steps)
        if not 0 < self.checkpoint_segments < 2**31:
            raise InvalidInput("checkpoints are at least one segment apart", code="JOB_CHECKPOINT")
        if self.max_price_nano >= 2**63:
            raise InvalidInput("the price limit does not fit in 63 bits", code="JOB_PRICE")
        if self.order.constraints.allowed_owners == (self.buyer,):
            raise InvalidInput(
                "no offer can satisfy the order: it admits only its own buyer, and no account is "
                "its own provider",
                code="ORDER_CONTRADICTION",
                hint="name another owner, or run the job with run_local()",
            )


def check_mode(mode: Mode, class_digest: bytes, segment_steps: int) -> None:
    """Raise :class:`InvalidInput` (JOB_CLASS, JOB_SEGMENT_STEPS) for what a mode does not allow."""
    if (mode is Mode.CLASS) == (class_digest == NO_CLASS):
        raise InvalidInput(
            "a job names a class of devices in class mode, and only then",
            code="JOB_CLASS",
            hint="take a class from the quote, or leave it out in the other modes",
        )
    if mode is Mode.TOLERANCE and segment_steps > MAX_TOLERANCE_SEGMENT_STEPS:
        raise InvalidInput(
            f"in tolerance mode a segment has at most {MAX_TOLERANCE_SEGMENT_STEPS} steps, got "
            f"{segment_steps}",
            code="JOB_SEGMENT_STEPS",
            hint="lower segment_steps",
        )


def segment_steps_in(mode: Mode, segment_steps: int) -> int:
    """Steps of a segment as a job in this mode has them: those asked for, or as many as it may."""
    if mode is Mode.TOLERANCE:
        return min(segment_steps, MAX_TOLERANCE_SEGMENT_STEPS)
    return segment_steps


def job_id(spec: JobSpec) -> bytes:
    """The 32 bytes that name the job; shown as hex."""
    return digest(spec)


def class_hex(spec: JobSpec) -> str:
    """The class of devices that the job is bound to, as hex; empty when it is bound to none."""
    return spec.class_digest.hex() if spec.mode is Mode.CLASS else ""


def segment_count(spec: JobSpec) -> int:
    """Segments of the job when none ends early."""
    return -(-spec.steps // spec.segment_steps)
