"""What tolerance mode takes, how many steps it looks at, and what a verdict about values means."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes
from flopmarket.errors import InvalidInput, Unavailable
from flopmarket.jobs.questions import StepVerdict, ValuesQuestion
from flopmarket.limits import MAX_TOLERANCE_ANSWER_BYTES, MAX_TOLERANCE_SEGMENT_STEPS
from flopmarket.trust.audit_policy import RULES, Level, rate_ppm, steps_detection_ppm
from flopmarket.trust.step_audit import EQUAL, OneStep, StepCode
from flopmarket.trust.tolerance import Opinion
from flopmarket_coordinator.application.tolerance_rules import (
    StepValues,
    check_tolerance,
    judged_steps,
    step_values,
)
from flopmarket_coordinator.tolerance_checks import finding_of, judge_values
from flopmarket_worker.simulated_engine import SharedEngine
from tests.unit.jobs.disputes import JOBS
from tests.unit.jobs.test_judging_steps import product_program


def test_a_program_says_whether_it_can_be_judged() -> None:
    fits = step_values(JOBS["mlp"]().program)
    assert fits.refusal is None and fits.size_bytes > 0
    check_tolerance(fits, Level.CHECK)
    too_long = step_values(product_program(2, 65_537, 2, dtypes.float32))
    for values, level, code in (
        (too_long, Level.DETER, "TOLERANCE_TERMS"),
        (
            StepValues(0, ("TOLERANCE_TOO_LARGE", "too large", "")),
            Level.DETER,
            "TOLERANCE_TOO_LARGE",
        ),
        (fits, Level.DUAL, "TOLERANCE_LEVEL"),
    ):
        with pytest.raises(InvalidInput) as error:
            check_tolerance(values, level)
        assert error.value.code == code


@given(st.integers(1, MAX_TOLERANCE_SEGMENT_STEPS), st.integers(0, 2**34))
def test_an_answer_stays_within_its_bytes_and_has_a_step(steps: int, step_bytes: int) -> None:
    drawn = judged_steps(RULES, steps, step_bytes)
    assert 1 <= drawn <= min(steps, 8)
    assert drawn == 1 or drawn * step_bytes <= MAX_TOLERANCE_ANSWER_BYTES


@given(st.integers(1, MAX_TOLERANCE_SEGMENT_STEPS), st.integers(1, 10**12), st.integers(0, 500))
def test_every_segment_is_looked_at(steps: int, price: int, streak: int) -> None:
    """What a second opinion costs is the unit, so the unit is the stake that the rate knows."""
    detection = steps_detection_ppm(judged_steps(RULES, steps, 1), steps)
    assert rate_ppm(RULES, Level.DETER, streak, price, price, detection) == 1_000_000


STATED = OneStep(b"before", b"after", b"entry before", b"entry", b"outputs")
INSIDE = StepVerdict("inside", "", b"before", b"entry before", b"after", b"outputs", b"entry")


def test_what_was_signed_comes_first_and_then_the_opinion() -> None:
    fault = replace(INSIDE, opinion=Opinion.FAULT, detail="far", root_after=b"", entry=b"")
    second = replace(INSIDE, opinion=Opinion.SECOND_OPINION, detail="off")
    for verdict, code in (
        (INSIDE, StepCode.EQUAL),
        (replace(INSIDE, root_before=b""), StepCode.UNUSABLE),
        (replace(fault, root_before=b"other"), StepCode.UNUSABLE),
        (replace(INSIDE, entry_before=b"other"), StepCode.DIFFERS),
        (replace(INSIDE, root_after=b"other"), StepCode.DIFFERS),
        (replace(second, entry=b"other"), StepCode.DIFFERS),
        (replace(INSIDE, outputs_root=b"other"), StepCode.DIFFERS),
        (second, StepCode.SECOND_OPINION),
        (fault, StepCode.FAULT),
    ):
        assert finding_of(7, STATED, verdict).code is code, verdict
    assert finding_of(7, STATED, fault).detail == "far"
    first = replace(STATED, entry_before=b"")
    assert finding_of(0, first, INSIDE) == EQUAL, "the list has no step before the first"


def test_an_engine_that_cannot_judge_is_our_own_problem(tmp_path: Path) -> None:
    question = ValuesQuestion(tmp_path, b"", 0, None, tmp_path / "values", 1)
    with pytest.raises(Unavailable) as error:
        asyncio.run(_judged_by_a_card(question))
    assert error.value.code == "ENGINE_NO_JUDGE"


async def _judged_by_a_card(question: ValuesQuestion) -> None:
    shared = SharedEngine("reference", None)
    try:
        await judge_values(await shared.card(100), question, STATED)
    finally:
        shared.close()
