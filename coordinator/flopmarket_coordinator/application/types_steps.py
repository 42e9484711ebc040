"""Values of step audits, between the application and the house's engine."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.trust.documents import Commitment
from flopmarket.trust.step_audit import Finding, StepAnswer, StepClaim


@dataclass(frozen=True, slots=True)
class StepTask:
    """What the house needs to look at the drawn steps of a segment: the worker's own words.

    ``outputs_artifact`` holds the outputs of all steps; empty when there is no such file.
    """

    step_audit_id: str
    body: Commitment
    claim: StepClaim
    answer: StepAnswer
    with_values: bool
    outputs_artifact: str


@dataclass(frozen=True, slots=True)
class StepsFound:
    """What the drawn steps came to, and the roots read from a segment's files as in
    :class:`~flopmarket_coordinator.application.types_auditing.AuditResult`."""

    finding: Finding
    outputs_artifact_root: bytes | None
    checkpoint_artifact_root: bytes | None
