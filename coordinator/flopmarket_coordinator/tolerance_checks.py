"""The house's look at one drawn step of tolerance mode, by the values of its operations.

The step is not run: every value that its worker handed over is judged by an exact engine from the
worker's own operands (:mod:`flopmarket.jobs.judging_steps`), and what they lead to must be what the
worker signed before the step was drawn.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flopmarket.errors import Unavailable
from flopmarket.jobs.host import Engine, StepJudge
from flopmarket.jobs.questions import StepVerdict, ValuesQuestion
from flopmarket.limits import AUDIT_STEP_SECONDS
from flopmarket.trust.step_audit import EQUAL, Finding, OneStep, StepCode, judge_step
from flopmarket.trust.tolerance import Opinion


async def judge_values(engine: Engine, question: ValuesQuestion, stated: OneStep) -> Finding:
    """What a step's values come to. ``stated``: what was signed of the step, outputs as the root of
    a bundle with a first axis of one.

    :class:`Unavailable` when the engine cannot work now, or cannot judge.
    """
    if not isinstance(engine, StepJudge):
        raise Unavailable("this engine judges no values of operations", code="ENGINE_NO_JUDGE")
    try:
        async with asyncio.timeout(AUDIT_STEP_SECONDS):
            verdict = await engine.judge_step(question)
    except TimeoutError as error:
        raise Unavailable(
            f"the engine was silent for {AUDIT_STEP_SECONDS} s", code="ENGINE_SILENT"
        ) from error
    return finding_of(question.step, stated, verdict)


def finding_of(step: int, stated: OneStep, verdict: StepVerdict) -> Finding:
    """A verdict about values, held against what was signed of the step."""
    before = verdict.entry_before if stated.entry_before else b""
    run = replace(stated, root_before=verdict.root_before, entry_before=before)
    if verdict.opinion != Opinion.FAULT:
        run = replace(
            run, root_after=verdict.root_after, entry=verdict.entry, outputs=verdict.outputs_root
        )
    found = judge_step(step, stated, run)
    if found != EQUAL or verdict.opinion == Opinion.INSIDE:
        return found
    is_fault = verdict.opinion == Opinion.FAULT
    return Finding(
        StepCode.FAULT if is_fault else StepCode.SECOND_OPINION, step, verdict.detail[:500]
    )
