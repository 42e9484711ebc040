"""Bugs of step audits, planted one at a time (:mod:`tests.sim.planting`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust import step_audit
from flopmarket.trust.challenge import Purpose, draw, drawn_steps
from flopmarket.trust.encoding import digest
from flopmarket.trust.step_audit import EQUAL, StepCode
from flopmarket_coordinator.application import Application, sampling, step_audits, step_rules
from flopmarket_coordinator.core.auditing import StepPhase
from flopmarket_coordinator.store import audits, work
from flopmarket_coordinator.store import step_audits as stored
from tests.sim.arithmetic import named
from tests.sim.planting import Mutant, instead
from tests.sim.seeds import STEPS
from tests.sim.step_bots import OtherState, Redrawer, WrongEnd


def _from_the_commitment(original: Any) -> Any:
    """Steps are drawn from what was committed, so that roots can be made to fit them."""

    def drawn_by(value: bytes, claim: Any, body: Any, drawn: int) -> tuple[int, ...]:
        x = draw(Purpose.STEPS, value, digest(body))
        return drawn_steps(x, body.first_step, body.steps_done, drawn)

    return drawn_by


def _one_less(original: Any) -> Any:
    return lambda value, claim, body, drawn: original(value, claim, body, max(drawn - 1, 1))


def _value_at_once(original: Any) -> Any:
    """What draws the steps is there with the question for the roots."""
    return lambda tx, values: original(tx, dict(values) | {"value": named("value"), "number": 1})


def _always_the_first(original: Any) -> Any:
    """Every claim of a lease is drawn by the value that the first one revealed."""
    return lambda tx, lease_id: 0


def _claims_may_follow(original: Any) -> Any:
    """Whoever does not like a draw signs another claim."""

    def answered(self: Any, tx: Any, session: Any, said: Any) -> None:
        lease = work.lease(tx, said.lease_id)
        row = None if lease is None else audits.segment_at(tx, lease.lease_id, said.segment_index)
        audit = None if row is None else stored.open_of_segment(tx, row.segment_id)
        if audit is not None and audit.phase is StepPhase.STATES and said.claim is not None:
            stored.update(tx, audit.step_audit_id, phase=StepPhase.ROOTS.value)
        original(self, tx, session, said)

    return answered


def _any_roots(original: Any) -> Any:
    return lambda roots, body: EQUAL


def _any_state(original: Any) -> Any:
    """Whatever state is handed over is taken for the one that was claimed."""

    def judge(step: int, claimed: Any, run: Any) -> Any:
        same = replace(run, root_before=claimed.root_before, entry_before=claimed.entry_before)
        return original(step, claimed, same)

    return judge


def _right_steps(original: Any) -> Any:
    return lambda step, claimed, run: EQUAL


def _paid_for_roots(original: Any) -> Any:
    """The claim is enough to be paid."""

    def hear(self: Any, tx: Any, audit: Any, row: Any, lease: Any, envelope: Any) -> None:
        original(self, tx, audit, row, lease, envelope)
        self._accept(tx, row, None, auditor="")

    return hear


def _for_ever(original: Any) -> Any:
    return lambda tx, limit: []


def _silence_is_free(original: Any) -> Any:
    """The question ends, and nothing follows."""
    return lambda self, tx, audit, row, why: self._close_steps(tx, audit, StepCode.UNUSABLE, why)


def _cheapest(original: Any) -> Any:
    """One step of each segment, whatever the budget and the rules say."""
    return lambda rules, steps, step_flops, most_flops: 1


def _sees_all(original: Any) -> Any:
    """A few steps are said to detect what a whole audit does."""
    return lambda drawn, steps: 1_000_000


def _word_is_final(original: Any) -> Any:
    """What the house finds otherwise is wrong, and nobody may answer for it."""
    return lambda self, tx, row, found: False


STEP_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "steps-drawn-before-the-roots",
        instead(step_audits, "drawn_by", _from_the_commitment),
        only=STEPS,
    ),
    Mutant("steps-value-out-at-once", instead(stored, "add", _value_at_once), only=STEPS),
    Mutant(
        "steps-value-used-again", instead(stored, "count_claims", _always_the_first), only=STEPS
    ),
    Mutant(
        "steps-drawn-until-they-please",
        instead(Application, "steps_answered", _claims_may_follow),
        bots=(Redrawer,),
        only=STEPS,
    ),
    Mutant(
        "steps-roots-of-anything",
        instead(step_audit, "check_roots", _any_roots),
        bots=(WrongEnd,),
        only=STEPS,
    ),
    Mutant(
        "steps-states-of-anything",
        instead(step_audit, "judge_step", _any_state),
        bots=(OtherState,),
        only=STEPS,
    ),
    Mutant("steps-say-yes", instead(step_audit, "judge_step", _right_steps), only=STEPS),
    Mutant(
        "steps-paid-before-the-answer",
        instead(Application, "_hear_claim", _paid_for_roots),
        only=STEPS,
    ),
    Mutant("steps-without-deadline", instead(stored, "over", _for_ever), only=STEPS),
    Mutant(
        "steps-silence-is-free",
        instead(Application, "_steps_unanswered", _silence_is_free),
        only=STEPS,
    ),
    Mutant("steps-one-less", instead(step_audits, "drawn_by", _one_less), only=STEPS),
    Mutant("steps-of-no-budget", instead(step_rules, "steps_of_budget", _cheapest), only=STEPS),
    Mutant(
        "steps-promise-too-much", instead(sampling, "steps_detection_ppm", _sees_all), only=STEPS
    ),
    Mutant(
        "house-hears-nobody",
        instead(Application, "_house_disputes", _word_is_final),
        only=STEPS,
    ),
)
