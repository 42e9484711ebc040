"""Step audits as published, and their check by anybody, offline.

That the steps follow from a value of the lease's own chain and from what the worker had signed
before, that its claim opens its commitment, and that the lease did not promise more detection than
so few steps give. The files that a claim names stay with the coordinator: whether a list hashes to
``inner`` and a step leads where it should is in the verdict that it signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flopmarket.errors import FlopmarketError
from flopmarket.trust.audit_answers import opened
from flopmarket.trust.audit_policy import steps_detection_ppm
from flopmarket.trust.challenge import (
    AuditorList,
    ChallengeRecord,
    ChallengeTerms,
    Finding,
    FindingCode,
    leads_to,
)
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import digest
from flopmarket.trust.envelope import Envelope, payload_type_of
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.step_audit import StepAnswer, StepClaim, check_claim, drawn_by

STEP_CODES = frozenset({"STEPS_EQUAL", "STEP_DIFFERS", "TOLERANCE_FAULT"})
"""Reason codes of verdicts that only drawn steps stand behind."""


@dataclass(frozen=True, slots=True)
class StepsDrawn:
    """One step audit: ``value`` is number ``number`` of the lease's chain of steps, ``claim`` and
    ``answer`` are the worker's envelopes in their binary form."""

    number: int
    value: bytes
    claim: bytes
    answer: bytes

    @property
    def size_bytes(self) -> int:
        """How much of a message it takes, about."""
        return len(self.value) + len(self.claim) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Stepped:
    """A commitment with what is published about its steps; ``verdict`` is an envelope or empty."""

    record: ChallengeRecord
    commitment: bytes
    worker_key: bytes
    verdict: bytes
    steps: StepsDrawn | None


def check_steps(
    terms: ChallengeTerms,
    candidates: AuditorList,
    house: AuditorList,
    segments: Sequence[Stepped],
    coordinator: PublicKey,
) -> Iterator[Finding]:
    """Everything about the step audits of a lease that does not follow from what was signed.

    What of the commitments and verdicts cannot be read was found elsewhere.
    """
    numbers: set[int] = set()
    for item in segments:
        wrong = _wrong(terms, candidates, house, item, coordinator)
        if item.steps is not None:
            if not wrong and item.steps.number in numbers:
                wrong = f"value {item.steps.number} draws twice"
            numbers.add(item.steps.number)
        if wrong:
            yield Finding(item.record.index, FindingCode.WRONG_STEPS, wrong)


def _wrong(
    terms: ChallengeTerms,
    candidates: AuditorList,
    house: AuditorList,
    item: Stepped,
    coordinator: PublicKey,
) -> str:
    steps = item.steps
    if steps is None:
        if code_of(item.verdict, coordinator) in STEP_CODES:
            return "its verdict speaks of steps, and none are published"
        return ""
    if not terms.audit_steps:
        return "steps were drawn, and the lease says that segments are recomputed whole"
    try:
        worker = PublicKey(item.worker_key)
        body = opened(item.commitment, Commitment, worker, coordinator)
        claim = opened(steps.claim, StepClaim, worker, coordinator)
        answer = opened(steps.answer, StepAnswer, worker, coordinator)
        check_claim(claim, body)
    except FlopmarketError as error:
        return error.message
    if not 0 < steps.number <= terms.values or not leads_to(
        steps.value, terms.steps_anchor, steps.number
    ):
        return f"value {steps.number} does not lead to the anchor of the lease's steps"
    drawn = drawn_by(steps.value, claim, body, terms.audit_steps)
    if answer.claim != digest(claim) or tuple(it.step for it in answer.states) != drawn:
        return f"steps {drawn} were drawn, others are answered for"
    most = steps_detection_ppm(len(drawn), body.steps_done)
    alone = not candidates.keys and set(house.keys) <= {coordinator.key_id}
    if alone and terms.detection_ppm > most:
        return f"the lease promised {terms.detection_ppm} ppm, {len(drawn)} steps detect {most}"
    return ""


def code_of(verdict: bytes, coordinator: PublicKey) -> str:
    """The reason code of a segment's verdict; empty for none, or one of a dispute."""
    if not verdict:
        return ""
    try:
        if Envelope.from_bytes(verdict).payload_type != payload_type_of(SegmentVerdict):
            return ""
        return opened(verdict, SegmentVerdict, coordinator, coordinator).reason_code
    except FlopmarketError:
        return ""
