"""A step of tolerance mode from its files: what an engine process of the house answers.

Reads what a worker handed over, judges (:mod:`flopmarket.jobs.judging_steps`)
by the reference, large products on the engine's own exact device, and says where the claimed values
lead. Files of strangers that cannot be read are a worker's fault, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import REFERENCE
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import FlopmarketError
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import entry_of
from flopmarket.jobs.judging_steps import StepInputs, StepJudgement, check_program, judge_step
from flopmarket.jobs.operations import Operation, StepPlan
from flopmarket.jobs.questions import StepVerdict, ValuesQuestion
from flopmarket.jobs.tracing import OnDevice, by_reference
from flopmarket.limits import (
    MAX_DEVICE_JUDGED_FLOPS,
    MAX_JUDGED_PRODUCT_FLOPS,
    MAX_TOLERANCE_STEP_BYTES,
)
from flopmarket.trust.tolerance import Opinion

_NUMBER = re.compile(r"0|[1-9][0-9]{0,6}")
_HEADER_BYTES = 16 << 20
"""Of a file of values, beside the values: names, shapes and offsets of 65,536 tensors."""


def verdict_of_step(
    question: ValuesQuestion,
    program: Program,
    known: StepInputs,
    device: str | None,
    open_program: Callable[[Program], Session],
) -> StepVerdict:
    """Judge one step. ``known`` is what the job itself says; its state is read from the file.

    A state or values that cannot be read are a fault; without a state ``root_before`` is empty.
    """
    check_program(program)
    try:
        state = bundle.read(question.state) if question.state is not None else {}
        bundle.check_specs(state, program.state, "state")
    except FlopmarketError as error:
        return StepVerdict(Opinion.FAULT, f"the state cannot be read: {error.message}", b"", b"")
    before = bundle.root(state), entry_of(program.state, state)
    try:
        claimed = _read(question.values)
    except FlopmarketError as error:
        return StepVerdict(Opinion.FAULT, f"values cannot be read: {error.message}", *before)
    inputs = replace(known, state=state)
    found = _judged(program, inputs, claimed, question.seed, device, open_program)
    if found.opinion is Opinion.FAULT:
        return StepVerdict(found.opinion, found.detail, *before)
    entry = entry_of(program.state, found.state) + entry_of(program.outputs, found.outputs)
    stacked: Tensors = {name: np.stack([value]) for name, value in found.outputs.items()}
    after = bundle.root(found.state), bundle.root(stacked)
    return StepVerdict(found.opinion, found.detail, *before, *after, entry)


def _judged(
    program: Program,
    inputs: StepInputs,
    claimed: dict[int, Array],
    seed: int,
    device: str | None,
    open_program: Callable[[Program], Session],
) -> StepJudgement:
    plan = StepPlan(program)
    if device == REFERENCE or sum(program.cost.flops.values()) <= MAX_JUDGED_PRODUCT_FLOPS:
        return judge_step(plan, inputs, claimed, seed=seed)
    on_device = OnDevice(open_program)

    def evaluate(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        is_product = op.node is not None and op.node.op is Op.DOT
        return (on_device if is_product else by_reference)(step, at, op, sources)

    try:
        return judge_step(
            plan,
            inputs,
            claimed,
            seed=seed,
            evaluate=evaluate,
            product_flops=MAX_DEVICE_JUDGED_FLOPS,
        )
    finally:
        on_device.close()


def _read(path: Path) -> dict[int, Array]:
    """Values by number of operation; what has another name is left out, and so missing."""
    if not path.exists() or path.stat().st_size > MAX_TOLERANCE_STEP_BYTES + _HEADER_BYTES:
        return {}
    found = bundle.read(path)
    return {int(name): value for name, value in found.items() if _NUMBER.fullmatch(name)}
