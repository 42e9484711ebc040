"""Audits of single steps, for segments that no auditor can recompute whole.

A wrong segment has a wrong step: whoever starts where it must and ends where it may not has gone
from one state to another by something that is no step. So it is enough to look at steps that nobody
could foresee, and what a look is worth is drawn steps over steps. In turn:

1. the worker signs a :class:`StepClaim`: what its commitment hides, the list of checksums that this
   is the hash of, and the SHA-256 root of every state of the segment, the first and the last of
   which are those of its commitment;
2. only then a value of a chain is revealed that says which steps are drawn (:func:`drawn_by`);
3. the worker signs a :class:`StepAnswer`: the states before these steps;
4. the house runs one step from each (:func:`judge_step`).

The checksums were committed before anything was drawn, the roots before the steps were: a state
that is made up later fits neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_AUDITED_STEPS
from flopmarket.trust.challenge import Purpose, draw, drawn_steps
from flopmarket.trust.documents import Commitment, KeyId
from flopmarket.trust.encoding import DIGEST_BYTES, Digest, MaxLength, digest, document
from flopmarket.trust.sealing import InnerSecret, seal_inner

NO_VALUES = bytes(DIGEST_BYTES)
"""In place of the values of a step's operations, where they were not asked for."""


@document("flopmarket.step-claim.v1")
class StepClaim:
    """Signed by a device key: all states of a segment that it committed to.

    ``salt`` and ``inner`` open the commitment. ``checksums`` and ``roots`` are digests of files:
    the list that hashes to ``inner``, and 32 bytes for the state before the first step and after
    each.
    """

    commitment: Digest
    device_key_id: KeyId
    salt: Digest
    inner: Digest
    checksums: Digest
    roots: Digest


@document("flopmarket.drawn-state.v1")
class DrawnState:
    """Part of an answer: digests of the files that hold the state before a step of the job, and
    what its operations came to."""

    step: int
    state: Digest
    values: Digest = NO_VALUES


@document("flopmarket.step-answer.v1")
class StepAnswer:
    """Signed by a device key: what the drawn steps of a claimed segment start from, ascending."""

    claim: Digest
    states: Annotated[tuple[DrawnState, ...], MaxLength(MAX_AUDITED_STEPS)]


def check_claim(claim: StepClaim, body: Commitment) -> None:
    """InvalidInput (STEP_CLAIM) unless a claim is about a commitment, and opens it."""
    if claim.commitment != digest(body) or claim.device_key_id != body.device_key_id:
        raise InvalidInput("the claim is about another commitment", code="STEP_CLAIM")
    if seal_inner(InnerSecret(claim.device_key_id, claim.salt, claim.inner)) != body.sealed_inner:
        raise InvalidInput("the claim does not open the commitment", code="STEP_CLAIM")


def drawn_by(value: bytes, claim: StepClaim, body: Commitment, drawn: int) -> tuple[int, ...]:
    """The steps of the job that a revealed value draws, once a claim is signed."""
    x = draw(Purpose.STEPS, value, digest(claim))
    return drawn_steps(x, body.first_step, body.steps_done, drawn)


def check_answer(
    answer: StepAnswer, claim: StepClaim, steps: Sequence[int], *, with_values: bool
) -> None:
    """InvalidInput (STEP_ANSWER) unless an answer has one state for each drawn step."""
    if answer.claim != digest(claim):
        raise InvalidInput("the answer is about another claim", code="STEP_ANSWER")
    if tuple(state.step for state in answer.states) != tuple(steps):
        raise InvalidInput("other steps were drawn", code="STEP_ANSWER")
    if any((state.values != NO_VALUES) != with_values for state in answer.states):
        raise InvalidInput("values of operations where none were asked for", code="STEP_ANSWER")


class StepCode(StrEnum):
    """What a look at the drawn steps of a segment came to."""

    EQUAL = "EQUAL"
    DIFFERS = "DIFFERS"
    """A step does not lead where the worker signed that it does."""
    UNUSABLE = "UNUSABLE"
    """A file is not what the worker signed that it is: no answer."""
    SECOND_OPINION = "SECOND_OPINION"
    """Tolerance mode: beyond a profile, and not provably wrong."""
    FAULT = "FAULT"
    """Tolerance mode: beyond what any rounding gives."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``step`` of the job, 0 where it is about none; ``detail`` is for people."""

    code: StepCode
    step: int = 0
    detail: str = ""


EQUAL = Finding(StepCode.EQUAL)


def check_roots(roots: bytes, body: Commitment) -> Finding:
    """Whether a file has one root for each state, from the committed first to the committed last.

    ``body`` is the commitment that the worker signed as well.
    """
    if len(roots) != (body.steps_done + 1) * DIGEST_BYTES:
        return Finding(StepCode.UNUSABLE, 0, f"{len(roots)} bytes of roots")
    if roots[:DIGEST_BYTES] != body.state_root_before:
        return Finding(StepCode.UNUSABLE, 0, "the states do not begin where the segment does")
    if roots[-DIGEST_BYTES:] != body.state_root_after:
        return Finding(StepCode.UNUSABLE, 0, "the states do not end where the segment does")
    return EQUAL


def root_at(roots: bytes, body: Commitment, step: int) -> bytes:
    """The claimed root of the state before a step of the job, or after the last one."""
    place = (step - body.first_step) * DIGEST_BYTES
    return roots[place : place + DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class OneStep:
    """One step, as claimed or as run: roots of the state before and after, the checksums of the
    state before and of the step, and the bytes of its outputs."""

    root_before: bytes
    root_after: bytes
    entry_before: bytes
    """Of the state tensors alone; empty where the list has no step before."""
    entry: bytes
    outputs: bytes


def judge_step(step: int, claimed: OneStep, run: OneStep) -> Finding:
    """Compare one step from a given state with what was claimed of it.

    A state that is not the claimed one is no answer; a step from the claimed state that comes to
    anything else than the worker's list, roots or outputs convicts it.
    """
    if run.root_before != claimed.root_before:
        return Finding(StepCode.UNUSABLE, step, "the state is not the one that was claimed")
    if run.entry_before != claimed.entry_before:
        detail = "the claimed state has other checksums than the step before it left"
        return Finding(StepCode.DIFFERS, step, detail)
    for name, ours, theirs in (
        ("checksums", run.entry, claimed.entry),
        ("state", run.root_after, claimed.root_after),
        ("outputs", run.outputs, claimed.outputs),
    ):
        if ours != theirs:
            return Finding(StepCode.DIFFERS, step, f"the step comes to another {name}")
    return EQUAL
