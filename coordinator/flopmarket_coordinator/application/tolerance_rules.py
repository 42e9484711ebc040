"""Which jobs tolerance mode takes, and how many steps of a segment are looked at there."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.engine.program import Program
from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.jobs.judging_steps import check_program
from flopmarket.limits import MAX_TOLERANCE_ANSWER_BYTES
from flopmarket.trust.audit_policy import AuditRules, Level


@dataclass(frozen=True, slots=True)
class StepValues:
    """The values that a worker hands over for one step: their bytes, or why they cannot be judged
    (code, message and hint)."""

    size_bytes: int
    refusal: tuple[str, str, str] | None = None


def step_values(program: Program) -> StepValues:
    """Of a program, counted without running it."""
    try:
        return StepValues(check_program(program))
    except FlopmarketError as error:
        return StepValues(0, (error.code, error.message, error.hint))


def check_tolerance(values: StepValues, level: Level) -> None:
    """InvalidInput (TOLERANCE_TOO_LARGE, TOLERANCE_TERMS, TOLERANCE_LEVEL) where tolerance mode
    cannot keep what it says."""
    if values.refusal is not None:
        code, message, hint = values.refusal
        raise InvalidInput(message, code=code, hint=hint)
    if level is Level.DUAL:
        raise InvalidInput(
            "two workers of tolerance mode need not come to equal results, so none is compared",
            code="TOLERANCE_LEVEL",
            hint="--verify check, or exact mode for --verify dual",
        )


def judged_steps(rules: AuditRules, steps: int, step_bytes: int) -> int:
    """How many steps of a segment of ``steps`` are judged: the most of the rules that an answer of
    bounded size carries. ``step_bytes``: the state and the values of one."""
    carried = MAX_TOLERANCE_ANSWER_BYTES // max(step_bytes, 1)
    return max(1, min(rules.least_steps * 2, rules.most_steps, steps, carried))
