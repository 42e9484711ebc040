"""What a comparison of recomputed roots means, and what falls when a segment was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from flopmarket_coordinator.core.leasing import Part


class VerdictCode(StrEnum):
    """Outcome of an audit, as signed in the verdict."""

    EQUAL = "EQUAL"
    STATE_DIFFERS = "STATE_DIFFERS"
    OUTPUTS_DIFFER = "OUTPUTS_DIFFER"
    CHECKPOINT_FILE_DIFFERS = "CHECKPOINT_FILE_DIFFERS"
    """The committed root is right and the uploaded file holds something else."""
    OUTPUTS_FILE_DIFFERS = "OUTPUTS_FILE_DIFFERS"
    STEPS_EQUAL = "STEPS_EQUAL"
    """The steps that were drawn from it lead where its worker signed that they do."""
    STEP_DIFFERS = "STEP_DIFFERS"
    """One of them does not: the worker's own list says otherwise than a step from its state."""
    TOLERANCE_FAULT = "TOLERANCE_FAULT"
    """A value of a drawn step is beyond anything that rounding gives from its own operands."""
    CLASS_OUTVOTED = "CLASS_OUTVOTED"
    """Three accounts of a class of devices, or one of the house, found what this one did not."""


class VoidReason(StrEnum):
    """Why a segment counts for nothing though nobody proved it wrong."""

    BUILT_ON_WRONG_STATE = "BUILT_ON_WRONG_STATE"
    NOT_DURABLE = "NOT_DURABLE"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    JOB_ENDED = "JOB_ENDED"
    WORKER_SILENT = "WORKER_SILENT"
    """The worker did not open its commitment in time: the work stands and is not paid."""
    STEPS_UNANSWERED = "STEPS_UNANSWERED"
    """The worker did not answer for the steps that were drawn: nobody can say that it is right."""
    TOLERANCE_OUTSIDE = "TOLERANCE_OUTSIDE"
    """Values of a drawn step differ more than honest devices do, and not provably by cheating."""
    CLASS_UNDECIDED = "CLASS_UNDECIDED"
    """Devices of one class differ, or none could look, and nobody can say who is right."""
    BUILT_ON_VOID = "BUILT_ON_VOID"
    """It starts from a state that counts for nothing, though nobody is called wrong."""


GOES_ELSEWHERE = frozenset(
    {VoidReason.CLASS_UNDECIDED, VoidReason.STEPS_UNANSWERED, VoidReason.TOLERANCE_OUTSIDE}
)
"""Reasons for which a device gets no more of the job in which it has one."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker committed to. Artifacts are empty when it uploaded none."""

    state_root: bytes
    outputs_root: bytes
    outputs_artifact: str
    checkpoint_artifact: str


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the auditor found: its own roots, and those of the uploaded files."""

    state_root: bytes
    outputs_root: bytes
    outputs_artifact_root: bytes | None
    checkpoint_artifact_root: bytes | None


ACCEPTING = frozenset({VerdictCode.EQUAL, VerdictCode.STEPS_EQUAL})
"""Codes of verdicts that accept a segment."""


def judge(claimed: Claimed, found: Recomputed) -> VerdictCode:
    """Compare bits. Files are held to the auditor's roots, not to the worker's."""
    if claimed.state_root != found.state_root:
        return VerdictCode.STATE_DIFFERS
    if claimed.outputs_root != found.outputs_root:
        return VerdictCode.OUTPUTS_DIFFER
    if claimed.checkpoint_artifact and found.checkpoint_artifact_root != found.state_root:
        return VerdictCode.CHECKPOINT_FILE_DIFFERS
    if claimed.outputs_artifact and found.outputs_artifact_root != found.outputs_root:
        return VerdictCode.OUTPUTS_FILE_DIFFERS
    return VerdictCode.EQUAL


def built_upon(rejected: Part, live: Sequence[Part], *, stateless: bool) -> tuple[Part, ...]:
    """Segments that fall with a rejected one, paid or not: the later ones of a chain, none if
    stateless."""
    if stateless:
        return ()
    return tuple(part for part in live if part.first_step >= rejected.end_step)
