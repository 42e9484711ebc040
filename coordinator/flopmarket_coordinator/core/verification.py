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


class VoidReason(StrEnum):
    """Why a segment counts for nothing though nobody proved it wrong."""

    BUILT_ON_WRONG_STATE = "BUILT_ON_WRONG_STATE"
    NOT_DURABLE = "NOT_DURABLE"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    JOB_ENDED = "JOB_ENDED"
    WORKER_SILENT = "WORKER_SILENT"
    """The worker did not open its commitment in time: the work stands and is not paid."""


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
